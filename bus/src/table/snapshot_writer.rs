//! The thread that writes a table's snapshot. The thread that reads the table
//! passes every change on and never waits: changes that do not fit the queue
//! between the two, as at a start without a snapshot or during an import of
//! millions of links, are read by the writer from Kafka itself, once the reader
//! has reached the topic's end.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use schemas::{Timestamp, Topic};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::snapshot::{Snapshot, SnapshotError, SnapshotMeta, SnapshotRow};
use crate::{Bus, BusError, client::QuietContext};

/// How long changes are collected for one commit.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// The size of a commit, in bytes of keys and values, above which no more changes
/// are collected.
const COMMIT_BYTES: usize = 16 << 20;
/// The number of changes in a commit above which no more are collected.
const COMMIT_ROWS: usize = 50_000;
/// The size of the queue to the writer, in bytes of keys and values.
const QUEUE_BYTES: usize = 8 << 20;
/// The size of the queue to the writer, in changes.
const QUEUE_ROWS: usize = 10_000;
/// How often, in milliseconds, a snapshot without changes is marked as up to date.
const CURRENT_EVERY_MS: i64 = 60_000;
/// How long a poll of Kafka waits.
const POLL: Duration = Duration::from_millis(500);

/// The topic that a table follows.
#[derive(Clone)]
pub(super) struct TableSource {
    pub(super) bus: Bus,
    pub(super) role: String,
    pub(super) topic: Topic,
    /// The topic's full name.
    pub(super) name: String,
}

/// A message from the reader to the writer.
enum WriterCommand {
    /// A key's change, and the offset that follows its record.
    Change { row: SnapshotRow, next: i64 },
    /// Changes before `next` were left out because the queue was full.
    Missing { next: i64 },
    /// The snapshot holds all that the topic does at this moment.
    Current,
}

/// Why the writer stops before it is told to.
#[derive(Debug, thiserror::Error)]
enum WriterError {
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Bus(#[from] BusError),
}

/// The reader's end of the queue.
pub(super) struct SnapshotFeed {
    commands: SyncSender<WriterCommand>,
    queued_bytes: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    /// The offset up to which (exclusive) changes were left out, if any were.
    missing_up_to: Option<i64>,
    writer: thread::JoinHandle<Snapshot>,
}

impl SnapshotFeed {
    /// Starts a writer for `snapshot`, which lacks all records before
    /// `missing_up_to`, if given. The writer reports in `on_disk` up to which
    /// offset the snapshot on disk is complete.
    pub(super) fn start(
        source: TableSource,
        snapshot: Snapshot,
        meta: SnapshotMeta,
        missing_up_to: Option<i64>,
        on_disk: watch::Sender<Option<i64>>,
    ) -> io::Result<Self> {
        let (commands, received) = sync_channel(QUEUE_ROWS);
        let queued_bytes = Arc::<AtomicUsize>::default();
        let stop = Arc::<AtomicBool>::default();
        let name = format!("{}-snapshot", source.topic.suffix());
        let writer = SnapshotWriter {
            source,
            snapshot,
            meta,
            queued_bytes: Arc::clone(&queued_bytes),
            stop: Arc::clone(&stop),
            on_disk,
        };
        let writer = thread::Builder::new().name(name).spawn(move || writer.run(&received))?;
        Ok(Self { commands, queued_bytes, stop, missing_up_to, writer })
    }

    /// Passes a key's change on, or notes that it is missing.
    pub(super) fn change(&mut self, key: &[u8], value: Option<&[u8]>, next: i64) {
        if self.missing_up_to.is_some() {
            self.missing_up_to = Some(next);
            return;
        }
        let bytes = key.len() + value.map_or(0, <[u8]>::len);
        let row = (key.into(), value.map(Into::into));
        // Counted before it is sent: the writer subtracts as soon as it receives.
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued > QUEUE_BYTES || self.commands.try_send(WriterCommand::Change { row, next }).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.missing_up_to = Some(next);
        }
    }

    /// Tells the writer that the reader has reached the topic's end.
    pub(super) fn at_end(&mut self) {
        let command = match self.missing_up_to {
            Some(next) => WriterCommand::Missing { next },
            None => WriterCommand::Current,
        };
        // Where the queue is full, the next end is reported instead.
        if self.commands.try_send(command).is_ok() {
            self.missing_up_to = None;
        }
    }

    /// Whether changes were left out that the writer has not been told of yet.
    pub(super) const fn is_behind(&self) -> bool {
        self.missing_up_to.is_some()
    }

    /// Ends the writer, which commits what is queued, and returns its snapshot.
    pub(super) fn stop(self) -> Option<Snapshot> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.commands);
        self.writer.join().ok()
    }
}

