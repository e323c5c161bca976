//! A table: a one-partition topic whose records, in order, are the truth. It is
//! read from its beginning, committed records only, and then followed; or from
//! its snapshot, and followed from there on.

mod snapshot;
mod snapshot_writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use schemas::{Timestamp, Topic};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use self::{
    snapshot::{Found, Log, Marks, Meta, Misfit, Snapshot, SnapshotError},
    snapshot_writer::Feed,
};
use crate::{Bus, BusError};

/// What a record says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The key now has this value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Keys are told from now on, no more than so many of those that are there.
    /// Only where a snapshot is kept, and only of one source: the snapshot, or the
    /// topic where there is none.
    Coming {
        /// How many.
        rows: u64,
    },
    /// Everything that was there when the table was opened has been told, or
    /// everything that its snapshot held.
    CaughtUp,
}

/// How much of a table has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// Not all of it.
    Partly,
    /// What its snapshot held; what changed since may be lacking, for Kafka has
    /// not been read to its end yet.
    Snapshot,
    /// What the topic held when it was opened, and what changed since.
    Topic,
}

/// How long a call waits before it is looked whether the table was dropped. Each
/// that waits in vain spins for its last millisecond.
const POLL: Duration = Duration::from_secs(1);
/// How long a snapshot is waited for that a table just dropped still holds.
const RELEASE: Duration = Duration::from_secs(5);
/// How often it is asked anew whether the end is still the end, for a snapshot's
/// age counts from then.
const STILL: Duration = Duration::from_secs(600);

/// Of clients whose errors are told by those who use them: what a client says of
/// a Kafka that is away is of use to nobody else.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Quiet {}

type Apply = Box<dyn FnMut(Change<'_>) + Send>;

/// Empty once the table is dropped: nothing is told from then on, although the
/// thread may take a moment to end.
type Shared = Arc<Mutex<Option<Apply>>>;

/// A table that is being followed until it is dropped.
pub struct Table {
    apply: Shared,
    known: watch::Receiver<Known>,
    kept: watch::Receiver<Option<i64>>,
    /// None only while it is being closed.
    thread: Option<thread::JoinHandle<()>>,
}

impl Bus {
    /// Follows `topic` on a thread of its own and tells `apply` of every change.
    ///
    /// With `snapshot`, a folder of this process alone, the table is kept there as
    /// well, half a second behind or so. The next one is told what that held, is
    /// caught up then, whether or not Kafka answers, and reads on from there. In
    /// the end it has been told what the topic holds, whatever the snapshot was:
    /// one that does not fit the topic is replaced, and what it alone held is told
    /// as deleted.
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
        let consumer: BaseConsumer<Quiet> =
            self.table_config(role).create_with_context(Quiet).map_err(BusError::new("make a table's consumer"))?;
        let apply: Shared = Arc::new(Mutex::new(Some(Box::new(apply))));
        let (tell, known) = watch::channel(Known::Partly);
        let (on_disk, kept) = watch::channel(None);
        let follower = Follower {
            bus: self.clone(),
            role: role.to_owned(),
            topic,
            name: self.topics().name(topic),
            consumer,
            apply: Arc::clone(&apply),
            known: tell,
            next: None,
            ended: Instant::now(),
            kept: Kept::Nowhere,
            on_disk,
        };
        let path = snapshot.map(|dir| dir.join(format!("{}.redb", topic.suffix())));
        let alive = self.alive();
        let follow = move || {
            follower.run(path);
            drop(alive);
        };
        let thread = thread::Builder::new().name(topic.suffix().to_owned()).spawn(follow).map_err(|error| {
            BusError::Kafka { what: "start a table's thread", source: KafkaError::ClientCreation(error.to_string()) }
        })?;
        Ok(Table { apply, known, kept, thread: Some(thread) })
    }
}

impl Table {
    /// Waits until everything that was there when the table was opened has been
    /// applied, or everything that its snapshot held.
    pub async fn caught_up(&self) {
        self.at_least(Known::Snapshot).await;
    }

