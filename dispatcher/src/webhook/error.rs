//! The errors that end webhook delivery.

use bus::BusError;
use service::ConfigError;

/// The error that ended webhook delivery.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has a value that is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reading on could lose records, or the Kafka client has failed for good.
    #[error("webhooks: {0}")]
    Bus(#[from] BusError),
    /// The TLS library lacks what it was built with.
    #[error("webhooks: cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A thread could not be started.
    #[error("webhooks: cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A thread ended in a panic, which the log has.
    #[error("webhooks: a thread ended in a panic: please report it with the log's last lines")]
    Panic,
}
