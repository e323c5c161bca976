//! Tests of batches in a lane, with a clock of their own. An item takes as many bytes of a
//! batch as it says.

use std::collections::VecDeque;

use proptest::prelude::*;
use schemas::BatchLimits;

use super::{tests::ALONE, *};
use crate::webhook::retry::RetryTiming;

const MS: Duration = Duration::from_millis(1);
const LIMITS: BatchLimits = BatchLimits { max_events: 3, max_wait_ms: 100, max_bytes: 50 };

fn settings(max_in_flight: usize, limits: BatchLimits) -> LaneSettings {
    let timing = RetryTiming { speedup: 1 };
    LaneSettings { max_in_flight, timing, min_interval: Duration::ZERO, batch: Some(limits), format_bytes: 0 }
}

fn lane(max_in_flight: usize, limits: BatchLimits) -> Lane<usize> {
    Lane::new(settings(max_in_flight, limits), Arc::new(LanePool::new(1 << 30)), "default")
}

fn begin(items: &[usize]) -> Next<usize> {
    Next::Begin(Departure::Batch(items.to_vec()))
}

fn finish(lane: &Lane<usize>, items: &[usize], now: Instant) -> Next<usize> {
    let load = Departure::Batch(items.to_vec()).load();
    lane.finished(Finished { load, took: MS }, now)
}

#[test]
fn a_batch_is_cut_at_its_number_of_events_without_a_wait() {
    let lane = lane(2, LIMITS);
    let start = Instant::now();
    assert_eq!(lane.offer(1, start), Offer::Start(Next::Gather(start + 100 * MS)));
    assert_eq!(lane.offer(2, start + MS), Offer::Queued);
    assert_eq!(lane.offer(3, start + 2 * MS), Offer::Start(begin(&[1, 2, 3])));
    assert_eq!(lane.offer(4, start + 3 * MS), Offer::Queued, "the timer of the first batch serves the second");
    assert_eq!(lane.gathered(Patience::UntilDue, start + 100 * MS), Next::Gather(start + 103 * MS));
    assert_eq!(lane.gathered(Patience::UntilDue, start + 103 * MS), begin(&[4]));
    assert_eq!(finish(&lane, &[1, 2, 3], start + 104 * MS), Next::Idle);
    assert_eq!(finish(&lane, &[4], start + 104 * MS), Next::Idle);
    assert_eq!(lane.pool.workspace("default").used(), 0);
}

#[test]
fn a_batch_is_cut_at_its_bytes_and_a_larger_event_goes_alone() {
    let lane = lane(9, LIMITS);
    let now = Instant::now();
    assert!(matches!(lane.offer(20, now), Offer::Start(Next::Gather(_))));
    // [20,27] has 50 bytes.
    assert_eq!(lane.offer(27, now), Offer::Start(begin(&[20, 27])));
    assert_eq!(lane.offer(20, now), Offer::Queued);
    assert_eq!(lane.offer(28, now), Offer::Start(begin(&[20])), "the second one does not fit");
    assert_eq!(lane.offer(1000, now), Offer::Start(begin(&[28])));
    // The larger one is due as well: who has a slot takes it.
    assert_eq!(finish(&lane, &[28], now), begin(&[1000]));
    assert_eq!(finish(&lane, &[1000], now), Next::Idle);
}

#[test]
fn no_event_waits_longer_than_it_may_for_others() {
    let lane = lane(1, LIMITS);
    let start = Instant::now();
    assert_eq!(lane.offer(1, start), Offer::Start(Next::Gather(start + 100 * MS)));
    assert_eq!(lane.gathered(Patience::UntilDue, start + 100 * MS), begin(&[1]));
    // While the only slot is taken, who has it asks for the batch.
    assert_eq!(lane.offer(2, start + 110 * MS), Offer::Queued);
    assert_eq!(finish(&lane, &[1], start + 150 * MS), Next::Gather(start + 210 * MS));
    assert_eq!(lane.gathered(Patience::UntilDue, start + 210 * MS), begin(&[2]));
    assert_eq!(lane.offer(3, start + 220 * MS), Offer::Queued);
    assert_eq!(finish(&lane, &[2], start + 400 * MS), begin(&[3]), "it is due already");
}

