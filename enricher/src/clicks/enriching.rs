//! Enriches the lines of bundles: on the thread that asks, or, while there is much to
//! do, on worker threads. Bundles come back in the order in which they were handed in,
//! so that the offsets of a partition never run ahead of its events.

use std::{collections::VecDeque, io, sync::Arc, thread};

use bus::BusError;
use parking_lot::{Condvar, Mutex};
use schemas::Timestamp;

use super::{
    address::DayKey,
    bundle::Bundle,
    day_keys::DayKeys,
    lines::{EnrichedLines, KnownParts, LineEnricher},
};

/// The bundles that may be under way for each thread.
const UNDER_WAY_PER_THREAD: usize = 4;

/// The facts that enriching needs, shared by all threads.
pub(crate) struct BundleEnricher {
    pub(crate) lines: LineEnricher,
    pub(crate) day_keys: Arc<DayKeys>,
}

impl BundleEnricher {
    /// Enriches the lines of `bundle` into `lines`. `known` is the thread's.
    fn lines(&self, bundle: &Bundle<'_>, now: Timestamp, known: &mut KnownParts, lines: &mut EnrichedLines) {
        // Few bundles have clicks of two days.
        let mut last: Option<(i64, Option<DayKey>)> = None;
        let key_for = |at: Timestamp| match &last {
            Some((day, key)) if *day == at.utc_day() => key.clone(),
            _ => last.insert((at.utc_day(), self.day_keys.key_for(at, now))).1.clone(),
        };
        self.lines.lines(bundle.lines(), key_for, known, lines);
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
    enricher: Arc<BundleEnricher>,
    workers: usize,
    shared: Arc<SharedQueue>,
    /// The parts of lines that the owner's thread has read.
    known: KnownParts,
    /// The number of bundles that were handed in and not taken.
    under_way: usize,
    /// Results that are used again, for their memory.
    spare: Vec<EnrichedLines>,
}

impl Enriching {
    /// Starts `workers` threads; with none, every bundle is enriched at once.
    pub(super) fn start(enricher: BundleEnricher, workers: usize) -> io::Result<Self> {
        let (enricher, shared) = (Arc::new(enricher), Arc::<SharedQueue>::default());
        let enriching = Self {
            enricher: Arc::clone(&enricher),
            workers,
            shared: Arc::clone(&shared),
            known: KnownParts::default(),
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
fn work(enricher: &BundleEnricher, shared: &SharedQueue) {
    let _notice = PanicNotice(shared);
    let mut known = KnownParts::default();
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
