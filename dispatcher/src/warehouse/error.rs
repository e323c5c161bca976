//! The errors that end the warehouse.

use bus::BusError;
use service::ConfigError;

use crate::rejoin::MaybeTransient;

/// The error that ended the warehouse.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reading on could lose records, or the Kafka client has failed for good.
    #[error("warehouse: {0}")]
    Bus(#[from] BusError),
    /// A committed offset carries a note that this program cannot read.
    #[error(
        "warehouse: the offset of {partition} carries the note `{metadata}`, which this program cannot read: was it written \
         by a newer version? Run that version, or set the offset with `clickhook offsets set`"
    )]
    Note {
        /// The partition.
        partition: String,
        /// The note.
        metadata: String,
    },
    /// The thread could not be started.
    #[error("warehouse: cannot start its thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread ended in a panic, which the log has.
    #[error("warehouse: its thread panicked; the log says where")]
    Panicked,
}

impl MaybeTransient for Error {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Bus(error) if error.is_transient())
    }
}
