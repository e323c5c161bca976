//! `GET /v1/stats/…`: the statistics of a link, a campaign, a product, a tag, a domain or the
//! workspace, from ClickHouse. Each subject has a summary (`summary.rs`), a series over time
//! (`series.rs`) and top lists (`top.rs`).
//!
//! `subject.rs` reads the subject from the path, `time.rs` the period from the query. `answer.rs`
//! writes rows as JSON, NDJSON or CSV. `slots.rs` bounds what a workspace asks at once, for each
//! request (`request.rs`).

mod answer;
mod request;
mod series;
pub(crate) mod slots;
mod subject;
mod summary;
mod time;
mod top;

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Query, RawPathParams, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use service::problem::Problem;

pub(crate) use self::{
    series::{Series, SeriesQuery},
    subject::SubjectKind,
    summary::{SubjectStats, SummaryQuery},
    top::{TopList, TopQuery},
};
use crate::{
    api::{context::Api, request::read_query, stats::request::StatsRequest},
    caller::Caller,
};

/// The parts of a request for statistics that do not depend on the question.
pub(crate) type Asked = (State<Arc<Api>>, Extension<Caller>, RawPathParams, HeaderMap);

/// Answers with the summary of a subject.
pub(crate) async fn summary(
    kind: SubjectKind,
    (State(api), Extension(caller), parameters, _): Asked,
    query: Result<Query<SummaryQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let request = StatsRequest::begin(&api, &caller, kind, &parameters)?;
    summary::answer(&request, &query).await
}

/// Answers with the visits of a subject over time.
pub(crate) async fn series(
    kind: SubjectKind,
    (State(api), Extension(caller), parameters, headers): Asked,
    query: Result<Query<SeriesQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let request = StatsRequest::begin(&api, &caller, kind, &parameters)?;
    series::answer(&request, &query, &headers).await
}

/// Answers with the values of a fact that have the most visits.
pub(crate) async fn top(
    kind: SubjectKind,
    (State(api), Extension(caller), parameters, headers): Asked,
    query: Result<Query<TopQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let dimension = parameters.iter().find(|(name, _)| *name == "dimension").map_or("", |(_, value)| value);
    let dimension = top::dimension(dimension)?;
    let request = StatsRequest::begin(&api, &caller, kind, &parameters)?;
    top::answer(&request, dimension, &query, &headers).await
}
