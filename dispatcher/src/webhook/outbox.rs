//! The records that delivering leaves on Kafka: the log of attempts, deliveries
//! that wait for their next attempt, and dead letters. The claim on an offset is
//! completed here, once Kafka has the record that stands for the delivery.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bus::{Acked, Bus, BusError, Outgoing, Producer};
use parking_lot::Mutex;
use schemas::{
    Attempt, Dead, DeadOrigin, DelayTier, Delivery, Outcome, Timestamp, Topic, endpoint_health::EndpointHealth,
};
use serde::Serialize;
use service::Backoff;
use tracing::{debug, error, warn};

use super::{
    claims::OffsetClaim,
    delivery::{InFlight, SourceRecord},
    metrics::WebhookMetrics,
    partition_choice::PartitionChoice,
    retry::{RetryTiming, jittered},
};

/// The producer's batching delay. Only offsets wait for these records, so they may
/// gather.
const LINGER: Duration = Duration::from_millis(10);
/// The time that a partition has to take a record, before another one gets it. An outage
/// of all of them is waited out.
const PATIENCE: Duration = Duration::from_secs(10);
/// The batching delay, the patience and the memory of the log of attempts.
const LOG_LINGER: Duration = Duration::from_millis(100);
const LOG_PATIENCE: Duration = Duration::from_secs(60);
const LOG_KBYTES: u32 = 16 << 10;
/// The longest time for which the deliveries of a paused endpoint are held, and the tier on
/// which they wait: after a resumption they come within its delay.
const HELD_FOR: Duration = Duration::from_secs(14 * 24 * 3600);
const HELD_TIER: DelayTier = DelayTier::Minutes30;
/// The pause before another try when the producer's queue is full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(20);
/// The least time between two warnings about records that are retried.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Writes what delivering leaves behind.
pub(super) struct WebhookOutbox {
    producer: Producer,
    /// The client for the log of attempts, which drops what it cannot hold.
    log: Producer,
    partitions: PartitionChoice,
    bus: Bus,
    timing: RetryTiming,
    metrics: WebhookMetrics,
    /// The name of this process in its reports on endpoints.
    process: String,
    /// The time of the last warning about records that are retried.
    warned: Mutex<Option<Instant>>,
}

impl WebhookOutbox {
    /// # Errors
    /// When a setting of the producer is refused.
    pub(super) fn new(bus: &Bus, timing: RetryTiming, metrics: WebhookMetrics) -> Result<Self, BusError> {
        let producer = bus.producer("webhook", LINGER, PATIENCE)?;
        let log = bus.bounded_producer("webhook.attempts", LOG_LINGER, LOG_PATIENCE, LOG_KBYTES)?;
        Ok(Self {
            producer,
            log,
            partitions: PartitionChoice::default(),
            bus: bus.clone(),
            timing,
            metrics,
            process: format!("{:016x}", rand::random::<u64>()),
            warned: Mutex::new(None),
        })
    }

    /// Writes an attempt to the log, and never waits for Kafka: the log must hold up no
    /// delivery. Entries that Kafka does not take are counted as unrecorded.
    pub(super) fn log_attempt(&self, attempt: &Attempt) {
        self.log(attempt, ClaimsOfEntry(Vec::new()));
    }

    /// Writes the attempt that ends a delivery to the log, and completes the delivery's claims
    /// when Kafka has the entry or has not taken it in time. So what is done by the committed
    /// offsets is in the log, also after a crash. Never waits.
    pub(super) fn log_last_attempt(&self, attempt: &Attempt, claims: Vec<OffsetClaim>) {
        self.log(attempt, ClaimsOfEntry(claims));
    }

    fn log(&self, attempt: &Attempt, claims: ClaimsOfEntry) {
        let key = attempt.endpoint.to_string();
        let value = json(attempt);
        let out = Outgoing::keyed(Topic::Attempts, key.as_bytes(), Some(&value));
        let unrecorded = self.metrics.unrecorded.clone();
        let on_ack = move |acked: Acked| {
            if acked.is_err() {
                unrecorded.inc();
            }
            drop(claims);
        };
        if self.log.send(&out, on_ack).is_err() {
            self.metrics.unrecorded.inc();
        }
    }

