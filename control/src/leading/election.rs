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
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use bus::{
    Assigned, Assignments, Bus, BusError, Change, Commit, Isolation, KeyUses, Membership, Outgoing, Revoked, Table,
    Transaction,
};
use parking_lot::Mutex;
use schemas::{Timestamp, Topic, leader};
use service::{Backoff, Shutdown};
use tracing::{debug, error, info, warn};

use crate::{
    leading::{
        installation,
        leadership::{LEASE, Leadership},
        writer::{ActiveLeader, Writer, commit, show_sizes},
    },
    metrics::ControlMetrics,
    rules::LinkRules,
    state::{State, collection::EntityCollection, draft::Draft},
};

/// The consumer group of the election, and the transactional id that fences.
const CONTROL: &str = "control";
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
    pub(crate) link_rules: Arc<LinkRules>,
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
        let read = [Topic::Links];
        let owner = Arc::clone(&election);
        let consumer = self.bus.consumer(CONTROL, &read, Isolation::Committed, Membership::Static, owner)?;
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
                    leading = Some(self.begin_term()?);
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

    /// Starts the thread of a term.
    fn begin_term(&self) -> Result<Term, TermError> {
        let stop = Arc::new(AtomicBool::new(false));
        let term = self.leadership.term();
        let candidate = self.clone();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("leader".to_owned()).spawn(move || candidate.lead(term, &stopped))?;
        Ok(Term { number: term, stop, thread })
    }

    /// Leads until the term is to end. Runs on a thread of its own.
    fn lead(&self, term: u64, stop: &AtomicBool) -> Result<(), TermError> {
        self.leadership.set_unavailable("elected: reading the committed state".to_owned());
        let transaction = self.bus.transaction(CONTROL, Duration::ZERO)?;
        // An open transaction hides the records committed behind it, so the reading waits until each has ended.
        self.bus.wait_for_open_transactions(CONTROL, State::TOPICS)?;
        let Some((mut state, uses)) = self.read_state(stop)? else { return Ok(()) };
        self.ensure_defaults(&mut state, &transaction)?;
        let links = state.links.len();
        let endpoints = state.endpoints.len();
        show_sizes(&state, &self.metrics);
        self.announce(&transaction)?;
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
            link_rules: &self.link_rules,
            metrics: &self.metrics,
            stop,
        };
        let outcome = writer.run();
        self.metrics.leading.set(0);
        self.leadership.step_down();
        Ok(outcome?)
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
        let mut draft = Draft::new(state, &self.link_rules, Timestamp::now());
        installation::ensure_defaults(&mut draft, &self.admin_hash)
            .map_err(|problem| TermError::AdminKey(problem.detail))?;
        let drafted = draft.finish();
        commit(transaction, &drafted.records, &self.metrics)?;
        state.apply(drafted.changes);
        Ok(())
    }

    /// Reads the committed state; returns nothing if the term is to end first.
    fn read_state(&self, stop: &AtomicBool) -> Result<Option<(State, FollowedKeyUses)>, TermError> {
        let (sender, receiver) = channel();
        let state = Arc::new(Mutex::new(State::default()));
        let mut tables: Vec<Table> = Vec::new();
        for &topic in State::TOPICS {
            let state = Arc::clone(&state);
            let sender = sender.clone();
            tables.push(self.bus.table(CONTROL, topic, None, move |change| {
                let outcome = match change {
                    Change::CaughtUp => Ok(true),
                    change => state.lock().apply_record(topic, &change).map(|()| false),
                };
                // The receiver is gone once everything has been read.
                match outcome {
                    Ok(false) => {}
                    Ok(true) => drop(sender.send(Ok(()))),
                    Err(reason) => drop(sender.send(Err(TermError::Record { topic: topic.suffix(), reason }))),
                }
            })?);
        }
        let known = Arc::new(KeyUses::default());
        let uses = Arc::clone(&known);
        let followed = self.bus.table(CONTROL, Topic::KeyUses, None, move |change| {
            uses.read(&change);
            if change == Change::CaughtUp {
                let _ = sender.send(Ok(()));
            }
        })?;
        let mut waiting = tables.len() + 1;
        while waiting > 0 {
            match receiver.recv_timeout(POLL_TIMEOUT) {
                Ok(caught_up) => {
                    caught_up?;
                    waiting -= 1;
                }
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Acquire) => return Ok(None),
                Err(_) => {}
            }
        }
        // Stopping a table takes a moment, for which the term need not wait.
        thread::spawn(move || drop(tables));
        let state = std::mem::take(&mut *state.lock());
        Ok(Some((state, FollowedKeyUses { known, _table: followed })))
    }
}

/// The uses of keys, which a leader follows during its term, since other processes write them too.
struct FollowedKeyUses {
    known: Arc<KeyUses>,
    _table: Table,
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
