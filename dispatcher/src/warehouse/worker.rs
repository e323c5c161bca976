//! The work of the thread that owns the consumer: it fills blocks, closes them when one is
//! due, and takes the pending block of every partition one step further in rounds. A
//! round is one commit that records the blocks' ranges, then one insert a table that holds
//! the rows of all partitions, then the decisions that follow from the outcomes. The
//! inserts run beside the thread, which goes on filling the next blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{
    Assigned, Assignments, Bus, BusError, Commit, Consumer, Isolation, Membership, Partition, PollWork, Record, Revoked,
};
use parking_lot::Mutex;
use schemas::{ConsumerGroup, Topics};
use service::{Part, Shutdown};
use store::{Store, Table};
use tokio::{runtime::Handle, task::JoinSet};
use tracing::debug;

use super::{
    config::Config,
    error::Error,
    metrics::{TableLabel, TopicLabel, WarehouseMetrics},
    sink::{self, ClickHouseSink, RoundResult, WaitCause, WaitFailure},
    track::{BlockOutcome, BlockWork, PartitionTrack},
    troubles::Troubles,
};

/// The consumer group.
pub(super) const GROUP: ConsumerGroup = ConsumerGroup::Warehouse;
/// The longest wait of a poll, and the longest while inserts run.
const IDLE: Duration = Duration::from_millis(500);
const INSERTING: Duration = Duration::from_millis(5);
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
    /// The number of assignments so far. A round that began under another one says nothing
    /// of a partition's present track.
    assignment: u64,
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
        tracks.assignment += 1;
        let assignment = tracks.assignment;
        for assigned in partitions {
            let topic = assigned.partition.topic;
            match PartitionTrack::new(assigned, assignment, &self.topics.name(topic), Instant::now()) {
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

impl Tracks {
    /// Returns the rows and bytes of the blocks that still take records.
    fn open_size(&self, paused: &BTreeSet<Partition>) -> (usize, usize) {
        let open = self.map.iter().filter(|(partition, _)| !paused.contains(partition));
        let sizes = open.map(|(_, track)| track.open_size());
        sizes.fold((0, 0), |(rows, bytes), size| (rows + size.0, bytes + size.1))
    }

    /// Returns the partitions with a pending block that need not wait.
    fn ready(&self, troubles: &Troubles, now: Instant) -> Vec<Partition> {
        let ready = |track: &PartitionTrack| track.is_pending() && !troubles.hold(track.pending_tables(), now);
        self.map.iter().filter(|(_, track)| ready(track)).map(|(partition, _)| *partition).collect()
    }
}

/// A round whose inserts are under way.
struct RunningRound {
    works: Arc<[BlockWork]>,
    started: Instant,
    /// The one task of the round, which ends with it.
    task: JoinSet<RoundResult>,
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
    sink: Arc<ClickHouseSink>,
    /// The prefix of query ids, which installations that share a ClickHouse differ in.
    scope: Arc<str>,
    round: Option<RunningRound>,
    troubles: Troubles,
    /// The partitions that are paused.
    paused: BTreeSet<Partition>,
    /// The reason that was last told for not being ready, or none; unset until partitions
    /// are assigned.
    told: Option<Option<String>>,
    /// The time at which offsets that have moved are committed, if no round commits
    /// them before.
    idle_commit_at: Option<Instant>,
    /// The time of the next measurement of the lag.
    measure_at: Instant,
    /// The number of records that are still taken before the clock is read again.
    burst: usize,
    /// The rows and bytes of the blocks that still take records.
    open: (usize, usize),
    /// Whether the last poll returned a record that left room in the blocks.
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
        self.conclude_round()?;
        if self.round.is_none() {
            self.close_due();
            self.begin_round()?;
        }
        self.pause_and_resume()?;
        self.tell();
        self.measure_lag();
        Ok(self.poll_wait())
    }

    fn record(&mut self, record: &Record<'_>, _: &Consumer<TrackOwner>) -> Result<(), Error> {
        let mut tracks = self.owner.tracks.lock();
        if let Some(track) = tracks.map.get_mut(&record.partition()) {
            let (rows, bytes) = track.open_size();
            track.take(record.offset(), record.value(), Instant::now());
            let (more_rows, more_bytes) = track.open_size();
            self.open.0 += more_rows.saturating_sub(rows);
            self.open.1 += more_bytes.saturating_sub(bytes);
        }
        self.more = !self.context.config.is_full(self.open);
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
            Membership::Handover,
            Arc::clone(&owner),
        )?;
        Ok(Self {
            consumer: Arc::new(consumer),
            owner,
            sink: Arc::new(ClickHouseSink::new(context.store.clone(), bus.clone())),
            scope: context.store.config().database.as_str().into(),
            context,
            round: None,
            troubles: Troubles::default(),
            paused: BTreeSet::new(),
            told: None,
            idle_commit_at: None,
            measure_at: Instant::now() + MEASURE_EVERY,
            burst: 0,
            open: (0, 0),
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
        if std::mem::take(&mut tracks.newly_assigned) {
            // The assignment has resumed the partitions.
            self.paused.clear();
            // Not what is told: so it is told again.
            self.told = Some(Some(String::new()));
        }
        self.open = tracks.open_size(&self.paused);
        Ok(())
    }

    /// Returns how long a poll may wait.
    fn poll_wait(&self) -> Duration {
        if self.round.is_some() {
            return INSERTING;
        }
        let now = Instant::now();
        let tracks = self.owner.tracks.lock();
        if !tracks.ready(&self.troubles, now).is_empty() {
            return Duration::ZERO;
        }
        let due = tracks.map.values().filter_map(|track| track.due(self.context.config.max_wait()));
        let next = due.chain(self.idle_commit_at).chain(self.troubles.next_try(now)).min();
        next.map_or(IDLE, |next| next.saturating_duration_since(now).min(IDLE))
    }

    /// Closes the blocks of all partitions when one of them is due, so that they are one
    /// insert.
    fn close_due(&mut self) {
        let mut tracks = self.owner.tracks.lock();
        let now = Instant::now();
        let max_wait = self.context.config.max_wait();
        let due = tracks.map.values().filter_map(|track| track.due(max_wait)).any(|due| due <= now);
        if due || self.context.config.is_full(tracks.open_size(&self.paused)) {
            tracks.map.values_mut().for_each(PartitionTrack::close_open);
        }
        self.open = tracks.open_size(&self.paused);
    }

    /// Records the ranges of the pending blocks and begins to insert them; or commits
    /// finished offsets, where no block is pending.
    fn begin_round(&mut self) -> Result<(), Error> {
        let works = {
            let mut tracks = self.owner.tracks.lock();
            let partitions = tracks.ready(&self.troubles, Instant::now());
            let insert = rand::random();
            for partition in &partitions {
                tracks.map.get_mut(partition).into_iter().for_each(|track| track.number(insert));
            }
            partitions.iter().filter_map(|partition| tracks.map.get(partition)?.work()).collect::<Arc<[BlockWork]>>()
        };
        if works.is_empty() {
            if self.idle_commit_at.is_some_and(|at| at <= Instant::now()) {
                self.idle_commit_at = None;
                self.commit_idle()?;
            }
            return Ok(());
        }
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
        let (sink, scope, of_task) = (Arc::clone(&self.sink), Arc::clone(&self.scope), Arc::clone(&works));
        let mut task = JoinSet::new();
        task.spawn_on(async move { sink::round(&*sink, &scope, &of_task).await }, &self.context.runtime);
        self.round = Some(RunningRound { works, started: Instant::now(), task });
        Ok(())
    }

    /// Waits for the round while there is no room for more records, and draws the
    /// conclusions of a round that has ended.
    fn conclude_round(&mut self) -> Result<(), Error> {
        let full = self.context.config.is_full(self.open);
        let Some(round) = &mut self.round else { return Ok(()) };
        let result = if full {
            let shutdown = &self.context.shutdown;
            self.context.runtime.block_on(async {
                tokio::select! {
                    result = round.task.join_next() => result,
                    () = shutdown.wait() => None,
                }
            })
        } else {
            round.task.try_join_next()
        };
        match result {
            Some(result) => self.conclude(result.map_err(|_| Error::Panicked)?),
            None => Ok(()),
        }
    }

    fn conclude(&mut self, result: RoundResult) -> Result<(), Error> {
        let Some(RunningRound { works, started, .. }) = self.round.take() else { return Ok(()) };
        let metrics = &self.context.metrics;
        metrics.seconds.observe(started.elapsed().as_secs_f64());
        for (table, rows) in &result.inserted {
            metrics.rows.get_or_create(&TableLabel { table: table.name() }).inc_by(*rows as u64);
        }
        let mut waiting: BTreeSet<Table> = BTreeSet::new();
        {
            let mut tracks = self.owner.tracks.lock();
            for (work, outcome) in works.iter().zip(result.outcomes) {
                if matches!(outcome, BlockOutcome::Done) {
                    metrics.dead.inc_by(work.block.dead.len() as u64);
                }
                let track = tracks.map.get_mut(&work.partition);
                if let Some(track) = track.filter(|track| track.is_of(work.assignment)) {
                    track.conclude(outcome);
                }
            }
            waiting.extend(tracks.map.values().flat_map(|track| track.pending_tables().iter().copied()));
        }
        for table in Table::ALL.into_iter().filter(|table| !result.failures.contains_key(&WaitCause::Table(*table))) {
            if result.inserted.contains_key(&table) {
                self.troubles.end(WaitCause::Table(table));
            } else if !waiting.contains(&table) {
                self.troubles.nothing_waits(table);
            }
        }
        if !result.failures.contains_key(&WaitCause::Kafka) {
            self.troubles.end(WaitCause::Kafka);
        }
        for (cause, failure) in result.failures {
            self.begin_trouble(cause, failure);
        }
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
        let outcome = if self.consumer.is_lost() { Ok(()) } else { self.consumer.commit(commits) };
        let why = match outcome {
            Ok(()) if !self.consumer.is_lost() => {
                self.troubles.end(WaitCause::Kafka);
                return Ok(true);
            }
            Ok(()) => "the partitions are another member's".to_owned(),
            Err(error) if error.is_transient() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        self.begin_trouble(WaitCause::Kafka, WaitFailure { why, of_view: false });
        Ok(false)
    }

    fn begin_trouble(&mut self, cause: WaitCause, failure: WaitFailure) {
        if self.troubles.begin(cause, failure, Instant::now()) {
            self.context.metrics.outages.inc();
        }
    }

    /// Pauses the partitions whose block must wait, and resumes the others.
    fn pause_and_resume(&mut self) -> Result<(), Error> {
        let held: BTreeSet<Partition> = {
            let tracks = self.owner.tracks.lock();
            let now = Instant::now();
            let held = tracks.map.iter().filter(|(_, track)| self.troubles.hold(track.pending_tables(), now));
            held.map(|(partition, _)| *partition).collect()
        };
        let resumed: Vec<Partition> = self.paused.difference(&held).copied().collect();
        let paused: Vec<Partition> = held.difference(&self.paused).copied().collect();
        self.paused = held;
        if !resumed.is_empty() {
            ignore_rebalance(self.consumer.resume(&resumed))?;
        }
        if !paused.is_empty() {
            ignore_rebalance(self.consumer.pause(&paused))?;
        }
        Ok(())
    }

    /// Tells whether the process is ready, and if not, why.
    fn tell(&mut self) {
        self.troubles.forget_views(Instant::now());
        let Some(told) = &mut self.told else { return };
        let reason = self.troubles.reason();
        if *told == reason {
            return;
        }
        match &reason {
            Some(why) => self.context.part.not_ready(why),
            None => self.context.part.ready(),
        }
        *told = reason;
    }

    /// Commits finished offsets of partitions without a pending block.
    fn commit_idle(&mut self) -> Result<(), Error> {
        let commits: Vec<Commit> =
            self.owner.tracks.lock().map.values().filter_map(PartitionTrack::to_commit).collect();
        if self.commit(&commits)? {
            let mut tracks = self.owner.tracks.lock();
            for commit in &commits {
                tracks.map.get_mut(&commit.partition).into_iter().for_each(PartitionTrack::committed);
            }
        } else {
            self.idle_commit_at = Some(Instant::now() + self.context.config.max_wait());
        }
        Ok(())
    }

    /// Inserts the blocks and commits finished offsets. A block that cannot be inserted
    /// now is settled, or read again, after the next start.
    fn drain(mut self) -> Result<(), Error> {
        self.context.part.not_ready("draining");
        self.told = None;
        let deadline = tokio::time::Instant::now() + DRAIN;
        loop {
            if let Some(round) = &mut self.round {
                let end = async { tokio::time::timeout_at(deadline, round.task.join_next()).await };
                let ended = self.context.runtime.block_on(end);
                let Ok(Some(result)) = ended else { break };
                self.conclude(result.map_err(|_| Error::Panicked)?)?;
            }
            if self.troubles.reason().is_some() {
                break;
            }
            self.owner.tracks.lock().map.values_mut().for_each(PartitionTrack::close_open);
            self.idle_commit_at = None;
            self.begin_round()?;
            if self.round.is_none() {
                break;
            }
        }
        self.commit_idle()?;
        self.consumer.leave();
        Ok(())
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
