//! Two transactional producers that alternate. A transaction that begins right
//! after a commit under the same id finds the broker still writing the last
//! transaction's markers, and backs off. With two producers, one commits while the
//! other already takes records. A transaction's offsets are sent only after the
//! commit before it is known, so offsets never overtake each other; the records of
//! the two may be in either order in the log.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    Bus, BusError, GroupMetadata, Outgoing, Partition, Transaction,
    config::{CALL_TIMEOUT, TRANSACTION_TIMEOUT},
};

/// The committing thread's task, as errors name it.
const COMMIT: &str = "commit a transaction";
/// How long a commit may take. Kafka aborts a transaction that stays open for longer.
/// librdkafka itself may never return: it looks for the group's coordinator without a
/// deadline, and asks a broker that is away until that is back.
const COMMIT_PATIENCE: Duration = TRANSACTION_TIMEOUT.saturating_add(Duration::from_secs(5));

/// How many ids a producer tries beside its own. Each is given up for another when it has
/// a transaction that cannot end, which happens once in an outage.
const SPARE_IDS: usize = 4;

/// A transaction to be committed by the committing thread.
struct CommitJob {
    transaction: Arc<Transaction>,
    offsets: Vec<(Partition, i64)>,
    group: GroupMetadata,
}

/// The result of an attempt to start committing the open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitStart {
    /// The transaction is being committed; the other producer takes records.
    Started,
    /// The previous commit is not known yet: go on filling the open transaction.
    Busy,
    /// No transaction is open.
    Nothing,
}

/// A pair of transactional producers. After an error the pair must be dropped: the
/// next pair aborts its open transactions, and a new consumer reads again from the
/// committed offsets. Dropping does not wait for a commit that is under way: the next
/// pair fences it off, or finds it done.
pub struct TransactionPair {
    producers: [Arc<Transaction>; 2],
    current: usize,
    /// When the open transaction was begun; `None` without one.
    opened: Option<Instant>,
    offsets: BTreeMap<Partition, i64>,
    /// Dropping it ends the committing thread, which is not waited for.
    jobs: mpsc::SyncSender<CommitJob>,
    results: mpsc::Receiver<Result<(), BusError>>,
    /// When the commit began whose outcome is not known yet.
    committing: Option<Instant>,
    /// The number of known commits.
    commits: u64,
}

impl Bus {
    /// Makes a pair under `id`; any other process that uses the id is fenced off.
    ///
    /// # Errors
    /// When Kafka does not answer, or a thread cannot be started.
    pub fn transaction_pair(&self, id: &str, linger: Duration) -> Result<TransactionPair, BusError> {
        // Each waits for Kafka several times: side by side they take half as long.
        let (first, second) = thread::scope(|scope| {
            let second = scope.spawn(|| self.free_transaction(&format!("{id}.b"), linger));
            (self.free_transaction(&format!("{id}.a"), linger), second.join())
        });
        let second =
            second.unwrap_or(Err(BusError::Gone { what: "the thread that makes a transactional producer" }))?;
        let producers = [Arc::new(first?), Arc::new(second)];
        let (jobs, received_jobs) = mpsc::sync_channel::<CommitJob>(1);
        let (result_sender, results) = mpsc::channel();
        thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || {
                while let Ok(job) = received_jobs.recv() {
                    let result = job.transaction.commit(&job.offsets, Some(&job.group));
                    if result_sender.send(result).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| BusError::Thread { what: COMMIT, source })?;
        Ok(TransactionPair {
            producers,
            current: 0,
            opened: None,
            offsets: BTreeMap::new(),
            jobs,
            results,
            committing: None,
            commits: 0,
        })
    }
}

impl Bus {
    /// Makes a producer under `id`, or, while a partition is without a leader, under an id
    /// beside it: Kafka gives an id free once every partition that its last transaction
    /// wrote to has taken its end. The group's generation alone then keeps the offsets of
    /// another process out, as it does for every member.
    fn free_transaction(&self, id: &str, linger: Duration) -> Result<Transaction, BusError> {
        let mut made = self.transaction(id, linger);
        for spare in 1..=SPARE_IDS {
            match &made {
                Err(error) if error.is_unfinished_transaction() && self.lacks_leader()? => {
                    warn!(id, %error, spare, "Kafka cannot end a transaction in a partition without a leader: going on under a spare id");
                    made = self.transaction(&format!("{id}.{spare}"), linger);
                }
                _ => break,
            }
        }
        made
    }

