//! The reader of the delay topics: a delivery waits at the head of its partition
//! until it is due, while the consumer keeps polling. A delivery holds up those
//! behind it for at most the topic's delay: one that is due later is then written to
//! the topic that fits the rest of its wait.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Consumer, Partition, Record};
use bytes::Bytes;
use schemas::{DelayTier, DeliveredEvent, Delivery, Packing, Timestamp, Topic};
use tracing::debug;

use super::{
    claims::{OffsetClaim, OffsetClaims, Tracked},
    deliver::Deliverer,
    delivery::{InFlight, Message, OneOrMore, SourceRecord},
    endpoints::NO_SUCH_ENDPOINT,
    handover::PartitionOwner,
    readers::{POLL, RecordHandler},
};

/// Keeps deliveries until they are due.
pub(super) struct DelayReader {
    pub claims: Arc<OffsetClaims>,
    pub deliverer: Arc<Deliverer>,
    /// The delivery at the head of each paused partition.
    pub paused_heads: HashMap<Partition, PausedHead>,
    /// The last time that the metrics were told of the heads.
    pub told: Option<Instant>,
}

/// The time between two looks at the ages of the heads.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A delivery at the head of its partition, which is paused for it.
pub(super) struct PausedHead {
    delivery: InFlight,
    due: Timestamp,
    /// The time at which the delivery was written to the topic.
    appended: Timestamp,
    /// The time at which the delivery leaves and the partition is resumed.
    leaves_at: Timestamp,
}

impl RecordHandler for DelayReader {
    fn handle(&mut self, record: &Record<'_>, consumer: &Consumer<PartitionOwner>) {
        let source = SourceRecord { partition: record.partition(), offset: record.offset() };
        let Tracked::Owned(mut claims) = self.claims.track(source.partition, source.offset, 1) else { return };
        let Some(claim) = claims.pop() else { return };
        let value = record.value().unwrap_or_default();
        let delayed: Delivery = match serde_json::from_slice(value) {
            Ok(delayed) => delayed,
            Err(error) => {
                return self.deliverer.spawn_dead_letter(value, format!("not a delivery: {error}"), source, claim);
            }
        };
        let now = Timestamp::now();
        let due = delayed.due;
        let appended = record.timestamp().unwrap_or(now);
        let timing = self.deliverer.config.retry_timing();
        let (leaves_at, least_pause) = match source.partition.topic {
            Topic::Delay(tier) => (timing.leaves_at(tier, due, appended), timing.least_pause(tier)),
            _ => (due, Duration::ZERO),
        };
        let Some(delivery) = in_flight(delayed, now, source, claim) else { return };
        if leaves_at <= now && !self.deliverer.is_backlogged() {
            return self.release(PausedHead { delivery, due, appended, leaves_at }, now);
        }
        let leaves_at = leaves_at.max(now.plus(least_pause));
        let head = PausedHead { delivery, due, appended, leaves_at };
        match consumer.pause(&[source.partition]) {
            Ok(()) => {
                self.paused_heads.insert(source.partition, head);
            }
            // A rebalance is under way: the partition's new owner reads the record
            // again.
            Err(error) => debug!(%error, partition = %source.partition, "partition not paused"),
        }
    }

    fn before_poll(&mut self, consumer: &Consumer<PartitionOwner>) -> Duration {
        let now = Timestamp::now();
        self.tell_ages(now);
        if self.paused_heads.is_empty() {
            return POLL;
        }
        // While Kafka takes records too slowly, every partition waits at its head: a
        // delivery that finds no room would be written to Kafka again.
        let backlogged = self.deliverer.is_backlogged();
        let is_leaving = |head: &PausedHead| (head.leaves_at <= now && !backlogged) || !head.delivery.is_owned();
        let leaving: Vec<(Partition, PausedHead)> = self.paused_heads.extract_if(|_, head| is_leaving(head)).collect();
        for (partition, head) in leaving {
            if let Err(error) = consumer.resume(&[partition]) {
                debug!(%error, %partition, "partition not resumed: another member owns it now");
            }
            if head.delivery.is_owned() {
                self.release(head, now);
            }
        }
        if backlogged {
            return POLL;
        }
        self.paused_heads.values().map(|head| head.leaves_at.since(now)).min().unwrap_or(POLL)
    }
}

impl DelayReader {
    /// Tells the metrics how long the oldest head of each tier has waited. Where nothing
    /// waits at a head, that is no time.
    fn tell_ages(&mut self, now: Timestamp) {
        if self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        for tier in DelayTier::ALL {
            let heads = self.paused_heads.iter().filter(|(partition, _)| partition.topic == Topic::Delay(tier));
            let age = heads.map(|(_, head)| now.since(head.appended).as_secs()).max().unwrap_or(0);
            self.deliverer.metrics.set_tier_head_age(tier, i64::try_from(age).unwrap_or(i64::MAX));
        }
    }

    fn release(&self, head: PausedHead, now: Timestamp) {
        if head.due > now {
            return self.deliverer.spawn_delay(head.delivery, head.due);
        }
        match self.deliverer.endpoints.get(head.delivery.endpoint) {
            Some(recipient) => self.deliverer.accept(&recipient, head.delivery),
            None => self.deliverer.outbox.skip(head.delivery, NO_SUCH_ENDPOINT),
        }
    }
}

/// Returns the delivery of a record. A record has an event, or it could not be read.
fn in_flight(delayed: Delivery, read_at: Timestamp, source: SourceRecord, claim: OffsetClaim) -> Option<InFlight> {
    let Delivery { endpoint, workspace, attempt, held_since, packing, format, events, .. } = delayed;
    let message = |event: DeliveredEvent| {
        Arc::new(Message {
            workspace: workspace.clone(),
            event_id: event.id,
            event: event.name,
            at: read_at,
            body: Bytes::from(event.body),
            traceparent: event.traceparent,
            source,
        })
    };
    let messages = OneOrMore::from_list(events.into_iter().map(message))?;
    // Without a form of their own, several events could not be told from a batch.
    let packing = if messages.len() > 1 { Some(Packing::Batch) } else { packing };
    Some(InFlight { endpoint, messages, packing, format, attempt, held_since, claims: vec![claim] })
}
