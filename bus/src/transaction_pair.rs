//! Two transactional producers taking turns. A transaction begun right after a
//! commit under the same id meets the broker still writing the last one's
//! markers and backs off; with two, one commits while the other already takes
//! records. Offsets of a transaction are sent only after the commit of the one
//! before it is known, so they never overtake each other; records of the two may
//! stand in the log in either order.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rdkafka::error::KafkaError;

use crate::{Bus, BusError, GroupMetadata, Outgoing, Partition, Transaction, config::CALL_TIMEOUT};

struct Job {
    transaction: Arc<Transaction>,
    offsets: Vec<(Partition, i64)>,
    group: GroupMetadata,
}

/// What became of an attempt to hand the open transaction over for committing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It is being committed; the other producer is up.
    Handed,
    /// The one before is still being committed: go on filling this one.
    Busy,
    /// There was nothing to commit.
    Empty,
}

/// A pair of transactional producers. After an error it is useless: drop it
/// (what is open is aborted by the successor's start), make a new one, and
/// read again from the committed offsets with a new consumer.
pub struct Turns {
    producers: [Arc<Transaction>; 2],
    current: usize,
    open: Option<Instant>,
    offsets: BTreeMap<Partition, i64>,
    /// `None` only while dropping, so that the committer sees the end.
    jobs: Option<mpsc::SyncSender<Job>>,
    results: mpsc::Receiver<Result<(), BusError>>,
    committing: bool,
    committer: Option<thread::JoinHandle<()>>,
}

impl Bus {
    /// Makes the pair under `id`; any other process that uses the id is fenced off.
    ///
    /// # Errors
    /// When Kafka does not answer, or a thread cannot be started.
    pub fn turns(&self, id: &str, linger: Duration) -> Result<Turns, BusError> {
        let producers = [
            Arc::new(self.transaction(&format!("{id}.a"), linger)?),
            Arc::new(self.transaction(&format!("{id}.b"), linger)?),
        ];
        let (jobs, taken) = mpsc::sync_channel::<Job>(1);
        let (tell, results) = mpsc::channel();
        let committer = thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || {
                while let Ok(job) = taken.recv() {
                    let result = job.transaction.commit(&job.offsets, Some(&job.group));
                    if tell.send(result).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| BusError::Kafka {
                what: "start the committing thread",
                source: KafkaError::ClientCreation(error.to_string()),
            })?;
        Ok(Turns {
            producers,
            current: 0,
            open: None,
            offsets: BTreeMap::new(),
            jobs: Some(jobs),
            results,
            committing: false,
            committer: Some(committer),
        })
    }
}

impl Turns {
    /// Adds a record to the open transaction, opening one if need be.
    ///
    /// # Errors
    /// When this pair is done for.
    pub fn send(&mut self, out: &Outgoing<'_>) -> Result<(), BusError> {
        self.ensure_open()?;
        self.producers[self.current].send(out)
    }

    /// Notes that a partition has been read up to before `next`, to be committed
    /// with the open transaction.
    ///
    /// # Errors
    /// When this pair is done for.
    pub fn read_up_to(&mut self, partition: Partition, next: i64) -> Result<(), BusError> {
        self.ensure_open()?;
        self.offsets.insert(partition, next);
        Ok(())
    }

    fn ensure_open(&mut self) -> Result<(), BusError> {
        if self.open.is_none() {
            self.producers[self.current].begin()?;
            self.open = Some(Instant::now());
        }
        Ok(())
    }

    /// How long the open transaction has been open.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.open.map(|since| since.elapsed())
    }

    /// Hands the open transaction over for committing, if the one before is known
    /// to be committed.
    ///
    /// # Errors
    /// When a commit failed: this pair is done for.
    pub fn turn(&mut self, group: impl FnOnce() -> Result<GroupMetadata, BusError>) -> Result<Turned, BusError> {
        if self.committing {
            match self.results.try_recv() {
                Ok(result) => {
                    self.committing = false;
                    result?;
                }
                Err(mpsc::TryRecvError::Empty) => return Ok(Turned::Busy),
                Err(mpsc::TryRecvError::Disconnected) => return Err(gone()),
            }
        }
        if self.open.is_none() {
            return Ok(Turned::Empty);
        }
        let job = Job {
            transaction: Arc::clone(&self.producers[self.current]),
            offsets: std::mem::take(&mut self.offsets).into_iter().collect(),
            group: group()?,
        };
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(gone)?;
        self.committing = true;
        self.open = None;
        self.current = 1 - self.current;
        Ok(Turned::Handed)
    }

    /// Commits what is open and waits until everything is known to be committed.
    ///
    /// # Errors
    /// When something was not: this pair is done for.
    pub fn settle(&mut self, group: impl Fn() -> Result<GroupMetadata, BusError>) -> Result<(), BusError> {
        loop {
            if self.committing {
                let result = self.results.recv_timeout(3 * CALL_TIMEOUT).map_err(|_| gone())?;
                self.committing = false;
                result?;
            }
            if self.turn(&group)? == Turned::Empty {
                return Ok(());
            }
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(committer) = self.committer.take() {
            let _ = committer.join();
        }
    }
}

fn gone() -> BusError {
    BusError::Kafka { what: "commit a transaction", source: KafkaError::Canceled }
}
