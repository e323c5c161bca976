//! Who writes. Kafka's group assignment of the one-partition topic `links`
//! elects one instance; a fixed transactional id fences a leader that does not
//! know that it no longer is one. A leader first takes the transactional id,
//! which ends whatever its predecessor left open, then reads the topics to their
//! ends, and then serves. Whatever goes wrong ends its term: it forgets what it
//! knows and stands for election again.

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
    draft::Draft,
    installation,
    leadership::{LEASE, Leadership},
    metrics::Counts,
    rules::LinkRules,
    state::{Holds, State},
    writer::{self, Leader},
};

/// The group that elects, and the transactional id that fences.
const CONTROL: &str = "control";
/// How long a poll of the election waits: how soon a lost one is acted upon.
const POLL: Duration = Duration::from_millis(500);

/// What the election's consumer is told.
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
        // Before anyone else can be elected.
        self.leadership.lose();
        Vec::new()
    }
}

/// What a candidate needs.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) bus: Bus,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) link_rules: Arc<LinkRules>,
    /// The hash of the installation's own key.
    pub(crate) admin_hash: Arc<str>,
    pub(crate) counts: Counts,
    pub(crate) shutdown: Shutdown,
}

/// Why a term ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("cannot start the leading thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the leading thread panicked")]
    Panicked,
    #[error("the election was not looked at for {0:?}: another instance may lead by now")]
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
            let ended = self.stand();
            self.leadership.lose();
            let Err(ended) = ended else { return };
            if began.elapsed() > Duration::from_secs(60) {
                backoff.reset();
            }
            let delay = backoff.next();
            // A person must act where trying again leads nowhere.
            match &ended {
                Ended::Stalled(_) => warn!(error = %ended, ?delay, "a term ended: standing for election again"),
                Ended::Bus(error) if error.is_transient() || matches!(error, BusError::Fenced { .. }) => {
                    warn!(error = %ended, ?delay, "a term ended: standing for election again");
                }
                _ => error!(error = %ended, ?delay, "this instance cannot lead: trying again"),
            }
            self.leadership.wait(format!("cannot lead: {ended}"));
            let until = Instant::now() + delay;
            while Instant::now() < until && !self.shutdown.is_triggered() {
                thread::sleep(POLL.min(delay));
            }
        }
    }

    /// One candidacy. Leaving the group at its end lets another be elected.
    fn stand(&self) -> Result<(), Ended> {
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
            // What it reads means nothing: being assigned is all that counts.
            if let Err(error) = consumer.poll(POLL) {
                break Err(error.into());
            }
            // To begin another term on what this client believes could fence off
            // whoever was elected meanwhile: it joins the group anew.
            if began.elapsed() > LEASE && leading.as_ref().is_some_and(|term| term.number == self.leadership.term()) {
                break Err(Ended::Stalled(began.elapsed()));
            }
            self.leadership.look();
            let elected = election.elected.lock().clone();
            match (elected, &leading) {
                (Some(elected), None) => {
                    // Reading the topic a second time would be for nothing.
                    consumer.pause(&[elected.partition])?;
                    // With any offset committed, no later start depends on how
                    // far back the log goes.
                    let commit = Commit { partition: elected.partition, offset: elected.offset, metadata: None };
                    if let Err(error) = consumer.commit_later(&[commit]) {
                        debug!(%error, "the election's offset was not committed");
                    }
                    leading = Some(self.begin()?);
                }
                (None, Some(_)) => {
                    info!("another instance may lead now: standing by");
                    self.leadership.stand_by();
                    leading.take().map_or(Ok(()), Term::end)?;
                }
                // Lost and won again between two looks, or over for a reason
                // that its end tells.
                (Some(_), Some(term)) if term.number != self.leadership.term() || term.thread.is_finished() => {
                    leading.take().map_or(Ok(()), Term::end)?;
                }
                _ => {}
            }
        };
        self.leadership.lose();
        let ended = leading.map_or(Ok(()), Term::end);
        outcome.and(ended)
    }

    fn begin(&self) -> Result<Term, Ended> {
        let stop = Arc::new(AtomicBool::new(false));
        let term = self.leadership.term();
        let (candidate, stopped) = (self.clone(), Arc::clone(&stop));
        let thread = thread::Builder::new().name("leader".to_owned()).spawn(move || candidate.lead(term, &stopped))?;
        Ok(Term { number: term, stop, thread })
    }

    /// Leads until told to stop. Runs on a thread of its own.
    fn lead(&self, term: u64, stop: &AtomicBool) -> Result<(), Ended> {
        self.leadership.wait("elected: reading what is committed".to_owned());
        let transaction = self.bus.transaction(CONTROL, Duration::ZERO)?;
        // Whatever is still open in these topics may hide what was committed
        // behind it: only an end that was settled is one to read to.
        self.bus.wait_for_open_transactions(CONTROL, State::TOPICS)?;
        let Some((mut state, uses)) = self.read(stop)? else { return Ok(()) };
        self.furnish(&mut state, &transaction)?;
        let (links, endpoints) = (state.links.len(), state.endpoints.len());
        writer::show(&state, &self.counts);
        self.announce(&transaction)?;
        let (leader, jobs) = Leader::new(state, Arc::clone(&uses.known));
        if !self.leadership.take(term, Arc::clone(&leader)) {
            return Ok(());
        }
        info!(links, endpoints, "this instance leads");
        self.counts.leading.set(1);
        let outcome = writer::run(&leader, &jobs, &transaction, &self.link_rules, &self.counts, stop);
        self.counts.leading.set(0);
        self.leadership.lose();
        Ok(outcome?)
    }

    /// Tells where the leader is, in a transaction of this term: who reads it
    /// there reads of a leader that has taken over.
    fn announce(&self, transaction: &Transaction) -> Result<(), Ended> {
        let record = serde_json::to_vec(&self.leadership.record(Timestamp::now()))
            .map_err(|error| Ended::Record { topic: Topic::Leader.suffix(), reason: error.to_string() })?;
        transaction.begin()?;
        transaction.send(&Outgoing::keyed(Topic::Leader, leader::KEY.as_bytes(), Some(&record)))?;
        Ok(transaction.commit(&[], None)?)
    }

    /// Commits what every installation has, where it is missing.
    fn furnish(&self, state: &mut State, transaction: &Transaction) -> Result<(), Ended> {
        let mut draft = Draft::new(state, &self.link_rules, Timestamp::now());
        installation::furnish(&mut draft, &self.admin_hash).map_err(|problem| Ended::AdminKey(problem.detail))?;
        let drafted = draft.finish();
        writer::commit(transaction, &drafted.records, &self.counts)?;
        state.apply(drafted.changes);
        Ok(())
    }

    /// Everything that is committed now; nothing if it is to stop first.
    fn read(&self, stop: &AtomicBool) -> Result<Option<(State, Following)>, Ended> {
        let (tell, told) = channel();
        let state = Arc::new(Mutex::new(State::default()));
        let mut tables: Vec<Table> = Vec::new();
        for &topic in State::TOPICS {
            let (state, tell) = (Arc::clone(&state), tell.clone());
            tables.push(self.bus.table(CONTROL, topic, None, move |change| {
                let outcome = match change {
                    Change::CaughtUp => Ok(true),
                    change => state.lock().read(topic, &change).map(|()| false),
                };
                // Nobody listens any more once everything has been read.
                match outcome {
                    Ok(false) => {}
                    Ok(true) => drop(tell.send(Ok(()))),
                    Err(reason) => drop(tell.send(Err(Ended::Record { topic: topic.suffix(), reason }))),
                }
            })?);
        }
        let known = Arc::new(KeyUses::default());
        let (uses, tell) = (Arc::clone(&known), tell);
        let followed = self.bus.table(CONTROL, Topic::KeyUses, None, move |change| {
            uses.read(&change);
            if change == Change::CaughtUp {
                let _ = tell.send(Ok(()));
            }
        })?;
        let mut waiting = tables.len() + 1;
        while waiting > 0 {
            match told.recv_timeout(POLL) {
                Ok(caught_up) => {
                    caught_up?;
                    waiting -= 1;
                }
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Acquire) => return Ok(None),
                Err(_) => {}
            }
        }
        // Ending a table takes a moment that nobody needs to wait for.
        thread::spawn(move || drop(tables));
        let state = std::mem::take(&mut *state.lock());
        Ok(Some((state, Following { known, _table: followed })))
    }
}

/// What others write too, and a leader therefore follows during its term.
struct Following {
    known: Arc<KeyUses>,
    _table: Table,
}

/// A term of this instance.
struct Term {
    number: u64,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<(), Ended>>,
}

impl Term {
    fn end(self) -> Result<(), Ended> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or(Err(Ended::Panicked))
    }
}
