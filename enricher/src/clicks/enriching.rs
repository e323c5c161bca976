//! Enriches the lines of bundles: on the thread that asks, or, while there is much to
//! do, on worker threads. Bundles come back in the order in which they were handed in,
//! so that the offsets of a partition never run ahead of its events.

use std::{collections::VecDeque, io, ops::Range, sync::Arc, thread};

use bus::BusError;
use parking_lot::{Condvar, Mutex};
use schemas::{ClickClass, ClickId, RawClick, Timestamp, hints::Hints};

use super::{
    address_data::AddressData,
    agent::{AgentCache, AgentReader, Contradiction},
    bundle::Bundle,
    day_keys::DayKeys,
    enrich::Enrich,
};

/// The bundles that may be under way for each thread.
const UNDER_WAY_PER_THREAD: usize = 4;

/// The facts that enriching needs, shared by all threads.
pub(crate) struct LineEnricher {
    pub(crate) enrich: Enrich,
    pub(crate) agents: AgentReader,
    pub(crate) day_keys: Arc<DayKeys>,
}

/// The results of a bundle's lines.
#[derive(Default)]
pub(super) struct EnrichedLines {
    /// The JSON of all events, one behind the other.
    json: Vec<u8>,
    events: Vec<EnrichedEvent>,
    /// The lines that cannot be used.
    pub(super) unusable: Vec<RefusedLine>,
    /// The classes of visits that are no clicks.
    pub(super) visits: Vec<ClickClass>,
    /// The contradictions between agents and their hints.
    pub(super) contradictions: Vec<Contradiction>,
    /// The number of lines.
    pub(super) count: usize,
}

struct EnrichedEvent {
    id: ClickId,
    json: Range<usize>,
    traceparent: Option<String>,
}

/// A line that cannot be used.
pub(super) struct RefusedLine {
    /// The line's number in its bundle, from 0.
    pub(super) number: usize,
    pub(super) text: Vec<u8>,
    pub(super) reason: String,
}

impl EnrichedLines {
    /// Returns the events in the order of their lines: the click's id, the JSON, and the
    /// trace context.
    pub(super) fn events(&self) -> impl Iterator<Item = (ClickId, &[u8], Option<&str>)> {
        self.events.iter().map(|event| (event.id, &self.json[event.json.clone()], event.traceparent.as_deref()))
    }

    fn clear(&mut self) {
        self.json.clear();
        self.events.clear();
        self.unusable.clear();
        self.visits.clear();
        self.contradictions.clear();
        self.count = 0;
    }
}

impl LineEnricher {
    /// Enriches the lines of `bundle` into `lines`. `known` is the thread's.
    fn lines(&self, bundle: &Bundle<'_>, now: Timestamp, known: &mut AgentCache, lines: &mut EnrichedLines) {
        lines.clear();
        // A bundle's addresses are looked up in the same databases.
        let data = self.enrich.addresses.current();
        for (number, text) in bundle.lines().enumerate() {
            lines.count += 1;
            if let Err(reason) = self.line(text, now, &data, known, lines) {
                lines.unusable.push(RefusedLine { number, text: text.to_vec(), reason });
            }
        }
    }

    fn line(
        &self,
        line: &[u8],
        now: Timestamp,
        data: &AddressData,
        known: &mut AgentCache,
        lines: &mut EnrichedLines,
    ) -> Result<(), String> {
        let raw: RawClick<'_> = serde_json::from_slice(line).map_err(|error| format!("not a click: {error}"))?;
        if !raw.class.counts() {
            lines.visits.push(raw.class);
            return Ok(());
        }
        let key = self.day_keys.key_for(raw.id.timestamp(), now);
        let agent = known.agent(&self.agents, raw.user_agent.as_deref());
        let envelope = self.enrich.event(&raw, &agent, data, key.as_ref()).map_err(|error| error.to_string())?;
        let hints = raw.hints.as_deref().map(Hints::read).unwrap_or_default();
        lines.contradictions.extend(agent.contradiction(hints));
        let start = lines.json.len();
        if let Err(error) = serde_json::to_writer(&mut lines.json, &envelope) {
            lines.json.truncate(start);
            return Err(error.to_string());
        }
        let traceparent = raw.traceparent.as_deref().map(str::to_owned);
        lines.events.push(EnrichedEvent { id: raw.id, json: start..lines.json.len(), traceparent });
        Ok(())
    }
}

/// A bundle that is to be enriched, or was.
struct BundleWork {
    bundle: Bundle<'static>,
    now: Timestamp,
    lines: EnrichedLines,
}

/// A bundle on its way through the workers.
enum QueuedBundle {
    /// No thread has begun with it.
    Waiting(BundleWork),
    /// A thread enriches it.
    InWork,
    Done(BundleWork),
}

/// The bundles on their way, in the order in which they were handed in.
#[derive(Default)]
struct BundleQueue {
    slots: VecDeque<QueuedBundle>,
    /// The number of the first slot, counted from the first bundle ever.
    first: u64,
    /// Whether the threads are to end.
    closed: bool,
    /// Whether a worker panicked: its bundle is never done.
    died: bool,
}

#[derive(Default)]
struct SharedQueue {
    slots: Mutex<BundleQueue>,
    /// A bundle waits, or the threads are to end.
    work: Condvar,
    /// A bundle is done.
    done: Condvar,
}

impl BundleQueue {
    /// Takes the oldest bundle that waits, with its number.
    fn begin(&mut self) -> Option<(u64, BundleWork)> {
        let at = self.slots.iter().position(|slot| matches!(slot, QueuedBundle::Waiting(_)))?;
        let QueuedBundle::Waiting(job) = std::mem::replace(&mut self.slots[at], QueuedBundle::InWork) else {
            return None;
        };
        Some((self.first + at as u64, job))
    }