    /// Writes a delivery to the delay topic that fits its wait, with attempt number
    /// `attempt` due at `due`, and completes its claims when Kafka has the record. A batch that
    /// is too large for Kafka is written in halves, each a batch of its own.
    pub(super) async fn delay(&self, delivery: InFlight, attempt: u32, due: Timestamp) {
        let tier = self.timing.tier(due.since(Timestamp::now()));
        let key = delivery.endpoint.to_string();
        let mut refused = HashSet::new();
        let mut records = vec![delivery.to_record(attempt, due)];
        while let Some(record) = records.pop() {
            let Err(TooLarge) = self.produce(Topic::Delay(tier), &key, &json(&record)).await else { continue };
            match record.events.as_slice() {
                [event] => drop(refused.insert(event.id)),
                events => {
                    let (left, right) = events.split_at(events.len() / 2);
                    records.extend([left, right].map(|events| Delivery { events: events.to_vec(), ..record.clone() }));
                }
            }
        }
        let written = match delivery.only(&refused) {
            Some(refused) => {
                self.write_dead_letters(&refused, "the delivery is too large for a delay topic: no retry").await
            }
            None => Ok(()),
        };
        complete(delivery.claims, written, Topic::Dead);
    }

    /// Hands over a delivery whose partition goes to another member: it is left to that member, or
    /// where that would repeat the deliveries of its records to other endpoints, written to a
    /// delay topic, due at once.
    pub(super) async fn hand_over(&self, delivery: InFlight) {
        if delivery.is_left_to_others() {
            debug!(endpoint = %delivery.endpoint, "delivery left to the partition's new owner");
            return;
        }
        self.metrics.handed_over.inc_by(delivery.messages.len() as u64);
        let attempt = delivery.attempt;
        self.delay(delivery, attempt, Timestamp::now()).await;
    }

    /// Holds a delivery whose endpoint is paused: it waits on a delay topic, is looked at
    /// from time to time, and is skipped once it has been held for [`HELD_FOR`].
    pub(super) async fn hold(&self, delivery: InFlight) {
        let now = Timestamp::now();
        let since = delivery.held_since.unwrap_or(now);
        if now.since(since) >= self.timing.scaled(HELD_FOR) {
            return self.skip(delivery, "the endpoint was paused for 14 days");
        }
        let due = now.plus(jittered(self.timing.delay(HELD_TIER), rand::random()));
        let attempt = delivery.attempt;
        self.delay(InFlight { held_since: Some(since), ..delivery }, attempt, due).await;
    }

    /// Gives up a delivery: writes a dead letter for each of its events, and completes its
    /// claims when Kafka has them.
    pub(super) async fn dead_letter(&self, delivery: InFlight, reason: &str) {
        let written = self.write_dead_letters(&delivery, reason).await;
        complete(delivery.claims, written, Topic::Dead);
    }

    async fn write_dead_letters(&self, delivery: &InFlight, reason: &str) -> Result<(), TooLarge> {
        let now = Timestamp::now();
        let mut written = Ok(());
        for (message, record) in delivery.to_single_records(now) {
            warn!(endpoint = %delivery.endpoint, event = %message.event_id, reason, "delivery dead-lettered");
            self.metrics.dead.inc();
            let dead = Dead::of_delivery(reason.to_owned(), now, self.origin(message.source), record);
            written = written.and(self.write_dead(&delivery.endpoint.to_string(), dead).await);
        }
        written
    }

    /// Gives up a record that cannot be read: writes it to `dead`, and completes its
    /// claim when Kafka has the dead letter.
    pub(super) async fn dead_letter_record(
        &self,
        payload: &str,
        reason: String,
        source: SourceRecord,
        claim: OffsetClaim,
    ) {
        warn!(partition = %source.partition, offset = source.offset, reason, "unreadable record dead-lettered");
        self.metrics.dead.inc();
        let dead = Dead::of_record(reason, Timestamp::now(), self.origin(source), payload);
        let written = self.write_dead(source.partition.topic.suffix(), dead).await;
        complete(vec![claim], written, Topic::Dead);
    }

    /// Records that a delivery is not made, and completes its claims.
    pub(super) fn skip(&self, mut delivery: InFlight, why: &'static str) {
        delivery.begin();
        self.metrics.count_attempts(Outcome::Skipped, delivery.messages.len());
        let entry = delivery.log_entry(Timestamp::now(), Outcome::Skipped);
        self.log_last_attempt(&Attempt { error: Some(why.to_owned()), ..entry }, delivery.claims);
    }

    /// Reports the health of an endpoint, and returns when Kafka has the report.
    pub(super) async fn report_health(&self, report: &EndpointHealth) {
        if let Err(TooLarge) = self.produce(Topic::Health, &report.key(&self.process), &json(report)).await {
            error!(topic = Topic::Health.suffix(), "topic refuses even the smallest record: health not reported");
        }
    }

