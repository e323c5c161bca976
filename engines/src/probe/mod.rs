//! The question whether a child serves, and whether it is ours.

mod clickhouse;
mod kafka;
mod protocol;
mod replicas;

use std::time::Duration;

use tokio::time::timeout;

pub(crate) use clickhouse::ClickHouseProbe;
pub(crate) use kafka::{KafkaProbe, WaitsFor};
pub use replicas::PartitionReplicas;
pub(crate) use replicas::partitions;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A check of one child, by the protocol that its clients speak.
#[derive(Debug)]
pub(crate) enum Probe {
    Kafka(KafkaProbe),
    ClickHouse(ClickHouseProbe),
}

impl Probe {
    /// Whether the child serves its clients, and is the one that was started.
    pub(crate) async fn is_ready(&self) -> bool {
        let answer = async {
            match self {
                Self::Kafka(probe) => probe.is_ready().await,
                Self::ClickHouse(probe) => probe.is_ready().await,
            }
        };
        timeout(ANSWER_WITHIN, answer).await.unwrap_or(false)
    }
}
