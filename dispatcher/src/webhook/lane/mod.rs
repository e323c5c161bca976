//! A lane: what waits for one endpoint, and how much of it is under way. It is
//! bounded and never waits; what it does not take is told when to come again.
//! While nothing waits it is a few numbers, with no task behind it.
//!
//! How much may wait follows from the endpoint's pace: as much as it works off
//! within [`PATIENCE`], so that one that is quick catches up after an outage in
//! one go, and one that is slow does not hold offsets back for long.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long what a lane takes may have to wait in it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an endpoint may be silent before what is known of its pace is stale.
const STALL: Duration = Duration::from_secs(1);

/// A lane's bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many may be under way.
    pub in_flight: usize,
    /// How many may wait however slow the endpoint is.
    pub queue: usize,
    /// How many may wait however quick it is.
    pub most: usize,
}

/// The lane of one endpoint.
pub(super) struct Lane<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    under_way: usize,
    pace: Pace,
    /// When the last one was through, if others waited then.
    last: Option<Instant>,
    /// When the next one that finds no room is expected to find some.
    slot: Option<Instant>,
}

/// What became of what was offered to a lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered<T> {
    /// It can begin at once: whoever offered it sees to that, and to calling
    /// [`Lane::next`] after it until there is none.
    Begin(T),
    /// It waits for one that is under way.
    Waits,
    /// There is no room; after so long there probably is.
    Full(T, Duration),
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        let inner = Inner { waiting: VecDeque::new(), under_way: 0, pace: Pace::default(), last: None, slot: None };
        Self { inner: Mutex::new(inner) }
    }
}

impl<T> Lane<T> {
    /// Takes `item` if there is room; else says when to come again, at most
    /// `longest` from `now`.
    pub(super) fn offer(&self, item: T, limits: Limits, longest: Duration, now: Instant) -> Offered<T> {
        let mut inner = self.inner.lock();
        if inner.under_way < limits.in_flight {
            inner.under_way += 1;
            return Offered::Begin(item);
        }
        if inner.has_room(limits, now) {
            if inner.waiting.is_empty() {
                inner.last = Some(now);
            }
            inner.waiting.push_back(item);
            return Offered::Waits;
        }
        Offered::Full(item, inner.come_again(longest, now))
    }

    /// One that was under way is through: what begins in its stead.
    pub(super) fn next(&self, now: Instant) -> Option<T> {
        let mut inner = self.inner.lock();
        let next = inner.waiting.pop_front();
        if next.is_some() {
            inner.keep_pace(now);
        } else {
            inner.under_way -= 1;
            inner.last = None;
            // A burst's memory is given back with the burst.
            inner.waiting.shrink_to(16);
        }
        next
    }
}

impl<T> Inner<T> {
    fn keep_pace(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.pace.through(now.saturating_duration_since(last));
        }
    }

    /// How long the next one to be through takes already.
    fn silence(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    fn has_room(&self, limits: Limits, now: Instant) -> bool {
        let waiting = self.waiting.len();
        let silence = self.silence(now);
        let quick = || {
            silence < STALL
                && self.pace.each(silence).is_some_and(|each| each * waiting as f64 <= PATIENCE.as_secs_f64())
        };
        waiting < limits.most && (waiting < limits.queue || quick())
    }

    /// Gives each one that finds no room a time of its own, at the lane's pace.
    fn come_again(&mut self, longest: Duration, now: Instant) -> Duration {
        let Some(each) = self.pace.each(self.silence(now)) else { return longest.min(PATIENCE) };
        let wait = (each * self.waiting.len() as f64).min(longest.as_secs_f64());
        let earliest = now + Duration::from_secs_f64(wait);
        let slot = self.slot.map_or(earliest, |slot| slot.max(earliest));
        let after = slot.saturating_duration_since(now);
        if after >= longest {
            return longest;
        }
        self.slot = Some(slot + Duration::from_secs_f64(each));
        after
    }
}

/// How quickly an endpoint works off what waits: a mean over the last seconds,
/// in which a pause counts for what it takes, and several that end together, as
/// timeouts do, do not look quick.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// How many were through, those of long ago counting less.
    through: f64,
    /// In how many seconds, likewise.
    seconds: f64,
}

impl Pace {
    /// How soon the past fades, seconds.
    const FADE: f64 = 5.0;

    fn later(self, seconds: f64) -> Self {
        let kept = (-seconds / Self::FADE).exp();
        Self { through: self.through * kept, seconds: self.seconds * kept + seconds }
    }

    /// One more is through, so long after the last.
    fn through(&mut self, since: Duration) {
        *self = self.later(since.as_secs_f64());
        self.through += 1.0;
    }

