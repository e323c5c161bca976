//! The thread that keeps a table's snapshot. The one that reads the table hands
//! it every change and never waits for it: what does not fit between them, as at
//! a start without a snapshot or when links are imported by the million, the
//! scribe reads from Kafka itself, once the reader has reached the end.

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

use super::{
    Quiet,
    snapshot::{Meta, Row, Snapshot, SnapshotError},
};
use crate::{Bus, BusError};

/// How long changes are collected for one commit.
const GROUP: Duration = Duration::from_millis(500);
/// What a commit holds at most, and what waits for the scribe at most.
const GROUP_BYTES: usize = 16 << 20;
const GROUP_ROWS: usize = 50_000;
const QUEUE_BYTES: usize = 8 << 20;
const QUEUE: usize = 10_000;
/// How often it is written down at most that nothing is lacking.
const CURRENT_EVERY_MS: i64 = 60_000;
/// How long a poll of Kafka waits.
const POLL: Duration = Duration::from_millis(500);

/// What the scribe is told.
enum Told {
    /// A key's change, and the offset that follows it.
    Change { row: Row, next: i64 },
    /// Everything before that offset was told, or not told for want of room.
    Missing { next: i64 },
    /// Nothing is lacking at this moment.
    Current,
}

/// Why the scribe stops before it is told to.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Bus(#[from] BusError),
}

/// The reader's end.
pub(crate) struct Feed {
    told: SyncSender<Told>,
    queued: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    /// Up to where changes were left out, if they were.
    left_out: Option<i64>,
    scribe: thread::JoinHandle<Snapshot>,
}

impl Feed {
    /// Starts a scribe for `snapshot` of `topic`, which lacks everything up to
    /// before `lacks`, if that is given. It says in `kept` what is on disk.
    pub(crate) fn start(
        bus: &Bus,
        role: &str,
        topic: Topic,
        snapshot: Snapshot,
        meta: Meta,
        lacks: Option<i64>,
        kept: watch::Sender<Option<i64>>,
    ) -> io::Result<Self> {
        let (told, orders) = sync_channel(QUEUE);
        let (queued, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let scribe = Scribe {
            bus: bus.clone(),
            role: role.to_owned(),
            name: bus.topics().name(topic),
            snapshot,
            meta,
            queued: Arc::clone(&queued),
            stop: Arc::clone(&stop),
            kept,
        };
        let scribe =
            thread::Builder::new().name(format!("{}-snapshot", topic.suffix())).spawn(move || scribe.run(&orders))?;
        Ok(Self { told, queued, stop, left_out: lacks, scribe })
    }

    /// A key has changed.
    pub(crate) fn change(&mut self, key: &[u8], value: Option<&[u8]>, next: i64) {
        if self.left_out.is_some() {
            self.left_out = Some(next);
            return;
        }
        let bytes = key.len() + value.map_or(0, <[u8]>::len);
        let row = (key.into(), value.map(Into::into));
        // Counted first: the scribe takes away what it has taken.
        let queued = self.queued.fetch_add(bytes, Ordering::Relaxed);
        if queued > QUEUE_BYTES || self.told.try_send(Told::Change { row, next }).is_err() {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.left_out = Some(next);
        }
    }

    /// Every record that the topic has, has been told.
    pub(crate) fn at_end(&mut self) {
        let told = match self.left_out {
            Some(next) => Told::Missing { next },
            None => Told::Current,
        };
        // A scribe that is busy is told the next time.
        if self.told.try_send(told).is_ok() {
            self.left_out = None;
        }
    }

    /// Whether the scribe has not been told of everything yet.
    pub(crate) const fn lacks(&self) -> bool {
        self.left_out.is_some()
    }

    /// Ends the scribe, which commits what it was told; gives back its snapshot.
    pub(crate) fn stop(self) -> Option<Snapshot> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.told);
        self.scribe.join().ok()
    }
}

struct Scribe {
    bus: Bus,
    role: String,
    name: String,
    snapshot: Snapshot,
    meta: Meta,
    queued: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    /// Up to where the snapshot on disk is whole.
    kept: watch::Sender<Option<i64>>,
}

