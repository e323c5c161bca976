//! The thread that owns the consumer: it polls, closes blocks when they are
//! due, and takes every partition's block one step further in rounds: one
//! commit that records, then the inserts side by side, then what follows.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{
    Assigned, Assignments, Bus, BusError, Commit, Consumer, Isolation, Membership, Partition, PollWork, Record, Revoked,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use schemas::{Timestamp, Topic, Topics};
use service::{Backoff, Part, Shutdown};
use store::Store;
use tokio::runtime::Handle;
use tracing::{debug, info, warn};

use super::{
    config::Config,
    error::Error,
    metrics::{TableLabel, TopicLabel, WarehouseMetrics},
    parse,
    sink::{self, ClickHouseSink, WorkResult},
    track::{BlockOutcome, BlockWork, PartitionTrack},
};

/// The consumer group.
const GROUP: &str = "warehouse";
/// What is read.
const TOPICS: [Topic; 3] = [Topic::Clicks, Topic::Events, Topic::Attempts];
/// How long a poll waits when nothing is due.
const IDLE: Duration = Duration::from_millis(500);
/// How many records are taken before the clock is looked at again.
const BURST: usize = 1000;
/// How long a round may go on after being told to stop: what it leaves is
/// settled by the next start.
const DRAIN: Duration = Duration::from_secs(5);
/// How often the lag is measured.
const MEASURE: Duration = Duration::from_secs(15);

/// The partitions that are ours, shared with the consumer's callbacks, which
/// run on the same thread inside its poll.
#[derive(Default)]
struct Tracks {
    map: BTreeMap<Partition, PartitionTrack>,
    /// Partitions came since this was last looked at.
    fresh: bool,
    unreadable: Option<Error>,
}

struct Owner {
    tracks: Mutex<Tracks>,
    topics: Arc<Topics>,
}

impl Assignments for Owner {
    fn assigned(&self, partitions: &[Assigned]) {
        let mut tracks = self.tracks.lock();
        for assigned in partitions {
            let topic = assigned.partition.topic;
            let Some(table) = parse::table(topic) else { continue };
            match PartitionTrack::new(assigned, table, &self.topics.name(topic), Instant::now()) {
                Ok(track) => drop(tracks.map.insert(assigned.partition, track)),
                Err(_) => {
                    tracks.unreadable = Some(Error::Note {
                        partition: assigned.partition.to_string(),
                        metadata: assigned.metadata.chars().take(64).collect(),
                    });
                }
            }
        }
        tracks.fresh = true;
    }

    fn revoked(&self, revoked: &Revoked<'_>) -> Vec<Commit> {
        let mut tracks = self.tracks.lock();
        revoked
            .partitions
            .iter()
            .filter_map(|partition| tracks.map.remove(partition))
            .filter_map(|track| track.to_commit())
            .collect()
    }
}

/// Something that is waited for.
struct Hold {
    since: Instant,
    until: Instant,
}

/// The thread's state.
pub(super) struct Worker {
    config: Config,
    consumer: Arc<Consumer<Owner>>,
    owner: Arc<Owner>,
    engines: ClickHouseSink,
    scope: String,
    counts: WarehouseMetrics,
    part: Part,
    shutdown: Shutdown,
    handle: Handle,
    hold: Option<Hold>,
    backoff: Backoff,
    /// When offsets that moved are committed, if no round does it before.
    tidy: Option<Instant>,
    measure: Instant,
    /// How many more records are taken before the clock is looked at again.
    burst: usize,
    /// Whether the last poll returned a record that left room in its block.
    more: bool,
}

impl PollWork<Owner> for Worker {
    type Error = Error;

    fn before_poll(&mut self, _: &Consumer<Owner>) -> Result<Duration, Error> {
        if std::mem::take(&mut self.more) && self.burst > 0 {
            self.burst -= 1;
            return Ok(Duration::ZERO);
        }
        self.burst = BURST;
        self.after_rebalance()?;
        self.close_due();
        if self.hold.as_ref().is_none_or(|hold| hold.until <= Instant::now()) {
            self.advance()?;
        }
        self.measure();
        Ok(self.patience())
    }

    fn record(&mut self, record: &Record<'_>, _: &Consumer<Owner>) -> Result<(), Error> {
        let mut tracks = self.owner.tracks.lock();
        self.more = true;
        if let Some(track) = tracks.map.get_mut(&record.partition()) {
            track.take(record.offset(), record.value(), Instant::now());
            self.more = !track.is_full(&self.config);
        }
        Ok(())
    }
}

