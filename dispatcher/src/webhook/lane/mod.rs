//! A lane: the deliveries that wait for one endpoint, and the slots of those in
//! flight. A lane answers two questions: whether a delivery has room, and what may
//! begin now, or if nothing may, when. A lane is pure: the clock is handed in, and
//! an idle lane has no task and no timer.
//!
//! How much may wait follows from the endpoint's throughput: as much as it works
//! off within [`TARGET_WAIT`], and before its throughput is known a few times what may
//! be in flight. So a quick endpoint catches up after an outage in one go, and a slow
//! one does not hold offsets back for long. What an endpoint that is slower than the
//! others has no room for goes to a delay topic. Where the endpoint is no slower, reading
//! is paused until there is room.

mod breaker;
mod pool;
mod share;
mod snapshot;
mod throughput;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use schemas::DelayTier;

use self::{
    breaker::{Breaker, Passage},
    pool::{QueuePace, WorkspaceShare},
    throughput::Throughput,
};
pub(super) use self::{
    pool::LanePool,
    share::OwnedPartitions,
    snapshot::{BreakerState, LaneSnapshot},
};
use super::{config::Config, health::HealthSign};

/// The time within which an endpoint should work off everything that waits for it.
const TARGET_WAIT: Duration = Duration::from_secs(5);
/// The silence after which an endpoint's measured throughput is no longer trusted.
const STALL: Duration = Duration::from_secs(1);
/// How many times the exchanges in flight may wait while the throughput is not known.
const FIRST_WAITING: usize = 4;
/// The time that an endpoint has to show its throughput before it counts as slow, and
/// for which reading is paused at once meanwhile.
const FIRST_EXCHANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(10));
/// The longest time for which one lane pauses reading at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The share of the mean that the newest exchange has.
const NEW_SHARE: f64 = 0.1;

/// An item that takes memory while it waits.
pub(super) trait Waiting {
    /// Returns the bytes that the item takes.
    fn bytes(&self) -> usize;
}

/// The limits of one endpoint's lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneSettings {
    /// Exchanges that may be in flight at once, over all processes together.
    pub max_in_flight: usize,
    /// The longest time until a delivery that found no room is offered again.
    pub max_retry_after: Duration,
    /// The least time between the beginnings of two exchanges; zero for no limit.
    pub min_interval: Duration,
}

impl LaneSettings {
    /// Returns the settings of an endpoint without limits of its own.
    pub(super) fn from_config(config: &Config) -> Self {
        Self {
            max_in_flight: config.max_in_flight,
            max_retry_after: config.retry_timing().delay(DelayTier::LONGEST),
            min_interval: Duration::ZERO,
        }
    }
}

/// The lane of one endpoint.
pub(super) struct Lane<T: Waiting> {
    pool: Arc<LanePool>,
    workspace: Arc<WorkspaceShare>,
    state: Mutex<LaneState<T>>,
}

struct LaneState<T> {
    settings: LaneSettings,
    waiting: VecDeque<T>,
    /// The memory that the waiting items take.
    waiting_bytes: usize,
    in_flight: usize,
    throughput: Throughput,
    /// The mean duration of an exchange.
    exchange_s: Option<f64>,
    breaker: Breaker,
    /// The last time that an item left the lane while others waited.
    last_finished: Option<Instant>,
    /// The time for which the next item that finds no room is told to come again.
    next_retry: Option<Instant>,
    /// The earliest time at which the next exchange may begin.
    next_begin: Option<Instant>,
}

/// The lane's answer to an item that is offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer<T> {
    /// The item took a free slot: the caller does what [`Next`] says, and calls
    /// [`Lane::next`] after it, until that answers [`Next::Idle`].
    Start(Next<T>),
    /// The item waits for a slot.
    Queued,
    /// There is no room; after this time there probably is.
    Full { item: T, retry_after: Duration },
}

/// The next step of the holder of a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// This item begins now.
    Begin(T),
    /// This item does not begin: it is to be offered again after this time.
    Spill { item: T, retry_after: Duration },
    /// Nothing may begin before this time: the holder keeps its slot, and asks again
    /// then.
    At(Instant),
    /// Nothing waits: the slot is free again.
    Idle,
}

