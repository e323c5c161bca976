//! A delivery in flight: an event, or a batch of them, on its way to one endpoint, from the
//! records that it was read from to the moment that their offsets no longer wait for it.
//! Everything that handles deliveries shares these types.

use std::{collections::HashSet, future::pending, sync::Arc};

use bus::Partition;
use bytes::Bytes;
use futures_util::future::select_all;
use schemas::{
    Attempt, AttemptId, AttemptedEvent, BatchId, DeliveredEvent, Delivery, EndpointId, EventId, EventName, Outcome,
    Packing, Timestamp, WebhookFormat, WorkspaceId,
};

use super::{
    claims::{OffsetClaim, Tenure},
    lane::Waiting,
};

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

/// At least one of something.
pub(super) struct OneOrMore<T> {
    pub first: T,
    pub more: Vec<T>,
}

impl<T> OneOrMore<T> {
    pub(super) const fn one(first: T) -> Self {
        Self { first, more: Vec::new() }
    }

    /// Returns all of `list`, or none if that is empty.
    pub(super) fn from_list(list: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut list = list.into_iter();
        Some(Self { first: list.next()?, more: list.collect() })
    }

    pub(super) const fn len(&self) -> usize {
        1 + self.more.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// A delivery between the reading of its records and the end of its claims on their
/// offsets.
pub(super) struct InFlight {
    pub endpoint: EndpointId,
    /// The events, in the order of the body.
    pub messages: OneOrMore<Arc<Message>>,
    /// The form in which the events are sent; none while a batch may still take them.
    pub packing: Option<Packing>,
    /// The format in which the events are sent; none until the first attempt.
    pub format: Option<WebhookFormat>,
    /// The number of the next attempt, from 1.
    pub attempt: u32,
    /// The time since which the delivery is held because its endpoint is paused.
    pub held_since: Option<Timestamp>,
    /// The claims on the offsets of the records that the events were read from.
    pub claims: Vec<OffsetClaim>,
}

/// The memory that an event takes beside its body.
const OWN_BYTES: usize = 512;

impl Waiting for InFlight {
    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| OWN_BYTES + message.body.len()).sum()
    }

    fn batched_bytes(&self) -> Option<usize> {
        self.packing.is_none().then(|| self.messages.first.body.len())
    }
}

impl InFlight {
    /// Joins deliveries to one endpoint to a batch. Those whose partition is another member's by
    /// now are left to that member. Returns none if no other is left.
    pub(super) fn batch(deliveries: Vec<Self>) -> Option<Self> {
        let mut deliveries = deliveries.into_iter().filter(Self::is_owned);
        let mut batch = Self { packing: Some(Packing::Batch), ..deliveries.next()? };
        for delivery in deliveries {
            batch.messages.more.push(delivery.messages.first);
            batch.messages.more.extend(delivery.messages.more);
            batch.claims.extend(delivery.claims);
        }
        Some(batch)
    }

    /// Returns a delivery of these events alone, which holds no claims; none if there are no
    /// such events.
    pub(super) fn only(&self, events: &HashSet<EventId>) -> Option<Self> {
        let messages = self.messages.iter().filter(|message| events.contains(&message.event_id));
        let messages = OneOrMore::from_list(messages.cloned())?;
        let Self { endpoint, packing, format, attempt, held_since, .. } = *self;
        Some(Self { endpoint, messages, packing, format, attempt, held_since, claims: Vec::new() })
    }

    /// Tells whether the records of the events, or one of them, are this process's to deliver.
    pub(super) fn is_owned(&self) -> bool {
        self.claims.iter().any(|claim| claim.tenure() < Tenure::Over)
    }

    /// Tells whether all its records are other members' by now.
    pub(super) fn is_lost(&self) -> bool {
        !self.claims.is_empty() && !self.is_owned()
    }

    /// Notes that the delivery begins, or is written to Kafka.
    pub(super) fn begin(&mut self) {
        self.claims.iter_mut().for_each(OffsetClaim::begin);
    }

    /// Notes that the delivery waits again.
    pub(super) fn rest(&mut self) {
        self.claims.iter_mut().for_each(OffsetClaim::rest);
    }

    /// Returns how far the handover of one of the records has come, of that which has come
    /// farthest.
    pub(super) fn tenure(&self) -> Tenure {
        self.claims.iter().map(OffsetClaim::tenure).max().unwrap_or(Tenure::Holding)
    }

    /// Waits until the handover of one of the records has come to `tenure`.
    pub(super) async fn reaches(&self, tenure: Tenure) {
        let mut partitions: Vec<&OffsetClaim> = Vec::with_capacity(1);
        for claim in &self.claims {
            if !partitions.iter().any(|known| known.is_beside(claim)) {
                partitions.push(claim);
            }
        }
        if partitions.is_empty() {
            return pending().await;
        }
        select_all(partitions.into_iter().map(|claim| Box::pin(claim.reaches(tenure)))).await;
    }

    /// Tells whether the next owners of the records make the delivery, and repeat no other by
    /// it. If not, it is to be written to Kafka before the records are handed over.
    pub(super) fn is_left_to_others(&self) -> bool {
        self.claims.iter().all(|claim| match claim.tenure() {
            Tenure::Holding | Tenure::Closing => false,
            Tenure::Ending => !claim.is_begun(),
            Tenure::Over => true,
        })
    }

    /// Returns the id of the batch, where the delivery is one.
    pub(super) fn batch_id(&self) -> Option<BatchId> {
        (self.packing == Some(Packing::Batch))
            .then(|| BatchId::of(self.messages.iter().map(|message| message.event_id)))
    }

    /// Returns the record that keeps the delivery on Kafka, with attempt number
    /// `attempt` due at `due`.
    pub(super) fn to_record(&self, attempt: u32, due: Timestamp) -> Delivery {
        Delivery { packing: self.packing, format: self.format, ..self.record(attempt, due, self.messages.iter()) }
    }

    /// Returns a record for each event, in no form yet: the event can be delivered again from
    /// it, whatever its endpoint wants then.
    pub(super) fn to_single_records(&self, due: Timestamp) -> impl Iterator<Item = (&Message, Delivery)> {
        let record = move |message| self.record(self.attempt, due, std::iter::once(message));
        self.messages.iter().map(move |message| (&**message, record(message)))
    }

    /// Returns the record of events in no form yet.
    fn record<'a>(&self, attempt: u32, due: Timestamp, messages: impl Iterator<Item = &'a Arc<Message>>) -> Delivery {
        let event = |message: &Arc<Message>| DeliveredEvent {
            id: message.event_id,
            name: message.event,
            // The body was text when it was read.
            body: String::from_utf8_lossy(&message.body).into_owned(),
            traceparent: message.traceparent.clone(),
        };
        Delivery {
            v: 2,
            endpoint: self.endpoint,
            workspace: self.messages.first.workspace.clone(),
            attempt,
            due,
            held_since: self.held_since,
            packing: None,
            format: None,
            events: messages.map(event).collect(),
        }
    }

    /// Returns the log entry of the next attempt, made at `at`, without what only
    /// an exchange tells.
    pub(super) fn log_entry(&self, at: Timestamp, outcome: Outcome) -> Attempt {
        let event =
            |message: &Arc<Message>| AttemptedEvent { id: message.event_id, event: message.event, outcome: None };
        Attempt {
            v: 2,
            id: AttemptId::mint(),
            endpoint: self.endpoint,
            workspace: self.messages.first.workspace.clone(),
            batch: self.batch_id(),
            events: self.messages.iter().map(event).collect(),
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
