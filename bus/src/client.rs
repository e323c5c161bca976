//! Rules for every kind of client: how it begins, and how it reports errors.

use std::time::Duration;

use rdkafka::{
    ClientContext,
    client::Client,
    consumer::ConsumerContext,
    error::{KafkaError, KafkaResult},
};
use tracing::debug;

/// A client context that logs at `debug` alone: while Kafka is away, librdkafka
/// reports every attempt to connect.
pub(crate) struct QuietContext;

impl ClientContext for QuietContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

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
