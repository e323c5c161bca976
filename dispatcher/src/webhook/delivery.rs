//! A delivery in flight: one event on its way to one endpoint, from the record
//! that it was read from to the moment that this record's offset no longer waits
//! for it. Everything that handles deliveries shares these types.

use std::sync::Arc;

use bus::Partition;
use bytes::Bytes;
use schemas::{Attempt, AttemptId, Delivery, EndpointId, EventId, EventName, Outcome, Timestamp, WorkspaceId};

use super::{claims::OffsetClaim, lane::Waiting};

/// An event as it is sent: the same bytes for every endpoint and for every retry.
pub(super) struct Message {
    pub workspace: WorkspaceId,
    pub event_id: EventId,
    pub event: EventName,
    /// The time of the event; of a delivery from a delay topic, the time at
    /// which it was read.
    pub at: Timestamp,
    pub body: Bytes,
    pub traceparent: Option<String>,
    pub source: SourceRecord,
}

/// The position of the record that a delivery was read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceRecord {
    pub partition: Partition,
    pub offset: i64,
}

/// A delivery between the reading of its record and the end of its claim on that
/// record's offset.
pub(super) struct InFlight {
    pub message: Arc<Message>,
    pub endpoint: EndpointId,
    /// The number of the next attempt, from 1.
    pub attempt: u32,
    /// The time since which the delivery is held because its endpoint is paused.
    pub held_since: Option<Timestamp>,
    pub claim: OffsetClaim,
}

/// The memory that a delivery takes beside its body.
const OWN_BYTES: usize = 512;

impl Waiting for InFlight {
    fn bytes(&self) -> usize {
        OWN_BYTES + self.message.body.len()
    }
}

impl InFlight {
    /// Returns the record that keeps the delivery on Kafka, with attempt number
    /// `attempt` due at `due`.
    pub(super) fn to_record(&self, attempt: u32, due: Timestamp) -> Delivery {
        let message = &self.message;
        Delivery {
            v: 1,
            endpoint: self.endpoint,
            workspace: message.workspace.clone(),
            event_id: message.event_id,
            event: message.event,
            attempt,
            due,
            held_since: self.held_since,
            // The body was text when it was read.
            body: String::from_utf8_lossy(&message.body).into_owned(),
            traceparent: message.traceparent.clone(),
        }
    }

    /// Returns the log entry of the next attempt, made at `at`, without what only
    /// an exchange tells.
    pub(super) fn log_entry(&self, at: Timestamp, outcome: Outcome) -> Attempt {
        Attempt {
            v: 1,
            id: AttemptId::mint(),
            endpoint: self.endpoint,
            workspace: self.message.workspace.clone(),
            event_id: self.message.event_id,
            event: self.message.event,
            attempt: self.attempt,
            at,
            duration_ms: 0,
            outcome,
            status: None,
            error: None,
            response: None,
        }
    }
}
