//! The thread that reads a table's topic, applies every record, and passes
//! changes on to the snapshot's writer.

use std::{
    path::{Path, PathBuf},
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
use tracing::{debug, error, info, warn};

use super::{
    change::{Change, SharedApply, TableProgress},
    snapshot::{LogRange, Marks, Misfit, OpenedSnapshot, Snapshot, SnapshotError, SnapshotMeta},
    snapshot_writer::{SnapshotFeed, TableSource},
};
use crate::{
    Bus, BusError,
    client::{QuietContext, connect},
};

/// How long a call waits before the thread checks whether the table was dropped.
/// A poll that times out busy-waits its last millisecond.
const POLL: Duration = Duration::from_secs(1);
/// How long Kafka may be silent before the log says so: a request that comes before
/// the first connection fails at once.
const WARN_AFTER: Duration = Duration::from_secs(2);
/// How long the thread waits for the snapshot's file while a table that was just
/// dropped still has it open.
const RELEASE: Duration = Duration::from_secs(5);
/// How often a topic without new records is asked whether its end is still the
/// end: a snapshot's age counts from the last such answer.
const END_CHECK: Duration = Duration::from_secs(600);

/// The state of a table's snapshot.
enum SnapshotState {
    /// No snapshot is kept.
    None,
    /// The writer receives every change.
    Written(SnapshotFeed),
    /// The snapshot does not fit the topic, which is read from its beginning.
    /// Keys that only the snapshot holds are deleted at the topic's end.
    Replaced { marks: Box<Marks>, snapshot: Box<Snapshot> },
}

/// The state of the thread.
pub(super) struct TableFollower {
    source: TableSource,
    consumer: BaseConsumer<QuietContext>,
    apply: SharedApply,
    progress: watch::Sender<TableProgress>,
    /// The offset behind the last record that was read; `None` before the first.
    next: Option<i64>,
    /// When the topic's end was reached last.
    ended: Instant,
    state: SnapshotState,
    /// The offset up to which (exclusive) the snapshot on disk holds the topic.
    snapshot_offset: watch::Sender<Option<i64>>,
}

impl TableFollower {
    pub(super) fn new(
        bus: &Bus,
        role: &str,
        topic: Topic,
        apply: SharedApply,
        progress: watch::Sender<TableProgress>,
        snapshot_offset: watch::Sender<Option<i64>>,
    ) -> Result<Self, BusError> {
        let consumer = bus
            .table_config(role)
            .create_with_context(QuietContext)
            .map_err(BusError::new("make a table's consumer"))?;
        Ok(Self {
            source: TableSource { bus: bus.clone(), role: role.to_owned(), topic, name: bus.topics().name(topic) },
            consumer,
            apply,
            progress,
            next: None,
            ended: Instant::now(),
            state: SnapshotState::None,
            snapshot_offset,
        })
    }

    pub(super) fn run(mut self, path: Option<PathBuf>) {
        match path.and_then(|path| self.restore(&path)) {
            None => {
                if self.wait_for_kafka(|_| Some(())).is_none() {
                    return;
                }
                self.read_from(Offset::Beginning);
            }
            Some(snapshot) => {
                let Some(log) = self.wait_for_kafka(Self::log_range) else { return };
                self.begin(snapshot, &log);
            }
        }
        while self.step() {}
        if let SnapshotState::Written(feed) = self.state {
            feed.stop();
        }
    }

    fn is_dropped(&self) -> bool {
        self.apply.lock().is_none()
    }

    fn apply(&self, change: Change<'_>) {
        if let Some(apply) = self.apply.lock().as_mut() {
            apply(change);
        }
    }

    /// Applies the rows of the snapshot in `path`. Returns `None` if no snapshot
    /// can be kept there.
    fn restore(&self, path: &Path) -> Option<Snapshot> {
        let topic = self.source.name.as_str();
        let begun = Instant::now();
        let opened = loop {
            match Snapshot::open(path, topic) {
                Err(SnapshotError::InUse { .. }) if begun.elapsed() < RELEASE && !self.is_dropped() => {
                    thread::sleep(Duration::from_millis(50));
                }
                other => break other,
            }
        };
        let snapshot = match opened {
            Ok(OpenedSnapshot::Whole(snapshot)) => snapshot,
            Ok(OpenedSnapshot::Empty(snapshot, why)) => {
                if let Some(why) = why {
                    warn!(topic, why, "snapshot discarded: the topic is read from its beginning");
                }
                return Some(snapshot);
            }
            Err(error) => {
                error!(topic, %error, "no snapshot is kept: the next start needs Kafka");
                return None;
            }
        };
        let applied = snapshot.rows().and_then(|rows| {
            self.apply(Change::Coming { rows });
            snapshot.each(|key, value| self.apply(Change::Put { key, value }))?;
            Ok(rows)
        });
        let rows = match applied {
            Ok(rows) => rows,
            Err(error) => {
                error!(topic, %error, "snapshot discarded: the topic is read from its beginning");
                // The rows that could be read once can be read again.
                let _ = snapshot.each(|key, _| self.apply(Change::Delete { key }));
                return snapshot.renew().ok();
            }
        };
        if let Some(meta) = snapshot.meta().filter(|meta| meta.complete) {
            self.apply(Change::CaughtUp);
            self.snapshot_offset.send_replace(Some(meta.next));
            let _ = self.progress.send(TableProgress::Snapshot);
            let took_ms = begun.elapsed().as_millis();
            info!(topic, rows, offset = meta.next, as_of = %meta.at, took_ms, "table restored from its snapshot");
        }
        Some(snapshot)
    }

    /// Waits until Kafka answers `ask`. Returns `None` if the table is dropped first.
    fn wait_for_kafka<T>(&self, ask: impl Fn(&Self) -> Option<T>) -> Option<T> {
        let topic = self.source.name.as_str();
        let begun = Instant::now();
        let mut warned = false;
        loop {
            // A partition that is assigned before the client knows its leader
            // waits for librdkafka's timer, which fires once a second.
            let connected = connect(self.consumer.client(), topic, POLL).is_ok();
            if let Some(answer) = connected.then(|| ask(self)).flatten() {
                if warned {
                    info!(topic, "Kafka answers again");
                }
                return Some(answer);
            }
            if self.is_dropped() {
                return None;
            }
            if begun.elapsed() >= WARN_AFTER && !std::mem::replace(&mut warned, true) {
                match *self.progress.borrow() {
                    TableProgress::Partial => warn!(topic, "Kafka does not answer: retrying"),
                    TableProgress::Snapshot | TableProgress::Topic => {
                        warn!(topic, "Kafka does not answer: the table serves its snapshot, which may be stale");
                    }
                }
            }
        }
    }

    fn log_range(&self) -> Option<LogRange> {
        let cluster = self.consumer.client().fetch_cluster_id(POLL)?;
        let (begin, end) = self.consumer.fetch_watermarks(&self.source.name, 0, POLL).ok()?;
        Some(LogRange { cluster, begin, end })
    }

    /// Decides where reading begins, and begins.
    fn begin(&mut self, snapshot: Snapshot, log: &LogRange) {
        let now = Timestamp::now();
        let mut from = Offset::Beginning;
        match snapshot.meta().cloned() {
            None => {
                self.apply(Change::Coming { rows: u64::try_from(log.end - log.begin).unwrap_or(0) });
                self.start_writer(snapshot, SnapshotMeta::new(&log.cluster, &self.source.name, now), Some(0));
            }
            Some(meta) => match meta.fits(log, now) {
                Ok(next) => {
                    self.next = Some(next);
                    from = Offset::Offset(next);
                    self.start_writer(snapshot, meta, None);
                }
                Err(misfit) => self.replace(snapshot, misfit),
            },
        }
        self.read_from(from);
    }

    fn read_from(&self, from: Offset) {
        let mut list = TopicPartitionList::new();
        let assigned = list.add_partition_offset(&self.source.name, 0, from).and_then(|()| self.consumer.assign(&list));
        if let Err(error) = assigned {
            // Only a client that has failed for good refuses this.
            error!(topic = self.source.name, %error, "a table cannot be read: restart this process");
        }
    }

    fn start_writer(&mut self, snapshot: Snapshot, meta: SnapshotMeta, missing_up_to: Option<i64>) {
        let on_disk = self.snapshot_offset.clone();
        match SnapshotFeed::start(self.source.clone(), snapshot, meta, missing_up_to, on_disk) {
            Ok(feed) => self.state = SnapshotState::Written(feed),
            Err(error) => {
                error!(topic = self.source.name, %error, "no snapshot is kept: its thread cannot be started");
            }
        }
    }

    /// Marks the snapshot for replacement: the topic is read from its beginning.
    fn replace(&mut self, snapshot: Snapshot, why: Misfit) {
        warn!(topic = self.source.name, %why, "snapshot does not fit the topic, which is read from its beginning");
        self.snapshot_offset.send_replace(None);
        match snapshot.marks() {
            Ok(marks) => {
                self.state = SnapshotState::Replaced { marks: Box::new(marks), snapshot: Box::new(snapshot) };
            }
            Err(error) => self.give_up_snapshot(&error),
        }
    }

    /// The disk fails while the snapshot is needed to find deleted keys.
    fn give_up_snapshot(&mut self, error: &SnapshotError) {
        error!(topic = self.source.name, %error, "deleted keys may be served until this process is restarted");
        self.state = SnapshotState::None;
    }

    /// Polls once. Returns whether to go on.
    fn step(&mut self) -> bool {
        let consumer = &self.consumer;
        let polled = consumer.poll(POLL);
        let mut shared = self.apply.lock();
        let Some(apply) = shared.as_mut() else { return false };
        match polled {
            Some(Ok(message)) => {
                let next = message.offset() + 1;
                self.next = Some(next);
                let Some(key) = message.key() else { return true };
                let value = message.payload();
                apply(Change::of_record(key, value));
                match &mut self.state {
                    SnapshotState::None => {}
                    SnapshotState::Written(feed) => feed.change(key, value, next),
                    SnapshotState::Replaced { marks, .. } => {
                        if let Err(error) = marks.mark(key) {
                            drop((shared, message));
                            self.give_up_snapshot(&error);
                        }
                    }
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {
                drop(shared);
                self.at_end();
            }
            None => {
                drop(shared);
                self.check_end();
            }
            Some(Err(error)) => {
                drop(shared);
                match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => self.reread(&error),
                    _ => debug!(topic = self.source.name, %error, "read failed: retrying"),
                }
            }
        }
        true
    }

    /// All records that the topic holds have been applied.
    fn at_end(&mut self) {
        self.ended = Instant::now();
        match std::mem::replace(&mut self.state, SnapshotState::None) {
            SnapshotState::None => {}
            SnapshotState::Written(mut feed) => {
                feed.at_end();
                self.state = SnapshotState::Written(feed);
            }
            SnapshotState::Replaced { marks, snapshot } => {
                self.delete_unmarked(*marks, *snapshot);
                return self.at_end();
            }
        }
        let progress = *self.progress.borrow();
        if progress == TableProgress::Partial {
            self.apply(Change::CaughtUp);
        }
        if progress != TableProgress::Topic {
            let _ = self.progress.send(TableProgress::Topic);
        }
    }

    /// Deletes the keys that only the old snapshot held, and starts a new snapshot.
    fn delete_unmarked(&mut self, marks: Marks, snapshot: Snapshot) {
        let mut deleted = 0_u64;
        let visited = marks.unmarked(|key| {
            self.apply(Change::Delete { key });
            deleted += 1;
        });
        if let Err(error) = visited {
            return self.give_up_snapshot(&error);
        }
        info!(topic = self.source.name, deleted, "keys that only the old snapshot held were deleted");
        let now = Timestamp::now();
        match (snapshot.renew(), self.consumer.client().fetch_cluster_id(POLL)) {
            (Ok(snapshot), Some(cluster)) => {
                let meta = SnapshotMeta::new(&cluster, &self.source.name, now);
                self.start_writer(snapshot, meta, Some(self.next.unwrap_or(0)));
            }
            (renewed, _) => {
                let error = renewed.err().map(|error| error.to_string());
                error!(topic = self.source.name, error, "no snapshot is kept: the next start needs Kafka");
            }
        }
    }

    /// Reads the topic from its beginning again: it was deleted and created again,
    /// or it lost its newest records.
    fn reread(&mut self, error: &KafkaError) {
        error!(topic = self.source.name, %error, "the next offset is not in the log: the table reads from its beginning");
        self.next = None;
        match std::mem::replace(&mut self.state, SnapshotState::None) {
            SnapshotState::None => {}
            SnapshotState::Written(feed) => {
                if feed.is_behind() {
                    error!(topic = self.source.name, "deleted keys may be served until this process is restarted");
                }
                if let Some(snapshot) = feed.stop() {
                    self.replace(snapshot, Misfit::Lost);
                }
            }
            // The file still holds all that was applied; every key is marked again.
            SnapshotState::Replaced { marks, snapshot } => {
                drop(marks);
                self.replace(*snapshot, Misfit::Lost);
            }
        }
        // A seek may have no effect on a partition without a valid offset.
        let _ = self.consumer.unassign();
        self.read_from(Offset::Beginning);
    }

    /// Asks for the end again: librdkafka reports it once where no record follows,
    /// and reporting it again shows that the snapshot is still up to date.
    fn check_end(&mut self) {
        if matches!(self.state, SnapshotState::Written(_)) && self.ended.elapsed() >= END_CHECK {
            self.ended = Instant::now();
            let from = self.next.map_or(Offset::Beginning, Offset::Offset);
            // An error means that Kafka is away: the snapshot's age goes on counting.
            let _ = self.consumer.seek(&self.source.name, 0, from, Duration::ZERO);
        }
    }
}
