//! A lane: the deliveries that wait for one endpoint, and the slots of those in
//! flight. A lane answers two questions: whether a delivery has room, and what may
//! begin now, or if nothing may, when. A lane is pure: the clock is handed in, and
//! an idle lane has no task and no timer.
//!
//! How much may wait follows from the endpoint's throughput (`room.rs`). So a quick endpoint
//! catches up after an outage in one go, and a slow one does not hold offsets back for long.
//! What an endpoint that is slower than the others has no room for goes to a delay topic.
//! Where the endpoint is no slower, reading is paused until there is room.
//!
//! An endpoint that wants batches gets its deliveries together (`queue.rs`). The caller who is
//! told [`Next::Gather`] is the lane's timer. It holds no slot while it waits, so that a batch
//! that is full before its time needs no one to be woken.

mod breaker;
mod pool;
mod queue;
mod room;
mod settings;
mod share;
mod snapshot;
mod throughput;

#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use self::{
    breaker::{Breaker, Passage},
    pool::{QueuePace, WorkspaceShare},
    queue::LaneQueue,
    room::{EndpointPace, LaneLoad, Room},
};
pub(super) use self::{
    pool::LanePool,
    queue::{Departure, DepartureLoad, Waiting},
    settings::LaneSettings,
    share::OwnedPartitions,
    snapshot::{BreakerState, LaneSnapshot},
};
use super::health::HealthSign;

/// The delay of a timer that is made up for.
const TIMER_DELAY: Duration = Duration::from_millis(10);

/// The lane of one endpoint.
pub(super) struct Lane<T: Waiting> {
    pool: Arc<LanePool>,
    workspace: Arc<WorkspaceShare>,
    state: Mutex<LaneState<T>>,
}

struct LaneState<T> {
    settings: LaneSettings,
    queue: LaneQueue<T>,
    in_flight: usize,
    /// The memory that the items in flight keep.
    in_flight_bytes: usize,
    /// Whether a caller waits until a batch is due.
    has_timer: bool,
    pace: EndpointPace,
    breaker: Breaker,
    /// The earliest time at which the next exchange may begin.
    next_begin: Option<Instant>,
}

/// The lane's answer to an item that is offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer<T> {
    /// The item took a free slot, or set the timer of its batch: the caller does what
    /// [`Next`] says until it is [`Next::Idle`].
    Start(Next<T>),
    /// The item waits for a slot, or for its batch.
    Queued,
    /// There is no room; after this time there probably is.
    Full { item: T, retry_after: Duration },
}

/// The next step of the holder of a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// These items begin now; the holder calls [`Lane::finished`] after them.
    Begin(Departure<T>),
    /// These items do not begin: they are to be offered again after this time.
    Spill { departure: Departure<T>, retry_after: Duration },
    /// Nothing may begin before this time: the holder keeps its slot, and asks again
    /// then.
    At(Instant),
    /// A batch is due at this time: the caller has given up its slot, and calls
    /// [`Lane::gathered`] then.
    Gather(Instant),
    /// Nothing waits: the slot is free again.
    Idle,
}

/// An exchange that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub load: DepartureLoad,
    pub took: Duration,
}

/// Whether what waits for its batch goes on waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// A batch waits until it is due.
    UntilDue,
    /// Nothing more will come: what waits begins at once.
    Over,
}