#[test]
fn without_a_wait_batches_form_while_slots_are_taken() {
    let lane = lane(1, BatchLimits { max_wait_ms: 0, ..LIMITS });
    let now = Instant::now();
    assert_eq!(lane.offer(1, now), Offer::Start(begin(&[1])));
    for item in [2, 3, 4, 5] {
        assert_eq!(lane.offer(item, now), Offer::Queued);
    }
    assert_eq!(finish(&lane, &[1], now), begin(&[2, 3, 4]));
    assert_eq!(finish(&lane, &[2, 3, 4], now), begin(&[5]));
}

#[test]
fn a_full_batch_waits_for_a_slot_and_leaves_with_the_next_one() {
    let lane = lane(1, LIMITS);
    let start = Instant::now();
    assert!(matches!(lane.offer(1, start), Offer::Start(Next::Gather(_))));
    lane.offer(1, start);
    assert_eq!(lane.offer(1, start), Offer::Start(begin(&[1, 1, 1])));
    for item in [2, 3, 4, 5] {
        assert_eq!(lane.offer(item, start + MS), Offer::Queued);
    }
    assert_eq!(lane.gathered(Patience::UntilDue, start + 100 * MS), Next::Idle, "no slot is free for the timer");
    assert_eq!(finish(&lane, &[1, 1, 1], start + 101 * MS), begin(&[2, 3, 4]));
    assert_eq!(finish(&lane, &[2, 3, 4], start + 102 * MS), begin(&[5]));
}

#[test]
fn an_endpoint_that_hangs_takes_a_bounded_part_of_the_memory() {
    let pool = Arc::new(LanePool::new(1 << 20));
    let limits = BatchLimits { max_events: 1000, max_wait_ms: 10, max_bytes: 1 << 20 };
    let lanes: Vec<Lane<usize>> =
        ["one", "two"].map(|name| Lane::new(settings(4, limits), Arc::clone(&pool), name)).into();
    let mut now = Instant::now();
    for lane in &lanes {
        let mut refused = 0;
        for _ in 0..20_000 {
            now += MS / 10;
            match lane.offer(100, now) {
                Offer::Full { .. } => refused += 1,
                Offer::Start(_) | Offer::Queued => {}
            }
        }
        assert!(refused > 0);
        let held = lane.state.lock().bytes();
        assert!(held <= 1 << 16, "{held} bytes are more than an eighth of the half for slow ones");
    }
    assert!(!pool.pauses_reading(now));
}

#[test]
fn waiting_for_a_batch_is_no_sign_of_a_slow_endpoint() {
    // 10 s are more than the lane's target, and than the silence of an endpoint that hangs.
    let lane = lane(1, BatchLimits { max_events: 1000, max_wait_ms: 10_000, max_bytes: 1 << 20 });
    let mut now = Instant::now();
    for _ in 0..3 {
        let Offer::Start(Next::Gather(due)) = lane.offer(1, now) else { panic!("no timer") };
        while now < due {
            assert!(!matches!(lane.offer(1, now), Offer::Full { .. }));
            now += 11 * MS;
        }
        let Next::Begin(Departure::Batch(items)) = lane.gathered(Patience::UntilDue, now) else { panic!("no batch") };
        assert!(items.len() > 900);
        assert_eq!(finish(&lane, &items, now + MS), Next::Idle);
        assert!(!lane.pool.pauses_reading(now));
    }
}

#[test]
fn retries_go_as_they_are_beside_batches() {
    let lane = lane(2, LIMITS);
    let now = Instant::now();
    assert!(matches!(lane.offer(1, now), Offer::Start(Next::Gather(_))));
    assert_eq!(lane.offer(ALONE, now), Offer::Start(Next::Begin(Departure::Single(ALONE))));
    assert_eq!(lane.offer(2, now), Offer::Queued);
    let load = Departure::Single(ALONE).load();
    assert_eq!(lane.finished(Finished { load, took: MS }, now), Next::Idle, "the batch has its timer");
    assert_eq!(lane.gathered(Patience::Over, now), begin(&[1, 2]), "nothing more will come");
}

#[test]
fn an_open_breaker_spills_whole_batches() {
    let lane = lane(1, LIMITS);
    let now = Instant::now();
    assert!(matches!(lane.offer(1, now), Offer::Start(Next::Gather(_))));
    lane.offer(2, now);
    for _ in 0..10 {
        lane.learn(HealthSign::Failure, now);
    }
    assert!(matches!(lane.offer(3, now), Offer::Full { item: 3, .. }));
    let spilled = lane.gathered(Patience::UntilDue, now + 100 * MS);
    let Next::Spill { departure, retry_after } = spilled else { panic!("{spilled:?}") };
    assert_eq!(departure, Departure::Batch(vec![1, 2]));
    assert_eq!(retry_after, Duration::from_secs(5));
    assert_eq!(lane.next(now + 100 * MS), Next::Idle);
    assert_eq!(lane.pool.workspace("default").used(), 0);
}

