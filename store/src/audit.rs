//! The audit log: who changed what, the last change first.

use clickhouse::Row;
use schemas::{
    EventId, KeyId, Timestamp, WorkspaceId,
    audit::{AuditAction, AuditedKind},
};
use serde::Deserialize;

use crate::{Store, StoreError, attempts::bounded};

/// A choice of changes; all of the workspace where every field is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// The kind of what was changed.
    pub resource: Option<AuditedKind>,
    /// The id of what was changed.
    pub resource_id: Option<String>,
    /// The key that made the change.
    pub actor: Option<KeyId>,
    /// The way in which it was changed.
    pub action: Option<AuditAction>,
    /// The earliest time of a change.
    pub since: Option<Timestamp>,
    /// The time before which a change was made.
    pub until: Option<Timestamp>,
}

/// A row of the table `audit`. An absent fact is an empty text.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct AuditRow {
    /// The id of the event.
    pub id: String,
    /// The time of the change, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The kind of the actor.
    pub actor_type: String,
    /// The id of the key.
    pub actor_id: String,
    /// The name of the key.
    pub actor_name: String,
    /// The way in which it was changed.
    pub action: String,
    /// The kind of what was changed.
    pub resource: String,
    /// The ids of what was changed.
    pub resource_ids: Vec<String>,
    /// The names of the changed fields.
    pub fields: Vec<String>,
    /// The id of the request.
    pub request_id: String,
}

impl Store {
    /// Returns up to `limit` changes of a workspace, the last first, that come behind the change
    /// `before`.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn audit_log(
        &self,
        workspace: &WorkspaceId,
        filter: &AuditFilter,
        before: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let conditions = [
            (filter.resource.is_some(), " AND resource = {resource:String}"),
            (filter.resource_id.is_some(), " AND has(resource_ids, {resource_id:String})"),
            (filter.actor.is_some(), " AND actor_id = {actor:String}"),
            (filter.action.is_some(), " AND action = {action:String}"),
            (filter.since.is_some(), " AND timestamp >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"),
            (filter.until.is_some(), " AND timestamp < fromUnixTimestamp64Milli({until:Int64}, 'UTC')"),
            // An event's id begins with its time.
            (
                before.is_some(),
                " AND timestamp <= fromUnixTimestamp64Milli({before_ms:Int64}, 'UTC') AND id < {before:String}",
            ),
        ];
        let chosen: String = conditions.into_iter().filter(|(is_set, _)| *is_set).map(|(_, sql)| sql).collect();
        let sql = format!(
            "SELECT id, toUnixTimestamp64Milli(timestamp) AS timestamp_ms, actor_type, actor_id, actor_name, action, \
             resource, resource_ids, fields, request_id FROM audit WHERE workspace = {{workspace:String}}{chosen} \
             ORDER BY timestamp DESC, id DESC LIMIT {{limit:UInt32}}"
        );
        let mut query = self.query(&sql).param("workspace", workspace.as_str());
        for (name, value) in [
            ("resource", filter.resource.map(|kind| kind.as_str().to_owned())),
            ("resource_id", filter.resource_id.clone()),
            ("actor", filter.actor.map(|key| key.to_string())),
            ("action", filter.action.map(|action| action.as_str().to_owned())),
            ("before", before.map(|id| id.to_string())),
        ] {
            if let Some(value) = value {
                query = query.param(name, value);
            }
        }
        for (name, at) in
            [("since", filter.since), ("until", filter.until), ("before_ms", before.map(EventId::timestamp))]
        {
            if let Some(at) = at {
                query = query.param(name, bounded(at.as_millis()));
            }
        }
        let query = query.param("limit", u32::try_from(limit).unwrap_or(u32::MAX));
        self.timed(query.fetch_all()).await
    }
}
