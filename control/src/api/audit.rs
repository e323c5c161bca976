//! `GET /v1/audit`: who changed what in a workspace, from ClickHouse.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use schemars::JsonSchema;
use schemas::{
    EventId, KeyId, Timestamp,
    audit::{AuditAction, AuditedKind},
};
use serde::{Deserialize, Serialize};
use service::problem::{FieldError, Problem};
use store::{AuditFilter, AuditRow};
use tracing::warn;

use crate::{
    api::{
        context::Api,
        request::{page_limit, read_query},
        resource::Listed,
    },
    caller::Caller,
};

/// The longest id of a thing, which is that of a workspace.
const ID_BYTES: usize = 64;

/// The query of the audit log.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    /// The kind of what was changed.
    resource: Option<AuditedKind>,
    /// The id of what was changed.
    #[schemars(length(max = ID_BYTES))]
    resource_id: Option<String>,
    /// The key that made the change (`key_…`).
    actor: Option<String>,
    /// The way in which it was changed.
    action: Option<AuditAction>,
    /// The earliest time of a change.
    since: Option<Timestamp>,
    /// The time before which a change was made.
    until: Option<Timestamp>,
    /// The most entries of the page; 50 by default.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// The actor of a change, as the log has it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Actor")]
pub(crate) struct ActorView {
    /// `key`, `operator` (a key of another workspace), or `system`: the installation itself.
    #[serde(rename = "type")]
    kind: String,
    /// The id of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The name of the key at that time, if it is one of the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// A change. Many things that a call changes in one transaction are one change.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Change")]
pub(crate) struct AuditView {
    /// The id of the event that told of the change.
    id: EventId,
    /// The time of the change.
    timestamp: Timestamp,
    /// The actor.
    actor: ActorView,
    /// The way in which it was changed.
    action: String,
    /// The kind of what was changed.
    resource: String,
    /// The ids of what was changed.
    ids: Vec<String>,
    /// The names of the fields that an update changed in any of them.
    fields: Vec<String>,
    /// The `X-Request-Id` of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// Lists the changes in the caller's workspace, the last first.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Listed<AuditView>>, Problem> {
    let (filter, before, limit) = checked(read_query(query)?)?;
    let found = api.store.audit_log(&caller.workspace, &filter, before, limit + 1).await;
    let mut found = found.map_err(|error| {
        warn!(%error, "reading the audit log from ClickHouse failed");
        Problem::unavailable("The audit log cannot be read: ClickHouse does not answer")
    })?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| last.id.clone());
    let data = found.into_iter().map(view).collect::<Option<Vec<AuditView>>>();
    let data = data.ok_or_else(|| {
        warn!("a row of the table audit has no valid id");
        Problem::unavailable("The audit log cannot be read: a row of the table is damaged")
    })?;
    Ok(Json(Listed { data, next }))
}

fn view(row: AuditRow) -> Option<AuditView> {
    let text = |text: String| (!text.is_empty()).then_some(text);
    Some(AuditView {
        id: row.id.parse().ok()?,
        timestamp: Timestamp::from_millis(row.timestamp_ms),
        actor: ActorView { kind: row.actor_type, id: text(row.actor_id), name: text(row.actor_name) },
        action: row.action,
        resource: row.resource,
        ids: row.resource_ids,
        fields: row.fields,
        request_id: text(row.request_id),
    })
}

/// Checks the values of a query.
fn checked(query: AuditQuery) -> Result<(AuditFilter, Option<EventId>, usize), Problem> {
    let mut errors = Vec::new();
    let actor = query.actor.as_deref().and_then(|text| {
        text.parse::<KeyId>().map_err(|error| errors.push(FieldError::new("actor", error.to_string()))).ok()
    });
    let before = query.cursor.as_deref().and_then(|text| {
        let cursor = text.parse::<EventId>();
        cursor.map_err(|_| errors.push(FieldError::new("cursor", "is not one that a list has given as `next`"))).ok()
    });
    if query.resource_id.as_ref().is_some_and(|id| id.len() > ID_BYTES) {
        errors.push(FieldError::new("resource_id", format!("is longer than {ID_BYTES} bytes, which no id is")));
    }
    let limit = page_limit(query.limit, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let AuditQuery { resource, resource_id, action, since, until, .. } = query;
    Ok((AuditFilter { resource, resource_id, actor, action, since, until }, before, limit))
}
