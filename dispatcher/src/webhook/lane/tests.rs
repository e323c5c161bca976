//! Tests of a lane, with a clock of their own.

use proptest::prelude::*;
use schemas::BatchLimits;

use super::{
    room::{FIRST_EXCHANGE, LONGEST_PAUSE, STALL, TARGET_WAIT},
    *,
};
use crate::webhook::retry::RetryTiming;

/// The longest tier's delay is a minute.
const TIMING: RetryTiming = RetryTiming { speedup: 24 * 60 };
const LONGEST: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

/// Every item of a test takes one byte.
impl Waiting for usize {
    fn bytes(&self) -> usize {
        1
    }

    /// An item takes as many bytes of a batch as it says.
    fn batched_bytes(&self) -> Option<usize> {
        (*self != ALONE).then_some(*self)
    }
}

/// The item that joins no batch.
pub(super) const ALONE: usize = usize::MAX;

fn begin(item: usize) -> Next<usize> {
    Next::Begin(Departure::Single(item))
}

fn finished(lane: &Lane<usize>, took: Duration, now: Instant) -> Next<usize> {
    lane.finished(Finished { load: Departure::Single(0_usize).load(), took }, now)
}

fn settings(max_in_flight: usize) -> LaneSettings {
    LaneSettings { max_in_flight, timing: TIMING, min_interval: Duration::ZERO, batch: None, format_bytes: 0 }
}

/// A lane with a pool of its own.
fn lane(settings: LaneSettings) -> Lane<usize> {
    Lane::new(settings, Arc::new(LanePool::new(1 << 30)), "default")
}

/// Offers items until one finds no room, and returns for how long that one waits.
fn fill(lane: &Lane<usize>, now: Instant) -> Duration {
    loop {
        if let Offer::Full { retry_after, .. } = lane.offer(0, now) {
            return retry_after;
        }
        assert!(lane.state.lock().queue.len() < 1_000_000, "the lane has no bound");
    }
}

#[test]
fn before_its_throughput_is_known_a_lane_takes_a_few_times_its_slots() {
    let lane = lane(settings(2));
    let now = Instant::now();
    for item in 0..2 {
        assert_eq!(lane.offer(item, now), Offer::Start(begin(item)));
    }
    for item in 0..8 {
        assert_eq!(lane.offer(item, now), Offer::Queued);
    }
    assert!(!lane.pool.pauses_reading(now));
    // An endpoint that answers quickly shows it within this time.
    assert_eq!(lane.offer(8, now), Offer::Queued);
    assert!(lane.pool.pauses_reading(now));
    let later = now + FIRST_EXCHANGE.0;
    assert_eq!(lane.offer(9, later), Offer::Full { item: 9, retry_after: TARGET_WAIT });
    assert!(!lane.pool.pauses_reading(later), "one endpoint that hangs stops no reading");
    assert!(matches!(lane.offer(9, now + STALL), Offer::Full { .. }));
}

/// A lane whose endpoint has worked off 500 at one a millisecond, and whose exchanges
/// take as long.
fn quick() -> (Lane<usize>, Instant) {
    let lane = lane(settings(1));
    let mut now = Instant::now();
    lane.offer(0, now);
    for _ in 0..500 {
        assert_eq!(lane.offer(0, now), Offer::Queued);
        now += MS;
        assert!(matches!(finished(&lane, MS, now), Next::Begin(_)));
    }
    (lane, now)
}

#[test]
fn a_quick_endpoint_may_have_seconds_of_work_waiting_and_then_reading_is_paused() {
    let (lane, now) = quick();
    while !lane.pool.pauses_reading(now) {
        assert_eq!(lane.offer(0, now), Offer::Queued);
    }
    let waiting = lane.state.lock().queue.len();
    assert!((4900..=5100).contains(&waiting), "five seconds' worth, not {waiting}");
    assert_eq!(lane.offer(0, now), Offer::Queued, "the endpoint is no slower than others");
    assert!(!lane.pool.pauses_reading(now + LONGEST_PAUSE));
}

#[test]
fn one_that_is_slower_than_the_others_is_spilled_and_stops_no_reading() {
    let (lane, now) = quick();
    for _ in 0..1000 {
        lane.pool.learn(0.000_2);
    }
    fill(&lane, now);
    assert!(!lane.pool.pauses_reading(now));
    let waiting = lane.state.lock().queue.len();
    assert!((4900..=5100).contains(&waiting), "five seconds' worth, not {waiting}");
}

