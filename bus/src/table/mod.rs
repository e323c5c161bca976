//! A table: a one-partition topic whose records, in order, are the truth. A table
//! reads its topic from the beginning, committed records only, and then follows
//! it; or it starts from its snapshot and follows the topic from there.
//!
//! `follower.rs` is the thread that reads, `snapshot.rs` the file that a table may
//! keep, and `snapshot_writer.rs` the thread that writes that file.

mod change;
mod follower;
mod snapshot;
mod snapshot_writer;

use std::{path::Path, sync::Arc, thread};

use parking_lot::Mutex;
use schemas::Topic;
use tokio::sync::watch;

pub use self::change::{Change, TableProgress};
use self::{change::SharedApply, follower::TableFollower};
use crate::{Bus, BusError};

/// A table that is followed until it is dropped.
pub struct Table {
    apply: SharedApply,
    progress: watch::Receiver<TableProgress>,
    snapshot_offset: watch::Receiver<Option<i64>>,
    /// `None` only inside [`close`](Self::close).
    thread: Option<thread::JoinHandle<()>>,
}

impl Bus {
    /// Follows `topic` on a thread of its own and calls `apply` with every change.
    ///
    /// With `snapshot`, a folder that no other process uses, the table also keeps
    /// a snapshot there, which is about half a second behind. The next table of
    /// this folder applies the snapshot's rows first, counts as caught up then,
    /// whether or not Kafka answers, and reads on from the snapshot's offset. In
    /// the end the topic's content has been applied, whatever the snapshot held: a
    /// snapshot that does not fit the topic is replaced, and rows that only the
    /// snapshot held are applied as deleted.
    ///
    /// # Errors
    /// When the client or the thread cannot be made.
    pub fn table(
        &self,
        role: &str,
        topic: Topic,
        snapshot: Option<&Path>,
        apply: impl FnMut(Change<'_>) + Send + 'static,
    ) -> Result<Table, BusError> {
        let apply: SharedApply = Arc::new(Mutex::new(Some(Box::new(apply))));
        let (progress_sender, progress) = watch::channel(TableProgress::Partial);
        let (offset_sender, snapshot_offset) = watch::channel(None);
        let follower = TableFollower::new(self, role, topic, Arc::clone(&apply), progress_sender, offset_sender)?;
        let path = snapshot.map(|dir| dir.join(format!("{}.redb", topic.suffix())));
        let alive = self.alive();
        let follow = move || {
            follower.run(path);
            drop(alive);
        };
        let thread = thread::Builder::new()
            .name(topic.suffix().to_owned())
            .spawn(follow)
            .map_err(|source| BusError::Thread { what: "follow a table", source })?;
        Ok(Table { apply, progress, snapshot_offset, thread: Some(thread) })
    }
}

impl Table {
    /// Waits until all records that the topic held when the table was opened have
    /// been applied, or all rows of its snapshot.
    pub async fn caught_up(&self) {
        self.at_least(TableProgress::Snapshot).await;
    }

    /// Waits until all records that the topic held when the table was opened have
    /// been applied.
    pub async fn up_to_date(&self) {
        self.at_least(TableProgress::Topic).await;
    }

    async fn at_least(&self, wanted: TableProgress) {
        // An error means that the thread has ended, which only a drop causes.
        let _ = self.progress.clone().wait_for(|progress| *progress >= wanted).await;
    }

    /// Ends the table, and waits about a second until its snapshot is on disk and
    /// another process can open it. Blocks.
    pub fn close(mut self) {
        let thread = self.thread.take();
        drop(self);
        // An error is a panic of the thread, which was printed when it happened.
        let _ = thread.map(thread::JoinHandle::join);
    }

    /// How much of the table has been applied.
    #[must_use]
    pub fn progress(&self) -> TableProgress {
        *self.progress.borrow()
    }

    /// The offset up to which (exclusive) the snapshot on disk holds the topic;
    /// `None` without a complete snapshot.
    #[must_use]
    pub fn snapshot_offset(&self) -> Option<i64> {
        *self.snapshot_offset.borrow()
    }

    /// Waits until a complete snapshot is on disk; forever where none is kept.
    pub async fn snapshot_written(&self) {
        if self.snapshot_offset.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether all records that the topic held when the table was opened, or all
    /// rows of its snapshot, have been applied.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.progress() >= TableProgress::Snapshot
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        *self.apply.lock() = None;
    }
}
