//! The records that delivering leaves on Kafka: the log of attempts, deliveries
//! that wait for their next attempt, and dead letters. The claim on an offset is
//! completed here, once Kafka has the record that stands for the delivery.

use std::{sync::Arc, time::Duration};

use bus::{Acked, Bus, BusError, Outgoing, Producer};
use schemas::{Attempt, Dead, EndpointId, Origin, Outcome, Timestamp, Topic, Topics};
use serde::Serialize;
use tracing::{error, warn};

use super::{
    claims::OffsetClaim,
    delivery::{InFlight, SourceRecord},
    metrics::WebhookMetrics,
};

/// The producer's batching delay. Only offsets wait for these records, so they may
/// gather.
const LINGER: Duration = Duration::from_millis(10);
/// The pause before another try when the producer's queue is full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(20);
/// The part of an unreadable record that its dead letter keeps.
const PAYLOAD_CHARS: usize = 256 * 1024;

/// Writes what delivering leaves behind.
pub(super) struct WebhookOutbox {
    producer: Producer,
    topics: Arc<Topics>,
    metrics: WebhookMetrics,
}

impl WebhookOutbox {
    /// # Errors
    /// When a setting of the producer is refused.
    pub(super) fn new(bus: &Bus, metrics: WebhookMetrics) -> Result<Self, BusError> {
        // The producer never gives a record up by itself: an offset waits for the
        // record, and an outage of Kafka is waited out.
        let producer = bus.producer("webhook", LINGER, Duration::ZERO)?;
        Ok(Self { producer, topics: Arc::clone(bus.topics()), metrics })
    }

    /// Writes an attempt to the log without waiting for Kafka. Entries that Kafka
    /// does not take are counted as unrecorded.
    pub(super) async fn log_attempt(&self, attempt: &Attempt) {
        let key = attempt.endpoint.to_string();
        let value = json(attempt);
        let out = Outgoing::keyed(Topic::Attempts, key.as_bytes(), Some(&value));
        loop {
            let unrecorded = self.metrics.unrecorded.clone();
            let count_failure = move |acked: Acked| {
                if acked.is_err() {
                    unrecorded.inc();
                }
            };
            match self.producer.send(&out, count_failure) {
                Ok(()) => return,
                Err(BusError::QueueFull) => tokio::time::sleep(FULL_QUEUE_PAUSE).await,
                Err(_) => {
                    self.metrics.unrecorded.inc();
                    return;
                }
            }
        }
    }

    /// Writes a delivery to the delay topic, with attempt number `attempt` due at
    /// `due`, and completes its claim when Kafka has the record.
    pub(super) async fn delay(&self, delivery: InFlight, attempt: u32, due: Timestamp) {
        let record = delivery.to_record(attempt, due);
        match self.produce_for(Topic::Delay, record.endpoint, &json(&record)).await {
            Ok(()) => delivery.claim.complete(),
            // Kafka never takes the record, as when it is too large.
            Err(error) => self.dead_letter(delivery, format!("Kafka refused the retry's record: {error}")).await,
        }
    }

    /// Gives up a delivery: writes it to `dead`, and completes its claim when Kafka
    /// has the record.
    pub(super) async fn dead_letter(&self, delivery: InFlight, reason: String) {
        let message = &delivery.message;
        warn!(endpoint = %delivery.endpoint, event = %message.event_id, reason, "delivery dead-lettered");
        self.metrics.dead.inc();
        let record = delivery.to_record(delivery.attempt, Timestamp::now());
        let dead = Dead { delivery: Some(record), ..self.dead(reason, message.source) };
        let written = self.produce_for(Topic::Dead, delivery.endpoint, &json(&dead)).await;
        complete(delivery.claim, written, Topic::Dead);
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
        let payload = payload.chars().take(PAYLOAD_CHARS).collect();
        let dead = Dead { payload: Some(payload), ..self.dead(reason, source) };
        let written = self.produce(Topic::Dead, source.partition.topic.suffix(), &json(&dead)).await;
        complete(claim, written, Topic::Dead);
    }

    /// Records that a delivery is not made, and completes its claim when Kafka has
    /// the record.
    pub(super) async fn skip(&self, delivery: InFlight, why: &'static str) {
        self.metrics.count_attempt(Outcome::Skipped);
        let entry = delivery.log_entry(Timestamp::now(), Outcome::Skipped);
        let skipped = Attempt { error: Some(why.to_owned()), ..entry };
        let written = self.produce_for(Topic::Attempts, delivery.endpoint, &json(&skipped)).await;
        complete(delivery.claim, written, Topic::Attempts);
    }

    /// Waits until Kafka has every record, at most `patience`, and returns the
    /// number of records that Kafka does not have. Blocks.
    pub(super) fn flush(&self, patience: Duration) -> usize {
        self.producer.drain(patience)
    }

    /// Returns a dead letter without its content.
    fn dead(&self, reason: String, source: SourceRecord) -> Dead {
        let origin = Origin {
            topic: self.topics.name(source.partition.topic),
            partition: source.partition.index,
            offset: source.offset,
            line: None,
            bundle: None,
        };
        Dead { v: 1, reason, at: Timestamp::now(), origin, payload: None, delivery: None }
    }

    async fn produce_for(&self, topic: Topic, endpoint: EndpointId, value: &[u8]) -> Result<(), BusError> {
        self.produce(topic, &endpoint.to_string(), value).await
    }

    async fn produce(&self, topic: Topic, key: &str, value: &[u8]) -> Result<(), BusError> {
        let out = Outgoing::keyed(topic, key.as_bytes(), Some(value));
        loop {
            match self.producer.produce(&out).await {
                Ok(_) => return Ok(()),
                Err(BusError::QueueFull) => tokio::time::sleep(FULL_QUEUE_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn complete(claim: OffsetClaim, written: Result<(), BusError>, topic: Topic) {
    match written {
        Ok(()) => claim.complete(),
        // The claim stays open and holds its offset back, so that the record is
        // read again after a restart.
        Err(error) => error!(%error, topic = topic.suffix(), "record not written: its source's offset is held back"),
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types hold nothing that JSON cannot")
}