impl<T: Waiting> Lane<T> {
    /// Makes an empty lane, whose waiting items take memory of `pool` and of
    /// `workspace`'s share in it.
    pub(super) fn new(settings: LaneSettings, pool: Arc<LanePool>, workspace: &str) -> Self {
        let state = LaneState {
            settings,
            queue: LaneQueue::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            has_timer: false,
            pace: EndpointPace::default(),
            breaker: Breaker::default(),
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
        if let Passage::Blocked { failing_for } = state.breaker.passage(state.in_flight, now) {
            return Offer::Full { item, retry_after: state.settings.timing.rest(failing_for) };
        }
        let has_slot = state.in_flight < state.slots(&self.pool);
        let batched_bytes = state.settings.batch.and_then(|_| item.batched_bytes());
        let batched_bytes = batched_bytes.map(|bytes| bytes + state.settings.format_bytes);
        // Where a slot is free, an item that goes alone needs no room, nor does the first one of
        // a batch.
        let needs_room = !has_slot || (batched_bytes.is_some() && state.queue.is_gathering());
        if needs_room && !self.admits(&state, item.bytes(), now) {
            let longest = state.settings.max_retry_after();
            let waiting = state.queue.len();
            return Offer::Full { item, retry_after: state.pace.retry_after(waiting, longest, now) };
        }
        if has_slot && batched_bytes.is_none() && state.begins_after(now).is_none() && state.queue.is_empty() {
            state.take_slot(now);
            state.begin(&self.pool, now);
            return Offer::Start(Next::Begin(Departure::Single(item)));
        }
        if state.queue.is_empty() {
            state.pace.idle();
        }
        self.pool.add(item.bytes(), &self.workspace);
        match batched_bytes {
            Some(bytes) => state.queue.push_gathering(item, bytes, now),
            None => state.queue.push_single(item, now),
        }
        let due = state.due().unwrap_or(now);
        if !has_slot {
            state.pace.held_up(due.max(now));
            return Offer::Queued;
        }
        if due <= now {
            state.take_slot(now);
            return Offer::Start(self.next_of(&mut state, Patience::UntilDue, now));
        }
        if state.has_timer {
            return Offer::Queued;
        }
        state.has_timer = true;
        Offer::Start(Next::Gather(due))
    }

    /// Learns how an exchange with the endpoint ended.
    pub(super) fn learn(&self, sign: HealthSign, now: Instant) {
        let mut state = self.state.lock();
        match sign {
            HealthSign::Success => state.breaker.succeeded(),
            HealthSign::Failure | HealthSign::Gone => state.breaker.failed(now),
        }
    }

    /// Returns what the holder of a slot does next after an exchange.
    pub(super) fn finished(&self, finished: Finished, now: Instant) -> Next<T> {
        let Finished { load, took } = finished;
        let seconds_per_item = {
            let mut state = self.state.lock();
            self.release(&mut state, load);
            state.pace.ended(load.items, took, now) / state.slots(&self.pool) as f64
        };
        self.pool.learn(seconds_per_item);
        self.next(now)
    }

    /// Returns what the holder of a slot does next: called at the time that
    /// [`Next::At`] named, and after [`Next::Spill`].
    pub(super) fn next(&self, now: Instant) -> Next<T> {
        self.next_of(&mut self.state.lock(), Patience::UntilDue, now)
    }

    /// Returns what the lane's timer does next, at the time that [`Next::Gather`] named or, where
    /// nothing more will come, before.
    pub(super) fn gathered(&self, patience: Patience, now: Instant) -> Next<T> {
        let mut state = self.state.lock();
        state.has_timer = false;
        if state.in_flight >= state.slots(&self.pool) {
            // Who has a slot asks when its exchange ends.
            if let Some(due) = state.due() {
                state.pace.held_up(due.max(now));
            }
            return Next::Idle;
        }
        state.take_slot(now);
        self.next_of(&mut state, patience, now)
    }

    /// Takes the items that wait and that `is_meant` names. Those that have begun stay.
    pub(super) fn withdraw(&self, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.state.lock();
        let before = state.queue.bytes();
        let withdrawn = state.queue.withdraw(is_meant);
        self.pool.remove(before - state.queue.bytes(), &self.workspace);
        withdrawn
    }

    /// Returns what the holder of a slot does next.
    fn next_of(&self, state: &mut LaneState<T>, patience: Patience, now: Instant) -> Next<T> {
        let Some(due) = state.due() else { return self.take_next(state, now) };
        // The holder's own slot is not in its way.
        if let Passage::Blocked { failing_for } = state.breaker.passage(state.in_flight - 1, now) {
            let retry_after = state.settings.timing.rest(failing_for);
            if let Some(departure) = self.pop(state) {
                self.release(state, departure.load());
                return Next::Spill { departure, retry_after };
            }
        }
        if due > now && patience == Patience::UntilDue {
            state.in_flight -= 1;
            state.pace.idle();
            return if std::mem::replace(&mut state.has_timer, true) { Next::Idle } else { Next::Gather(due) };
        }
        state.begins_after(now).map_or_else(|| self.take_next(state, now), Next::At)
    }

    fn take_next(&self, state: &mut LaneState<T>, now: Instant) -> Next<T> {
        let Some(departure) = self.pop(state) else {
            state.in_flight -= 1;
            state.pace.idle();
            // The memory of a burst is given back with the burst.
            state.queue.shrink();
            return Next::Idle;
        };
        let next_due = match state.settings.batch {
            Some(_) if state.in_flight >= state.slots(&self.pool) => state.due().map(|due| due.max(now)),
            Some(_) => None,
            None => Some(now),
        };
        state.pace.left(departure.load().items, next_due, now);
        state.begin(&self.pool, now);
        Next::Begin(departure)
    }

    /// Takes what is due first. What it weighs stays in the pool until it is released.
    fn pop(&self, state: &mut LaneState<T>) -> Option<Departure<T>> {
        let before = state.queue.bytes();
        let departure = state.queue.take(state.settings.batch)?;
        let load = departure.load();
        self.pool.remove(before - state.queue.bytes() - load.bytes, &self.workspace);
        state.in_flight_bytes += load.bytes;
        Some(departure)
    }

    /// Gives the memory of items that were in flight back.
    fn release(&self, state: &mut LaneState<T>, load: DepartureLoad) {
        state.in_flight_bytes -= load.bytes;
        self.pool.remove(load.bytes, &self.workspace);
    }

    /// Decides whether an item may wait, and pauses reading for it if need be.
    fn admits(&self, state: &LaneState<T>, bytes: usize, now: Instant) -> bool {
        let load = LaneLoad { waiting: state.queue.len(), slots: state.slots(&self.pool), in_flight: state.in_flight };
        let (pace, pause) = match state.pace.room(load, &state.settings, &self.pool, now) {
            Room::Free(pace) => (pace, None),
            Room::Crowded(pause) => (QueuePace::Quick, Some(pause)),
            Room::None => return false,
        };
        if !self.pool.has_room(pace, state.bytes(), bytes, &self.workspace) {
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
        self.pool.remove(self.state.get_mut().bytes(), &self.workspace);
    }
}

impl<T: Waiting> LaneState<T> {
    /// Returns the memory that the lane holds.
    const fn bytes(&self) -> usize {
        self.queue.bytes() + self.in_flight_bytes
    }

    /// Returns the time from which on something that waits may begin.
    fn due(&self) -> Option<Instant> {
        self.queue.due(self.settings.batch)
    }

    fn take_slot(&mut self, now: Instant) {
        if self.in_flight == 0 {
            self.pace.first_began(now);
        }
        self.in_flight += 1;
    }

    /// Returns when the next exchange may begin, if it may not begin now.
    fn begins_after(&self, now: Instant) -> Option<Instant> {
        self.next_begin.filter(|start| *start > now)
    }

    fn begin(&mut self, pool: &LanePool, now: Instant) {
        let interval = pool.share.interval(self.settings.min_interval);
        self.next_begin = (!interval.is_zero()).then(|| {
            // Timers are late, and so that the pace is kept, the next exchange is not.
            let earliest = now.checked_sub(TIMER_DELAY).unwrap_or(now);
            let planned = self.next_begin.map_or(now, |planned| planned.clamp(earliest, now));
            planned + interval
        });
    }

    /// Returns the number of exchanges that this process may have in flight.
    fn slots(&self, pool: &LanePool) -> usize {
        pool.share.of(self.settings.max_in_flight)
    }
}
