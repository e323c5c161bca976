//! A member of a consumer group that reads records and produces their results in
//! one transaction with the offsets, on one thread. The work on a record is a
//! [`RecordWork`]. After any failure the member drops its open transaction, joins
//! the group again and reads from the committed offsets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bus::{
    Assigned, Assignments, Bus, BusError, Commit, CommitStart, Consumer, Isolation, Membership, Partition, PollWork,
    Record, Revoked, TransactionPair,
};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use schemas::Topic;
use service::{Backoff, Part, Shutdown};
use tracing::warn;

/// How long a poll waits while no transaction is open.
const IDLE_POLL: Duration = Duration::from_millis(500);
/// How long a poll waits while a transaction is open.
const BUSY_POLL: Duration = Duration::from_millis(1);
/// How often in a row the member may be fenced off without a commit in between.
/// After that, another process must be using its transactional id.
const MAX_FENCED: usize = 5;
/// How long the member must work after a failure before the failure is over: the next
/// failure is then the first again. A member that has nothing to commit counts as ready
/// again after the same time.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);
/// How long produced records wait for more: with less, the client polls busily
/// while a partition's last requests are in flight.
const LINGER: Duration = Duration::from_millis(5);

/// How long newly assigned partitions are prepared for before they are paused meanwhile.
/// librdkafka fetches again only up to a second after it was told to resume.
pub(crate) const PREPARED_WITHIN: Duration = Duration::from_millis(200);

/// The work on the records of a group.
pub(crate) trait RecordWork {
    /// Forgets everything that follows from records whose offsets may not be
    /// committed.
    fn reset(&mut self);

    /// Prepares for newly assigned partitions; may pause them meanwhile.
    fn assigned(&mut self, assigned: &[Assigned], consumer: &Consumer<Rebalances>) -> Result<(), BusError>;

    /// Whether partitions are paused until [`resume`](Self::resume) can go on.
    fn is_waiting(&self) -> bool;

    /// Goes on with paused partitions, as far as possible. Returns the number of
    /// lines that were processed.
    fn resume(&mut self, pair: &mut TransactionPair, consumer: &Consumer<Rebalances>) -> Result<usize, BusError>;

    /// Produces the results of a record into `pair`, and its offset; or keeps the
    /// record and pauses its partition. Returns the number of lines that were
    /// processed.
    fn process(
        &mut self,
        record: &Record<'_>,
        pair: &mut TransactionPair,
        consumer: &Consumer<Rebalances>,
    ) -> Result<usize, BusError>;
}

/// Returns the partitions that were assigned.
pub(crate) fn partitions(assigned: &[Assigned]) -> Vec<Partition> {
    assigned.iter().map(|assigned| assigned.partition).collect()
}

/// A member of a group, and the limits of its transactions.
pub(crate) struct Member {
    pub(crate) bus: Bus,
    pub(crate) group: &'static str,
    pub(crate) topics: &'static [Topic],
    /// The topic whose partition of the same index takes the results, if they are divided
    /// like the records.
    pub(crate) output: Option<Topic>,
    /// The transactional id.
    pub(crate) id: String,
    /// How long a transaction collects records.
    pub(crate) window: Duration,
    /// The number of lines above which a transaction is committed early.
    pub(crate) max_lines: usize,
    pub(crate) restarts: Counter,
    /// How long transactions collected records, in seconds.
    pub(crate) transaction_seconds: Histogram,
    pub(crate) part: Part,
    pub(crate) shutdown: Shutdown,
}

/// The rebalances since the last look. Revoked partitions are processed by another
/// member, so the open transaction must be dropped.
#[derive(Default)]
pub(crate) struct Rebalances {
    assigned: Mutex<Vec<Assigned>>,
    revoked: AtomicBool,
    /// The producers of the member. None before they are made, while they are worked
    /// with, and after a failure.
    pair: Mutex<Option<TransactionPair>>,
}

/// The error of work without producers.
const NO_PAIR: BusError = BusError::Gone { what: "produce in transactions" };

