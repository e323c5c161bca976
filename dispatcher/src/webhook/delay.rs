//! Reading the delay topic: a delivery waits at the head of its partition until
//! it is due, while the consumer keeps polling. Nobody waits behind another for
//! longer than the topic's delay: what is due later than that goes to the end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Consumer, Partition, Record};
use bytes::Bytes;
use schemas::{Delivery, Timestamp};
use tracing::debug;

use super::{
    claims::{Claims, Tracked},
    deliver::{Deliverer, GONE, Message, Pending},
    follow::{Intake, POLL},
    outbox::Place,
};

/// Lets deliveries wait until they are due.
pub(super) struct Delay {
    pub claims: Arc<Claims>,
    pub deliverer: Arc<Deliverer>,
    /// The head of each partition that is paused for it.
    pub heads: HashMap<Partition, Head>,
}

/// A delivery that waits, with all of its partition behind it.
pub(super) struct Head {
    pending: Pending,
    due: Timestamp,
    /// When it leaves the head.
    leaves: Timestamp,
}

impl Intake for Delay {
    fn take(&mut self, record: &Record<'_>, consumer: &Consumer<Claims>) {
        let place = Place { partition: record.partition(), offset: record.offset() };
        let Tracked::Ours(mut claims) = self.claims.track(place.partition, place.offset, 1) else { return };
        let Some(claim) = claims.pop() else { return };
        let value = record.value().unwrap_or_default();
        let delivery: Delivery = match serde_json::from_slice(value) {
            Ok(delivery) => delivery,
            Err(error) => {
                return self.deliverer.bury_record(value, format!("not a delivery: {error}"), place, claim);
            }
        };
        let now = Timestamp::now();
        let leaves = leaves(delivery.due, record.timestamp().unwrap_or(now), self.deliverer.config.retry_delay());
        let due = delivery.due;
        let pending = Pending {
            endpoint: delivery.endpoint,
            attempt: delivery.attempt,
            message: Arc::new(Message {
                workspace: delivery.workspace,
                event_id: delivery.event_id,
                event: delivery.event,
                at: now,
                body: Bytes::from(delivery.body),
                traceparent: delivery.traceparent,
                place,
            }),
            claim,
        };
        let head = Head { pending, due, leaves };
        if leaves <= now {
            return self.release(head, now);
        }
        match consumer.pause(&[place.partition]) {
            Ok(()) => {
                self.heads.insert(place.partition, head);
            }
            // It is changing hands; its new owner reads the record again.
            Err(error) => debug!(%error, partition = %place.partition, "cannot pause"),
        }
    }

    fn tick(&mut self, consumer: &Consumer<Claims>) -> Duration {
        if self.heads.is_empty() {
            return POLL;
        }
        let now = Timestamp::now();
        let leaving = self.heads.extract_if(|_, head| head.leaves <= now || !head.pending.claim.holds());
        let leaving: Vec<(Partition, Head)> = leaving.collect();
        for (partition, head) in leaving {
            if let Err(error) = consumer.resume(&[partition]) {
                debug!(%error, %partition, "cannot resume: it is another member's now");
            }
            if head.pending.claim.holds() {
                self.release(head, now);
            }
        }
        self.heads.values().map(|head| head.leaves.since(now)).min().unwrap_or(POLL)
    }
}

impl Delay {
    fn release(&self, head: Head, now: Timestamp) {
        if head.due > now {
            return self.deliverer.postpone(head.pending, head.due);
        }
        match self.deliverer.endpoints.get(head.pending.endpoint) {
            Some(target) => self.deliverer.offer(&target, head.pending),
            None => self.deliverer.skip(head.pending, GONE),
        }
    }
}

/// When a record appended at `appended` leaves the head of its partition: when
/// it is due, or when it has waited as long as any retry here may.
fn leaves(due: Timestamp, appended: Timestamp, delay: Duration) -> Timestamp {
    due.min(appended.plus(delay.mul_f64(1.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_keeps_the_head_longer_than_the_delay() {
        let at = Timestamp::from_millis;
        let delay = Duration::from_millis(1000);
        assert_eq!(leaves(at(5_900), at(5_000), delay), at(5_900));
        assert_eq!(leaves(at(3_600_000), at(5_000), delay), at(6_100));
        assert_eq!(leaves(at(4_000), at(5_000), delay), at(4_000));
    }
}
