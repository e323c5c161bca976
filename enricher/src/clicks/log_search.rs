//! The thread that reads logs for the decision on second copies, so that the
//! member's thread polls on. It reads the marks of accepted bundles after each
//! assignment, and searches a partition for first copies.

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

use bus::{Bus, BusError, LogEnds, LogReader, Partition, Record};
use schemas::{Replayed, Timestamp, Topic};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    bundle::{again, bundle_id},
    day_keys::DayKeys,
    second_copies::{Again, BundleId, Mark, SearchResult, first_searched},
};
use crate::answers::next_open;

/// The name of the clients.
const ROLE: &str = "enricher";
/// How long a failed request waits before it is repeated.
const RETRY: Duration = Duration::from_millis(500);
/// The number of records that are looked through for bundles that say `again`.
/// Bundles behind them are left to the next search.
const AHEAD: usize = 100_000;

/// A request to the thread.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// Wait for the day's key, and read the marks up to the end of their topic.
    Prepare,
    /// Search for first copies of the bundles at and behind `offset`.
    Search { partition: i32, offset: i64 },
}

/// The answer to a request.
pub(super) enum Response {
    Mark(BundleId, Mark),
    Prepared,
    Searched { partition: i32, result: SearchResult },
}

/// The handle of the thread, which ends when the handle is dropped.
pub(super) struct LogSearch {
    requests: Sender<(u64, Request)>,
    responses: Receiver<(u64, Response)>,
    /// The current generation: requests of earlier generations are cancelled.
    generation: Arc<AtomicU64>,
}

impl LogSearch {
    pub(super) fn start(bus: Bus, day_keys: Arc<DayKeys>) -> io::Result<Self> {
        let (requests, received) = mpsc::channel();
        let (sender, responses) = mpsc::channel();
        let generation = Arc::<AtomicU64>::default();
        let current = Arc::clone(&generation);
        thread::Builder::new().name("log-search".to_owned()).spawn(move || {
            let mut searcher = Searcher { bus, day_keys, reader: None, ends: None, next_mark: 0, sender, current };
            // Reads the marks before the group is joined: its members wait for the newest.
            let _ = searcher.prepare(0);
            while let Ok((generation, request)) = received.recv() {
                searcher.answer(generation, request);
            }
        })?;
        Ok(Self { requests, responses, generation })
    }

    /// Cancels all open requests.
    pub(super) fn cancel(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request(&self, request: Request) -> Result<(), BusError> {
        let generation = self.generation.load(Ordering::Relaxed);
        self.requests.send((generation, request)).map_err(|_| BusError::Gone { what: "search a log" })
    }

    /// Returns the next answer, if one is there. A mark is a fact whatever became of
    /// its request; other answers are returned only to requests that are open.
    pub(super) fn response(&self) -> Result<Option<Response>, BusError> {
        let is_open = |(generation, response): &(u64, Response)| {
            matches!(response, Response::Mark(..)) || *generation == self.generation.load(Ordering::Relaxed)
        };
        Ok(next_open(&self.responses, is_open, "search a log")?.map(|(_, response)| response))
    }
}

impl Drop for LogSearch {
    fn drop(&mut self) {
        self.cancel();
    }
}

struct Searcher {
    bus: Bus,
    day_keys: Arc<DayKeys>,
    reader: Option<LogReader>,
    /// The clients that see whether transactions are open.
    ends: Option<LogEnds>,
    /// The offset behind the last mark that was read.
    next_mark: i64,
    sender: Sender<(u64, Response)>,
    current: Arc<AtomicU64>,
}

impl Searcher {
    /// Answers a request, repeating it until Kafka answers or it is cancelled.
    fn answer(&mut self, generation: u64, request: Request) {
        while self.current.load(Ordering::Relaxed) == generation {
            let answered = match request {
                Request::Prepare => self.prepare(generation),
                Request::Search { partition, offset } => self.search(generation, partition, offset),
            };
            match answered {
                Ok(response) => return drop(self.sender.send((generation, response))),
                Err(error) => {
                    warn!(%error, ?request, "reading a log failed: retrying");
                    (self.reader, self.ends) = (None, None);
                    thread::sleep(RETRY);
                }
            }
        }
    }

