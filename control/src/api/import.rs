//! `POST /v1/links/import`: links by the million, one a line (NDJSON), each as
//! `PUT /v1/links/upsert` takes it, or new with a made-up slug.
//!
//! Lines are committed some thousand at a time, while the next ones are read, so
//! an import of any length takes bounded memory, and one that breaks off leaves
//! whole chunks behind. It can be repeated from its beginning: a link that is as
//! its line says writes nothing (but a line with neither `external_id` nor `slug`
//! makes a new link each time). `Idempotency-Key` therefore is not looked at here.
//!
//! Each link's `link.created` or `link.updated` is told like any other, since who
//! follows links by events would otherwise miss them; `?events=false` spares
//! endpoints a million calls where nobody does.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::Deserialize;
use service::problem::{Kind, Problem};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    api::context::Api,
    caller::Caller,
    draft::Draft,
    import::{LINE_BYTES, Read, Report, draft as draft_lines, read},
    ndjson::{Line, Lines, Text},
    writer::{Leader, Pending},
};

/// How many lines share a transaction, and how many bytes.
const CHUNK_LINES: usize = 1000;
const CHUNK_BYTES: usize = 1 << 20;
/// How long the next bytes may take.
const IDLE: Duration = Duration::from_secs(30);

/// How an import is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct How {
    /// Whether events tell of what is created and changed.
    #[serde(default = "yes")]
    events: bool,
}

const fn yes() -> bool {
    true
}

/// Whether events tell of what is imported.
#[derive(Clone, Copy)]
enum Events {
    Told,
    Untold,
}

/// Imports links; answers what became of them when all are committed.
pub(crate) async fn import(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    how: Result<Query<How>, QueryRejection>,
    body: Body,
) -> Result<Response, Problem> {
    let Query(how) = how.map_err(|rejection| Problem::new(Kind::Malformed, rejection.body_text()))?;
    let _slot = api.import_slots.take(&caller.workspace)?;
    let mut import = Import {
        leader: api.leader()?,
        caller,
        events: if how.events { Events::Told } else { Events::Untold },
        chunk: Chunk::default(),
        under_way: None,
        report: Report::default(),
    };
    let outcome = import.run(body).await;
    // Whatever ended it: what was handed over is counted.
    let last = import.settle().await;
    match outcome.and(last) {
        Ok(()) => Ok(Json(import.report).into_response()),
        Err(mut problem) => {
            let lines = import.report.lines();
            problem.detail = format!(
                "{}. The first {lines} links were imported: send all again, what is there already stays as it is",
                problem.detail
            );
            Err(problem)
        }
    }
}

/// Lines that wait until they are enough.
#[derive(Default)]
struct Chunk {
    lines: Vec<Line>,
    bytes: usize,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.lines.len() >= CHUNK_LINES || self.bytes >= CHUNK_BYTES
    }

    fn push(&mut self, line: Line) {
        self.bytes += match &line.text {
            Text::Whole(bytes) => bytes.len(),
            Text::TooLong => 0,
        };
        self.lines.push(line);
    }
}

/// An import under way.
struct Import {
    leader: Arc<Leader>,
    caller: Caller,
    events: Events,
    chunk: Chunk,
    /// What is being committed while the next lines are read.
    under_way: Option<Pending<Report>>,
    report: Report,
}

impl Import {
    async fn run(&mut self, body: Body) -> Result<(), Problem> {
        let mut pieces = body.into_data_stream();
        let (mut lines, mut cut) = (Lines::new(LINE_BYTES), Vec::new());
        while let Some(piece) = next(&mut pieces).await? {
            lines.push(piece, &mut cut);
            self.take(&mut cut).await?;
        }
        lines.finish(&mut cut);
        self.take(&mut cut).await?;
        self.hand_over().await
    }

    async fn take(&mut self, cut: &mut Vec<Line>) -> Result<(), Problem> {
        for line in cut.drain(..) {
            self.chunk.push(line);
            if self.chunk.is_full() {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    /// Hands the chunk to the leader, and counts the one before.
    async fn hand_over(&mut self) -> Result<(), Problem> {
        let lines = std::mem::take(&mut self.chunk).lines;
        if lines.is_empty() {
            return Ok(());
        }
        let read = spawn_blocking(move || lines.iter().map(read).collect::<Vec<Read>>())
            .await
            .map_err(|_| Problem::unavailable("The lines could not be read"))?;
        let (workspace, events) = (self.caller.workspace.clone(), self.events);
        let change = move |draft: &mut Draft<'_>| {
            Ok(match events {
                Events::Told => draft_lines(read, draft, &workspace),
                Events::Untold => draft.untold(|draft| draft_lines(read, draft, &workspace)),
            })
        };
        let pending = self.leader.hand_over(change).await?;
        self.settle().await?;
        self.under_way = Some(pending);
        Ok(())
    }

    /// Waits for what is under way.
    async fn settle(&mut self) -> Result<(), Problem> {
        if let Some(pending) = self.under_way.take() {
            self.report.add(pending.committed().await?);
        }
        Ok(())
    }
}

/// The next piece of the body; nothing at its end.
async fn next(pieces: &mut axum::body::BodyDataStream) -> Result<Option<Bytes>, Problem> {
    let idle = |_| Problem::new(Kind::Malformed, format!("Nothing came for {} s", IDLE.as_secs()));
    let piece = timeout(IDLE, pieces.next()).await.map_err(idle)?;
    piece.transpose().map_err(|_| Problem::new(Kind::Malformed, "The body broke off"))
}