    /// Waits until everything that the topic held has been applied.
    pub async fn up_to_date(&self) {
        self.at_least(Known::Topic).await;
    }

    async fn at_least(&self, wanted: Known) {
        // An error would mean that the thread is gone, which only a drop does.
        let _ = self.known.clone().wait_for(|known| *known >= wanted).await;
    }

    /// Ends it, and waits until its snapshot is on disk and can be opened by
    /// another: for a second or so. Blocks.
    pub fn close(mut self) {
        let thread = self.thread.take();
        drop(self);
        // Only a panic, which has been told, ends it otherwise.
        let _ = thread.map(thread::JoinHandle::join);
    }

    /// How much has been applied.
    #[must_use]
    pub fn known(&self) -> Known {
        *self.known.borrow()
    }

    /// Up to before which offset a snapshot on disk holds the topic, if one does.
    #[must_use]
    pub fn kept(&self) -> Option<i64> {
        *self.kept.borrow()
    }

    /// Waits until a snapshot on disk holds all that the topic did.
    pub async fn is_kept(&self) {
        // Never, where none is kept.
        if self.kept.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether everything has been applied that was there when it was opened, or
    /// in its snapshot.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.known() >= Known::Snapshot
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        *self.apply.lock() = None;
    }
}

/// What becomes of the snapshot.
enum Kept {
    /// There is none.
    Nowhere,
    /// Its scribe follows.
    Fed(Feed),
    /// It does not fit the topic, which is read anew; what it alone holds goes in
    /// the end.
    Replaced { marks: Box<Marks>, snapshot: Box<Snapshot> },
}

/// The thread of a table.
struct Follower {
    bus: Bus,
    role: String,
    topic: Topic,
    /// The topic's full name.
    name: String,
    consumer: BaseConsumer<Quiet>,
    apply: Shared,
    known: watch::Sender<Known>,
    /// The offset behind the last record that was read, if one was.
    next: Option<i64>,
    /// When the end was told last.
    ended: Instant,
    kept: Kept,
    /// Up to before which offset the snapshot on disk holds the topic, if it does.
    on_disk: watch::Sender<Option<i64>>,
}

impl Follower {
    fn run(mut self, path: Option<PathBuf>) {
        let kept = path.and_then(|path| self.restore(&path));
        let Some(log) = self.meet(kept.is_some()) else { return };
        self.begin(kept, &log);
        while self.step() {}
        if let Kept::Fed(feed) = self.kept {
            feed.stop();
        }
    }

    fn is_dropped(&self) -> bool {
        self.apply.lock().is_none()
    }

    fn tell(&self, change: Change<'_>) {
        if let Some(apply) = self.apply.lock().as_mut() {
            apply(change);
        }
    }

    /// Tells what the snapshot holds. None if it cannot be used, now or later.
    fn restore(&self, path: &Path) -> Option<Snapshot> {
        let begun = Instant::now();
        let found = loop {
            match Snapshot::open(path, &self.name) {
                Err(SnapshotError::InUse { .. }) if begun.elapsed() < RELEASE && !self.is_dropped() => {
                    thread::sleep(Duration::from_millis(50));
                }
                other => break other,
            }
        };
        let snapshot = match found {
            Ok(Found::Whole(snapshot)) => snapshot,
            Ok(Found::Nothing(snapshot, why)) => {
                if let Some(why) = why {
                    warn!(topic = self.name, why, "the snapshot was thrown away: Kafka is read from the beginning");
                }
                return Some(snapshot);
            }
            Err(error) => {
                error!(topic = self.name, %error, "no snapshot is kept: the next start needs Kafka");
                return None;
            }
        };
        let told = snapshot.rows().and_then(|rows| {
            self.tell(Change::Coming { rows });
            snapshot.each(|key, value| self.tell(Change::Put { key, value }))?;
            Ok(rows)
        });
        let rows = match told {
            Ok(rows) => rows,
            Err(error) => {
                error!(topic = self.name, %error, "the snapshot is thrown away: Kafka is read from the beginning");
                // What could be read of it once can be read again.
                let _ = snapshot.each(|key, _| self.tell(Change::Delete { key }));
                return snapshot.renew().ok();
            }
        };
        if let Some(meta) = snapshot.meta().filter(|meta| meta.complete) {
            self.tell(Change::CaughtUp);
            self.on_disk.send_replace(Some(meta.next));
            let _ = self.known.send(Known::Snapshot);
            let (as_of, ms) = (meta.at, begun.elapsed().as_millis());
            info!(topic = self.name, rows, offset = meta.next, %as_of, ms, "known from the snapshot");
        }
        Some(snapshot)
    }

