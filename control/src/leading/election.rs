//! The election of the leader. Kafka's group assignment of the one-partition topic `links` elects one instance; a fixed
//! transactional id fences a leader that does not know that it was replaced.
//!
//! A leader first takes the transactional id, which aborts the transaction that its predecessor may have left open, then
//! reads the topics to their ends, and then serves. Any error ends its term: the leader drops its state and becomes a
//! candidate again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use bus::{
    Assigned, Assignments, Bus, BusError, Change, Commit, CommittedReader, Isolation, KeyUses, Membership, Outgoing,
    Revoked, Table, Transaction,
};
use parking_lot::Mutex;
use schemas::{ConsumerGroup, Timestamp, Topic, leader};
use service::{Backoff, Shutdown};
use tracing::{debug, error, info, warn};

use crate::{
    leading::{
        installation,
        leadership::{LEASE, Leadership},
        writer::{ActiveLeader, Writer, commit, show_sizes},
    },
    metrics::ControlMetrics,
    rules::DraftRules,
    state::{State, audit::Author, collection::EntityCollection, draft::Draft},
};

/// The consumer group of the election, and the transactional id that fences.
const CONTROL: &str = ConsumerGroup::Control.name();
/// The longest time of a poll of the election, after which a lost one is noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// The assignments of the election's consumer.
struct Election {
    leadership: Arc<Leadership>,
    elected: Mutex<Option<Assigned>>,
}

impl Assignments for Election {
    fn assigned(&self, partitions: &[Assigned]) {
        *self.elected.lock() = partitions.first().cloned();
    }

    fn revoked(&self, _: &Revoked<'_>) -> Vec<Commit> {
        *self.elected.lock() = None;
        // This comes before another instance can be elected.
        self.leadership.step_down();
        Vec::new()
    }
}

/// A candidate for the election.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) bus: Bus,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) rules: Arc<DraftRules>,
    /// The hash of the installation's own key.
    pub(crate) admin_hash: Arc<str>,
    pub(crate) metrics: ControlMetrics,
    pub(crate) shutdown: Shutdown,
}

/// The reason why a term ended.
#[derive(Debug, thiserror::Error)]
enum TermError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("cannot start the leading thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the leading thread panicked")]
    Panicked,
    #[error("the election was not polled for {0:?}: another instance may lead by now")]
    Stalled(Duration),
    #[error("a record of {topic} cannot be read: {reason}")]
    Record { topic: &'static str, reason: String },
    #[error("`control.admin_key` cannot be used: {0}")]
    AdminKey(String),
}

