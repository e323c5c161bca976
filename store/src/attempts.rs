//! The log of an endpoint's deliveries, a row for each event of an attempt, the last first.

use std::{fmt, ops::Range, str::FromStr};

use clickhouse::Row;
use schemas::{AttemptId, EndpointId, EventId, EventName, Outcome, Timestamp, WorkspaceId};
use serde::Deserialize;

use crate::{Store, StoreError};

/// A choice of attempts; all of the endpoint where every field is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptFilter {
    /// The outcome for the event.
    pub outcome: Option<Outcome>,
    /// The type of the event.
    pub event: Option<EventName>,
    /// The event.
    pub event_id: Option<EventId>,
    /// The earliest time of an attempt.
    pub since: Option<Timestamp>,
    /// The time before which an attempt began.
    pub until: Option<Timestamp>,
}

/// A row of the table `deliveries`. An absent fact is an empty text or 0.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct AttemptRow {
    /// The id of the attempt; of a batch's event, one of its own.
    pub id: String,
    /// The time at which the attempt began, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The id of the event.
    pub event_id: String,
    /// The type of the event.
    pub event: String,
    /// The id of the batch, or of the event.
    pub webhook_id: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The duration of the attempt.
    pub duration_ms: u32,
    /// The outcome for the event.
    pub outcome: String,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// The reason of a failure.
    pub error: String,
    /// The beginning of the answer.
    pub response: String,
}

impl AttemptRow {
    /// Returns the cursor of the rows behind this one.
    #[must_use]
    pub fn cursor(&self) -> AttemptCursor {
        AttemptCursor { timestamp_ms: self.timestamp_ms, id: self.id.clone() }
    }
}

/// A place in the log, as text `<milliseconds>-<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptCursor {
    timestamp_ms: i64,
    id: String,
}

impl fmt::Display for AttemptCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.timestamp_ms, self.id)
    }
}

impl FromStr for AttemptCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (timestamp_ms, id) = text.split_once('-').ok_or(())?;
        let id: AttemptId = id.parse().map_err(|_| ())?;
        Ok(Self { timestamp_ms: timestamp_ms.parse().map_err(|_| ())?, id: id.to_string() })
    }
}

/// Returns a time within those that ClickHouse knows: from 1970 to 2100.
pub(crate) fn bounded(ms: i64) -> i64 {
    ms.clamp(0, 4_102_444_800_000)
}

impl Store {
    /// Returns up to `limit` attempts of an endpoint, the last first, that come behind the
    /// cursor `before`.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn attempts(
        &self,
        workspace: &WorkspaceId,
        endpoint: EndpointId,
        filter: AttemptFilter,
        before: Option<AttemptCursor>,
        limit: usize,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let conditions = [
            (filter.outcome.is_some(), " AND outcome = {outcome:String}"),
            (filter.event.is_some(), " AND event = {event:String}"),
            (filter.event_id.is_some(), " AND event_id = {event_id:String}"),
            (filter.since.is_some(), " AND timestamp >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"),
            (filter.until.is_some(), " AND timestamp < fromUnixTimestamp64Milli({until:Int64}, 'UTC')"),
            (
                before.is_some(),
                " AND timestamp <= fromUnixTimestamp64Milli({before_ms:Int64}, 'UTC') \
                 AND (timestamp, id) < (fromUnixTimestamp64Milli({before_ms:Int64}, 'UTC'), {before_id:String})",
            ),
        ];
        let chosen: String = conditions.into_iter().filter(|(is_set, _)| *is_set).map(|(_, sql)| sql).collect();
        let sql = format!(
            "SELECT id, toUnixTimestamp64Milli(timestamp) AS timestamp_ms, event_id, event, webhook_id, attempt, \
             duration_ms, outcome, status, error, response FROM deliveries \
             WHERE workspace = {{workspace:String}} AND endpoint_id = {{endpoint:String}}{chosen} \
             ORDER BY timestamp DESC, id DESC LIMIT {{limit:UInt32}}"
        );
        let mut query = self.query(&sql).param("workspace", workspace.as_str()).param("endpoint", endpoint.to_string());
        let (before_ms, before_id) = before.map(|before| (before.timestamp_ms, before.id)).unzip();
        for (name, value) in [
            ("outcome", filter.outcome.map(|outcome| outcome.as_str().to_owned())),
            ("event", filter.event.map(|event| event.to_string())),
            ("event_id", filter.event_id.map(|id| id.to_string())),
            ("before_id", before_id),
        ] {
            if let Some(value) = value {
                query = query.param(name, value);
            }
        }
        for (name, ms) in [
            ("since", filter.since.map(Timestamp::as_millis)),
            ("until", filter.until.map(Timestamp::as_millis)),
            ("before_ms", before_ms),
        ] {
            if let Some(ms) = ms {
                query = query.param(name, bounded(ms));
            }
        }
        let query = query.param("limit", u32::try_from(limit).unwrap_or(u32::MAX));
        self.timed(query.fetch_all()).await
    }

    /// Returns up to `limit` events that were attempted or skipped for an endpoint in `time`, and
    /// whose last outcome is one of `outcomes`.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn events_by_outcome(
        &self,
        workspace: &WorkspaceId,
        endpoint: EndpointId,
        time: Range<Timestamp>,
        outcomes: &[Outcome],
        limit: usize,
    ) -> Result<Vec<EventId>, StoreError> {
        let outcomes: Vec<&str> = outcomes.iter().map(|outcome| outcome.as_str()).collect();
        let query = self
            .query(
                "SELECT event_id FROM deliveries WHERE workspace = {workspace:String} \
                 AND endpoint_id = {endpoint:String} AND timestamp >= fromUnixTimestamp64Milli({since:Int64}, 'UTC') \
                 GROUP BY event_id HAVING min(timestamp) < fromUnixTimestamp64Milli({until:Int64}, 'UTC') \
                 AND has({outcomes:Array(String)}, argMax(toString(outcome), (timestamp, attempt))) \
                 LIMIT {limit:UInt32}",
            )
            .param("workspace", workspace.as_str())
            .param("endpoint", endpoint.to_string())
            .param("since", bounded(time.start.as_millis()))
            .param("until", bounded(time.end.as_millis()))
            .param("outcomes", outcomes)
            .param("limit", u32::try_from(limit).unwrap_or(u32::MAX));
        let ids: Vec<String> = self.timed(query.fetch_all()).await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let text = format!("1770301425120-{}", AttemptId::from_bits(7));
        assert_eq!(text.parse::<AttemptCursor>().unwrap().to_string(), text);
        for wrong in ["", "1", "1-", "x-att_1", "1-evt_1"] {
            assert!(wrong.parse::<AttemptCursor>().is_err(), "{wrong}");
        }
    }
}
