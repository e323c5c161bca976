//! The changes that the reader of a table receives.

use std::sync::Arc;

use parking_lot::Mutex;

/// A change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The key now has this value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The key was deleted.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// The rows of one source follow: of the snapshot, or of the topic where
    /// there is no snapshot. Sent only where a snapshot is kept.
    Coming {
        /// The highest number of rows that can follow.
        rows: u64,
    },
    /// All records that the topic held when the table was opened have been
    /// applied, or all rows of its snapshot.
    CaughtUp,
}

impl<'a> Change<'a> {
    /// Returns the change that a record makes: one without a value deletes its key.
    pub(crate) fn of_record(key: &'a [u8], value: Option<&'a [u8]>) -> Self {
        value.map_or(Self::Delete { key }, |value| Self::Put { key, value })
    }
}

/// How much of a table has been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableProgress {
    /// A part of it.
    Partial,
    /// The rows of its snapshot. Later changes may be missing, because the topic
    /// has not been read to its end yet.
    Snapshot,
    /// All records that the topic held when the table was opened, and the changes
    /// since.
    Topic,
}

pub(super) type Apply = Box<dyn FnMut(Change<'_>) + Send>;

/// The reader's callback, shared with the follower's thread. It is `None` once
/// the table is dropped: from then on nothing is applied, although the thread may
/// take a moment to end.
pub(super) type SharedApply = Arc<Mutex<Option<Apply>>>;