/// The room that a lane has for one more item.
enum Room {
    /// There is room in the memory of lanes of this pace.
    Free(QueuePace),
    /// There is room, and reading is paused for this time.
    Crowded(Duration),
    /// There is none.
    None,
}

impl<T: Waiting> Lane<T> {
    /// Makes an empty lane, whose waiting items take memory of `pool` and of
    /// `workspace`'s share in it.
    pub(super) fn new(settings: LaneSettings, pool: Arc<LanePool>, workspace: &str) -> Self {
        let state = LaneState {
            settings,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: 0,
            throughput: Throughput::default(),
            exchange_s: None,
            breaker: Breaker::default(),
            last_finished: None,
            next_retry: None,
            next_begin: None,
        };
        Self { workspace: pool.workspace(workspace), pool, state: Mutex::new(state) }
    }

    /// Applies the endpoint's current settings. What waits or is in flight stays.
    pub(super) fn reshape(&self, settings: LaneSettings) {
        self.state.lock().settings = settings;
    }

    /// Takes `item` if there is room, or says when to offer it again.
    pub(super) fn offer(&self, item: T, now: Instant) -> Offer<T> {
        let mut state = self.state.lock();
        if let Passage::Blocked(retry_after) = state.breaker.passage(state.in_flight, now) {
            return Offer::Full { item, retry_after: retry_after.min(state.settings.max_retry_after) };
        }
        if state.in_flight < state.slots(&self.pool) {
            state.in_flight += 1;
            let start = state.begins_after(now);
            if start.is_none() && state.waiting.is_empty() {
                state.begin(now);
                return Offer::Start(Next::Begin(item));
            }
            self.push(&mut state, item);
            return Offer::Start(start.map_or_else(|| self.take_next(&mut state, now), Next::At));
        }
        if self.admits(&state, item.bytes(), now) {
            if state.waiting.is_empty() {
                state.last_finished = Some(now);
            }
            self.push(&mut state, item);
            return Offer::Queued;
        }
        Offer::Full { item, retry_after: state.retry_after(now) }
    }

    /// Learns how an exchange with the endpoint ended.
    pub(super) fn learn(&self, sign: HealthSign, now: Instant) {
        let mut state = self.state.lock();
        match sign {
            HealthSign::Success => state.breaker.succeeded(),
            HealthSign::Failure | HealthSign::Gone => state.breaker.failed(now),
        }
    }

    /// Returns what the holder of a slot does next after an item that took `took`.
    pub(super) fn finished(&self, took: Duration, now: Instant) -> Next<T> {
        let seconds_per_item = {
            let mut state = self.state.lock();
            let took = took.as_secs_f64();
            let mean = state.exchange_s.unwrap_or(took);
            state.exchange_s = Some(mean + NEW_SHARE * (took - mean));
            took / state.slots(&self.pool) as f64
        };
        self.pool.learn(seconds_per_item);
        self.next(now)
    }

    /// Returns what the holder of a slot does next: called at the time that
    /// [`Next::At`] named, and after [`Next::Spill`].
    pub(super) fn next(&self, now: Instant) -> Next<T> {
        let mut state = self.state.lock();
        if !state.waiting.is_empty() {
            // The holder's own slot is not in its way.
            if let Passage::Blocked(retry_after) = state.breaker.passage(state.in_flight - 1, now) {
                let retry_after = retry_after.min(state.settings.max_retry_after);
                if let Some(item) = self.pop(&mut state) {
                    return Next::Spill { item, retry_after };
                }
            }
            if let Some(start) = state.begins_after(now) {
                return Next::At(start);
            }
        }
        self.take_next(&mut state, now)
    }

    /// Returns what waits next without regard to when it may begin: called instead
    /// of [`Lane::next`] while the process stops.
    pub(super) fn evict(&self, now: Instant) -> Next<T> {
        self.take_next(&mut self.state.lock(), now)
    }

    fn take_next(&self, state: &mut LaneState<T>, now: Instant) -> Next<T> {
        let Some(item) = self.pop(state) else {
            state.in_flight -= 1;
            state.last_finished = None;
            // The memory of a burst is given back with the burst.
            state.waiting.shrink_to(16);
            return Next::Idle;
        };
        state.measure(now);
        state.begin(now);
        Next::Begin(item)
    }