impl Rebalances {
    /// Works with the pair, which is dropped if that fails or panics: the open transaction
    /// may then hold a part of a record's results, and a rebalance must not commit it.
    fn with_pair<T>(&self, work: impl FnOnce(&mut TransactionPair) -> Result<T, BusError>) -> Result<T, BusError> {
        let mut pair = self.pair.lock().take().ok_or(NO_PAIR)?;
        let done = work(&mut pair)?;
        *self.pair.lock() = Some(pair);
        Ok(done)
    }
}

impl Assignments for Rebalances {
    fn assigned(&self, partitions: &[Assigned]) {
        self.assigned.lock().extend_from_slice(partitions);
    }

    /// Commits what was processed, so that the next owners need not process it again, nor
    /// wait until Kafka aborts it.
    fn revoked(&self, revoked: &Revoked<'_>) -> Vec<Commit> {
        self.assigned.lock().clear();
        self.revoked.store(true, Ordering::Relaxed);
        let mut slot = self.pair.lock();
        if let Some(mut pair) = slot.take() {
            match pair.commit_all(revoked.group) {
                Ok(()) => *slot = Some(pair),
                Err(error) => warn!(%error, "transaction dropped in a rebalance: its records are processed again"),
            }
        }
        Vec::new()
    }
}

/// The failures of late. Two processes that use one transactional id fence each other
/// off after every other commit, so a commit alone ends no delay between retries.
struct Failures {
    backoff: Backoff,
    /// When the last failure was.
    last: Option<Instant>,
    /// How often the member was fenced off since the last known commit.
    fenced: usize,
    /// Whether the member failed and has not recovered yet.
    failing: bool,
}

impl Failures {
    /// Whether to go on after an error. A process that stood still for longer than
    /// a transaction may be open is fenced off, like a process whose transactional
    /// id another has taken.
    fn allow(&mut self, error: &BusError) -> bool {
        let fenced = matches!(error, BusError::Fenced { .. });
        if self.last.is_none_or(|last| last.elapsed() >= RECOVERED_AFTER) {
            self.backoff.reset();
        }
        self.last = Some(Instant::now());
        self.fenced += usize::from(fenced);
        self.failing = true;
        error.is_transient() || (fenced && self.fenced <= MAX_FENCED)
    }

    /// Notes a known commit, or a while without records.
    const fn works(&mut self) {
        self.fenced = 0;
        self.failing = false;
    }
}

