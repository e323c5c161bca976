//! `GET /v1/links/export`: all links of a workspace, newest first, as NDJSON or CSV. The answer is written while the links
//! are read, some at a time, so that its length takes no memory.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use schemars::JsonSchema;
use schemas::{Link, LinkId};
use serde::Deserialize;
use service::problem::Problem;

use crate::{
    api::{context::Api, request::read_query},
    caller::Caller,
    kinds::link::csv::{EXPORTED, exported},
    leading::writer::ActiveLeader,
    state::links::{ArchivedLinks, LinkFilter},
};

/// The links that are read at once.
const CHUNK: usize = 500;

/// The query of an export.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExportQuery")]
pub(crate) struct ExportQuery {
    /// `ndjson` by default: each line has a link, as an import takes it. `csv` has a head, and no spreadsheet takes a cell
    /// for a formula.
    #[serde(default)]
    format: ExportFormat,
    /// Exports only the links of this campaign.
    campaign: Option<String>,
    /// Exports only the links with this tag.
    tag: Option<String>,
    /// Exports only the links on this domain.
    domain: Option<String>,
    /// Exports the links that are archived, too (`any`, the default), or alone (`true`), or not (`false`).
    archived: Option<ArchivedLinks>,
}

/// The format of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum ExportFormat {
    #[default]
    Ndjson,
    Csv,
}

impl ExportFormat {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    /// Writes links.
    fn write(self, links: &[Arc<Link>], out: &mut Vec<u8>) -> Result<(), std::io::Error> {
        match self {
            Self::Ndjson => {
                for link in links {
                    serde_json::to_writer(&mut *out, link)?;
                    out.push(b'\n');
                }
            }
            Self::Csv => {
                let mut table = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
                for link in links {
                    table.write_record(exported(link)?)?;
                }
                table.flush()?;
            }
        }
        Ok(())
    }
}

/// A running export.
struct Export {
    api: Arc<Api>,
    leader: Arc<ActiveLeader>,
    caller: Caller,
    filter: LinkFilter,
    format: ExportFormat,
    next: ExportStep,
}

/// The part of an export that is written next.
enum ExportStep {
    Head,
    /// Links older than this one.
    Links(Option<LinkId>),
    Ended,
}

/// Exports links.
pub(crate) async fn export(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ExportQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let filter = LinkFilter {
        campaign: query.campaign,
        tag: query.tag,
        domain: query.domain,
        archived: query.archived.unwrap_or(ArchivedLinks::Any),
        ..LinkFilter::default()
    };
    let leader = api.leader()?;
    let next = match query.format {
        ExportFormat::Ndjson => ExportStep::Links(None),
        ExportFormat::Csv => ExportStep::Head,
    };
    let export = Export { api, leader, caller, filter, format: query.format, next };
    let body = Body::from_stream(stream::try_unfold(export, |export| async { export.write_next() }));
    Ok(([(header::CONTENT_TYPE, query.format.media_type())], body).into_response())
}

impl Export {
    /// Writes the next part; returns nothing at the end.
    fn write_next(mut self) -> Result<Option<(Bytes, Self)>, std::io::Error> {
        let mut out = Vec::new();
        match self.next {
            ExportStep::Ended => return Ok(None),
            ExportStep::Head => {
                let head = EXPORTED.join(",");
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(b"\r\n");
                self.next = ExportStep::Links(None);
            }
            ExportStep::Links(before) => {
                let search = |state: &crate::state::State| {
                    state.links.search(&self.caller.workspace, &self.filter, before, CHUNK)
                };
                let page = self.leader.read(search);
                self.format.write(&page.links, &mut out)?;
                self.next = page.next.map_or(ExportStep::Ended, |last| ExportStep::Links(Some(last)));
                // Each part is the work of a request.
                self.api.rates.charge(&self.caller.rated, 1);
            }
        }
        Ok(Some((out.into(), self)))
    }
}