    fn push(&self, state: &mut LaneState<T>, item: T) {
        let bytes = item.bytes();
        state.waiting_bytes += bytes;
        self.pool.add(bytes, &self.workspace);
        state.waiting.push_back(item);
    }

    fn pop(&self, state: &mut LaneState<T>) -> Option<T> {
        let item = state.waiting.pop_front()?;
        let bytes = item.bytes();
        state.waiting_bytes -= bytes;
        self.pool.remove(bytes, &self.workspace);
        Some(item)
    }

    /// Decides whether an item may wait, and whether reading is paused for it.
    fn admits(&self, state: &LaneState<T>, bytes: usize, now: Instant) -> bool {
        let (pace, pause) = match state.room(&self.pool, now) {
            Room::Free(pace) => (pace, None),
            Room::Crowded(pause) => (QueuePace::Quick, Some(pause)),
            Room::None => return false,
        };
        if !self.pool.has_room(pace, state.waiting_bytes, bytes, &self.workspace) {
            return false;
        }
        if let Some(pause) = pause {
            self.pool.pause_reading(now + pause);
        }
        true
    }
}

impl<T: Waiting> Drop for Lane<T> {
    fn drop(&mut self) {
        self.pool.remove(self.state.get_mut().waiting_bytes, &self.workspace);
    }
}

impl<T> LaneState<T> {
    /// Returns when the next exchange may begin, if it may not begin now.
    fn begins_after(&self, now: Instant) -> Option<Instant> {
        self.next_begin.filter(|start| *start > now)
    }

    fn begin(&mut self, now: Instant) {
        let interval = self.settings.min_interval;
        self.next_begin = (!interval.is_zero()).then(|| now + interval);
    }

    fn measure(&mut self, now: Instant) {
        if let Some(last) = self.last_finished.replace(now) {
            self.throughput.finished(now.saturating_duration_since(last));
        }
    }

    /// Returns for how long the items that wait have seen none finish.
    fn silence(&self, now: Instant) -> Duration {
        self.last_finished.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// Returns the room for one more item.
    fn room(&self, pool: &LanePool, now: Instant) -> Room {
        let slots = self.slots(pool);
        let waiting = self.waiting.len();
        let silence = self.silence(now);
        if silence >= STALL {
            // As many as the next exchanges to end make room for.
            return if waiting < slots { Room::Free(QueuePace::Slow) } else { Room::None };
        }
        match self.throughput.seconds_per_item(silence) {
            None if waiting < FIRST_WAITING * slots => Room::Free(QueuePace::Slow),
            None if silence < FIRST_EXCHANGE.0 => Room::Crowded(FIRST_EXCHANGE.1),
            None => Room::None,
            Some(seconds) => {
                let drain = seconds * waiting as f64;
                let over = drain - TARGET_WAIT.as_secs_f64();
                if over <= 0.0 {
                    Room::Free(QueuePace::Quick)
                } else if self.is_slower(pool) {
                    Room::None
                } else {
                    Room::Crowded(Duration::from_secs_f64(over).clamp(FIRST_EXCHANGE.0, LONGEST_PAUSE))
                }
            }
        }
    }

    /// Returns the number of exchanges that this process may have in flight.
    fn slots(&self, pool: &LanePool) -> usize {
        pool.share.of(self.settings.max_in_flight)
    }

    /// Tells whether the endpoint is slower than the others.
    fn is_slower(&self, pool: &LanePool) -> bool {
        let by_exchange = self.exchange_s.map_or(0.0, |seconds| seconds / self.slots(pool) as f64);
        pool.is_slower(by_exchange.max(self.settings.min_interval.as_secs_f64()))
    }

    /// Gives each item that finds no room a time of its own, at the lane's
    /// throughput.
    fn retry_after(&mut self, now: Instant) -> Duration {
        let longest = self.settings.max_retry_after;
        let Some(seconds) = self.throughput.seconds_per_item(self.silence(now)) else {
            return longest.min(TARGET_WAIT);
        };
        let wait = (seconds * self.waiting.len() as f64).min(longest.as_secs_f64());
        let earliest = now + Duration::from_secs_f64(wait);
        let retry = self.next_retry.map_or(earliest, |next| next.max(earliest));
        let after = retry.saturating_duration_since(now);
        if after >= longest {
            return longest;
        }
        self.next_retry = Some(retry + Duration::from_secs_f64(seconds));
        after
    }
}
