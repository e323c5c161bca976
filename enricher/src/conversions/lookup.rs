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
use schemas::{ClickId, ConversionId};
use service::Part;
use store::{Store, StoreError, StoredClick, UnattributedConversion};
use tracing::warn;

use crate::answers::next_open;

/// How long a failed question waits before it is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// The clicks that were found, by their ids.
pub(super) type FoundClicks = HashMap<ClickId, StoredClick>;

/// A question for clicks.
#[derive(Debug, Default)]
pub(super) struct ClickQuestion {
    /// The clicks, at most [`Store::CLICKS_AT_ONCE`].
    pub(super) clicks: Vec<ClickId>,
    /// The conversions that are asked for if their click is found.
    pub(super) conversions: Vec<(ClickId, ConversionId)>,
}

/// The answer to a question.
#[derive(Debug)]
pub(super) struct ClickAnswer {
    pub(super) clicks: FoundClicks,
    pub(super) conversions: HashMap<ConversionId, UnattributedConversion>,
}

/// The counters of questions.
pub(super) struct LookupCounts {
    pub(super) questions: Counter,
    pub(super) clicks: Counter,
}

/// The handle of the thread, which ends when the handle is dropped.
pub(super) struct ClickLookup {
    questions: Sender<(u64, ClickQuestion)>,
    answers: Receiver<(u64, ClickAnswer)>,
    /// The current generation: questions of earlier generations are cancelled.
    generation: Arc<AtomicU64>,
}

impl ClickLookup {
    /// Starts the thread, from within a runtime. `part` is not ready while ClickHouse does
    /// not answer.
    pub(super) fn start(store: Store, counts: LookupCounts, part: Part) -> io::Result<Self> {
        // Its connections are shared with whoever else has the store, so they must be driven
        // also while no question is asked.
        let runtime = tokio::runtime::Handle::current();
        let (questions, received) = mpsc::channel::<(u64, ClickQuestion)>();
        let (sender, answers) = mpsc::channel();
        let generation = Arc::<AtomicU64>::default();
        let current = Arc::clone(&generation);
        part.ready();
        thread::Builder::new().name("click-lookup".to_owned()).spawn(move || {
            while let Ok((generation, question)) = received.recv() {
                while current.load(Ordering::Relaxed) == generation {
                    counts.questions.inc();
                    counts.clicks.inc_by(question.clicks.len() as u64);
                    match runtime.block_on(answer(&store, &question)) {
                        Ok(answer) => {
                            part.ready();
                            // Nobody may be waiting any more.
                            let _ = sender.send((generation, answer));
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

    /// Asks a question.
    pub(super) fn ask(&self, question: ClickQuestion) -> Result<(), BusError> {
        let generation = self.generation.load(Ordering::Relaxed);
        self.questions.send((generation, question)).map_err(|_| BusError::Gone { what: "look clicks up" })
    }

    /// Returns the answer to the open question, if it is there.
    pub(super) fn answer(&self) -> Result<Option<ClickAnswer>, BusError> {
        let is_open = |(generation, _): &(u64, _)| *generation == self.generation.load(Ordering::Relaxed);
        Ok(next_open(&self.answers, is_open, "look clicks up")?.map(|(_, answer)| answer))
    }
}

async fn answer(store: &Store, question: &ClickQuestion) -> Result<ClickAnswer, StoreError> {
    let clicks = store.clicks_by_id(&question.clicks).await?;
    let found = question.conversions.iter().filter(|(click, _)| clicks.contains_key(click));
    let found: Vec<ConversionId> = found.map(|(_, conversion)| *conversion).collect();
    let conversions = store.unattributed_conversions(&found).await?;
    Ok(ClickAnswer { clicks, conversions })
}

impl Drop for ClickLookup {
    fn drop(&mut self) {
        self.cancel();
    }
}