    fn reader(&mut self) -> Result<LogReader, BusError> {
        self.reader.take().map_or_else(|| self.bus.log_reader(ROLE), Ok)
    }

    /// Takes the clients that see whether transactions are open. They are kept between
    /// requests: connecting them takes longer than their question.
    fn ends(&mut self) -> Result<LogEnds, BusError> {
        if let Some(ends) = self.ends.take() {
            return Ok(ends);
        }
        let ends = self.bus.log_ends(ROLE)?;
        ends.connect(&self.bus, &[Topic::Replayed]);
        Ok(ends)
    }

    fn prepare(&mut self, generation: u64) -> Result<Response, BusError> {
        let partition = Partition { topic: Topic::Replayed, index: 0 };
        self.day_keys.wait_for_today(|| self.current.load(Ordering::Relaxed) != generation);
        // Marks that an earlier owner committed with the offsets from which we read.
        let ends = self.ends()?;
        ends.wait_for_open_transactions(&self.bus, &[Topic::Replayed])?;
        self.ends = Some(ends);
        let reader = self.reader()?;
        let range = reader.range(partition)?;
        // An end before the last mark means that the topic was created again.
        let begin = if self.next_mark > range.end { range.start } else { self.next_mark.max(range.start) };
        let current = Arc::clone(&self.current);
        let read = reader.read(
            partition,
            begin..range.end,
            || current.load(Ordering::Relaxed) != generation,
            |record| {
                if let Some((id, mark)) = parse_mark(record) {
                    let _ = self.sender.send((generation, Response::Mark(id, mark)));
                }
                self.next_mark = record.offset() + 1;
                true
            },
        );
        read?;
        self.reader = Some(reader);
        Ok(Response::Prepared)
    }

    fn search(&mut self, generation: u64, index: i32, offset: i64) -> Result<Response, BusError> {
        let partition = Partition { topic: Topic::ClicksRaw, index };
        let reader = self.reader()?;
        let current = Arc::clone(&self.current);
        let stopped = || current.load(Ordering::Relaxed) != generation;
        let range = reader.range(partition)?;
        let mut candidates: HashMap<BundleId, i64> = HashMap::new();
        let mut begin = i64::MAX;
        let mut end = offset;
        let mut left = AHEAD;
        reader.read(partition, offset..range.end, stopped, |record| {
            end = record.offset() + 1;
            if let (Some(id), Again::Yes { after }) = (bundle_id(record), again(record)) {
                candidates.entry(id).or_insert(record.offset());
                begin = begin.min(first_searched(after));
            }
            left -= 1;
            left > 0
        })?;
        // The range may have been deleted from its beginning meanwhile.
        let from = reader.range(partition)?.start.max(begin);
        let mut from_at = None;
        reader.read(partition, from..end, stopped, |record| {
            from_at = from_at.or_else(|| record.timestamp());
            if let Some(first) = bundle_id(record).and_then(|id| candidates.get_mut(&id)) {
                *first = (*first).min(record.offset());
            }
            true
        })?;
        self.reader = Some(reader);
        info!(%partition, from, end, bundles = candidates.len(), "searched for first copies of bundles");
        Ok(Response::Searched { partition: index, result: SearchResult { from, from_at, first: candidates } })
    }
}

fn parse_mark(record: &Record<'_>) -> Option<(BundleId, Mark)> {
    let id = Uuid::try_parse_ascii(record.key()).ok()?.as_u128();
    let Replayed { partition, offset, .. } = serde_json::from_slice(record.value()?).ok()?;
    Some((id, Mark { partition, offset, at: record.timestamp().unwrap_or_else(Timestamp::now) }))
}
