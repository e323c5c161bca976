//! The work of the thread that owns the consumer: it fills blocks, closes them when
//! they are due, and takes the pending block of every partition one step further in
//! rounds. A round is one commit that records the blocks' ranges, then the inserts
//! side by side, then the decisions that follow from their outcomes.

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
use schemas::{ConsumerGroup, Timestamp, Topics};
use service::{Backoff, Part, Shutdown};
use store::Store;
use tokio::runtime::Handle;
use tracing::{debug, info, warn};

use super::{
    config::Config,
    error::Error,
    metrics::{TableLabel, TopicLabel, WarehouseMetrics},
    sink::{self, ClickHouseSink, WorkResult},
    track::{BlockOutcome, BlockWork, PartitionTrack},
};

/// The consumer group.
pub(super) const GROUP: ConsumerGroup = ConsumerGroup::Warehouse;
/// The longest wait of a poll.
const IDLE: Duration = Duration::from_millis(500);
/// The number of records that are taken before the clock is read again.
const BURST: usize = 1000;
/// The time that a round has to finish when the process stops. Blocks that it leaves
/// are settled after the next start.
const DRAIN: Duration = Duration::from_secs(5);
/// The time between two measurements of the lag.
const MEASURE_EVERY: Duration = Duration::from_secs(15);

/// The owned partitions, shared with the consumer's callbacks, which run on the same
/// thread inside its poll.
#[derive(Default)]
struct Tracks {
    map: BTreeMap<Partition, PartitionTrack>,
    /// Whether partitions were assigned since the worker last looked.
    newly_assigned: bool,
    /// The error of an assigned partition whose note cannot be read.
    unreadable: Option<Error>,
}

/// The consumer's callbacks.
struct TrackOwner {
    tracks: Mutex<Tracks>,
    topics: Arc<Topics>,
}