    /// Waits for Kafka; none if the table is dropped first. What its log is like
    /// is only asked for a snapshot.
    fn meet(&self, snapshot: bool) -> Option<Log> {
        let mut warned = false;
        loop {
            // A partition that is assigned before the client knows its leader
            // waits for a look-around that comes once a second.
            let met = self.consumer.fetch_metadata(Some(&self.name), POLL).is_ok();
            if met && !snapshot {
                return Some(Log { cluster: String::new(), begin: 0, end: 0 });
            }
            if let Some(log) = met.then(|| self.log()).flatten() {
                if warned {
                    info!(topic = self.name, "Kafka answers");
                }
                return Some(log);
            }
            if self.is_dropped() {
                return None;
            }
            if !std::mem::replace(&mut warned, true) {
                match *self.known.borrow() {
                    Known::Partly => warn!(topic = self.name, "Kafka does not answer: it is waited for"),
                    Known::Snapshot | Known::Topic => {
                        warn!(topic = self.name, "Kafka does not answer: what the snapshot holds has to do until then");
                    }
                }
            }
        }
    }

    fn log(&self) -> Option<Log> {
        let cluster = self.consumer.client().fetch_cluster_id(POLL)?;
        let (begin, end) = self.consumer.fetch_watermarks(&self.name, 0, POLL).ok()?;
        Some(Log { cluster, begin, end })
    }

    /// Decides where reading begins, and begins.
    fn begin(&mut self, kept: Option<Snapshot>, log: &Log) {
        let mut from = Offset::Beginning;
        if let Some(snapshot) = kept {
            let now = Timestamp::now();
            match snapshot.meta().cloned() {
                None => {
                    self.tell(Change::Coming { rows: u64::try_from(log.end - log.begin).unwrap_or(0) });
                    self.feed(snapshot, Meta::new(&log.cluster, &self.name, now), Some(0));
                }
                Some(meta) => match meta.fits(log, now) {
                    Ok(next) => {
                        self.next = Some(next);
                        from = Offset::Offset(next);
                        self.feed(snapshot, meta, None);
                    }
                    Err(misfit) => self.replace(snapshot, misfit),
                },
            }
        }
        self.read_from(from);
    }

    fn read_from(&self, from: Offset) {
        let mut list = TopicPartitionList::new();
        let assigned = list.add_partition_offset(&self.name, 0, from).and_then(|()| self.consumer.assign(&list));
        if let Err(error) = assigned {
            // Only of a client that is beyond repair.
            error!(topic = self.name, %error, "a table cannot be read: start this process again");
        }
    }

    fn feed(&mut self, snapshot: Snapshot, meta: Meta, lacks: Option<i64>) {
        match Feed::start(&self.bus, &self.role, self.topic, snapshot, meta, lacks, self.on_disk.clone()) {
            Ok(feed) => self.kept = Kept::Fed(feed),
            Err(error) => error!(topic = self.name, %error, "no snapshot is kept: its thread cannot be started"),
        }
    }

    /// From now on the topic is read from its beginning.
    fn replace(&mut self, snapshot: Snapshot, why: Misfit) {
        warn!(topic = self.name, %why, "the snapshot does not fit the topic, which is read from its beginning");
        self.on_disk.send_replace(None);
        match snapshot.marks() {
            Ok(marks) => self.kept = Kept::Replaced { marks: Box::new(marks), snapshot: Box::new(snapshot) },
            Err(error) => self.forsake(&error),
        }
    }