    /// Lets the entries of the log go out that wait for more, for at most `patience`. Blocks.
    pub(super) fn hurry_log(&self, patience: Duration) {
        // Those that are left are counted by the last flush.
        let _ = self.log.drain(patience);
    }

    /// Waits until Kafka has every record, at most `patience`, and returns the
    /// number of records that Kafka does not have. Blocks.
    pub(super) fn flush(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let left = self.producer.drain(patience);
        left + self.log.drain(deadline.saturating_duration_since(Instant::now()))
    }

    fn origin(&self, source: SourceRecord) -> DeadOrigin {
        DeadOrigin::record(self.bus.topics().name(source.partition.topic), source.partition.index, source.offset)
    }

    /// Writes a dead letter. One that is too large for Kafka is written without its
    /// delivery and with an excerpt of the content, and at last with none.
    async fn write_dead(&self, key: &str, mut dead: Dead) -> Result<(), TooLarge> {
        loop {
            let Err(TooLarge) = self.produce(Topic::Dead, key, &json(&dead)).await else { return Ok(()) };
            warn!(topic = dead.origin.topic, offset = dead.origin.offset, "dead letter too large for Kafka: cut");
            dead = dead.smaller().ok_or(TooLarge)?;
        }
    }

    /// Produces a record to any partition of the topic that takes it.
    async fn produce(&self, topic: Topic, key: &str, value: &[u8]) -> Result<(), TooLarge> {
        let produce = || async {
            let partition = self.partitions.choose(topic, self.bus.partitions(topic), Instant::now());
            let out = Outgoing::keyed(topic, key.as_bytes(), Some(value));
            let produced = self.producer.produce(&Outgoing { partition: Some(partition.index), ..out }).await;
            if produced.as_ref().is_err_and(|error| !matches!(error, BusError::QueueFull) && !error.is_too_large()) {
                self.partitions.failed(partition, Instant::now());
            }
            produced.map(drop)
        };
        retried(produce, |error| self.warn_of_retry(topic, error)).await
    }

    /// Logs that a record is retried, at most once in [`WARN_EVERY`]: thousands may be
    /// retried at once.
    fn warn_of_retry(&self, topic: Topic, error: &BusError) {
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            warn!(%error, topic = topic.suffix(), "record not written to Kafka: retried");
        }
    }
}

/// Produces a record, and retries until Kafka has it: the client is made again after a
/// fatal error, and any other error passes. `warn` is told of each.
async fn retried<F: Future<Output = Result<(), BusError>>>(
    produce: impl Fn() -> F,
    warn: impl Fn(&BusError),
) -> Result<(), TooLarge> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        match produce().await {
            Ok(()) => return Ok(()),
            Err(BusError::QueueFull) => tokio::time::sleep(FULL_QUEUE_PAUSE).await,
            Err(error) if error.is_too_large() => return Err(TooLarge),
            Err(error) => {
                warn(&error);
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// The claims of a delivery that wait for its entry in the log. They are complete when this is
/// dropped, also where the producer refuses the entry: a log that is full holds up no offset.
struct ClaimsOfEntry(Vec<OffsetClaim>);

impl Drop for ClaimsOfEntry {
    fn drop(&mut self) {
        self.0.drain(..).for_each(OffsetClaim::complete);
    }
}

/// The error for a record that Kafka never takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooLarge;

fn complete(claims: Vec<OffsetClaim>, written: Result<(), TooLarge>, topic: Topic) {
    match written {
        Ok(()) => claims.into_iter().for_each(OffsetClaim::complete),
        // The record has no content that could be cut: the topic takes next to nothing.
        // The claims stay open, so that the sources are read again after a restart.
        Err(TooLarge) => {
            error!(topic = topic.suffix(), "topic refuses even the smallest record: the source's offset is held back");
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types hold nothing that JSON cannot")
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test]
    async fn a_record_is_produced_again_after_any_error_that_is_not_its_size() {
        let lost = || BusError::Gone { what: "produce" };
        // No later call of the same client succeeds after this one.
        let permanent = || BusError::Fenced { id: String::new() };
        let errors = RefCell::new(vec![lost(), BusError::QueueFull, permanent()]);
        let warnings = Cell::new(0);
        let produce = || async { errors.borrow_mut().pop().map_or(Ok(()), Err) };
        let produced = retried(produce, |_| warnings.set(warnings.get() + 1)).await;
        assert_eq!(produced, Ok(()));
        assert_eq!(errors.borrow().len(), 0);
        assert_eq!(warnings.get(), 2, "a full queue is no warning");
    }
}
