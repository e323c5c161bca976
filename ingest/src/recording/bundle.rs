//! A bundle of clicks, which Kafka gets as one record, and the messages about it
//! between the recorder, the cores and the spooler.

use std::{sync::Weak, time::Instant};

use uuid::Uuid;

/// The number of a bundle: this process counts them from 0.
pub(crate) type BundleNumber = u64;

/// A closed bundle, as Kafka and the spool get it.
#[derive(Debug)]
pub(crate) struct ClosedBundle {
    pub(crate) number: BundleNumber,
    pub(crate) id: Uuid,
    pub(crate) partition: i32,
    pub(crate) clicks: u32,
    pub(crate) lines: Vec<u8>,
    /// When it was closed.
    pub(crate) since: Instant,
    /// The cores that wait for it, as [`core_bit`] has them.
    pub(crate) cores: u64,
}

/// How a click was recorded, as its visitor's response depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Kafka has acknowledged it, or it is on disk.
    Yes,
    /// Neither Kafka nor the disk took it in time, and redirects do not wait longer.
    Shed,
    /// Kafka has not acknowledged it in time. It may still do.
    Unknown,
}

/// A message of the recorder to a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CoreMessage {
    /// The outcome of a bundle that visits of the core wait for.
    Settled { bundle: BundleNumber, recorded: Recorded },
    /// A timer may have changed, or may have lost the core that looked after it.
    CheckTimers,
}

/// A command of the recorder to the spooler.
#[derive(Debug)]
pub(crate) enum SpoolCommand {
    /// Put the bundle on disk, unless it has left memory by then because Kafka has it.
    /// `after` is the last offset acknowledged on its partition when it was closed.
    Put { bundle: Weak<ClosedBundle>, after: Option<i64> },
    /// Erase the bundle: Kafka has it.
    Erase(BundleNumber),
    /// Produce the bundle from disk: the Kafka client does not have it.
    Replay { bundle: BundleNumber, handed: Handed },
    /// Kafka's answer to a bundle produced from disk.
    Replayed { key: u64, answer: ReplayAnswer },
    /// Carry out the commands before this one, and end.
    Stop,
}

/// Kafka's answer to a bundle that was produced from disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplayAnswer {
    Acked,
    /// The client has given the bundle up: Kafka may have it or not.
    GivenUp {
        error: String,
    },
    /// Kafka takes no record of the bundle's size.
    TooLarge {
        error: String,
    },
}

/// The bit of a core in [`ClosedBundle::cores`]. Beyond 64 cores several share a bit, and
/// hear of bundles that do not concern them.
pub(crate) const fn core_bit(index: usize) -> u64 {
    1 << (index % 64)
}

/// Whether a bundle was in this process's Kafka client once, so that Kafka may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    Never,
    Once,
}

/// Whether a record may be a second copy of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BundleCopy {
    /// No other was ever handed to a Kafka client.
    First,
    /// Kafka may have a copy already, behind the offset `after`.
    Again { after: Option<i64> },
}