    /// The disk fails just when the snapshot would say what is gone.
    fn forsake(&mut self, error: &SnapshotError) {
        error!(topic = self.name, %error, "keys that are gone may be served until this process is started again");
        self.kept = Kept::Nowhere;
    }

    /// Polls once; says whether to go on.
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
                apply(value.map_or(Change::Delete { key }, |value| Change::Put { key, value }));
                match &mut self.kept {
                    Kept::Nowhere => {}
                    Kept::Fed(feed) => feed.change(key, value, next),
                    Kept::Replaced { marks, .. } => {
                        if let Err(error) = marks.mark(key) {
                            drop((shared, message));
                            self.forsake(&error);
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
                self.ask_for_the_end();
            }
            Some(Err(error)) => {
                drop(shared);
                match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => self.lost(&error),
                    _ => debug!(topic = self.name, %error, "Kafka is waited for"),
                }
            }
        }
        true
    }

    /// Everything that the topic holds has been told.
    fn at_end(&mut self) {
        self.ended = Instant::now();
        self.kept = match std::mem::replace(&mut self.kept, Kept::Nowhere) {
            Kept::Nowhere => Kept::Nowhere,
            Kept::Fed(mut feed) => {
                feed.at_end();
                Kept::Fed(feed)
            }
            Kept::Replaced { marks, snapshot } => {
                self.sweep(*marks, *snapshot);
                return self.at_end();
            }
        };
        let known = *self.known.borrow();
        if known == Known::Partly {
            self.tell(Change::CaughtUp);
        }
        if known != Known::Topic {
            let _ = self.known.send(Known::Topic);
        }
    }

    /// What the topic did not speak of is gone; the snapshot begins anew.
    fn sweep(&mut self, marks: Marks, snapshot: Snapshot) {
        let mut gone = 0_u64;
        let swept = marks.sweep(|key| {
            self.tell(Change::Delete { key });
            gone += 1;
        });
        if let Err(error) = swept {
            return self.forsake(&error);
        }
        info!(topic = self.name, gone, "what only the former snapshot held is gone");
        let now = Timestamp::now();
        match (snapshot.renew(), self.consumer.client().fetch_cluster_id(POLL)) {
            (Ok(snapshot), Some(cluster)) => {
                self.feed(snapshot, Meta::new(&cluster, &self.name, now), Some(self.next.unwrap_or(0)));
            }
            (renewed, _) => {
                let error = renewed.err().map(|error| error.to_string());
                error!(topic = self.name, error, "no snapshot is kept: the next start needs Kafka");
            }
        }
    }

    /// The log does not go on where it was read last: it was made anew, or lost
    /// its end.
    fn lost(&mut self, error: &KafkaError) {
        error!(topic = self.name, %error, "table reads from its beginning again");
        self.next = None;
        match std::mem::replace(&mut self.kept, Kept::Nowhere) {
            Kept::Nowhere => {}
            Kept::Fed(feed) => {
                if feed.lacks() {
                    error!(topic = self.name, "keys that are gone may be served until this process is started again");
                }
                if let Some(snapshot) = feed.stop() {
                    self.replace(snapshot, Misfit::Lost);
                }
            }
            // The file still says what was told; all of it is to be marked again.
            Kept::Replaced { marks, snapshot } => {
                drop(marks);
                self.replace(*snapshot, Misfit::Lost);
            }
        }
        // Not by a seek, which a partition without a valid offset may not heed.
        let _ = self.consumer.unassign();
        self.read_from(Offset::Beginning);
    }

    /// Where nothing comes, the end is told once. Told again, it shows that
    /// nothing has come.
    fn ask_for_the_end(&mut self) {
        if matches!(self.kept, Kept::Fed(_)) && self.ended.elapsed() >= STILL {
            self.ended = Instant::now();
            let from = self.next.map_or(Offset::Beginning, Offset::Offset);
            // Kafka may be away: then there is no end, and the age counts.
            let _ = self.consumer.seek(&self.name, 0, from, Duration::ZERO);
        }
    }
}
