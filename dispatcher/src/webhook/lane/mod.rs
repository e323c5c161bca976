//! A lane: the deliveries that wait for one endpoint, and the slots of those in
//! flight. A lane answers two questions: whether a delivery has room, and what may
//! begin now, or if nothing may, when. A lane is pure: the clock is handed in, and
//! an idle lane has no task and no timer.
//!
//! How much may wait follows from the endpoint's throughput: as much as it works
//! off within [`TARGET_WAIT`]. So a quick endpoint catches up after an outage in
//! one go, and a slow one does not hold offsets back for long.

mod queue_budget;
mod throughput;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use schemas::DelayTier;

pub(super) use self::queue_budget::QueueBudget;
use self::throughput::Throughput;
use super::config::Config;

/// The time within which an endpoint should work off everything that waits for it.
const TARGET_WAIT: Duration = Duration::from_secs(5);
/// The silence after which an endpoint's measured throughput is no longer trusted.
const STALL: Duration = Duration::from_secs(1);

/// The limits of one endpoint's lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneSettings {
    /// Exchanges that may be in flight at once.
    pub max_in_flight: usize,
    /// Deliveries that may wait however slow the endpoint is.
    pub queue: usize,
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
            queue: config.lane_queue,
            max_retry_after: config.retry_timing().delay(DelayTier::LONGEST),
            min_interval: Duration::ZERO,
        }
    }
}

/// The lane of one endpoint.
pub(super) struct Lane<T> {
    budget: Arc<QueueBudget>,
    state: Mutex<LaneState<T>>,
}

struct LaneState<T> {
    settings: LaneSettings,
    waiting: VecDeque<T>,
    in_flight: usize,
    throughput: Throughput,
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
    /// Nothing may begin before this time: the holder keeps its slot, and asks again
    /// then.
    At(Instant),
    /// Nothing waits: the slot is free again.
    Idle,
}

impl<T> Lane<T> {
    /// Makes an empty lane, whose waiting items count towards `budget`.
    pub(super) fn new(settings: LaneSettings, budget: Arc<QueueBudget>) -> Self {
        let state = LaneState {
            settings,
            waiting: VecDeque::new(),
            in_flight: 0,
            throughput: Throughput::default(),
            last_finished: None,
            next_retry: None,
            next_begin: None,
        };
        Self { budget, state: Mutex::new(state) }
    }

    /// Applies the endpoint's current settings. What waits or is in flight stays.
    pub(super) fn reshape(&self, settings: LaneSettings) {
        self.state.lock().settings = settings;
    }

    /// Takes `item` if there is room, or says when to offer it again.
    pub(super) fn offer(&self, item: T, now: Instant) -> Offer<T> {
        let mut state = self.state.lock();
        if state.in_flight < state.settings.max_in_flight {
            state.in_flight += 1;
            let start = state.begins_after(now);
            if start.is_none() && state.waiting.is_empty() {
                state.begin(now);
                return Offer::Start(Next::Begin(item));
            }
            state.waiting.push_back(item);
            self.budget.add();
            return Offer::Start(start.map_or_else(|| self.take_next(&mut state, now), Next::At));
        }
        if state.has_room(self.budget.lane_limit(state.settings.queue), now) {
            if state.waiting.is_empty() {
                state.last_finished = Some(now);
            }
            state.waiting.push_back(item);
            self.budget.add();
            return Offer::Queued;
        }
        Offer::Full { item, retry_after: state.retry_after(now) }
    }

    /// Returns what the holder of a slot does next: called when its item is done,
    /// and at the time that [`Next::At`] named.
    pub(super) fn next(&self, now: Instant) -> Next<T> {
        let mut state = self.state.lock();
        if !state.waiting.is_empty()
            && let Some(start) = state.begins_after(now)
        {
            return Next::At(start);
        }
        self.take_next(&mut state, now)
    }

    /// Returns what waits next without regard to when it may begin: called instead
    /// of [`Lane::next`] while the process stops.
    pub(super) fn evict(&self, now: Instant) -> Next<T> {
        self.take_next(&mut self.state.lock(), now)
    }