impl Worker {
    pub(super) fn new(
        config: Config,
        bus: &Bus,
        store: Store,
        counts: WarehouseMetrics,
        part: Part,
        shutdown: Shutdown,
        handle: Handle,
    ) -> Result<Self, Error> {
        let owner = Arc::new(Owner { tracks: Mutex::default(), topics: Arc::clone(bus.topics()) });
        let (isolation, membership) = (Isolation::Committed, Membership::Static);
        let consumer = bus.unhurried().consumer(GROUP, &TOPICS, isolation, membership, Arc::clone(&owner))?;
        let scope = store.config().database.clone();
        part.ready();
        Ok(Self {
            config,
            consumer: Arc::new(consumer),
            owner,
            engines: ClickHouseSink::new(store, bus.clone()),
            scope,
            counts,
            part,
            shutdown,
            handle,
            hold: None,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            tidy: None,
            measure: Instant::now() + MEASURE,
            burst: 0,
            more: false,
        })
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let consumer = Arc::clone(&self.consumer);
        let shutdown = self.shutdown.clone();
        consumer.run(&mut self, || shutdown.is_triggered())?;
        self.drain()
    }

    /// Reacts to a rebalance that the last poll ran.
    fn after_rebalance(&mut self) -> Result<(), Error> {
        let mut tracks = self.owner.tracks.lock();
        if let Some(error) = tracks.unreadable.take() {
            return Err(error);
        }
        let fresh = std::mem::take(&mut tracks.fresh);
        drop(tracks);
        if fresh && self.hold.is_some() { self.pause() } else { Ok(()) }
    }