impl Candidate {
    /// Stands for election, and leads when elected, until `shutdown`. Blocks.
    pub(crate) fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        while !self.shutdown.is_triggered() {
            let began = Instant::now();
            let ended = self.run_candidacy();
            self.leadership.step_down();
            let Err(ended) = ended else { return };
            if began.elapsed() > Duration::from_secs(60) {
                backoff.reset();
            }
            let delay = backoff.next();
            // An error that a retry cannot mend needs a person.
            match &ended {
                TermError::Stalled(_) => warn!(error = %ended, ?delay, "a term ended: standing for election again"),
                TermError::Bus(error) if error.is_transient() || matches!(error, BusError::Fenced { .. }) => {
                    warn!(error = %ended, ?delay, "a term ended: standing for election again");
                }
                _ => error!(error = %ended, ?delay, "this instance cannot lead: retrying"),
            }
            self.leadership.set_unavailable(format!("cannot lead: {ended}"));
            let until = Instant::now() + delay;
            while Instant::now() < until && !self.shutdown.is_triggered() {
                thread::sleep(POLL_TIMEOUT.min(delay));
            }
        }
    }

    /// Runs one candidacy. Leaving the group at its end lets another instance be elected.
    fn run_candidacy(&self) -> Result<(), TermError> {
        let election = Arc::new(Election { leadership: Arc::clone(&self.leadership), elected: Mutex::new(None) });
        let owner = Arc::clone(&election);
        // The first term need not wait until its reader has connected.
        let mut reader = Some(self.connected_reader()?);
        let consumer = self.bus.consumer(
            CONTROL,
            ConsumerGroup::Control.topics(),
            Isolation::Committed,
            Membership::Static,
            owner,
        )?;
        self.leadership.stand_by();
        let mut leading: Option<Term> = None;
        let outcome = loop {
            if self.shutdown.is_triggered() {
                break Ok(());
            }
            let began = Instant::now();
            // Only the assignment counts; the records are ignored.
            if let Err(error) = consumer.poll(POLL_TIMEOUT) {
                break Err(error.into());
            }
            // The client's assignment may be out of date, and a new term could fence the instance that was elected
            // meanwhile, so this one joins the group again.
            if began.elapsed() > LEASE && leading.as_ref().is_some_and(|term| term.number == self.leadership.term()) {
                break Err(TermError::Stalled(began.elapsed()));
            }
            self.leadership.renew_lease();
            let elected = election.elected.lock().clone();
            match (elected, &leading) {
                (Some(elected), None) => {
                    // The records of the topic are read by the table.
                    consumer.pause(&[elected.partition])?;
                    // With an offset committed, no later start depends on how far back the log goes.
                    let commit = Commit { partition: elected.partition, offset: elected.offset, metadata: None };
                    if let Err(error) = consumer.commit_later(&[commit]) {
                        debug!(%error, "the election's offset was not committed");
                    }
                    leading = Some(self.begin_term(reader.take())?);
                }
                (None, Some(_)) => {
                    info!("the election was lost: standing by");
                    self.leadership.stand_by();
                    leading.take().map_or(Ok(()), Term::end)?;
                }
                // The election was lost and won again between two polls, or the term ended with an error.
                (Some(_), Some(term)) if term.number != self.leadership.term() || term.thread.is_finished() => {
                    leading.take().map_or(Ok(()), Term::end)?;
                }
                _ => {}
            }
        };
        self.leadership.step_down();
        let ended = leading.map_or(Ok(()), Term::end);
        outcome.and(ended)
    }

    /// Starts a thread that makes a reader of the committed state, and connects it.
    fn connected_reader(&self) -> Result<ConnectedReader, TermError> {
        let bus = self.bus.clone();
        let connect = move || {
            let reader = bus.committed_reader(CONTROL)?;
            reader.connect(State::TOPICS);
            Ok(reader)
        };
        Ok(thread::Builder::new().name("leader".to_owned()).spawn(connect)?)
    }

    /// Starts the thread of a term.
    fn begin_term(&self, reader: Option<ConnectedReader>) -> Result<Term, TermError> {
        let reader = reader.map_or_else(|| self.connected_reader(), Ok)?;
        let stop = Arc::new(AtomicBool::new(false));
        let term = self.leadership.term();
        let candidate = self.clone();
        let stopped = Arc::clone(&stop);
        let thread =
            thread::Builder::new().name("leader".to_owned()).spawn(move || candidate.lead(term, reader, &stopped))?;
        Ok(Term { number: term, stop, thread })
    }

    /// Leads until the term is to end. Runs on a thread of its own.
    fn lead(&self, term: u64, reader: ConnectedReader, stop: &AtomicBool) -> Result<(), TermError> {
        self.leadership.set_unavailable("elected: reading the committed state".to_owned());
        let uses = self.follow_key_uses()?;
        let transaction = self.bus.transaction(CONTROL, Duration::ZERO)?;
        debug!("the transactional id is taken");
        let reader = reader.join().map_err(|_| TermError::Panicked)??;
        let Some(mut state) = self.read_state(&reader, stop)? else { return Ok(()) };
        debug!("the committed state is read");
        // Stopping the reader's clients takes a moment, for which the term need not wait.
        thread::spawn(move || drop(reader));
        if !uses.wait(stop) {
            return Ok(());
        }
        debug!("the uses of keys are read");
        self.ensure_defaults(&mut state, &transaction)?;
        let links = state.links.len();
        let endpoints = state.endpoints.len();
        show_sizes(&state, &self.metrics);
        let (leader, changes) = ActiveLeader::new(state, Arc::clone(&uses.known));
        if !self.leadership.become_leader(term, Arc::clone(&leader)) {
            return Ok(());
        }
        info!(links, endpoints, "this instance leads");
        self.metrics.leading.set(1);
        let writer = Writer {
            leader: &leader,
            changes,
            transaction: &transaction,
            rules: &self.rules,
            metrics: &self.metrics,
            stop,
        };
        // Changes wait in the writer's queue until the announcement is committed.
        let outcome = self.announce(&transaction).and_then(|()| Ok(writer.run()?));
        self.metrics.leading.set(0);
        self.leadership.step_down();
        outcome
    }

    /// Produces the record that names the leader, in a transaction of this term, so that only a leader that has taken over
    /// is named.
    fn announce(&self, transaction: &Transaction) -> Result<(), TermError> {
        let record = serde_json::to_vec(&self.leadership.leader_record(Timestamp::now()))
            .map_err(|error| TermError::Record { topic: Topic::Leader.suffix(), reason: error.to_string() })?;
        transaction.begin()?;
        transaction.send(&Outgoing::keyed(Topic::Leader, leader::KEY.as_bytes(), Some(&record)))?;
        Ok(transaction.commit(&[], None)?)
    }

    /// Commits the entities that every installation has, if they are missing.
    fn ensure_defaults(&self, state: &mut State, transaction: &Transaction) -> Result<(), TermError> {
        let mut draft = Draft::new(state, &self.rules, Timestamp::now());
        draft
            .authored(&Author::Leader, |draft| {
                draft.without_quotas(|draft| installation::ensure_defaults(draft, &self.admin_hash))
            })
            .map_err(|problem| TermError::AdminKey(problem.detail))?;
        let drafted = draft.finish();
        commit(transaction, &drafted.records, &self.metrics)?;
        state.apply(drafted.changes);
        Ok(())
    }

    /// Reads the committed state; returns nothing if the term is to end first.
    fn read_state(&self, reader: &CommittedReader, stop: &AtomicBool) -> Result<Option<State>, TermError> {
        let mut state = State::filling();
        let mut refused = None;
        let stopped = || stop.load(Ordering::Acquire);
        let whole = reader.read(State::TOPICS, stopped, |topic, change| {
            if let (None, Err(reason)) = (&refused, state.apply_record(topic, &change)) {
                refused = Some(TermError::Record { topic: topic.suffix(), reason });
            }
        })?;
        state.finish_filling();
        refused.map_or_else(|| Ok(whole.then_some(state)), Err)
    }

    /// Follows the uses of keys.
    fn follow_key_uses(&self) -> Result<FollowedKeyUses, TermError> {
        let known = Arc::new(KeyUses::default());
        let uses = Arc::clone(&known);
        let (sender, caught_up) = channel();
        let table = self.bus.table(CONTROL, Topic::KeyUses, None, move |change| {
            uses.read(&change);
            if change == Change::CaughtUp {
                // The receiver is gone where the term has ended meanwhile.
                let _ = sender.send(());
            }
        })?;
        Ok(FollowedKeyUses { known, caught_up, _table: table })
    }
}

/// The thread that makes a reader and connects it.
type ConnectedReader = thread::JoinHandle<Result<CommittedReader, BusError>>;

/// The uses of keys, which a leader follows during its term, since other processes write them too.
struct FollowedKeyUses {
    known: Arc<KeyUses>,
    caught_up: Receiver<()>,
    _table: Table,
}

impl FollowedKeyUses {
    /// Waits until the uses are known; returns false if the term is to end first.
    fn wait(&self, stop: &AtomicBool) -> bool {
        while self.caught_up.recv_timeout(POLL_TIMEOUT).is_err() {
            if stop.load(Ordering::Acquire) {
                return false;
            }
        }
        true
    }
}

/// A term of this instance.
struct Term {
    number: u64,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<(), TermError>>,
}

impl Term {
    fn end(self) -> Result<(), TermError> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or(Err(TermError::Panicked))
    }
}
