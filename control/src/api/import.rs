//! `POST /v1/links/import`: links by the million, one in each line (NDJSON), as `PUT /v1/links/upsert` takes it, or new
//! with a generated slug. With `Content-Type: text/csv` they are records of CSV, whose first line names the fields.
//!
//! Lines are committed a thousand at a time, while the next lines are read, so that an import of any length takes
//! bounded memory, and an import that breaks off leaves whole chunks behind. It can be repeated from its beginning: a
//! link that has the fields of its line already writes nothing (but a line with neither `external_id` nor `slug` makes a
//! new link each time). The handler therefore ignores `Idempotency-Key`.
//!
//! Each link produces its `link.created` or `link.updated` event, since receivers that follow links by events would
//! otherwise miss them; `?events=false` saves the endpoints a million calls where no receiver does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json,
    body::{Body, BodyDataStream, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::Deserialize;
use service::problem::{Kind, Problem};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    api::{context::Api, request::read_query},
    caller::Caller,
    kinds::link::{
        csv::CsvRecords,
        import::{ImportReport, LINE_BYTES, ParsedLine, draft_lines, parse},
        ndjson::{LineSplitter, LineText, NdjsonLine},
    },
    leading::writer::{ActiveLeader, PendingChange},
    state::draft::{ChangeEvents, Draft},
};

/// The most lines of one transaction; and where others wait for changes, which cannot be made before it ends.
const CHUNK_LINES: usize = 1000;
const SHORT_CHUNK_LINES: usize = 250;
/// The bytes of lines from which on a transaction takes no more.
const CHUNK_BYTES: usize = 1 << 20;
/// The longest rest between two transactions.
const LONGEST_REST: Duration = Duration::from_millis(100);
/// The pace that a caller must keep, so that a slow one keeps no slot from others.
const PACE: BodyPace =
    BodyPace { idle: Duration::from_secs(30), warm_up: Duration::from_secs(60), min_bytes_per_s: 1024 };

/// The query of an import.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "How")]
pub(crate) struct ImportQuery {
    /// Whether the created and changed links produce events.
    #[serde(default = "yes")]
    events: bool,
}

const fn yes() -> bool {
    true
}

/// Imports links, and answers with the report when all are committed.
pub(crate) async fn import(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ImportQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let _slot = api.import_slots.take(&caller.workspace)?;
    let mut import = Import {
        leader: api.leader()?,
        caller,
        events: if query.events { ChangeEvents::Emit } else { ChangeEvents::Suppress },
        chunk: Chunk::default(),
        committing: None,
        report: ImportReport::default(),
    };
    let outcome = import.run(body, Records::of(&headers)).await;
    // The last chunk counts however the import ended.
    let last = import.wait_for_chunk().await;
    match outcome.and(last) {
        Ok(()) => Ok(Json(import.report).into_response()),
        Err(mut problem) => {
            let lines = import.report.lines();
            problem.detail = format!(
                "{}. The first {lines} lines were taken, as the report says: send all again, links that have these fields \
                 already stay as they are",
                problem.detail
            );
            Ok(problem.with(import.report))
        }
    }
}

/// The lines of the next transaction.
#[derive(Default)]
struct Chunk {
    lines: Vec<NdjsonLine>,
    bytes: usize,
}

impl Chunk {
    fn is_full(&self, most_lines: usize) -> bool {
        self.lines.len() >= most_lines || self.bytes >= CHUNK_BYTES
    }

    fn push(&mut self, line: NdjsonLine) {
        self.bytes += match &line.text {
            LineText::Whole(bytes) => bytes.len(),
            LineText::TooLong => 0,
        };
        self.lines.push(line);
    }
}

/// A running import.
struct Import {
    leader: Arc<ActiveLeader>,
    caller: Caller,
    events: ChangeEvents,
    chunk: Chunk,
    /// The chunk that is being committed while the next lines are read.
    committing: Option<(Instant, PendingChange<ImportReport>)>,
    report: ImportReport,
}

impl Import {
    async fn run(&mut self, body: Body, mut records: Records) -> Result<(), Problem> {
        let mut pieces = PacedBody::new(body, PACE);
        let mut lines = Vec::new();
        while let Some(piece) = pieces.next().await? {
            records.push(piece, &mut lines)?;
            self.add(&mut lines).await?;
        }
        records.finish(&mut lines)?;
        self.add(&mut lines).await?;
        self.commit_chunk().await
    }

    /// Adds lines to the chunk, and commits it whenever it is full.
    async fn add(&mut self, lines: &mut Vec<NdjsonLine>) -> Result<(), Problem> {
        for line in lines.drain(..) {
            self.chunk.push(line);
            let most_lines = if self.leader.is_waited_for() { SHORT_CHUNK_LINES } else { CHUNK_LINES };
            if self.chunk.is_full(most_lines) {
                self.commit_chunk().await?;
            }
        }
        Ok(())
    }