#[test]
fn without_limits_what_waited_goes_alone_at_once() {
    let lane = lane(2, LIMITS);
    let now = Instant::now();
    assert!(matches!(lane.offer(1, now), Offer::Start(Next::Gather(_))));
    lane.offer(2, now);
    lane.reshape(LaneSettings { batch: None, ..settings(2, LIMITS) });
    let single = |item| Next::Begin(Departure::Single(item));
    assert_eq!(lane.offer(3, now + MS), Offer::Start(single(1)));
    assert_eq!(lane.gathered(Patience::UntilDue, now + 100 * MS), single(2));
    assert_eq!(finish(&lane, &[], now + 100 * MS), single(3));
}

/// A worker of a simulated lane.
enum Worker {
    /// An exchange of these items.
    Exchange(Vec<usize>, Instant),
    /// The timer.
    Timer(Instant),
}

proptest! {
    /// Whatever comes when: each item leaves once and in order, no batch is beyond its limits,
    /// no more exchanges than allowed run, and no item waits longer than it may while a slot
    /// is free.
    #[test]
    fn all_leave_in_time_and_within_the_limits(
        arrivals in prop::collection::vec((0_u64..40, 1_usize..30), 1..150),
        max_in_flight in 1_usize..4,
        exchange_ms in 0_u64..60,
        limits in (1_u32..6, 0_u32..50, 20_u32..80)
            .prop_map(|(max_events, max_wait_ms, max_bytes)| BatchLimits { max_events, max_wait_ms, max_bytes }),
    ) {
        let lane = lane(max_in_flight, limits);
        let start = Instant::now();
        let mut at = start;
        let mut coming: VecDeque<(Instant, usize)> = arrivals.iter().map(|(gap, item)| {
            at += MS * u32::try_from(*gap).unwrap();
            (at, *item)
        }).collect();
        let mut waiting: VecDeque<(Instant, usize)> = VecDeque::new();
        let mut workers: Vec<Worker> = Vec::new();
        while !coming.is_empty() || !workers.is_empty() {
            let woken = workers.iter().map(|worker| match worker { Worker::Exchange(_, at) | Worker::Timer(at) => *at });
            let (index, at) = woken.enumerate().min_by_key(|(_, at)| *at).map_or((None, None), |(i, at)| (Some(i), Some(at)));
            let arrival = coming.front().map(|(at, _)| *at);
            let (now, next) = match (arrival, at) {
                (Some(arrival), at) if at.is_none_or(|at| arrival < at) => {
                    let (now, item) = coming.pop_front().unwrap();
                    waiting.push_back((now, item));
                    match lane.offer(item, now) {
                        Offer::Start(next) => (now, next),
                        Offer::Queued => continue,
                        Offer::Full { .. } => panic!("there is memory"),
                    }
                }
                _ => match workers.swap_remove(index.unwrap()) {
                    Worker::Exchange(items, now) => (now, finish(&lane, &items, now)),
                    Worker::Timer(now) => (now, lane.gathered(Patience::UntilDue, now)),
                },
            };
            match next {
                Next::Begin(Departure::Batch(items)) => {
                    let busy = workers.iter().filter(|worker| matches!(worker, Worker::Exchange(..))).count();
                    prop_assert!(busy < max_in_flight);
                    prop_assert!(items.len() <= limits.max_events as usize);
                    let body = 1 + items.iter().map(|item| item + 1).sum::<usize>();
                    prop_assert!(body <= limits.max_bytes as usize || items.len() == 1);
                    for item in &items {
                        let (since, expected) = waiting.pop_front().unwrap();
                        prop_assert_eq!(*item, expected);
                        if exchange_ms == 0 {
                            prop_assert!(now <= since + MS * limits.max_wait_ms, "a slot was free");
                        }
                    }
                    workers.push(Worker::Exchange(items, now + MS * u32::try_from(exchange_ms).unwrap()));
                }
                Next::Gather(due) => {
                    prop_assert!(due > now);
                    workers.push(Worker::Timer(due));
                }
                Next::Idle => {}
                other => panic!("{other:?}"),
            }
        }
        prop_assert!(waiting.is_empty(), "{} wait for ever", waiting.len());
        prop_assert_eq!(lane.pool.workspace("default").used(), 0);
    }
}