impl Scribe {
    fn run(mut self, orders: &Receiver<Told>) -> Snapshot {
        if let Err(error) = self.follow(orders) {
            warn!(topic = self.name, %error, "the snapshot is not kept any further: the next start reads on from where it stands");
        }
        self.snapshot
    }

    fn follow(&mut self, orders: &Receiver<Told>) -> Result<(), Ended> {
        while let Ok(first) = orders.recv() {
            let mut next_order = Some(first);
            let (begun, mut rows, mut bytes) = (Instant::now(), Vec::new(), 0);
            let mut missing = None;
            while let Some(order) = next_order.take() {
                match order {
                    Told::Change { row, next } => {
                        bytes += row.0.len() + row.1.as_ref().map_or(0, |value| value.len());
                        rows.push(row);
                        self.meta.next = next;
                    }
                    Told::Missing { next } => {
                        missing = Some(next);
                        break;
                    }
                    Told::Current => {
                        let now = Timestamp::now();
                        let due = now.as_millis() - self.meta.at.as_millis() >= CURRENT_EVERY_MS;
                        if rows.is_empty() && !due && self.meta.complete {
                            break;
                        }
                        self.meta.at = now;
                        self.meta.complete = true;
                    }
                }
                if rows.len() < GROUP_ROWS && bytes < GROUP_BYTES {
                    next_order = orders.recv_timeout(GROUP.saturating_sub(begun.elapsed())).ok();
                }
            }
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            if self.snapshot.meta() != Some(&self.meta) {
                self.write(&rows)?;
            }
            if let Some(next) = missing {
                self.catch_up(next)?;
                if self.stop.load(Ordering::Relaxed) {
                    // What follows may follow on a gap.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, rows: &[Row]) -> Result<(), SnapshotError> {
        self.snapshot.write(rows, self.meta.clone())?;
        if self.meta.complete {
            self.kept.send_replace(Some(self.meta.next));
        }
        Ok(())
    }

    /// Reads from Kafka what the reader had no time to tell.
    fn catch_up(&mut self, to: i64) -> Result<(), Ended> {
        let (begun, at) = (Instant::now(), Timestamp::now());
        let from = self.meta.next;
        let consumer: BaseConsumer<Quiet> = self
            .bus
            .table_config(&self.role)
            .create_with_context(Quiet)
            .map_err(BusError::new("make a snapshot's consumer"))?;
        self.assign(&consumer, from)?;
        let (mut rows, mut bytes, mut since): (Vec<Row>, usize, Instant) = (Vec::new(), 0, Instant::now());
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
                        return Err(BusError::Kafka { what: "read what a snapshot lacks", source: error }.into());
                    }
                    _ => debug!(topic = self.name, %error, "Kafka is waited for"),
                },
                None => {}
            }
            if rows.len() >= GROUP_ROWS || bytes >= GROUP_BYTES {
                self.write(&rows)?;
                rows.clear();
                bytes = 0;
                // Half of a core at most: nobody waits for this.
                thread::sleep(since.elapsed().min(Duration::from_secs(1)));
                since = Instant::now();
            }
        }
        // The reader was at the end when it said what is missing.
        self.meta.complete = true;
        self.meta.at = at;
        self.write(&rows)?;
        let took_ms = begun.elapsed().as_millis();
        info!(topic = self.name, from, next = self.meta.next, took_ms, "the snapshot has caught up");
        Ok(())
    }

    fn assign(&self, consumer: &BaseConsumer<Quiet>, from: i64) -> Result<(), BusError> {
        let what = "read what a snapshot lacks";
        let mut list = TopicPartitionList::new();
        let from = if from == 0 { Offset::Beginning } else { Offset::Offset(from) };
        list.add_partition_offset(&self.name, 0, from).map_err(BusError::new(what))?;
        while consumer.fetch_metadata(Some(&self.name), POLL).is_err() && !self.stop.load(Ordering::Relaxed) {}
        consumer.assign(&list).map_err(BusError::new(what))
    }
}