    /// Hands the chunk to the leader, and waits for the one before.
    async fn commit_chunk(&mut self) -> Result<(), Problem> {
        let lines = std::mem::take(&mut self.chunk).lines;
        if lines.is_empty() {
            return Ok(());
        }
        let parsed = spawn_blocking(move || lines.iter().map(parse).collect::<Vec<ParsedLine>>())
            .await
            .map_err(|_| Problem::unavailable("The lines could not be parsed"))?;
        let workspace = self.caller.workspace.clone();
        let events = self.events;
        let change =
            move |draft: &mut Draft<'_>| Ok(draft.with_events(events, |draft| draft_lines(parsed, draft, &workspace)));
        if self.leader.is_waited_for() {
            self.rest().await?;
        }
        let pending = self.leader.enqueue(self.caller.author(), change).await?;
        self.wait_for_chunk().await?;
        self.committing = Some((Instant::now(), pending));
        Ok(())
    }

    /// Waits until the chunk that is being committed is committed, and then as long as that took: others who wait for
    /// changes get half of the leader's time.
    async fn rest(&mut self) -> Result<(), Problem> {
        if let Some((begun, _)) = self.committing {
            self.wait_for_chunk().await?;
            sleep(begun.elapsed().min(LONGEST_REST)).await;
        }
        Ok(())
    }

    /// Waits until the chunk that is being committed is committed, and adds its report.
    async fn wait_for_chunk(&mut self) -> Result<(), Problem> {
        if let Some((_, pending)) = self.committing.take() {
            self.report.add(pending.committed().await?);
        }
        Ok(())
    }
}

/// The reader of the links in a body.
enum Records {
    Ndjson(LineSplitter),
    Csv(Box<CsvRecords>),
}

impl Records {
    /// Returns the reader for the media type of a body.
    fn of(headers: &HeaderMap) -> Self {
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("text/csv") {
            Self::Csv(Box::new(CsvRecords::new(LINE_BYTES)))
        } else {
            Self::Ndjson(LineSplitter::new(LINE_BYTES))
        }
    }

    fn push(&mut self, piece: Bytes, lines: &mut Vec<NdjsonLine>) -> Result<(), Problem> {
        match self {
            Self::Ndjson(splitter) => {
                splitter.push(piece, lines);
                Ok(())
            }
            Self::Csv(records) => records.push(&piece, lines),
        }
    }

    fn finish(self, lines: &mut Vec<NdjsonLine>) -> Result<(), Problem> {
        match self {
            Self::Ndjson(splitter) => {
                splitter.finish(lines);
                Ok(())
            }
            Self::Csv(records) => records.finish(lines),
        }
    }
}

/// The pace that the sender of a body must keep.
#[derive(Clone, Copy, Debug)]
struct BodyPace {
    /// The longest time until the next bytes.
    idle: Duration,
    /// The time before which the average does not count.
    warm_up: Duration,
    /// The fewest bytes a second on average, not counting the time that the caller waits for the leader.
    min_bytes_per_s: u64,
}

impl BodyPace {
    fn is_too_slow(self, bytes: u64, waited: Duration) -> bool {
        let expected = u128::from(self.min_bytes_per_s) * waited.as_millis() / 1000;
        waited > self.warm_up && u128::from(bytes) < expected
    }
}

/// A body whose sender must keep a pace.
struct PacedBody {
    pieces: BodyDataStream,
    pace: BodyPace,
    bytes: u64,
    /// The time that was spent waiting for bytes.
    waited: Duration,
}

impl PacedBody {
    fn new(body: Body, pace: BodyPace) -> Self {
        Self { pieces: body.into_data_stream(), pace, bytes: 0, waited: Duration::ZERO }
    }

    /// Returns the next piece of the body; nothing at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let began = Instant::now();
        let BodyPace { idle, min_bytes_per_s, .. } = self.pace;
        let stopped =
            |_| Problem::new(Kind::Malformed, format!("No byte of the body arrived for {} s", idle.as_secs()));
        let piece = timeout(idle, self.pieces.next()).await.map_err(stopped)?;
        let piece = piece.transpose().map_err(|_| Problem::new(Kind::Malformed, "The body broke off"))?;
        self.waited += began.elapsed();
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if piece.is_some() && self.pace.is_too_slow(self.bytes, self.waited) {
            let detail = format!("The body arrives with less than {min_bytes_per_s} bytes a second");
            return Err(Problem::new(Kind::Malformed, detail));
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_sender_that_drips_bytes_loses_its_place() {
        let second = Duration::from_secs(1);
        assert!(!PACE.is_too_slow(10, PACE.warm_up));
        assert!(PACE.is_too_slow(10, PACE.warm_up + second));
        assert!(!PACE.is_too_slow(62 * 1024, PACE.warm_up + second));
    }

    /// Reads a body that sends a byte in each interval until it is given up, and returns the reason.
    async fn given_up(every: Duration, pace: BodyPace) -> String {
        let drip = move || async move {
            sleep(every).await;
            Some((Ok::<&[u8], Infallible>(b"\n"), ()))
        };
        let mut body = PacedBody::new(Body::from_stream(futures_util::stream::unfold((), move |()| drip())), pace);
        loop {
            if let Err(problem) = body.next().await {
                return problem.detail;
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_drips_or_stops_is_given_up() {
        let hour = Duration::from_secs(3600);
        let moment = Duration::from_millis(5);
        let drips = given_up(moment, BodyPace { idle: hour, warm_up: 2 * moment, min_bytes_per_s: 10_000 }).await;
        assert_eq!(drips, "The body arrives with less than 10000 bytes a second");
        let stops = given_up(hour, BodyPace { idle: moment, ..PACE }).await;
        assert!(stops.starts_with("No byte of the body arrived for"), "{stops}");
    }
}
