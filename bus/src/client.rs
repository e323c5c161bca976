//! The context of clients whose users report errors themselves.

use rdkafka::{ClientContext, consumer::ConsumerContext, error::KafkaError};
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