impl Member {
    /// Works until told to stop, and commits the open transaction.
    pub(crate) fn run(&self, work: &mut impl RecordWork) -> Result<(), BusError> {
        let mut failures = Failures {
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            last: None,
            fenced: 0,
            failing: false,
        };
        while !self.shutdown.is_triggered() {
            // A new consumer reads from the committed offsets. The old consumer may
            // own partitions whose records it has read and will not read again.
            match self.join(work, &mut failures) {
                Ok(()) => {}
                Err(error) if failures.allow(&error) => {
                    let delay = failures.backoff.next();
                    warn!(group = self.group, %error, delay_ms = delay.as_millis(), "transaction dropped: retrying from the committed offsets");
                    self.restarts.inc();
                    self.part.not_ready(&error.to_string());
                    thread::sleep(delay);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Works with one consumer until told to stop or something fails.
    fn join(&self, work: &mut impl RecordWork, failures: &mut Failures) -> Result<(), BusError> {
        let rebalances = Arc::new(Rebalances::default());
        let consumer = self.bus.consumer(
            self.group,
            self.topics,
            Isolation::Committed,
            Membership::Handover,
            Arc::clone(&rebalances),
        )?;
        if let Some(output) = self.output {
            consumer.writes_to(output);
        }
        while !self.shutdown.is_triggered() {
            self.own(&consumer, &rebalances, work, failures)?;
        }
        consumer.leave();
        Ok(())
    }

    /// Works until told to stop, partitions are revoked, or something fails. The
    /// open transaction is committed before partitions are revoked, and dropped if that
    /// fails: the next owner reads from the committed offsets.
    fn own(
        &self,
        consumer: &Consumer<Rebalances>,
        rebalances: &Rebalances,
        work: &mut impl RecordWork,
        failures: &mut Failures,
    ) -> Result<(), BusError> {
        if rebalances.pair.lock().is_none() {
            // Making the pair aborts the open transactions of its predecessor.
            let pair = self.bus.transaction_pair(&self.id, LINGER)?;
            *rebalances.pair.lock() = Some(pair);
        }
        rebalances.revoked.store(false, Ordering::Relaxed);
        work.reset();
        if !failures.failing {
            self.part.ready();
        }
        let is_revoked = || rebalances.revoked.load(Ordering::Relaxed);
        let mut ownership = Ownership {
            member: self,
            rebalances,
            work,
            failures,
            lines: 0,
            was_open: false,
            commits: rebalances.with_pair(|pair| Ok(pair.commits()))?,
            since: Instant::now(),
        };
        consumer.run(&mut ownership, || self.shutdown.is_triggered() || is_revoked())?;
        if is_revoked() {
            return Ok(());
        }
        rebalances.with_pair(|pair| pair.commit_all(|| consumer.group_metadata()))
    }
}

/// The work between two rebalances.
struct Ownership<'a, W> {
    member: &'a Member,
    rebalances: &'a Rebalances,
    work: &'a mut W,
    failures: &'a mut Failures,
    /// The number of lines in the open transaction.
    lines: usize,
    /// Whether a transaction was open before the last poll.
    was_open: bool,
    /// The number of commits that were known when it was looked last.
    commits: u64,
    /// When the ownership began.
    since: Instant,
}

impl<W> Ownership<'_, W> {
    /// Ends a time of failures after a known commit, or a while without records.
    fn note_recovery(&mut self, commits: u64) {
        let committed = std::mem::replace(&mut self.commits, commits) != commits;
        let is_idle = self.failures.failing && !self.was_open && self.since.elapsed() >= RECOVERED_AFTER;
        if committed || is_idle {
            if self.failures.failing {
                self.member.part.ready();
            }
            self.failures.works();
        }
    }
}

impl<W: RecordWork> Ownership<'_, W> {
    /// Goes on with paused partitions, and starts the commit of the open transaction if it
    /// is due. Returns the number of known commits.
    fn commit_if_due(&mut self, pair: &mut TransactionPair, consumer: &Consumer<Rebalances>) -> Result<u64, BusError> {
        self.lines += self.work.resume(pair, consumer)?;
        let age = pair.age();
        let is_over = age.is_some_and(|age| age >= self.member.window);
        let is_full = self.lines >= self.member.max_lines;
        // The first record after a pause is committed at once.
        let is_due = is_over || is_full || !self.was_open;
        if is_due && pair.try_commit(|| consumer.group_metadata())? == CommitStart::Started {
            self.lines = 0;
            self.member.transaction_seconds.observe(age.unwrap_or_default().as_secs_f64());
        }
        self.was_open = pair.age().is_some();
        Ok(pair.commits())
    }
}

impl<W: RecordWork> PollWork<Rebalances> for Ownership<'_, W> {
    type Error = BusError;

    fn before_poll(&mut self, consumer: &Consumer<Rebalances>) -> Result<Duration, BusError> {
        let assigned = std::mem::take(&mut *self.rebalances.assigned.lock());
        if !assigned.is_empty() {
            self.work.assigned(&assigned, consumer)?;
        }
        let rebalances = self.rebalances;
        let commits = rebalances.with_pair(|pair| self.commit_if_due(pair, consumer))?;
        self.note_recovery(commits);
        Ok(if self.was_open || self.work.is_waiting() { BUSY_POLL } else { IDLE_POLL })
    }

    fn record(&mut self, record: &Record<'_>, consumer: &Consumer<Rebalances>) -> Result<(), BusError> {
        let work = &mut *self.work;
        self.lines += self.rebalances.with_pair(|pair| work.process(record, pair, consumer))?;
        Ok(())
    }
}