impl Assignments for TrackOwner {
    fn assigned(&self, partitions: &[Assigned]) {
        let mut tracks = self.tracks.lock();
        for assigned in partitions {
            let topic = assigned.partition.topic;
            match PartitionTrack::new(assigned, &self.topics.name(topic), Instant::now()) {
                Ok(track) => drop(tracks.map.insert(assigned.partition, track)),
                Err(_) => {
                    tracks.unreadable = Some(Error::Note {
                        partition: assigned.partition.to_string(),
                        metadata: assigned.metadata.chars().take(64).collect(),
                    });
                }
            }
        }
        tracks.newly_assigned = true;
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

/// An outage of ClickHouse or Kafka, during which the partitions are paused.
struct WarehouseOutage {
    since: Instant,
    /// The time of the next try.
    retry_at: Instant,
}

/// The things that every worker of a process is made with.
#[derive(Clone)]
pub(super) struct WorkerContext {
    pub(super) config: Config,
    pub(super) bus: Bus,
    pub(super) store: Store,
    pub(super) metrics: WarehouseMetrics,
    pub(super) part: Part,
    pub(super) shutdown: Shutdown,
    pub(super) runtime: Handle,
}

/// The worker of one consumer.
pub(super) struct WarehouseWorker {
    context: WorkerContext,
    consumer: Arc<Consumer<TrackOwner>>,
    owner: Arc<TrackOwner>,
    sink: ClickHouseSink,
    /// The prefix of query ids, which installations that share a ClickHouse differ in.
    scope: String,
    outage: Option<WarehouseOutage>,
    backoff: Backoff,
    /// The time at which offsets that have moved are committed, if no round commits
    /// them before.
    idle_commit_at: Option<Instant>,
    /// The time of the next measurement of the lag.
    measure_at: Instant,
    /// The number of records that are still taken before the clock is read again.
    burst: usize,
    /// Whether the last poll returned a record that left room in its block.
    more: bool,
}

impl PollWork<TrackOwner> for WarehouseWorker {
    type Error = Error;

    fn before_poll(&mut self, _: &Consumer<TrackOwner>) -> Result<Duration, Error> {
        if std::mem::take(&mut self.more) && self.burst > 0 {
            self.burst -= 1;
            return Ok(Duration::ZERO);
        }
        self.burst = BURST;
        self.after_rebalance()?;
        self.close_due();
        if self.outage.as_ref().is_none_or(|outage| outage.retry_at <= Instant::now()) {
            self.step()?;
        }
        self.measure_lag();
        Ok(self.poll_wait())
    }

    fn record(&mut self, record: &Record<'_>, _: &Consumer<TrackOwner>) -> Result<(), Error> {
        let mut tracks = self.owner.tracks.lock();
        self.more = true;
        if let Some(track) = tracks.map.get_mut(&record.partition()) {
            track.take(record.offset(), record.value(), Instant::now());
            self.more = !track.is_full(&self.context.config);
        }
        Ok(())
    }
}

impl WarehouseWorker {
    /// # Errors
    /// When a setting of the consumer is refused.
    pub(super) fn new(context: WorkerContext) -> Result<Self, Error> {
        let bus = &context.bus;
        let owner = Arc::new(TrackOwner { tracks: Mutex::default(), topics: Arc::clone(bus.topics()) });
        let consumer = bus.unhurried().consumer(
            GROUP.name(),
            GROUP.topics(),
            Isolation::Committed,
            Membership::Static,
            Arc::clone(&owner),
        )?;
        Ok(Self {
            consumer: Arc::new(consumer),
            owner,
            sink: ClickHouseSink::new(context.store.clone(), bus.clone()),
            scope: context.store.config().database.clone(),
            context,
            outage: None,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            idle_commit_at: None,
            measure_at: Instant::now() + MEASURE_EVERY,
            burst: 0,
            more: false,
        })
    }

    /// Works until told to stop.
    ///
    /// # Errors
    /// When the consumer fails, or a committed note cannot be read.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let consumer = Arc::clone(&self.consumer);
        let shutdown = self.context.shutdown.clone();
        consumer.run(&mut self, || shutdown.is_triggered())?;
        self.drain()
    }

    /// Reacts to a rebalance that the last poll ran.
    fn after_rebalance(&mut self) -> Result<(), Error> {
        let mut tracks = self.owner.tracks.lock();
        if let Some(error) = tracks.unreadable.take() {
            return Err(error);
        }
        let newly_assigned = std::mem::take(&mut tracks.newly_assigned);
        drop(tracks);
        if !newly_assigned {
            return Ok(());
        }
        if self.outage.is_some() {
            // The assignment has resumed the partitions.
            return self.pause();
        }
        self.context.part.ready();
        Ok(())
    }

    /// Returns how long a poll may wait.
    fn poll_wait(&self) -> Duration {
        let tracks = self.owner.tracks.lock();
        let next = match &self.outage {
            Some(outage) => Some(outage.retry_at),
            None if tracks.map.values().any(PartitionTrack::is_pending) => return Duration::ZERO,
            None => {
                tracks.map.values().filter_map(|track| track.due(&self.context.config)).chain(self.idle_commit_at).min()
            }
        };
        next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()).min(IDLE))
    }

    fn close_due(&self) {
        if self.outage.is_none() {
            let now = Instant::now();
            self.owner.tracks.lock().map.values_mut().for_each(|track| track.close_due(&self.context.config, now));
        }
    }

    /// Takes the pending block of every partition one step further, or commits finished
    /// offsets where no block is pending.
    fn step(&mut self) -> Result<(), Error> {
        let works: Vec<BlockWork> = self.owner.tracks.lock().map.values().filter_map(PartitionTrack::work).collect();
        if !works.is_empty() {
            return self.run_round(&works);
        }
        self.resume()?;
        if self.idle_commit_at.is_some_and(|at| at <= Instant::now()) {
            self.idle_commit_at = None;
            self.commit_idle()?;
        }
        Ok(())
    }

    fn run_round(&mut self, works: &[BlockWork]) -> Result<(), Error> {
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
        let Some(results) = self.attempt(works) else { return Ok(()) };
        self.context.metrics.seconds.observe(started.elapsed().as_secs_f64());
        self.conclude(works, results)?;
        self.idle_commit_at = Some(Instant::now() + self.context.config.max_wait());
        Ok(())
    }

    /// Commits. Returns false where the commit must be retried.
    fn commit(&mut self, commits: &[Commit]) -> Result<bool, Error> {
        if commits.is_empty() {
            return Ok(true);
        }
        // A member that has lost its group may commit into an empty group, and would turn
        // offsets back. So it checks before and after.
        if self.consumer.is_lost() {
            self.start_outage("the partitions are another member's", "Kafka")?;
            return Ok(false);
        }
        match self.consumer.commit(commits) {
            Ok(()) if !self.consumer.is_lost() => Ok(true),
            Ok(()) => {
                self.start_outage("the partitions are another member's", "Kafka")?;
                Ok(false)
            }
            Err(error) if error.is_transient() => {
                self.start_outage(&error.to_string(), "Kafka")?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Carries out a step of each block side by side. Returns none where the process
    /// stops before they are done.
    fn attempt(&self, works: &[BlockWork]) -> Option<Vec<WorkResult>> {
        let stop = async {
            self.context.shutdown.wait().await;
            tokio::time::sleep(DRAIN).await;
        };
        self.context.runtime.block_on(async {
            tokio::select! {
                results = join_all(works.iter().map(|work| sink::attempt(&self.sink, &self.scope, work))) => Some(results),
                () = stop => None,
            }
        })
    }

    fn conclude(&mut self, works: &[BlockWork], results: Vec<WorkResult>) -> Result<(), Error> {
        let mut trouble = None;
        {
            let mut tracks = self.owner.tracks.lock();
            for (work, result) in works.iter().zip(results) {
                for (table, rows) in &result.sent {
                    self.context.metrics.rows.get_or_create(&TableLabel { table: table.name() }).inc_by(*rows as u64);
                }
                match &result.outcome {
                    BlockOutcome::Done => {
                        self.context.metrics.dead.inc_by(work.block.dead.len() as u64);
                    }
                    BlockOutcome::Refused(reason) => {
                        let rows = work.block.rows.len();
                        warn!(partition = %work.partition, range = %work.range, rows, reason, "block refused because of a row: it is split until the row is alone");
                    }
                    BlockOutcome::Unknown | BlockOutcome::DeadUnwritten | BlockOutcome::Absent(_) => {}
                }
                if result.error.is_some() {
                    trouble = result.error;
                }
                if let Some(track) = tracks.map.get_mut(&work.partition) {
                    track.conclude(result.outcome, Timestamp::now());
                }
            }
        }
        match trouble {
            Some(trouble) => self.start_outage(&trouble, "ClickHouse"),
            None => self.resume(),
        }
    }

    /// Pauses the partitions until the next round succeeds.
    fn start_outage(&mut self, why: &str, engine: &str) -> Result<(), Error> {
        let now = Instant::now();
        let retry_at = now + self.backoff.next();
        if let Some(outage) = &mut self.outage {
            outage.retry_at = retry_at;
            debug!(why, engine, "warehouse still paused");
            return Ok(());
        }
        warn!(why, engine, "warehouse paused: rows wait, and none is lost");
        self.context.part.not_ready(why);
        self.context.metrics.outages.inc();
        self.outage = Some(WarehouseOutage { since: now, retry_at });
        self.pause()
    }

    /// Ends an outage, if there is one.
    fn resume(&mut self) -> Result<(), Error> {
        let Some(outage) = self.outage.take() else { return Ok(()) };
        self.backoff.reset();
        info!(paused_ms = outage.since.elapsed().as_millis() as u64, "warehouse resumed");
        self.context.part.ready();
        let partitions = self.consumer.assignment()?;
        ignore_rebalance(self.consumer.resume(&partitions))
    }

    fn pause(&self) -> Result<(), Error> {
        let partitions = self.consumer.assignment()?;
        ignore_rebalance(self.consumer.pause(&partitions))
    }

    /// Commits finished offsets where no block is pending.
    fn commit_idle(&mut self) -> Result<(), Error> {
        let commits: Vec<Commit> =
            self.owner.tracks.lock().map.values().filter_map(PartitionTrack::to_commit).collect();
        if self.commit(&commits)? {
            let mut tracks = self.owner.tracks.lock();
            for commit in &commits {
                tracks.map.get_mut(&commit.partition).into_iter().for_each(PartitionTrack::committed);
            }
        } else {
            self.idle_commit_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Inserts the blocks and commits finished offsets. A block that cannot be inserted
    /// now is settled, or read again, after the next start.
    fn drain(mut self) -> Result<(), Error> {
        self.context.part.not_ready("draining");
        let deadline = Instant::now() + DRAIN;
        if self.outage.is_none() {
            self.owner.tracks.lock().map.values_mut().for_each(PartitionTrack::close_early);
            while self.outage.is_none() && Instant::now() < deadline {
                let works: Vec<BlockWork> =
                    self.owner.tracks.lock().map.values().filter_map(PartitionTrack::work).collect();
                if works.is_empty() {
                    break;
                }
                self.run_round(&works)?;
            }
        }
        self.commit_idle()
    }

    fn measure_lag(&mut self) {
        if self.measure_at > Instant::now() {
            return;
        }
        self.measure_at = Instant::now() + MEASURE_EVERY;
        let done: Vec<(Partition, i64)> =
            self.owner.tracks.lock().map.iter().map(|(partition, track)| (*partition, track.done())).collect();
        for &topic in GROUP.topics() {
            let mut lag = 0;
            for (partition, offset) in done.iter().filter(|(partition, _)| partition.topic == topic) {
                match self.consumer.behind(*partition, *offset) {
                    Ok(behind) => lag += behind,
                    // Kafka is away: each further question would take as long.
                    Err(_) => return,
                }
            }
            self.context.metrics.lag.get_or_create(&TopicLabel { topic: topic.suffix() }).set(lag);
        }
    }
}

/// Ignores the error for partitions that were just revoked: they cannot be paused or
/// resumed, and need not be.
fn ignore_rebalance(outcome: Result<(), BusError>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.is_transient() => {
            debug!(%error, "revoked partitions were not paused or resumed");
            Ok(())
        }
        outcome => Ok(outcome?),
    }
}