struct SnapshotWriter {
    source: TableSource,
    snapshot: Snapshot,
    meta: SnapshotMeta,
    queued_bytes: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    /// The offset up to which (exclusive) the snapshot on disk is complete.
    on_disk: watch::Sender<Option<i64>>,
}

impl SnapshotWriter {
    fn run(mut self, commands: &Receiver<WriterCommand>) -> Snapshot {
        if let Err(error) = self.follow(commands) {
            warn!(topic = self.source.name, %error, "snapshot is no longer written: the next start reads on from its offset");
        }
        self.snapshot
    }

    fn follow(&mut self, commands: &Receiver<WriterCommand>) -> Result<(), WriterError> {
        while let Ok(first) = commands.recv() {
            let begun = Instant::now();
            let mut next_command = Some(first);
            let mut rows = Vec::new();
            let mut bytes = 0;
            let mut missing = None;
            while let Some(command) = next_command.take() {
                match command {
                    WriterCommand::Change { row, next } => {
                        bytes += row.0.len() + row.1.as_ref().map_or(0, |value| value.len());
                        rows.push(row);
                        self.meta.next = next;
                    }
                    WriterCommand::Missing { next } => {
                        missing = Some(next);
                        break;
                    }
                    WriterCommand::Current => {
                        let now = Timestamp::now();
                        let due = now.as_millis() - self.meta.at.as_millis() >= CURRENT_EVERY_MS;
                        if rows.is_empty() && !due && self.meta.complete {
                            break;
                        }
                        self.meta.at = now;
                        self.meta.complete = true;
                    }
                }
                if rows.len() < COMMIT_ROWS && bytes < COMMIT_BYTES {
                    next_command = commands.recv_timeout(COMMIT_EVERY.saturating_sub(begun.elapsed())).ok();
                }
            }
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if self.snapshot.meta() != Some(&self.meta) {
                self.write(&rows)?;
            }
            if let Some(next) = missing {
                self.catch_up(next)?;
                if self.stop.load(Ordering::Relaxed) {
                    // The changes still queued may follow on a gap.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, rows: &[SnapshotRow]) -> Result<(), SnapshotError> {
        self.snapshot.write(rows, self.meta.clone())?;
        if self.meta.complete {
            self.on_disk.send_replace(Some(self.meta.next));
        }
        Ok(())
    }

    /// Reads the records that were left out from Kafka.
    fn catch_up(&mut self, to: i64) -> Result<(), WriterError> {
        let begun = Instant::now();
        let at = Timestamp::now();
        let from = self.meta.next;
        let consumer: BaseConsumer<QuietContext> = self
            .source
            .bus
            .table_config(&self.source.role)
            .create_with_context(QuietContext)
            .map_err(BusError::new("make a snapshot's consumer"))?;
        self.assign(&consumer, from)?;
        let mut rows: Vec<SnapshotRow> = Vec::new();
        let mut bytes = 0;
        let mut since = Instant::now();
        let mut reached = self.meta.next >= to;
        while !reached {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    self.meta.next = message.offset() + 1;
                    reached = self.meta.next >= to;
                    let Some(key) = message.key() else { continue };
                    let value = message.payload();
                    bytes += key.len() + value.map_or(0, <[u8]>::len);
                    rows.push((key.into(), value.map(Into::into)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => reached = true,
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                        return Err(BusError::new("read the records missing in a snapshot")(error).into());
                    }
                    _ => debug!(topic = self.source.name, %error, "read failed: retrying"),
                },
                None => {}
            }
            if rows.len() >= COMMIT_ROWS || bytes >= COMMIT_BYTES {
                self.write(&rows)?;
                rows.clear();
                bytes = 0;
                // At most half of a core: this is not urgent.
                thread::sleep(since.elapsed().min(Duration::from_secs(1)));
                since = Instant::now();
            }
        }
        // The reader had reached the topic's end when it sent `Missing`.
        self.meta.complete = true;
        self.meta.at = at;
        self.write(&rows)?;
        let took_ms = begun.elapsed().as_millis();
        info!(topic = self.source.name, from, next = self.meta.next, took_ms, "snapshot has caught up");
        Ok(())
    }

    fn assign(&self, consumer: &BaseConsumer<QuietContext>, from: i64) -> Result<(), BusError> {
        let what = "read the records missing in a snapshot";
        let mut list = TopicPartitionList::new();
        let from = if from == 0 { Offset::Beginning } else { Offset::Offset(from) };
        list.add_partition_offset(&self.source.name, 0, from).map_err(BusError::new(what))?;
        while consumer.fetch_metadata(Some(&self.source.name), POLL).is_err() && !self.stop.load(Ordering::Relaxed) {}
        consumer.assign(&list).map_err(BusError::new(what))
    }
}