#[test]
fn one_that_stops_answering_counts_as_slow_at_once() {
    let (lane, now) = quick();
    for _ in 0..100 {
        assert_eq!(lane.offer(0, now), Offer::Queued);
    }
    assert!(matches!(lane.offer(0, now + STALL), Offer::Full { .. }));
    assert!(!lane.pool.pauses_reading(now + STALL));
}

#[test]
fn those_who_find_no_room_come_again_one_by_one() {
    let (lane, now) = quick();
    for _ in 0..1000 {
        lane.pool.learn(0.000_2);
    }
    let first = fill(&lane, now);
    assert!((4900 * MS..5100 * MS).contains(&first), "{first:?}");
    let after = |lane: &Lane<usize>| match lane.offer(0, now) {
        Offer::Full { retry_after, .. } => retry_after,
        other => panic!("{other:?}"),
    };
    let second = after(&lane) - first;
    assert!((900..1100).contains(&second.as_micros()), "{second:?}");
    for _ in 0..100_000 {
        assert!(after(&lane) <= LONGEST);
    }
    assert_eq!(after(&lane), LONGEST);
}

#[test]
fn with_an_interval_the_next_one_begins_at_its_time_and_in_order() {
    let lane = lane(LaneSettings { min_interval: 10 * MS, ..settings(2) });
    let start = Instant::now();
    assert_eq!(lane.offer(1, start), Offer::Start(begin(1)));
    assert_eq!(lane.offer(2, start), Offer::Start(Next::At(start + 10 * MS)));
    assert_eq!(lane.offer(3, start), Offer::Queued);
    assert_eq!(lane.next(start + 5 * MS), Next::At(start + 10 * MS));
    assert_eq!(lane.next(start + 10 * MS), begin(2));
    assert_eq!(lane.next(start + 11 * MS), Next::At(start + 20 * MS));
    assert_eq!(lane.next(start + 20 * MS), begin(3));
    assert_eq!(lane.next(start + 21 * MS), Next::Idle);
}

#[test]
fn what_is_withdrawn_waits_no_longer_and_takes_no_memory() {
    let batch = BatchLimits { max_events: 100, max_wait_ms: 1000, max_bytes: 100_000 };
    for settings in [settings(1), LaneSettings { batch: Some(batch), ..settings(1) }] {
        let (lane, now) = (lane(settings), Instant::now());
        let first = lane.offer(10, now);
        for item in [11, 12, 13] {
            assert_eq!(lane.offer(item, now), Offer::Queued);
        }
        let is_batched = settings.batch.is_some();
        let withdrawn = lane.withdraw(|item| item % 2 == 1);
        assert_eq!(withdrawn, [11, 13]);
        let rest = if is_batched { Departure::Batch(vec![10, 12]) } else { Departure::Single(12) };
        let next = if is_batched {
            assert_eq!(first, Offer::Start(Next::Gather(now + 1000 * MS)));
            lane.gathered(Patience::UntilDue, now + 1000 * MS)
        } else {
            finished(&lane, Duration::ZERO, now)
        };
        assert_eq!(next, Next::Begin(rest));
        assert_eq!(finished(&lane, Duration::ZERO, now), Next::Idle);
        drop(lane.withdraw(|_| true));
    }
}

/// Begins a hundred items, each time 3 ms later than the lane says, and returns how long that takes.
fn hundred_with_late_timers(lane: &Lane<usize>) -> Duration {
    let start = Instant::now();
    let mut now = start;
    assert_eq!(lane.offer(0, now), Offer::Start(begin(0)));
    for item in 1..100 {
        assert_eq!(lane.offer(item, now), Offer::Queued);
        let Next::At(planned) = finished(lane, Duration::ZERO, now) else { panic!("{item} begins too early") };
        now = planned + 3 * MS;
        assert_eq!(lane.next(now), begin(item));
    }
    now - start
}

#[test]
fn the_pace_is_that_of_all_processes_together_also_where_timers_are_late() {
    let settings = LaneSettings { min_interval: 10 * MS, ..settings(1) };
    let took = hundred_with_late_timers(&lane(settings));
    assert!((990 * MS..=1000 * MS).contains(&took), "{took:?}");
    let shared = lane(settings);
    let group = schemas::ConsumerGroup::WebhookClicks;
    shared.pool.share.set(group, OwnedPartitions { owned: 1, total: 4 });
    let took = hundred_with_late_timers(&shared);
    assert!((3960 * MS..=4000 * MS).contains(&took), "{took:?}");
}