    fn take_next(&self, state: &mut LaneState<T>, now: Instant) -> Next<T> {
        let Some(item) = state.waiting.pop_front() else {
            state.in_flight -= 1;
            state.last_finished = None;
            // The memory of a burst is given back with the burst.
            state.waiting.shrink_to(16);
            return Next::Idle;
        };
        self.budget.remove(1);
        state.measure(now);
        state.begin(now);
        Next::Begin(item)
    }
}

impl<T> Drop for Lane<T> {
    fn drop(&mut self) {
        self.budget.remove(self.state.get_mut().waiting.len());
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

    fn has_room(&self, limit: usize, now: Instant) -> bool {
        let waiting = self.waiting.len();
        let silence = self.silence(now);
        let is_quick = || {
            silence < STALL
                && self
                    .throughput
                    .seconds_per_item(silence)
                    .is_some_and(|seconds| seconds * waiting as f64 <= TARGET_WAIT.as_secs_f64())
        };
        waiting < limit && (waiting < self.settings.queue || is_quick())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);
    const MS: Duration = Duration::from_millis(1);

    fn settings(max_in_flight: usize, queue: usize) -> LaneSettings {
        LaneSettings { max_in_flight, queue, max_retry_after: LONGEST, min_interval: Duration::ZERO }
    }

    /// A lane that may have `most` waiting: with one lane, that is a third of the
    /// budget.
    fn lane<T>(settings: LaneSettings, most: usize) -> Lane<T> {
        Lane::new(settings, Arc::new(QueueBudget::new(3 * most)))
    }

    #[test]
    fn what_finds_no_room_is_given_back() {
        let lane = lane(settings(1, 1), 10);
        let now = Instant::now();
        assert_eq!(lane.offer(1, now), Offer::Start(Next::Begin(1)));
        assert_eq!(lane.offer(2, now), Offer::Queued);
        // Nothing is known of the endpoint's throughput.
        assert_eq!(lane.offer(3, now), Offer::Full { item: 3, retry_after: TARGET_WAIT });
        assert_eq!(lane.next(now), Next::Begin(2));
        assert_eq!(lane.next(now), Next::Idle);
        assert_eq!(lane.offer(4, now), Offer::Start(Next::Begin(4)));
    }

    /// A lane whose endpoint has worked off 50 at one a millisecond, with as many
    /// waiting as it takes.
    fn quick(settings: LaneSettings, most: usize) -> (Lane<usize>, Instant) {
        let lane = lane(LaneSettings { queue: 100, ..settings }, most);
        let mut now = Instant::now();
        for item in 0..=50 {
            lane.offer(item, now);
        }
        lane.reshape(settings);
        for _ in 0..50 {
            now += MS;
            assert!(matches!(lane.next(now), Next::Begin(_)));
        }
        while lane.offer(0, now) == Offer::Queued {}
        (lane, now)
    }

    #[test]
    fn a_quick_endpoint_may_have_more_waiting() {
        let (lane, _) = quick(settings(1, 10), 1_000_000);
        let waiting = lane.state.lock().waiting.len();
        assert!((4990..=5010).contains(&waiting), "five seconds' worth, not {waiting}");
        let (lane, _) = quick(settings(1, 10), 300);
        assert_eq!(lane.state.lock().waiting.len(), 300);
    }

    #[test]
    fn one_that_stops_answering_counts_as_slow_at_once() {
        let (lane, now) = quick(settings(1, 10), 1_000_000);
        for _ in 0..100 {
            assert!(matches!(lane.next(now), Next::Begin(_)));
        }
        assert_eq!(lane.offer(0, now), Offer::Queued);
        assert!(matches!(lane.offer(0, now + STALL), Offer::Full { .. }));
    }

    #[test]
    fn those_who_find_no_room_come_again_one_by_one() {
        let (lane, now) = quick(settings(1, 10), 1000);
        let after = |lane: &Lane<usize>| match lane.offer(0, now) {
            Offer::Full { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        };
        let first = after(&lane);
        assert!((990 * MS..1010 * MS).contains(&first), "{first:?}");
        let second = after(&lane) - first;
        assert!((900..1100).contains(&second.as_micros()), "{second:?}");
        for _ in 0..100_000 {
            assert!(after(&lane) <= LONGEST);
        }
        assert_eq!(after(&lane), LONGEST);
    }

    #[test]
    fn with_an_interval_the_next_one_begins_at_its_time_and_in_order() {
        let lane = lane(LaneSettings { min_interval: 10 * MS, ..settings(2, 5) }, 10);
        let start = Instant::now();
        assert_eq!(lane.offer(1, start), Offer::Start(Next::Begin(1)));
        assert_eq!(lane.offer(2, start), Offer::Start(Next::At(start + 10 * MS)));
        assert_eq!(lane.offer(3, start), Offer::Queued);
        assert_eq!(lane.next(start + 5 * MS), Next::At(start + 10 * MS));
        assert_eq!(lane.next(start + 10 * MS), Next::Begin(2));
        assert_eq!(lane.next(start + 11 * MS), Next::At(start + 20 * MS));
        assert_eq!(lane.evict(start + 11 * MS), Next::Begin(3));
        assert_eq!(lane.next(start + 12 * MS), Next::Idle);
    }

    #[test]
    fn new_settings_hold_from_the_next_offer_on() {
        let lane = lane(settings(1, 1), 10);
        let now = Instant::now();
        assert_eq!(lane.offer(1, now), Offer::Start(Next::Begin(1)));
        lane.reshape(settings(2, 1));
        assert_eq!(lane.offer(2, now), Offer::Start(Next::Begin(2)));
        assert_eq!(lane.offer(3, now), Offer::Queued);
    }

    #[test]
    fn lanes_share_their_budget_and_give_it_back() {
        let budget = Arc::new(QueueBudget::new(2));
        let now = Instant::now();
        let [first, second] = [(); 2].map(|()| Lane::new(settings(1, 2), Arc::clone(&budget)));
        for lane in [&first, &second] {
            assert_eq!(lane.offer(0, now), Offer::Start(Next::Begin(0)));
        }
        assert_eq!(first.offer(1, now), Offer::Queued);
        assert_eq!(first.offer(2, now), Offer::Queued);
        assert!(matches!(second.offer(1, now), Offer::Full { .. }));
        drop(first);
        assert_eq!(second.offer(1, now), Offer::Queued);
    }

    proptest! {
        #[test]
        fn everything_taken_comes_out_once_and_in_order(offers in prop::collection::vec(any::<bool>(), 0..200)) {
            const MAX_IN_FLIGHT: usize = 3;
            const MOST: usize = 7;
            let lane = lane(settings(MAX_IN_FLIGHT, 5), MOST);
            let mut now = Instant::now();
            let mut taken = Vec::new();
            let mut begun = Vec::new();
            let mut in_flight = 0;
            let next = |now, begun: &mut Vec<usize>, in_flight: &mut usize| match lane.next(now) {
                Next::Begin(item) => begun.push(item),
                Next::At(_) => panic!("no interval is set"),
                Next::Idle => *in_flight -= 1,
            };
            for (item, offer) in offers.into_iter().enumerate() {
                now += MS;
                if offer {
                    match lane.offer(item, now) {
                        Offer::Start(Next::Begin(item)) => {
                            begun.push(item);
                            taken.push(item);
                            in_flight += 1;
                        }
                        Offer::Start(other) => panic!("{other:?}"),
                        Offer::Queued => taken.push(item),
                        Offer::Full { .. } => {}
                    }
                } else if in_flight > 0 {
                    next(now, &mut begun, &mut in_flight);
                }
                prop_assert!(in_flight <= MAX_IN_FLIGHT);
                prop_assert!(lane.state.lock().waiting.len() <= MOST);
            }
            while in_flight > 0 {
                next(now, &mut begun, &mut in_flight);
            }
            prop_assert_eq!(begun, taken);
        }
    }
}
