//! The thread that asks ClickHouse for clicks, so that the member's thread polls on. One
//! question is asked at a time, and asked again until ClickHouse answers.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use bus::BusError;
use prometheus_client::metrics::counter::Counter;
use schemas::ClickId;
use service::Part;
use store::{Store, StoredClick};
use tracing::warn;

use crate::answers::next_open;

/// How long a failed question waits before it is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// The clicks that were found, by their ids.
pub(super) type FoundClicks = HashMap<ClickId, StoredClick>;

/// The handle of the thread, which ends when the handle is dropped.
pub(super) struct ClickLookup {
    questions: Sender<(u64, Vec<ClickId>)>,
    answers: Receiver<(u64, FoundClicks)>,
    /// The current generation: questions of earlier generations are cancelled.
    generation: Arc<AtomicU64>,
}

impl ClickLookup {
    /// Starts the thread, from within a runtime. `part` is not ready while ClickHouse does
    /// not answer.
    pub(super) fn start(store: Store, lookups: Counter, part: Part) -> io::Result<Self> {
        // Its connections are shared with whoever else has the store, so they must be driven
        // also while no question is asked.
        let runtime = tokio::runtime::Handle::current();
        let (questions, received) = mpsc::channel::<(u64, Vec<ClickId>)>();
        let (sender, answers) = mpsc::channel();
        let generation = Arc::<AtomicU64>::default();
        let current = Arc::clone(&generation);
        part.ready();
        thread::Builder::new().name("click-lookup".to_owned()).spawn(move || {
            while let Ok((generation, ids)) = received.recv() {
                while current.load(Ordering::Relaxed) == generation {
                    lookups.inc();
                    match runtime.block_on(store.clicks_by_id(&ids)) {
                        Ok(found) => {
                            part.ready();
                            // Nobody may be waiting any more.
                            let _ = sender.send((generation, found));
                            break;
                        }
                        Err(error) => {
                            warn!(%error, "conversions wait: looking for their clicks failed");
                            part.not_ready(&error.to_string());
                            thread::sleep(RETRY);
                        }
                    }
                }
            }
        })?;
        Ok(Self { questions, answers, generation })
    }

    /// Cancels the open question.
    pub(super) fn cancel(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks for clicks, at most [`Store::CLICKS_AT_ONCE`].
    pub(super) fn ask(&self, ids: Vec<ClickId>) -> Result<(), BusError> {
        let generation = self.generation.load(Ordering::Relaxed);
        self.questions.send((generation, ids)).map_err(|_| BusError::Gone { what: "look clicks up" })
    }

    /// Returns the answer to the open question, if it is there.
    pub(super) fn answer(&self) -> Result<Option<FoundClicks>, BusError> {
        let is_open = |(generation, _): &(u64, _)| *generation == self.generation.load(Ordering::Relaxed);
        Ok(next_open(&self.answers, is_open, "look clicks up")?.map(|(_, found)| found))
    }
}

impl Drop for ClickLookup {
    fn drop(&mut self) {
        self.cancel();
    }
}
