//! The writer of a leader. One thread takes the waiting changes, drafts them, commits them to Kafka in one transaction, and
//! only then applies and answers them: with one transaction for each change, a leader would make about 50 changes a
//! second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use bus::{BusError, KeyUses, Outgoing, Transaction};
use parking_lot::{Mutex, RwLock};
use schemas::{LinkId, Timestamp};
use service::problem::Problem;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    metrics::ControlMetrics,
    rules::DraftRules,
    state::{
        State,
        audit::Author,
        collection::EntityCollection,
        draft::{Draft, DraftRecord},
    },
};

/// The most changes that wait.
const QUEUE: usize = 4096;
/// The pause before a change that is not urgent looks for room in the queue again.
const QUEUE_RETRY: Duration = Duration::from_millis(10);
/// The most changes of a transaction.
const MAX_CHANGES: usize = 1000;
/// The records from which on a transaction takes no further change, since Kafka lets no transaction be open for long.
const MAX_RECORDS: usize = 5000;
/// The bytes from which on a transaction takes no further change.
const MAX_BYTES: usize = 8 << 20;
/// The time after a change in which more of its kind are expected.
const LATELY: Duration = Duration::from_secs(2);
/// The interval at which the thread checks whether it is to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// Whether the transaction of a change was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitOutcome {
    Committed,
    Unknown,
}

/// The answer to a caller, which waits for the outcome of the commit.
type WaitingAnswer = Box<dyn FnOnce(CommitOutcome) + Send>;
/// A change that waits to be drafted.
pub(crate) type QueuedChange = Box<dyn FnOnce(&mut Draft<'_>) -> WaitingAnswer + Send>;

/// A leader, as the API uses it for one term.
pub(crate) struct ActiveLeader {
    state: RwLock<State>,
    queue: SyncSender<QueuedChange>,
    /// The last moment at which somebody asked for a change and waited for it.
    written: Mutex<Option<Instant>>,
    /// The moments at which keys were last used.
    pub(crate) uses: Arc<KeyUses>,
}

impl ActiveLeader {
    /// Creates a leader that knows `state`, and the queue of changes for its [`Writer`].
    pub(crate) fn new(state: State, uses: Arc<KeyUses>) -> (Arc<Self>, Receiver<QueuedChange>) {
        let (queue, changes) = sync_channel(QUEUE);
        (Arc::new(Self { state: RwLock::new(state), queue, written: Mutex::default(), uses }), changes)
    }

    /// Reads the committed state.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read())
    }

    /// Forgets deadlines of links about which nothing is left to do.
    pub(crate) fn forget_deadlines(&self, deadlines: &[(Timestamp, LinkId)]) {
        self.state.write().links.forget_deadlines(deadlines);
    }

    /// Makes a change of an author and waits until it is committed.
    ///
    /// # Errors
    /// When the change is refused, or it is unknown whether it was committed.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        author: Author,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (queued, pending) = queued(author, change);
        *self.written.lock() = Some(Instant::now());
        self.queue.try_send(queued).map_err(|error| match error {
            TrySendError::Full(_) => Problem::unavailable("Too many changes are waiting: try again in a moment"),
            TrySendError::Disconnected(_) => unknown_outcome(),
        })?;
        pending.committed().await
    }

    /// Tells whether somebody has lately waited for a change, so that work that is not urgent should leave time for others.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.written.lock().is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Queues a change of an author that is not urgent, behind the changes that wait already, and does not wait until it is
    /// committed. Changes are made in the order in which they are queued.
    ///
    /// # Errors
    /// When this instance stopped leading.
    pub(crate) async fn enqueue<T: Send + 'static>(
        &self,
        author: Author,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<PendingChange<T>, Problem> {
        let (mut queued, pending) = queued(author, change);
        loop {
            queued = match self.queue.try_send(queued) {
                Ok(()) => return Ok(pending),
                Err(TrySendError::Full(queued)) => queued,
                Err(TrySendError::Disconnected(_)) => return Err(unknown_outcome()),
            };
            sleep(QUEUE_RETRY).await;
        }
    }
}

/// A change whose outcome is not known yet.
pub(crate) struct PendingChange<T>(oneshot::Receiver<Result<T, Problem>>);

impl<T> PendingChange<T> {
    /// Waits until the change is committed.
    ///
    /// # Errors
    /// When the change is refused, or it is unknown whether it was committed.
    pub(crate) async fn committed(self) -> Result<T, Problem> {
        self.0.await.unwrap_or_else(|_| Err(unknown_outcome()))
    }
}

