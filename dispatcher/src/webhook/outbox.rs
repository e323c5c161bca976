//! What delivering leaves behind in Kafka: a record of every attempt, deliveries
//! that wait for their next one, and the dead.

use std::{sync::Arc, time::Duration};

use bus::{Bus, BusError, Outgoing, Partition, Producer};
use prometheus_client::metrics::counter::Counter;
use schemas::{Attempt, Dead, Delivery, EndpointId, Origin, Timestamp, Topic, Topics};
use serde::Serialize;

/// Nothing waits for these records but the offsets behind them: let them gather.
const LINGER: Duration = Duration::from_millis(10);
/// How long to rest when the producer's queue is full.
const FULL_QUEUE_REST: Duration = Duration::from_millis(20);
/// How much of a record that cannot be read is kept.
const PAYLOAD_CHARS: usize = 256 * 1024;

/// Writes what delivering leaves behind.
pub(super) struct Outbox {
    producer: Producer,
    topics: Arc<Topics>,
}

/// Where a record was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub partition: Partition,
    pub offset: i64,
}

impl Outbox {
    pub(super) fn new(bus: &Bus) -> Result<Self, BusError> {
        // Patient for ever: an offset waits for these records, and an outage of
        // Kafka is waited out.
        let producer = bus.producer("webhook", LINGER, Duration::ZERO)?;
        Ok(Self { producer, topics: Arc::clone(bus.topics()) })
    }

    /// Records an attempt without waiting for Kafka; `lost` counts those that it
    /// does not take.
    pub(super) async fn note(&self, attempt: &Attempt, lost: &Counter) {
        let (key, value) = (attempt.endpoint.to_string(), json(attempt));
        let out = Outgoing::keyed(Topic::Attempts, key.as_bytes(), Some(&value));
        loop {
            let counter = lost.clone();
            let counted = move |acked: bus::Acked| {
                if acked.is_err() {
                    counter.inc();
                }
            };
            match self.producer.send(&out, counted) {
                Ok(()) => return,
                Err(BusError::QueueFull) => tokio::time::sleep(FULL_QUEUE_REST).await,
                Err(_) => {
                    lost.inc();
                    return;
                }
            }
        }
    }

    /// Records an attempt and waits until Kafka has it.
    pub(super) async fn record(&self, attempt: &Attempt) -> Result<(), BusError> {
        self.put(Topic::Attempts, attempt.endpoint, &json(attempt)).await
    }

    /// Puts a delivery where it waits, and returns when Kafka has it.
    pub(super) async fn delay(&self, delivery: &Delivery) -> Result<(), BusError> {
        self.put(Topic::Delay, delivery.endpoint, &json(delivery)).await
    }

    /// Gives up a delivery, and returns when Kafka has it.
    pub(super) async fn bury(&self, delivery: Delivery, reason: String, place: Place) -> Result<(), BusError> {
        let endpoint = delivery.endpoint;
        let dead = Dead {
            v: 1,
            reason,
            at: Timestamp::now(),
            origin: self.origin(place),
            payload: None,
            delivery: Some(delivery),
        };
        self.put(Topic::Dead, endpoint, &json(&dead)).await
    }

    /// Gives up a record that cannot be read, and returns when Kafka has it.
    pub(super) async fn bury_record(&self, payload: &str, reason: String, place: Place) -> Result<(), BusError> {
        let dead = Dead {
            v: 1,
            reason,
            at: Timestamp::now(),
            origin: self.origin(place),
            payload: Some(payload.chars().take(PAYLOAD_CHARS).collect()),
            delivery: None,
        };
        self.send(Topic::Dead, place.partition.topic.suffix(), &json(&dead)).await
    }

    /// Waits until Kafka has everything, at most `patience`; gives back how many
    /// records it has not. Blocks.
    pub(super) fn drain(&self, patience: Duration) -> usize {
        self.producer.drain(patience)
    }

    fn origin(&self, place: Place) -> Origin {
        Origin {
            topic: self.topics.name(place.partition.topic),
            partition: place.partition.index,
            offset: place.offset,
            line: None,
            bundle: None,
        }
    }

    async fn put(&self, topic: Topic, endpoint: EndpointId, value: &[u8]) -> Result<(), BusError> {
        self.send(topic, &endpoint.to_string(), value).await
    }

    async fn send(&self, topic: Topic, key: &str, value: &[u8]) -> Result<(), BusError> {
        let out = Outgoing::keyed(topic, key.as_bytes(), Some(value));
        loop {
            match self.producer.produce(&out).await {
                Ok(_) => return Ok(()),
                Err(BusError::QueueFull) => tokio::time::sleep(FULL_QUEUE_REST).await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types hold nothing that JSON cannot")
}
