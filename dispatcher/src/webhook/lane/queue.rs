//! The items that wait in a lane, and the departures that they make: one item alone, or a
//! batch of items that waited for each other. A batch is cut when it has enough items or
//! bytes, or when its first item has waited for long enough.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use schemas::BatchLimits;

/// The bytes of a list around its elements, and those between two elements.
const BRACKETS: usize = 2;
const COMMA: usize = 1;

/// An item that takes memory while it waits.
pub(crate) trait Waiting {
    /// Returns the bytes that the item takes.
    fn bytes(&self) -> usize;

    /// Returns the bytes that the item takes in the body of a batch; none if it goes alone,
    /// whatever its endpoint wants.
    fn batched_bytes(&self) -> Option<usize>;
}

/// The items that leave a lane for one exchange.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Departure<T> {
    /// An item that goes alone.
    Single(T),
    /// Items that go together, at least one.
    Batch(Vec<T>),
}

/// The part of a departure that is counted while its exchange runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DepartureLoad {
    /// The number of items.
    pub(super) items: usize,
    /// The memory that they keep of the pool. A single item keeps none: there are so few of
    /// them in flight, and an endpoint that hangs must not take the memory of others.
    pub(super) bytes: usize,
}

impl<T: Waiting> Departure<T> {
    /// Returns what the departure weighs.
    pub(crate) fn load(&self) -> DepartureLoad {
        match self {
            Self::Single(_) => DepartureLoad { items: 1, bytes: 0 },
            Self::Batch(items) => DepartureLoad { items: items.len(), bytes: items.iter().map(Waiting::bytes).sum() },
        }
    }
}

/// An item that waits.
struct Queued<T> {
    item: T,
    since: Instant,
    /// The bytes that the item takes in the body of a batch; 0 if it goes alone.
    body_bytes: usize,
}

/// The items that wait in a lane.
pub(super) struct LaneQueue<T> {
    /// Items that go alone.
    single: VecDeque<Queued<T>>,
    /// Items that go in batches.
    gathering: VecDeque<Queued<T>>,
    /// The bytes of the gathering items in a body, each with its comma.
    gathering_bytes: usize,
    /// The memory of all items.
    bytes: usize,
}

impl<T: Waiting> LaneQueue<T> {
    pub(super) const fn new() -> Self {
        Self { single: VecDeque::new(), gathering: VecDeque::new(), gathering_bytes: 0, bytes: 0 }
    }

    /// Returns the number of items.
    pub(super) fn len(&self) -> usize {
        self.single.len() + self.gathering.len()
    }

    /// Returns the memory that the items take.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells whether an item waits for others.
    pub(super) fn is_gathering(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Adds an item that goes alone.
    pub(super) fn push_single(&mut self, item: T, now: Instant) {
        self.bytes += item.bytes();
        self.single.push_back(Queued { item, since: now, body_bytes: 0 });
    }

    /// Adds an item that takes `body_bytes` in the body of a batch.
    pub(super) fn push_gathering(&mut self, item: T, body_bytes: usize, now: Instant) {
        self.bytes += item.bytes();
        self.gathering_bytes += body_bytes + COMMA;
        self.gathering.push_back(Queued { item, since: now, body_bytes });
    }

    /// Returns the time from which on something may depart; none if nothing waits.
    pub(super) fn due(&self, limits: Option<BatchLimits>) -> Option<Instant> {
        let single = self.single.front().map(|queued| queued.since);
        single.into_iter().chain(self.gathering_due(limits)).min()
    }

    /// Takes the departure that is due first.
    pub(super) fn take(&mut self, limits: Option<BatchLimits>) -> Option<Departure<T>> {
        let single = self.single.front().map(|queued| queued.since);
        let gathering = self.gathering_due(limits);
        let is_single = match (single, gathering) {
            (Some(single), Some(gathering)) => single <= gathering,
            (single, _) => single.is_some(),
        };
        if is_single {
            let item = self.single.pop_front()?.item;
            self.bytes -= item.bytes();
            return Some(Departure::Single(item));
        }
        match limits {
            Some(limits) => {
                let items = self.cut(limits);
                (!items.is_empty()).then_some(Departure::Batch(items))
            }
            None => self.pop_gathering().map(Departure::Single),
        }
    }

    /// Takes the items that `is_meant` names out of the order.
    pub(super) fn withdraw(&mut self, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let mut withdrawn = Vec::new();
        for queue in [&mut self.single, &mut self.gathering] {
            if queue.iter().any(|queued| is_meant(&queued.item)) {
                let (taken, kept) = std::mem::take(queue).into_iter().partition(|queued| is_meant(&queued.item));
                *queue = kept;
                withdrawn.extend::<VecDeque<Queued<T>>>(taken);
            }
        }
        let gathered = withdrawn.iter().filter(|queued| queued.body_bytes > 0);
        self.gathering_bytes -= gathered.map(|queued| queued.body_bytes + COMMA).sum::<usize>();
        self.bytes -= withdrawn.iter().map(|queued| queued.item.bytes()).sum::<usize>();
        withdrawn.into_iter().map(|queued| queued.item).collect()
    }

    /// Gives back the memory of a burst.
    pub(super) fn shrink(&mut self) {
        self.single.shrink_to(16);
        self.gathering.shrink_to(16);
    }

    /// Returns when the next batch is cut. Without limits, which were taken away while items
    /// waited, it is cut at once.
    fn gathering_due(&self, limits: Option<BatchLimits>) -> Option<Instant> {
        let first = self.gathering.front()?.since;
        let wait = match limits {
            Some(limits) if !self.is_full(limits) => Duration::from_millis(u64::from(limits.max_wait_ms)),
            Some(_) | None => Duration::ZERO,
        };
        Some(first + wait)
    }

    fn is_full(&self, limits: BatchLimits) -> bool {
        let body = BRACKETS + self.gathering_bytes - COMMA;
        self.gathering.len() >= limits.max_events as usize || body >= limits.max_bytes as usize
    }

    /// Takes the next batch. Its first item is in it whatever its size.
    fn cut(&mut self, limits: BatchLimits) -> Vec<T> {
        let most = limits.max_events as usize;
        let mut items = Vec::with_capacity(most.min(self.gathering.len()));
        let mut body = BRACKETS;
        while let Some(next) = self.gathering.front().map(|queued| queued.body_bytes) {
            body += next + if items.is_empty() { 0 } else { COMMA };
            if items.len() >= most || (body > limits.max_bytes as usize && !items.is_empty()) {
                break;
            }
            items.extend(self.pop_gathering());
        }
        items
    }

    fn pop_gathering(&mut self) -> Option<T> {
        let Queued { item, body_bytes, .. } = self.gathering.pop_front()?;
        self.gathering_bytes -= body_bytes + COMMA;
        self.bytes -= item.bytes();
        Some(item)
    }
}
