//! An attempt of a delivery, as it is recorded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AttemptId, BatchId, EndpointId, EventId, EventName, Timestamp, WorkspaceId};

/// The end of an attempt, which decides about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DeliveryOutcome")]
pub enum Outcome {
    /// The receiver answered 2xx.
    Delivered,
    /// The attempt failed, and another one waits.
    Retrying,
    /// The attempt failed, and it was the last one.
    Dead,
    /// No attempt was made: the endpoint is disabled, deleted, or was paused for too long.
    Skipped,
}

impl Outcome {
    /// Returns the name that stands in JSON and in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
            Self::Skipped => "skipped",
        }
    }
}

/// One HTTP exchange with an endpoint, or the decision to make none: a record on `attempts`,
/// and a row of `deliveries` for each of its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredAttempt")]
pub struct Attempt {
    /// Version of the format: 2.
    pub v: u8,
    /// The id of this exchange.
    pub id: AttemptId,
    /// The endpoint that the events go to.
    pub endpoint: EndpointId,
    /// The workspace that the events belong to.
    pub workspace: WorkspaceId,
    /// The id of the batch, which is also the `webhook-id`; none for a single event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// The events of the exchange, at least one.
    pub events: Vec<AttemptedEvent>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The time at which the attempt began.
    pub at: Timestamp,
    /// The duration of the attempt.
    pub duration_ms: u32,
    /// The attempt's end for the events that have no outcome of their own.
    pub outcome: Outcome,
    /// The status of the receiver's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The reason of the failure, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first KiB of the body of the receiver's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

/// An event of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptedEvent {
    /// The event's id.
    pub id: EventId,
    /// The event's type.
    pub event: EventName,
    /// The attempt's end for this event, where the answer named it as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// The reason of an event's failure that the endpoint named in its answer.
const NAMED: &str = "the endpoint took the batch, but named this event as failed";

impl Attempt {
    /// Returns the attempt's end for one of its events, and the reason of a failure.
    #[must_use]
    pub fn end_of(&self, event: &AttemptedEvent) -> (Outcome, Option<&str>) {
        match event.outcome {
            Some(outcome) => (outcome, Some(NAMED)),
            None => (self.outcome, self.error.as_deref()),
        }
    }

    /// Returns an id for the row of one of the attempt's events. The row of a single event has
    /// the attempt's own.
    #[must_use]
    pub fn row_id(&self, event: &AttemptedEvent) -> AttemptId {
        if self.batch.is_none() { self.id } else { self.id.of_event(event.id) }
    }
}

/// An attempt as a record has it. Version 1 has one event, its fields beside the others.
#[derive(Deserialize)]
struct StoredAttempt {
    v: u8,
    id: AttemptId,
    endpoint: EndpointId,
    workspace: WorkspaceId,
    batch: Option<BatchId>,
    #[serde(default)]
    events: Vec<AttemptedEvent>,
    event_id: Option<EventId>,
    event: Option<EventName>,
    attempt: u32,
    at: Timestamp,
    duration_ms: u32,
    outcome: Outcome,
    status: Option<u16>,
    error: Option<String>,
    response: Option<String>,
}

/// The error of a record that is not an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// The attempt has no event.
    #[error("the attempt names no event")]
    NoEvent,
    /// The record is of a later version.
    #[error("the attempt's format is version {0}, only 1 and 2 are known")]
    Version(u8),
}

impl TryFrom<StoredAttempt> for Attempt {
    type Error = AttemptError;

    fn try_from(stored: StoredAttempt) -> Result<Self, AttemptError> {
        let StoredAttempt { v, id, endpoint, workspace, batch, mut events, attempt, at, duration_ms, .. } = stored;
        if v > 2 {
            return Err(AttemptError::Version(v));
        }
        if events.is_empty() {
            let (Some(id), Some(event)) = (stored.event_id, stored.event) else { return Err(AttemptError::NoEvent) };
            events.push(AttemptedEvent { id, event, outcome: None });
        }
        let StoredAttempt { outcome, status, error, response, .. } = stored;
        Ok(Self {
            v: 2,
            id,
            endpoint,
            workspace,
            batch,
            events,
            attempt,
            at,
            duration_ms,
            outcome,
            status,
            error,
            response,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(events: &[AttemptedEvent], batch: Option<BatchId>) -> Attempt {
        Attempt {
            v: 2,
            id: AttemptId::from_bits(1),
            endpoint: EndpointId::from_bits(2),
            workspace: WorkspaceId::default(),
            batch,
            events: events.to_vec(),
            attempt: 1,
            at: Timestamp::from_millis(5),
            duration_ms: 3,
            outcome: Outcome::Delivered,
            status: Some(200),
            error: None,
            response: None,
        }
    }

    fn event(bits: u128, outcome: Option<Outcome>) -> AttemptedEvent {
        AttemptedEvent { id: EventId::from_bits(bits), event: EventName::LinkClicked, outcome }
    }

    #[test]
    fn a_record_of_version_1_is_an_attempt_of_one_event() {
        let text = format!(
            r#"{{"v":1,"id":"{}","endpoint":"{}","workspace":"default","event_id":"{}","event":"link.clicked","attempt":1,"at":"1970-01-01T00:00:00.005Z","duration_ms":3,"outcome":"delivered","status":200}}"#,
            AttemptId::from_bits(1),
            EndpointId::from_bits(2),
            EventId::from_bits(3),
        );
        let read: Attempt = serde_json::from_str(&text).unwrap();
        assert_eq!(read, attempt(&[event(3, None)], None));
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Attempt>(&text).unwrap(), read);
    }

    #[test]
    fn other_records_are_no_attempts() {
        let record = |field: &str, value: serde_json::Value| {
            let mut record = serde_json::to_value(attempt(&[event(3, None)], None)).unwrap();
            record[field] = value;
            serde_json::from_value::<Attempt>(record).unwrap_err().to_string()
        };
        assert!(record("events", serde_json::json!([])).contains("no event"));
        assert!(record("v", serde_json::json!(3)).contains("version 3"));
    }

    #[test]
    fn each_event_of_a_batch_has_its_end_and_its_row() {
        let events = [event(3, None), event(4, Some(Outcome::Retrying))];
        let batch = attempt(&events, Some(BatchId::from_bits(9)));
        assert_eq!(batch.end_of(&events[0]), (Outcome::Delivered, None));
        assert!(matches!(batch.end_of(&events[1]), (Outcome::Retrying, Some(_))));
        let ids = events.map(|event| batch.row_id(&event));
        assert_ne!(ids[0], ids[1]);
        assert_ne!(ids[0], batch.id);
        assert_eq!(attempt(&events[..1], None).row_id(&events[0]), batch.id);
    }
}
