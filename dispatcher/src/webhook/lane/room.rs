//! How much may wait in a lane. It follows from the endpoint's throughput: as much as the
//! endpoint works off within [`TARGET_WAIT`], and before its throughput is known a few times
//! what may be in flight.

use std::time::{Duration, Instant};

use super::{
    pool::{LanePool, QueuePace},
    settings::LaneSettings,
    throughput::Throughput,
};

/// The time within which an endpoint should work off everything that waits for it.
pub(super) const TARGET_WAIT: Duration = Duration::from_secs(5);
/// The silence after which an endpoint's measured throughput is no longer trusted.
pub(super) const STALL: Duration = Duration::from_secs(1);
/// How many times the exchanges in flight may wait while the throughput is not known.
const FIRST_WAITING: usize = 4;
/// The time that an endpoint has to show its throughput before it counts as slow, and
/// for which reading is paused at once meanwhile.
pub(super) const FIRST_EXCHANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(10));
/// The longest time for which one lane pauses reading at once.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The share of the mean that the newest exchange has.
const NEW_SHARE: f64 = 0.1;

/// The room that a lane has for one more item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is room in the memory of lanes of this pace.
    Free(QueuePace),
    /// There is room, and reading is paused for this time.
    Crowded(Duration),
    /// There is none.
    None,
}

/// The pace of one endpoint, as its lane has seen it.
#[derive(Default)]
pub(super) struct EndpointPace {
    throughput: Throughput,
    /// The mean duration of an exchange, divided by its items.
    seconds_per_item: Option<f64>,
    /// The last time that items left the lane while others waited for a slot; where these wait
    /// for their batch, the time at which they need one.
    last_left: Option<Instant>,
    /// The last time that an exchange began where none was in flight, or ended.
    last_sign: Option<Instant>,
    /// The time for which the next item that finds no room is told to come again.
    next_retry: Option<Instant>,
}

impl EndpointPace {
    /// Notes that an item waits that needs a slot at `due`, and finds none.
    pub(super) fn held_up(&mut self, due: Instant) {
        self.last_left = Some(self.last_left.map_or(due, |earlier| earlier.min(due)));
    }

    /// Notes that `items` leave, and when the next ones need a slot.
    pub(super) fn left(&mut self, items: usize, next_due: Option<Instant>, now: Instant) {
        if let Some(last) = self.last_left.filter(|last| *last <= now) {
            self.throughput.finished(items, now.saturating_duration_since(last));
        }
        self.last_left = next_due;
    }

    /// Notes that nothing waits for a slot any more.
    pub(super) const fn idle(&mut self) {
        self.last_left = None;
    }

    /// Notes that an exchange began where none was in flight.
    pub(super) const fn first_began(&mut self, now: Instant) {
        self.last_sign = Some(now);
    }

    /// Notes that an exchange of `items` ended after `took`, and returns the time of an item.
    pub(super) fn ended(&mut self, items: usize, took: Duration, now: Instant) -> f64 {
        self.last_sign = Some(now);
        let seconds = took.as_secs_f64() / items.max(1) as f64;
        let mean = self.seconds_per_item.unwrap_or(seconds);
        self.seconds_per_item = Some(mean + NEW_SHARE * (seconds - mean));
        seconds
    }

    /// Returns the room for one more item where `waiting` wait, `slots` exchanges may be in
    /// flight, and `in_flight` are.
    pub(super) fn room(&self, load: LaneLoad, settings: &LaneSettings, pool: &LanePool, now: Instant) -> Room {
        let LaneLoad { waiting, slots, in_flight } = load;
        let per_exchange = settings.batch.map_or(1, |batch| batch.max_events as usize);
        let is_batched = settings.batch.is_some();
        if is_batched && !self.is_held_up(now) {
            // The endpoint keeps up: less than a batch waits, and for the others of its batch.
            let hangs = in_flight > 0 && self.last_sign.is_none_or(|sign| now.saturating_duration_since(sign) >= STALL);
            let is_quick = self.seconds_per_item.is_some() && !hangs;
            return Room::Free(if is_quick { QueuePace::Quick } else { QueuePace::Slow });
        }
        let silence = self.silence(now);
        if silence >= STALL {
            // As many as the next exchanges to end make room for.
            return if waiting < slots * per_exchange { Room::Free(QueuePace::Slow) } else { Room::None };
        }
        match self.throughput.seconds_per_item(silence) {
            None if waiting < FIRST_WAITING * slots * per_exchange => Room::Free(QueuePace::Slow),
            None if silence < FIRST_EXCHANGE.0 => Room::Crowded(FIRST_EXCHANGE.1),
            None => Room::None,
            Some(seconds) => {
                let drain = seconds * waiting as f64;
                let over = drain - TARGET_WAIT.as_secs_f64();
                if over <= 0.0 {
                    Room::Free(QueuePace::Quick)
                } else if self.is_slower(slots, settings, pool) {
                    Room::None
                } else {
                    Room::Crowded(Duration::from_secs_f64(over).clamp(FIRST_EXCHANGE.0, LONGEST_PAUSE))
                }
            }
        }
    }

    /// Gives each item that finds no room a time of its own, at the lane's throughput. Returns
    /// the time until then, at most `longest`.
    pub(super) fn retry_after(&mut self, waiting: usize, longest: Duration, now: Instant) -> Duration {
        let Some(seconds) = self.throughput.seconds_per_item(self.silence(now)) else {
            return longest.min(TARGET_WAIT);
        };
        let wait = (seconds * waiting as f64).min(longest.as_secs_f64());
        let earliest = now + Duration::from_secs_f64(wait);
        let retry = self.next_retry.map_or(earliest, |next| next.max(earliest));
        let after = retry.saturating_duration_since(now);
        if after >= longest {
            return longest;
        }
        self.next_retry = Some(retry + Duration::from_secs_f64(seconds));
        after
    }

    /// Tells whether something waits for nothing but a slot.
    fn is_held_up(&self, now: Instant) -> bool {
        self.last_left.is_some_and(|last| last <= now)
    }

    /// Returns for how long the items that wait have seen none leave.
    fn silence(&self, now: Instant) -> Duration {
        self.last_left.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// Tells whether the endpoint is slower than the others.
    fn is_slower(&self, slots: usize, settings: &LaneSettings, pool: &LanePool) -> bool {
        let by_exchange = self.seconds_per_item.map_or(0.0, |seconds| seconds / slots as f64);
        let items = settings.batch.map_or(1, |batch| batch.max_events);
        let interval = pool.share.interval(settings.min_interval);
        pool.is_slower(by_exchange.max(interval.as_secs_f64() / f64::from(items)))
    }
}

/// The load of a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneLoad {
    /// The items that wait.
    pub(super) waiting: usize,
    /// The exchanges that may be in flight in this process.
    pub(super) slots: usize,
    /// The exchanges that are.
    pub(super) in_flight: usize,
}