    fn finish(&mut self, number: u64, job: BundleWork) {
        let slot = number.checked_sub(self.first).and_then(|at| self.slots.get_mut(usize::try_from(at).ok()?));
        if let Some(slot) = slot {
            *slot = QueuedBundle::Done(job);
        }
    }

    /// Takes the oldest bundle, if it is done.
    fn take(&mut self) -> Option<BundleWork> {
        let Some(QueuedBundle::Done(_)) = self.slots.front() else { return None };
        let Some(QueuedBundle::Done(job)) = self.slots.pop_front() else { return None };
        self.first += 1;
        Some(job)
    }
}

/// The threads that enrich bundles. While the owner waits for a bundle, its thread
/// enriches, too.
pub(super) struct Enriching {
    enricher: Arc<LineEnricher>,
    workers: usize,
    shared: Arc<SharedQueue>,
    /// The agents that the owner's thread has read.
    known: AgentCache,
    /// The number of bundles that were handed in and not taken.
    under_way: usize,
    /// Results that are used again, for their memory.
    spare: Vec<EnrichedLines>,
}

impl Enriching {
    /// Starts `workers` threads; with none, every bundle is enriched at once.
    pub(super) fn start(enricher: LineEnricher, workers: usize) -> io::Result<Self> {
        let (enricher, shared) = (Arc::new(enricher), Arc::<SharedQueue>::default());
        let enriching = Self {
            enricher: Arc::clone(&enricher),
            workers,
            shared: Arc::clone(&shared),
            known: AgentCache::default(),
            under_way: 0,
            spare: Vec::new(),
        };
        for _ in 0..workers {
            let (enricher, shared) = (Arc::clone(&enricher), Arc::clone(&shared));
            thread::Builder::new().name("enrich".to_owned()).spawn(move || work(&enricher, &shared))?;
        }
        Ok(enriching)
    }

    /// Whether there are worker threads.
    pub(super) const fn has_workers(&self) -> bool {
        self.workers > 0
    }

    /// Whether bundles are under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// Whether as many bundles are under way as may be.
    pub(super) const fn is_full(&self) -> bool {
        self.under_way >= (self.workers + 1) * UNDER_WAY_PER_THREAD
    }

    /// Enriches a bundle on this thread.
    pub(super) fn at_once(&mut self, bundle: &Bundle<'_>, now: Timestamp) -> EnrichedLines {
        let mut lines = self.spare.pop().unwrap_or_default();
        self.enricher.lines(bundle, now, &mut self.known, &mut lines);
        lines
    }

    /// Hands a bundle to the workers.
    pub(super) fn hand_in(&mut self, bundle: Bundle<'static>, now: Timestamp) {
        let lines = self.spare.pop().unwrap_or_default();
        let mut slots = self.shared.slots.lock();
        slots.slots.push_back(QueuedBundle::Waiting(BundleWork { bundle, now, lines }));
        drop(slots);
        self.shared.work.notify_one();
        self.under_way += 1;
    }

    /// Returns the oldest bundle with its results: if it is done, or as soon as it is.
    ///
    /// # Errors
    /// When a worker has panicked.
    pub(super) fn take(&mut self, wait: Wait) -> Result<Option<(Bundle<'static>, EnrichedLines)>, BusError> {
        if !self.is_busy() {
            return Ok(None);
        }
        let mut slots = self.shared.slots.lock();
        loop {
            if let Some(job) = slots.take() {
                self.under_way -= 1;
                return Ok(Some((job.bundle, job.lines)));
            }
            if slots.died {
                return Err(BusError::Gone { what: "a thread that enriches clicks" });
            }
            if wait == Wait::No {
                return Ok(None);
            }
            match slots.begin() {
                Some((number, mut job)) => {
                    drop(slots);
                    self.enricher.lines(&job.bundle, job.now, &mut self.known, &mut job.lines);
                    slots = self.shared.slots.lock();
                    slots.finish(number, job);
                }
                None => self.shared.done.wait(&mut slots),
            }
        }
    }

    /// Takes results back for their memory.
    pub(super) fn give_back(&mut self, lines: EnrichedLines) {
        self.spare.push(lines);
    }

    /// Forgets the bundles that were handed in.
    pub(super) fn forget(&mut self) {
        while let Ok(Some((_, lines))) = self.take(Wait::UntilDone) {
            self.give_back(lines);
        }
    }
}

impl Drop for Enriching {
    fn drop(&mut self) {
        self.shared.slots.lock().closed = true;
        self.shared.work.notify_all();
    }
}

/// Whether to wait for a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    UntilDone,
}

/// Tells the owner if the thread panics.
struct PanicNotice<'a>(&'a SharedQueue);

impl Drop for PanicNotice<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.slots.lock().died = true;
            self.0.done.notify_all();
        }
    }
}

/// The work of a worker's thread.
fn work(enricher: &LineEnricher, shared: &SharedQueue) {
    let _notice = PanicNotice(shared);
    let mut known = AgentCache::default();
    let mut slots = shared.slots.lock();
    while !slots.closed {
        match slots.begin() {
            Some((number, mut job)) => {
                drop(slots);
                enricher.lines(&job.bundle, job.now, &mut known, &mut job.lines);
                slots = shared.slots.lock();
                slots.finish(number, job);
                shared.done.notify_one();
            }
            None => shared.work.wait(&mut slots),
        }
    }
}
