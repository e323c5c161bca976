//! How a change becomes true. One thread takes the changes that wait, drafts
//! them, commits them to Kafka in one transaction, and only then applies and
//! answers them: a transaction each would cap writes near 50 a second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use bus::{BusError, KeyUses, Outgoing, Transaction};
use parking_lot::RwLock;
use schemas::Timestamp;
use service::problem::Problem;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    draft::{Draft, Record},
    metrics::Counts,
    rules::LinkRules,
    state::{Holds, State},
};

/// How many changes may wait.
const QUEUE: usize = 4096;
/// How long a change that has time waits before it looks for room among them again.
const ROOM: Duration = Duration::from_millis(10);
/// How many changes share a transaction, and from how many records and bytes on no
/// other comes along: Kafka lets no transaction be open for long.
const GROUP: usize = 1000;
const GROUP_RECORDS: usize = 5000;
const GROUP_BYTES: usize = 8 << 20;
/// How often the thread looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);

/// Whether a group was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    Yes,
    No,
}

/// Tells a caller what became of a change, once that is known.
pub(crate) type Answer = Box<dyn FnOnce(Committed) + Send>;
/// A change that waits to be drafted.
pub(crate) type Job = Box<dyn FnOnce(&mut Draft<'_>) -> Answer + Send>;

/// What a leader offers to the API while it leads.
pub(crate) struct Leader {
    state: RwLock<State>,
    jobs: SyncSender<Job>,
    /// When keys were last used.
    pub(crate) uses: Arc<KeyUses>,
}

impl Leader {
    /// A leader that knows `state`, and the changes that [`run`] takes.
    pub(crate) fn new(state: State, uses: Arc<KeyUses>) -> (Arc<Self>, Receiver<Job>) {
        let (jobs, taken) = sync_channel(QUEUE);
        (Arc::new(Self { state: RwLock::new(state), jobs, uses }), taken)
    }

    /// Reads what is committed.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read())
    }

    /// Makes a change and waits until it is committed.
    ///
    /// # Errors
    /// When it is refused, or nobody knows whether it was committed.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (job, pending) = pending(change);
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Problem::unavailable("Too many changes are waiting: try again in a moment"),
            TrySendError::Disconnected(_) => unknown(),
        })?;
        pending.committed().await
    }

    /// Makes a change that has time, behind those that wait already, and does not
    /// wait until it is committed. Changes are made in the order in which they
    /// are handed over.
    ///
    /// # Errors
    /// When this instance stopped leading.
    pub(crate) async fn hand_over<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<Pending<T>, Problem> {
        let (mut job, pending) = pending(change);
        loop {
            job = match self.jobs.try_send(job) {
                Ok(()) => return Ok(pending),
                Err(TrySendError::Full(job)) => job,
                Err(TrySendError::Disconnected(_)) => return Err(unknown()),
            };
            sleep(ROOM).await;
        }
    }
}

/// A change whose outcome is not known yet.
pub(crate) struct Pending<T>(oneshot::Receiver<Result<T, Problem>>);

impl<T> Pending<T> {
    /// Waits until it is committed.
    ///
    /// # Errors
    /// When it is refused, or nobody knows whether it was committed.
    pub(crate) async fn committed(self) -> Result<T, Problem> {
        self.0.await.unwrap_or_else(|_| Err(unknown()))
    }
}

fn pending<T: Send + 'static>(
    change: impl FnOnce(&mut Draft<'_>) -> Result<T, Problem> + Send + 'static,
) -> (Job, Pending<T>) {
    let (tell, told) = oneshot::channel();
    let job: Job = Box::new(move |draft| {
        let outcome = change(draft);
        // The caller may have gone away.
        Box::new(move |committed| {
            drop(tell.send(if committed == Committed::Yes { outcome } else { Err(unknown()) }));
        })
    });
    (job, Pending(told))
}

fn unknown() -> Problem {
    Problem::unavailable(
        "The change may or may not have been made: this instance stopped leading, or Kafka does not answer. \
         Read the state again before you repeat it",
    )
}

/// Takes changes until `stop`.
///
/// # Errors
/// When a group was not known to be committed: what this leader knows may be
/// out of date, and its transaction is useless.
pub(crate) fn run(
    leader: &Leader,
    jobs: &Receiver<Job>,
    transaction: &Transaction,
    link_rules: &LinkRules,
    counts: &Counts,
    stop: &AtomicBool,
) -> Result<(), BusError> {
    while !stop.load(Ordering::Acquire) {
        let first = match jobs.recv_timeout(TICK) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let state = leader.state.read();
        let mut draft = Draft::new(&state, link_rules, Timestamp::now());
        let answers = draft_group(first, jobs, &mut draft);
        counts.writes.inc_by(answers.len() as u64);
        let drafted = draft.finish();
        drop(state);
        if let Err(error) = commit(transaction, &drafted.records, counts) {
            answers.into_iter().for_each(|answer| answer(Committed::No));
            return Err(error);
        }
        let mut state = leader.state.write();
        state.apply(drafted.changes);
        show(&state, counts);
        drop(state);
        answers.into_iter().for_each(|answer| answer(Committed::Yes));
    }
    Ok(())
}

/// Drafts changes that wait, until they are enough.
fn draft_group(first: Job, jobs: &Receiver<Job>, draft: &mut Draft<'_>) -> Vec<Answer> {
    let mut answers = vec![first(draft)];
    let (mut seen, mut bytes) = (0, 0);
    while answers.len() < GROUP {
        bytes += draft.records()[seen..].iter().map(Record::len).sum::<usize>();
        seen = draft.records().len();
        if seen >= GROUP_RECORDS || bytes >= GROUP_BYTES {
            break;
        }
        let Ok(job) = jobs.try_recv() else { break };
        answers.push(job(draft));
    }
    answers
}

/// Shows how much there is.
pub(crate) fn show(state: &State, counts: &Counts) {
    counts.links.set(i64::try_from(state.links.len()).unwrap_or(i64::MAX));
    counts.endpoints.set(i64::try_from(state.endpoints.len()).unwrap_or(i64::MAX));
}

/// Commits records in one transaction.
pub(crate) fn commit(transaction: &Transaction, records: &[Record], counts: &Counts) -> Result<(), BusError> {
    if records.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    transaction.begin()?;
    for record in records {
        transaction.send(&Outgoing::keyed(record.topic, record.key.as_bytes(), record.value.as_deref()))?;
    }
    transaction.commit(&[], None)?;
    counts.commits.inc();
    counts.commit_seconds.observe(began.elapsed().as_secs_f64());
    Ok(())
}
