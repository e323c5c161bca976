//! What becomes of an event on its way to an endpoint: deliveries that wait,
//! attempts that were made, and the dead with their reasons.

use serde::{Deserialize, Serialize};

use crate::{AttemptId, EndpointId, EventId, EventName, Timestamp, WorkspaceId};

/// A delivery that waits for its next attempt: a record on `delay.…`. The body
/// is frozen, so that every retry signs and sends the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Version of the format: 1.
    pub v: u8,
    /// Where to.
    pub endpoint: EndpointId,
    /// Whose event.
    pub workspace: WorkspaceId,
    /// The event, and the `webhook-id`.
    pub event_id: EventId,
    /// Its type.
    pub event: EventName,
    /// Which attempt comes next, from 1.
    pub attempt: u32,
    /// Not before this.
    pub due: Timestamp,
    /// The exact body.
    pub body: String,
    /// W3C trace context, where the click carried one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// How an attempt ended, and so what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The receiver said 2xx.
    Delivered,
    /// It did not; another attempt waits.
    Retrying,
    /// It did not, and that was the last attempt.
    Dead,
    /// None was made: the endpoint is paused, disabled or gone.
    Skipped,
}

/// One HTTP exchange with an endpoint, or the decision to make none: a record
/// on `attempts` and a row of `deliveries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Version of the format: 1.
    pub v: u8,
    /// Minted for this exchange.
    pub id: AttemptId,
    /// Where to.
    pub endpoint: EndpointId,
    /// Whose event.
    pub workspace: WorkspaceId,
    /// The event, and the `webhook-id`.
    pub event_id: EventId,
    /// Its type.
    pub event: EventName,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub duration_ms: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// What the receiver answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first KiB of what the receiver answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

/// Where a record came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The topic's full name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Which line of the record, from 0, where it is a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The bundle's id, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
}

/// What could not be processed or delivered: a record on `dead`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// Version of the format: 1.
    pub v: u8,
    /// Why, for people.
    pub reason: String,
    /// When it was given up.
    pub at: Timestamp,
    /// What it came from.
    pub origin: Origin,
    /// What it was, addresses reduced; text that was not UTF-8 is repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The delivery that was given up, ready to be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}
