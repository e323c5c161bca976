//! The records of an event's way to an endpoint: deliveries that wait for their next
//! attempt, and attempts that were made.

use serde::{Deserialize, Serialize};

use crate::{AttemptId, EndpointId, EventId, EventName, Timestamp, WorkspaceId};

/// A delivery that waits for its next attempt: a record on `delay`. The body
/// is frozen, so that every retry signs and sends the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Version of the format: 1.
    pub v: u8,
    /// The endpoint that the event goes to.
    pub endpoint: EndpointId,
    /// The workspace that the event belongs to.
    pub workspace: WorkspaceId,
    /// The id of the event, which is also the `webhook-id`.
    pub event_id: EventId,
    /// The event's type.
    pub event: EventName,
    /// The number of the next attempt, from 1.
    pub attempt: u32,
    /// The earliest time of the next attempt.
    pub due: Timestamp,
    /// The time since which the delivery is held because its endpoint is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
    /// The exact body of the request.
    pub body: String,
    /// The W3C trace context, where the click carried one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The end of an attempt, which decides about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// One HTTP exchange with an endpoint, or the decision to make none: a record
/// on `attempts` and a row of `deliveries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Version of the format: 1.
    pub v: u8,
    /// The id of this exchange.
    pub id: AttemptId,
    /// The endpoint that the event goes to.
    pub endpoint: EndpointId,
    /// The workspace that the event belongs to.
    pub workspace: WorkspaceId,
    /// The id of the event, which is also the `webhook-id`.
    pub event_id: EventId,
    /// The event's type.
    pub event: EventName,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The time at which the attempt began.
    pub at: Timestamp,
    /// The duration of the attempt.
    pub duration_ms: u32,
    /// The attempt's end.
    pub outcome: Outcome,
    /// The status of the receiver's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The reason of the failure, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first KiB of the body of the receiver's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}
