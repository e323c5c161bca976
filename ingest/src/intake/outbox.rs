//! Hands conversions to Kafka, and waits until Kafka has them all.

use std::time::{Duration, Instant};

use bus::{Bus, BusError, Outgoing, Producer};
use prometheus_client::metrics::histogram::Histogram;
use schemas::{RawConversion, Topic};
use tokio::{sync::mpsc, time::timeout};

/// Why conversions may not be on the topic.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRecorded {
    /// Kafka refused a conversion, or the client has given it up.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Kafka has not answered. It may have the conversions all the same.
    #[error("Kafka has not acknowledged it within {0:?}")]
    Late(Duration),
    /// A conversion could not be serialised.
    #[error("a conversion cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The producer of conversions.
pub(crate) struct ConversionOutbox {
    bus: Bus,
    producer: Producer,
    patience: Duration,
    ack_seconds: Histogram,
}

impl ConversionOutbox {
    /// Makes an outbox that waits `patience` for Kafka.
    pub(crate) const fn new(bus: Bus, producer: Producer, patience: Duration, ack_seconds: Histogram) -> Self {
        Self { bus, producer, patience, ack_seconds }
    }

    /// Records conversions, each in the partition of its shard, and waits until
    /// Kafka has all of them.
    pub(crate) async fn record(&self, conversions: &[RawConversion], trace: Option<&str>) -> Result<(), NotRecorded> {
        let begun = Instant::now();
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut headers: Vec<(&str, &[u8])> = vec![("content-type", b"application/json")];
        headers.extend(trace.map(|trace| ("traceparent", trace.as_bytes())));
        for conversion in conversions {
            let (key, value) = (conversion.key(), serde_json::to_vec(conversion)?);
            let record = Outgoing {
                topic: Topic::ConversionsRaw,
                partition: Some(self.bus.partition_of_shard(Topic::ConversionsRaw, conversion.shard())),
                key: Some(key.as_bytes()),
                value: Some(&value),
                headers: &headers,
            };
            let tell = tell.clone();
            self.producer.send(&record, move |acked| drop(tell.send(acked)))?;
        }
        let all = async {
            for _ in conversions {
                if let Some(acked) = told.recv().await {
                    acked?;
                }
            }
            Ok(())
        };
        timeout(self.patience, all).await.unwrap_or(Err(NotRecorded::Late(self.patience)))?;
        self.ack_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }
}
