//! Rules for every kind of client: how it begins, and how it reports errors.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    client::Client,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    metadata::{MetadataPartition, MetadataTopic},
    types::RDKafkaErrorCode,
};
use tracing::debug;

use crate::{BusError, client_errors, config::CALL_TIMEOUT};

/// The context of a client that has no callbacks of its own. It tells errors at `debug`
/// alone: while Kafka is away, librdkafka reports every attempt to connect.
pub(crate) struct QuietContext;

impl ClientContext for QuietContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn log(&self, level: RDKafkaLogLevel, kind: &str, message: &str) {
        client_errors::log(level, kind, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for QuietContext {}

/// Waits until a client is connected to a broker that the cluster has named.
///
/// librdkafka closes the connection to a bootstrap address as soon as it knows the
/// cluster's brokers, and fails the requests under way on that connection. It
/// repeats such a request only after half a second (for the coordinator of a
/// transaction) or a second (for the leader of a partition). The first metadata may
/// come over that connection; the second cannot.
pub(crate) fn connect<C: ClientContext>(client: &Client<C>, topic: &str, within: Duration) -> KafkaResult<()> {
    client.fetch_metadata(Some(topic), within)?;
    client.fetch_metadata(Some(topic), within)?;
    Ok(())
}

/// Returns the first offset of a log, and the offset behind its last record. A partition
/// without a leader, as right after it was made, is asked again.
pub(crate) fn log_ends<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), BusError> {
    let deadline = Instant::now() + CALL_TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, partition, CALL_TIMEOUT) {
            Ok(ends) => return Ok(ends),
            Err(error) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable)
                    if Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => return Err(BusError::new("fetch a log's ends")(error)),
            },
        }
    }
}

/// Returns the partitions of `topic` that have no leader.
pub(crate) fn without_leader<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    within: Duration,
) -> Result<BTreeSet<i32>, BusError> {
    let metadata = client.fetch_metadata(Some(topic), within).map_err(BusError::new("ask for leaders"))?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    Ok(partitions.filter(|partition| partition.leader() < 0).map(MetadataPartition::id).collect())
}