    /// Seconds that each takes, if nothing has been through for `silence`; none
    /// if nothing is known.
    fn each(self, silence: Duration) -> Option<f64> {
        let now = self.later(silence.as_secs_f64());
        (now.through > 1e-3).then(|| now.seconds / now.through)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_finds_no_room_is_given_back() {
        let (lane, now) = (Lane::default(), Instant::now());
        let limits = Limits { in_flight: 1, queue: 1, most: 10 };
        assert_eq!(lane.offer(1, limits, LONGEST, now), Offered::Begin(1));
        assert_eq!(lane.offer(2, limits, LONGEST, now), Offered::Waits);
        // Nothing is known of its pace.
        assert_eq!(lane.offer(3, limits, LONGEST, now), Offered::Full(3, PATIENCE));
        assert_eq!(lane.next(now), Some(2));
        assert_eq!(lane.next(now), None);
        assert_eq!(lane.offer(4, limits, LONGEST, now), Offered::Begin(4));
    }

    /// A lane whose endpoint has worked off 50 at one a millisecond, with as many
    /// waiting as it takes.
    fn quick(limits: Limits) -> (Lane<usize>, Instant) {
        let (lane, mut now) = (Lane::default(), Instant::now());
        for item in 0..=50 {
            lane.offer(item, Limits { queue: 100, ..limits }, LONGEST, now);
        }
        for _ in 0..50 {
            now += MS;
            assert!(lane.next(now).is_some());
        }
        while lane.offer(0, limits, LONGEST, now) == Offered::Waits {}
        (lane, now)
    }

    #[test]
    fn a_quick_endpoint_may_have_more_waiting() {
        let (lane, _) = quick(Limits { in_flight: 1, queue: 10, most: 1_000_000 });
        let waiting = lane.inner.lock().waiting.len();
        assert!((4990..=5010).contains(&waiting), "five seconds' worth, not {waiting}");
        let (lane, _) = quick(Limits { in_flight: 1, queue: 10, most: 300 });
        assert_eq!(lane.inner.lock().waiting.len(), 300);
    }

    #[test]
    fn one_that_stops_answering_counts_as_slow_at_once() {
        let limits = Limits { in_flight: 1, queue: 10, most: 1_000_000 };
        let (lane, now) = quick(limits);
        for _ in 0..100 {
            assert!(lane.next(now).is_some());
        }
        assert_eq!(lane.offer(0, limits, LONGEST, now), Offered::Waits);
        assert!(matches!(lane.offer(0, limits, LONGEST, now + STALL), Offered::Full(..)));
    }

    #[test]
    fn a_pause_is_no_pace_and_neither_are_timeouts_that_end_together() {
        let each = |pace: Pace| pace.each(Duration::ZERO).unwrap();
        let mut pace = Pace::default();
        assert!(pace.each(Duration::ZERO).is_none());
        for _ in 0..5000 {
            pace.through(MS);
        }
        assert!((0.0009..0.0011).contains(&each(pace)), "{pace:?}");
        pace.through(3000 * MS);
        assert!(each(pace) < 0.003, "{pace:?}");

        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.through(5000 * MS);
            for _ in 1..32 {
                pace.through(Duration::ZERO);
            }
        }
        assert!((0.1..0.2).contains(&each(pace)), "{pace:?}");
    }

    #[test]
    fn those_who_find_no_room_come_again_one_by_one() {
        let limits = Limits { in_flight: 1, queue: 10, most: 1000 };
        let (lane, now) = quick(limits);
        let after = |lane: &Lane<usize>| match lane.offer(0, limits, LONGEST, now) {
            Offered::Full(_, after) => after,
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

    proptest! {
        #[test]
        fn everything_taken_comes_out_once_and_in_order(offers in prop::collection::vec(any::<bool>(), 0..200)) {
            let lane = Lane::default();
            let limits = Limits { in_flight: 3, queue: 5, most: 7 };
            let mut now = Instant::now();
            let (mut taken, mut begun, mut under_way) = (Vec::new(), Vec::new(), 0);
            for (item, offer) in offers.into_iter().enumerate() {
                now += MS;
                if offer {
                    match lane.offer(item, limits, LONGEST, now) {
                        Offered::Begin(item) => {
                            begun.push(item);
                            taken.push(item);
                            under_way += 1;
                        }
                        Offered::Waits => taken.push(item),
                        Offered::Full(..) => {}
                    }
                } else if under_way > 0 {
                    match lane.next(now) {
                        Some(item) => begun.push(item),
                        None => under_way -= 1,
                    }
                }
                prop_assert!(under_way <= limits.in_flight);
                prop_assert!(lane.inner.lock().waiting.len() <= limits.most);
            }
            while under_way > 0 {
                match lane.next(now) {
                    Some(item) => begun.push(item),
                    None => under_way -= 1,
                }
            }
            prop_assert_eq!(begun, taken);
        }
    }
}