    /// Whether a partition of the installation is without a leader.
    fn lacks_leader(&self) -> Result<bool, BusError> {
        let metadata =
            self.admin()?.inner().fetch_metadata(None, CALL_TIMEOUT).map_err(BusError::new("ask for leaders"))?;
        let mut ours = metadata.topics().iter().filter(|topic| self.topics().parse(topic.name()).is_some());
        Ok(ours.any(|topic| topic.partitions().iter().any(|partition| partition.leader() < 0)))
    }
}

impl TransactionPair {
    /// Adds a record to the open transaction; begins one if none is open.
    ///
    /// # Errors
    /// When a producer has failed: the pair must be dropped.
    pub fn send(&mut self, out: &Outgoing<'_>) -> Result<(), BusError> {
        self.ensure_open()?;
        self.producers[self.current].send(out)
    }

    /// Notes that a partition has been read up to before `next`, an offset to be
    /// committed with the open transaction.
    ///
    /// # Errors
    /// When a producer has failed: the pair must be dropped.
    pub fn read_up_to(&mut self, partition: Partition, next: i64) -> Result<(), BusError> {
        self.ensure_open()?;
        self.offsets.insert(partition, next);
        Ok(())
    }

    fn ensure_open(&mut self) -> Result<(), BusError> {
        if self.opened.is_none() {
            self.producers[self.current].begin()?;
            self.opened = Some(Instant::now());
        }
        Ok(())
    }

    /// Returns how long the open transaction has been open.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.opened.map(|since| since.elapsed())
    }

    /// Returns the number of transactions that are known to be committed.
    #[must_use]
    pub const fn commits(&self) -> u64 {
        self.commits
    }

    /// Takes the outcome of a commit.
    fn committed(&mut self, result: Result<(), BusError>) -> Result<(), BusError> {
        self.committing = None;
        result?;
        self.commits += 1;
        Ok(())
    }

    /// Starts committing the open transaction, if the commit before it is known.
    ///
    /// # Errors
    /// When a commit failed: the pair must be dropped.
    pub fn try_commit(
        &mut self,
        group: impl FnOnce() -> Result<GroupMetadata, BusError>,
    ) -> Result<CommitStart, BusError> {
        if let Some(begun) = self.committing {
            match self.results.try_recv() {
                Ok(result) => self.committed(result)?,
                Err(mpsc::TryRecvError::Empty) if begun.elapsed() < COMMIT_PATIENCE => return Ok(CommitStart::Busy),
                Err(mpsc::TryRecvError::Empty) => return Err(unanswered()),
                Err(mpsc::TryRecvError::Disconnected) => return Err(BusError::Gone { what: COMMIT }),
            }
        }
        if self.opened.is_none() {
            return Ok(CommitStart::Nothing);
        }
        let job = CommitJob {
            transaction: Arc::clone(&self.producers[self.current]),
            offsets: std::mem::take(&mut self.offsets).into_iter().collect(),
            group: group()?,
        };
        self.jobs.send(job).map_err(|_| BusError::Gone { what: COMMIT })?;
        self.committing = Some(Instant::now());
        self.opened = None;
        self.current = 1 - self.current;
        Ok(CommitStart::Started)
    }

    /// Commits the open transaction and waits until every commit is known.
    ///
    /// # Errors
    /// When a commit failed: the pair must be dropped.
    pub fn commit_all(&mut self, group: impl Fn() -> Result<GroupMetadata, BusError>) -> Result<(), BusError> {
        loop {
            if self.committing.is_some() {
                let result = self.results.recv_timeout(COMMIT_PATIENCE).map_err(|error| match error {
                    mpsc::RecvTimeoutError::Timeout => unanswered(),
                    mpsc::RecvTimeoutError::Disconnected => BusError::Gone { what: COMMIT },
                })?;
                self.committed(result)?;
            }
            if self.try_commit(&group)? == CommitStart::Nothing {
                return Ok(());
            }
        }
    }
}

fn unanswered() -> BusError {
    BusError::Unanswered { what: COMMIT, seconds: COMMIT_PATIENCE.as_secs() }
}