    /// How long a poll may wait.
    fn patience(&self) -> Duration {
        let tracks = self.owner.tracks.lock();
        let next = match &self.hold {
            Some(hold) => Some(hold.until),
            None if tracks.map.values().any(PartitionTrack::is_pending) => return Duration::ZERO,
            None => tracks.map.values().filter_map(|track| track.due(&self.config)).chain(self.tidy).min(),
        };
        next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()).min(IDLE))
    }

    fn close_due(&self) {
        if self.hold.is_none() {
            let now = Instant::now();
            self.owner.tracks.lock().map.values_mut().for_each(|track| track.close_due(&self.config, now));
        }
    }

    /// Takes every waiting block one step further, or commits what is done.
    fn advance(&mut self) -> Result<(), Error> {
        let works: Vec<BlockWork> = self.owner.tracks.lock().map.values().filter_map(PartitionTrack::work).collect();
        if !works.is_empty() {
            return self.round(&works);
        }
        self.release()?;
        if self.tidy.is_some_and(|tidy| tidy <= Instant::now()) {
            self.tidy = None;
            self.tidy()?;
        }
        Ok(())
    }

    fn round(&mut self, works: &[BlockWork]) -> Result<(), Error> {
        let commits: Vec<Commit> = {
            let tracks = self.owner.tracks.lock();
            works.iter().filter_map(|work| tracks.map.get(&work.partition)?.to_record()).collect()
        };
        if !self.commit(&commits)? {
            return Ok(());
        }
        {
            let mut tracks = self.owner.tracks.lock();
            for commit in &commits {
                tracks.map.get_mut(&commit.partition).into_iter().for_each(PartitionTrack::recorded);
            }
        }
        let started = Instant::now();
        let Some(concluded) = self.attempt(works) else { return Ok(()) };
        self.counts.seconds.observe(started.elapsed().as_secs_f64());
        self.conclude(works, concluded)?;
        self.tidy = Some(Instant::now() + self.config.max_wait());
        Ok(())
    }

    /// Commits; false where it must be tried again.
    fn commit(&mut self, commits: &[Commit]) -> Result<bool, Error> {
        if commits.is_empty() {
            return Ok(true);
        }
        // A member without a group may commit into an empty one, and would turn
        // offsets back: it asks itself before and after.
        if self.consumer.is_lost() {
            self.hold("the partitions are another member's", "Kafka")?;
            return Ok(false);
        }
        match self.consumer.commit(commits) {
            Ok(()) if !self.consumer.is_lost() => Ok(true),
            Ok(()) => {
                self.hold("the partitions are another member's", "Kafka")?;
                Ok(false)
            }
            Err(error) if error.is_transient() => {
                self.hold(&error.to_string(), "Kafka")?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what the works say, side by side. None where being told to stop cut
    /// it short.
    fn attempt(&self, works: &[BlockWork]) -> Option<Vec<WorkResult>> {
        let stop = async {
            self.shutdown.wait().await;
            tokio::time::sleep(DRAIN).await;
        };
        self.handle.block_on(async {
            tokio::select! {
                concluded = join_all(works.iter().map(|work| sink::attempt(&self.engines, &self.scope, work))) => Some(concluded),
                () = stop => None,
            }
        })
    }

    fn conclude(&mut self, works: &[BlockWork], concluded: Vec<WorkResult>) -> Result<(), Error> {
        let mut trouble = None;
        {
            let mut tracks = self.owner.tracks.lock();
            for (work, concluded) in works.iter().zip(concluded) {
                self.counts.rows.get_or_create(&TableLabel { table: work.table.name() }).inc_by(concluded.sent as u64);
                match &concluded.outcome {
                    BlockOutcome::Done => {
                        self.counts.dead.inc_by(work.block.dead.len() as u64);
                    }
                    BlockOutcome::Refused(reason) => {
                        let rows = work.block.rows.len();
                        warn!(partition = %work.partition, range = %work.range, rows, reason, "a block is refused for a row: it is cut in two until the row stands alone");
                    }
                    BlockOutcome::Unknown | BlockOutcome::DeadUnwritten | BlockOutcome::Absent(_) => {}
                }
                if concluded.error.is_some() {
                    trouble = concluded.error;
                }
                if let Some(track) = tracks.map.get_mut(&work.partition) {
                    track.conclude(concluded.outcome, Timestamp::now());
                }
            }
        }
        match trouble {
            Some(trouble) => self.hold(&trouble, "ClickHouse"),
            None => self.release(),
        }
    }

    /// Waits before the next round, with the partitions paused.
    fn hold(&mut self, why: &str, whom: &str) -> Result<(), Error> {
        let now = Instant::now();
        let until = now + self.backoff.next();
        if let Some(hold) = &mut self.hold {
            hold.until = until;
            debug!(why, "still waiting for {whom}");
            return Ok(());
        }
        warn!(why, "rows wait for {whom}; nothing is lost");
        self.part.not_ready(why);
        self.counts.outages.inc();
        self.hold = Some(Hold { since: now, until });
        self.pause()
    }

    /// Goes on after waiting.
    fn release(&mut self) -> Result<(), Error> {
        let Some(hold) = self.hold.take() else { return Ok(()) };
        self.backoff.reset();
        info!(waited_ms = hold.since.elapsed().as_millis() as u64, "rows go in again");
        self.part.ready();
        let partitions = self.consumer.assignment()?;
        self.tolerate(self.consumer.resume(&partitions))
    }

    fn pause(&self) -> Result<(), Error> {
        let partitions = self.consumer.assignment()?;
        self.tolerate(self.consumer.pause(&partitions))
    }

    /// Partitions that have just gone elsewhere cannot be paused or resumed, and
    /// need not be.
    #[allow(clippy::unused_self, reason = "reads as what the worker does")]
    fn tolerate(&self, outcome: Result<(), BusError>) -> Result<(), Error> {
        match outcome {
            Err(error) if error.is_transient() => {
                debug!(%error, "partitions have gone elsewhere");
                Ok(())
            }
            outcome => Ok(outcome?),
        }
    }

    /// Commits what is done, where nothing comes next.
    fn tidy(&mut self) -> Result<(), Error> {
        let commits: Vec<Commit> =
            self.owner.tracks.lock().map.values().filter_map(PartitionTrack::to_commit).collect();
        if self.commit(&commits)? {
            let mut tracks = self.owner.tracks.lock();
            for commit in &commits {
                tracks.map.get_mut(&commit.partition).into_iter().for_each(PartitionTrack::committed);
            }
        } else {
            self.tidy = Some(Instant::now());
        }
        Ok(())
    }

    /// Inserts what was gathered and commits what is done. What cannot be
    /// inserted now is recorded or was never recorded: either is found again.
    fn drain(mut self) -> Result<(), Error> {
        self.part.not_ready("draining");
        let deadline = Instant::now() + DRAIN;
        if self.hold.is_none() {
            self.owner.tracks.lock().map.values_mut().for_each(PartitionTrack::close_early);
            while self.hold.is_none() && Instant::now() < deadline {
                let works: Vec<BlockWork> =
                    self.owner.tracks.lock().map.values().filter_map(PartitionTrack::work).collect();
                if works.is_empty() {
                    break;
                }
                self.round(&works)?;
            }
        }
        self.tidy()
    }

    fn measure(&mut self) {
        if self.measure > Instant::now() {
            return;
        }
        self.measure = Instant::now() + MEASURE;
        let done: Vec<(Partition, i64)> =
            self.owner.tracks.lock().map.iter().map(|(partition, track)| (*partition, track.done())).collect();
        for topic in TOPICS {
            let mut lag = 0;
            for (partition, offset) in done.iter().filter(|(partition, _)| partition.topic == topic) {
                match self.consumer.behind(*partition, *offset) {
                    Ok(behind) => lag += behind,
                    // Kafka is away: every further question would wait as long.
                    Err(_) => return,
                }
            }
            self.counts.lag.get_or_create(&TopicLabel { topic: topic.suffix() }).set(lag);
        }
    }
}