#[test]
fn new_settings_hold_from_the_next_offer_on() {
    let lane = lane(settings(1));
    let now = Instant::now();
    assert_eq!(lane.offer(1, now), Offer::Start(begin(1)));
    lane.reshape(settings(2));
    assert_eq!(lane.offer(2, now), Offer::Start(begin(2)));
    assert_eq!(lane.offer(3, now), Offer::Queued);
}

#[test]
fn a_process_has_its_share_of_the_slots() {
    let lane = lane(settings(4));
    let group = schemas::ConsumerGroup::WebhookClicks;
    lane.pool.share.set(group, OwnedPartitions { owned: 2, total: 4 });
    let now = Instant::now();
    for item in 0..2 {
        assert_eq!(lane.offer(item, now), Offer::Start(begin(item)));
    }
    assert_eq!(lane.offer(2, now), Offer::Queued);
    lane.pool.share.set(group, OwnedPartitions { owned: 3, total: 4 });
    assert_eq!(lane.offer(3, now), Offer::Start(begin(2)));
}

#[test]
fn lanes_share_their_memory_and_give_it_back() {
    let pool = Arc::new(LanePool::new(32));
    let now = Instant::now();
    let [first, second] = ["one", "two"].map(|workspace| Lane::new(settings(1), Arc::clone(&pool), workspace));
    for lane in [&first, &second] {
        assert_eq!(lane.offer(0, now), Offer::Start(begin(0)));
    }
    // Slow lanes have an eighth of the half that is free.
    assert_eq!(first.offer(1, now), Offer::Queued);
    assert!(matches!(first.offer(2, now), Offer::Full { .. }));
    assert_eq!(second.offer(1, now), Offer::Queued);
    assert_eq!(first.next(now), begin(1));
    drop(second);
    assert_eq!(first.offer(2, now), Offer::Queued);
}

#[test]
fn an_open_breaker_lets_one_probe_through_and_spills_the_rest() {
    let lane = lane(settings(2));
    let now = Instant::now();
    for item in 0..2 {
        assert_eq!(lane.offer(item, now), Offer::Start(begin(item)));
    }
    assert_eq!(lane.offer(2, now), Offer::Queued);
    for _ in 0..10 {
        lane.learn(HealthSign::Failure, now);
    }
    let retry_after = 5000 * MS;
    assert_eq!(
        lane.next(now),
        Next::Spill { departure: Departure::Single(2), retry_after },
        "what waited does not begin"
    );
    assert_eq!(lane.next(now), Next::Idle);
    let later = now + retry_after;
    assert_eq!(lane.offer(3, later), Offer::Full { item: 3, retry_after }, "one is still in flight");
    assert_eq!(lane.next(later), Next::Idle);
    assert_eq!(lane.offer(3, later), Offer::Start(begin(3)), "a probe");
    assert_eq!(lane.offer(4, later), Offer::Full { item: 4, retry_after });
    lane.learn(HealthSign::Success, later);
    assert_eq!(lane.offer(4, later), Offer::Start(begin(4)));
    assert_eq!(lane.offer(5, later), Offer::Queued);
    assert_eq!(lane.next(later), begin(5));
}

proptest! {
    #[test]
    fn everything_taken_comes_out_once_and_in_order(offers in prop::collection::vec(any::<bool>(), 0..200)) {
        const MAX_IN_FLIGHT: usize = 3;
        let lane = lane(settings(MAX_IN_FLIGHT));
        let mut now = Instant::now();
        let mut taken = Vec::new();
        let mut begun = Vec::new();
        let mut in_flight = 0;
        let next = |now, begun: &mut Vec<usize>, in_flight: &mut usize| match finished(&lane, MS, now) {
            Next::Begin(Departure::Single(item)) => begun.push(item),
            Next::Idle => *in_flight -= 1,
            other => panic!("no interval is set, and nothing fails: {other:?}"),
        };
        for (item, offer) in offers.into_iter().enumerate() {
            now += MS;
            if offer {
                match lane.offer(item, now) {
                    Offer::Start(Next::Begin(Departure::Single(item))) => {
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
            let (bytes, waiting) = { let state = lane.state.lock(); (state.queue.bytes(), state.queue.len()) };
            prop_assert_eq!(bytes, waiting);
        }
        while in_flight > 0 {
            next(now, &mut begun, &mut in_flight);
        }
        prop_assert_eq!(begun, taken);
    }
}