fn queued<T: Send + 'static>(
    author: Author,
    change: impl FnOnce(&mut Draft<'_>) -> Result<T, Problem> + Send + 'static,
) -> (QueuedChange, PendingChange<T>) {
    let (sender, receiver) = oneshot::channel();
    let queued: QueuedChange = Box::new(move |draft| {
        let outcome = draft.authored(&author, change);
        Box::new(move |commit| {
            let answer = match commit {
                CommitOutcome::Committed => outcome,
                CommitOutcome::Unknown => Err(unknown_outcome()),
            };
            // The caller may have gone away.
            drop(sender.send(answer));
        })
    });
    (queued, PendingChange(receiver))
}

fn unknown_outcome() -> Problem {
    Problem::unavailable(
        "The change may or may not have been made: this instance stopped leading, or Kafka does not answer. \
         Read the state again before you repeat it",
    )
}

/// The thread that makes the changes of a term.
pub(crate) struct Writer<'a> {
    pub(crate) leader: &'a ActiveLeader,
    pub(crate) changes: Receiver<QueuedChange>,
    pub(crate) transaction: &'a Transaction,
    pub(crate) rules: &'a DraftRules,
    pub(crate) metrics: &'a ControlMetrics,
    /// Whether the term is to end.
    pub(crate) stop: &'a AtomicBool,
}

impl Writer<'_> {
    /// Makes changes until the term is to end.
    ///
    /// # Errors
    /// When it is unknown whether a transaction was committed: the state may be out of date, and the transaction cannot
    /// be used any more.
    pub(crate) fn run(&self) -> Result<(), BusError> {
        while !self.stop.load(Ordering::Acquire) {
            let first = match self.changes.recv_timeout(STOP_CHECK) {
                Ok(change) => change,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            self.make_changes(first)?;
        }
        Ok(())
    }

    /// Drafts and commits the first change and the changes that wait behind it, and answers them.
    fn make_changes(&self, first: QueuedChange) -> Result<(), BusError> {
        let state = self.leader.state.read();
        let mut draft = Draft::new(&state, self.rules, Timestamp::now());
        let answers = self.draft_group(first, &mut draft);
        self.metrics.writes.inc_by(answers.len() as u64);
        let drafted = draft.finish();
        drop(state);
        if let Err(error) = commit(self.transaction, &drafted.records, self.metrics) {
            answers.into_iter().for_each(|answer| answer(CommitOutcome::Unknown));
            return Err(error);
        }
        let mut state = self.leader.state.write();
        state.apply(drafted.changes);
        show_sizes(&state, self.metrics);
        drop(state);
        answers.into_iter().for_each(|answer| answer(CommitOutcome::Committed));
        Ok(())
    }

    /// Drafts waiting changes until the transaction is large enough.
    fn draft_group(&self, first: QueuedChange, draft: &mut Draft<'_>) -> Vec<WaitingAnswer> {
        let mut answers = vec![first(draft)];
        let mut records = 0;
        let mut bytes = 0;
        while answers.len() < MAX_CHANGES {
            bytes += draft.records()[records..].iter().map(DraftRecord::len).sum::<usize>();
            records = draft.records().len();
            if records >= MAX_RECORDS || bytes >= MAX_BYTES {
                break;
            }
            let Ok(change) = self.changes.try_recv() else { break };
            answers.push(change(draft));
        }
        answers
    }
}

/// Shows the numbers of links and endpoints, and the time for which answers are kept, in the metrics.
pub(crate) fn show_sizes(state: &State, metrics: &ControlMetrics) {
    metrics.links.set(i64::try_from(state.links.len()).unwrap_or(i64::MAX));
    metrics.endpoints.set(i64::try_from(state.endpoints.len()).unwrap_or(i64::MAX));
    metrics.answers_kept_seconds.set(state.answers.kept_seconds());
}

/// Commits records in one transaction.
pub(crate) fn commit(
    transaction: &Transaction,
    records: &[DraftRecord],
    metrics: &ControlMetrics,
) -> Result<(), BusError> {
    if records.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    transaction.begin()?;
    for record in records {
        transaction.send(&Outgoing::keyed(record.topic, record.key.as_bytes(), record.value.as_deref()))?;
    }
    transaction.commit(&[], None)?;
    metrics.commits.inc();
    metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
    Ok(())
}
