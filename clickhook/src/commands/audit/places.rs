//! The places of records, and the slices in which an audit goes through all ids.

use std::fmt;

use bus::Partition;
use serde::{Serialize, Serializer};

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RecordPlace {
    pub(super) partition: Partition,
    pub(super) offset: i64,
}

impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

impl Serialize for RecordPlace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The progress of the group that reads a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordProgress {
    /// The group has done the record, by its committed offset.
    Done,
    /// The group has not done the record, or has not said so yet.
    Open,
}

/// A part of all ids. Ids are spread evenly over the slices, so that each takes its part
/// of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdSlice {
    number: u64,
    of: u64,
}

impl IdSlice {
    /// The slice of all ids.
    #[cfg(test)]
    pub(super) const ALL: Self = Self { number: 0, of: 1 };

    /// Returns `of` slices that have every id together.
    pub(super) fn all(of: u64) -> impl Iterator<Item = Self> {
        (0..of).map(move |number| Self { number, of })
    }

    #[cfg(test)]
    pub(super) fn halves() -> impl Iterator<Item = Self> {
        Self::all(2)
    }

    pub(super) const fn contains(self, bits: u128) -> bool {
        // The last bits of an id are random, or of a hash.
        (bits as u64) % self.of == self.number
    }

    /// Tells whether this slice has what has no id.
    pub(super) const fn is_first(self) -> bool {
        self.number == 0
    }
}
