//! `GET /v1/endpoints/{id}/attempts`: the log of an endpoint's deliveries, from ClickHouse.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use schemars::JsonSchema;
use schemas::{AttemptId, Endpoint, EventId, EventName, Outcome, Timestamp};
use serde::{Deserialize, Serialize};
use service::problem::{FieldError, Problem};
use store::{AttemptCursor, AttemptFilter, AttemptRow};
use tracing::warn;

use crate::{
    api::{
        context::Api,
        request::{page_limit, read_query},
        resource::{Listed, find},
    },
    caller::Caller,
};

/// The query of the log.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttemptQuery {
    /// The outcome of the attempt.
    outcome: Option<Outcome>,
    /// The type of the event.
    event: Option<EventName>,
    /// The event (`evt_…`).
    event_id: Option<String>,
    /// The earliest time of an attempt.
    since: Option<Timestamp>,
    /// The time before which an attempt began.
    until: Option<Timestamp>,
    /// The most entries of the page; 50 by default.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// An attempt to deliver an event, or a delivery that was skipped. The events of a batch share its `webhook_id`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Attempt")]
pub(crate) struct AttemptView {
    /// The id of the attempt.
    id: AttemptId,
    /// The time at which the attempt began.
    timestamp: Timestamp,
    /// The id of the event.
    event_id: EventId,
    /// The type of the event.
    event: String,
    /// The `webhook-id` of the request: the id of the batch, or of the event.
    webhook_id: String,
    /// The number of the attempt, from 1.
    attempt: u32,
    /// The duration of the attempt, in milliseconds.
    duration_ms: u32,
    /// The outcome: `delivered`, `retrying`, `dead` or `skipped`.
    outcome: String,
    /// The status of the endpoint's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The reason why the event was not delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The beginning of the answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
}

/// Lists the attempts of an endpoint, the last first.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    query: Result<Query<AttemptQuery>, QueryRejection>,
) -> Result<Json<Listed<AttemptView>>, Problem> {
    let endpoint = find::<Endpoint>(&*api.leader()?, &caller, &text)?;
    let query = read_query(query)?;
    let (filter, before, limit) = checked(&query)?;
    let found = api.store.attempts(&caller.workspace, endpoint.id, filter, before, limit + 1).await;
    let mut found = found.map_err(|error| {
        warn!(%error, "reading attempts from ClickHouse failed");
        Problem::unavailable("The attempts cannot be read: ClickHouse does not answer")
    })?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| last.cursor().to_string());
    let data = found.into_iter().map(view).collect::<Option<Vec<AttemptView>>>();
    let data = data.ok_or_else(|| {
        warn!("a row of the table deliveries has no valid id");
        Problem::unavailable("The attempts cannot be read: a row of the table is damaged")
    })?;
    Ok(Json(Listed { data, next }))
}

fn view(row: AttemptRow) -> Option<AttemptView> {
    let text = |text: String| (!text.is_empty()).then_some(text);
    Some(AttemptView {
        id: row.id.parse().ok()?,
        timestamp: Timestamp::from_millis(row.timestamp_ms),
        event_id: row.event_id.parse().ok()?,
        event: row.event,
        webhook_id: row.webhook_id,
        attempt: row.attempt,
        duration_ms: row.duration_ms,
        outcome: row.outcome,
        status: (row.status > 0).then_some(row.status),
        error: text(row.error),
        response: text(row.response),
    })
}

/// Checks the values of a query.
fn checked(query: &AttemptQuery) -> Result<(AttemptFilter, Option<AttemptCursor>, usize), Problem> {
    let mut errors = Vec::new();
    let event_id = query.event_id.as_deref().and_then(|text| {
        text.parse::<EventId>().map_err(|error| errors.push(FieldError::new("event_id", error.to_string()))).ok()
    });
    let before = query.cursor.as_deref().and_then(|text| {
        let cursor = text.parse::<AttemptCursor>();
        cursor.map_err(|()| errors.push(FieldError::new("cursor", "is not one that a list has given as `next`"))).ok()
    });
    let limit = page_limit(query.limit, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let AttemptQuery { outcome, event, since, until, .. } = *query;
    Ok((AttemptFilter { outcome, event, event_id, since, until }, before, limit))
}
