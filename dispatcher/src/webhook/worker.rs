//! A worker: the task that holds one in-flight slot of a lane, and does one item
//! after another until the lane has nothing more for it.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use service::Shutdown;
use tokio::time::Instant;
use tracing::error;

use super::lane::{Departure, Finished, Lane, Next, Patience, Waiting};

/// Does `next`, and then whatever the lane names, until the lane is idle. A panic in
/// `deliver` is logged and costs only its own items: the slot goes on with the next.
/// `spill` gets the items that do not begin, each with the time until it is offered
/// again. Once `end` is triggered, nothing more will come, and no batch is waited for.
pub(super) async fn work<T: Waiting, F: Future<Output = ()>>(
    lane: &Lane<T>,
    mut next: Next<T>,
    end: &Shutdown,
    deliver: impl Fn(Departure<T>) -> F,
    spill: impl Fn(Departure<T>, Duration),
) {
    loop {
        let step = match next {
            Next::Begin(departure) => {
                let load = departure.load();
                let begun = Instant::now();
                // What the items share with others is behind locks that a panic does
                // not poison.
                if AssertUnwindSafe(deliver(departure)).catch_unwind().await.is_err() {
                    error!("delivery panicked: its offset is held back, and it is made again after a restart");
                }
                StepEnd::Exchanged(Finished { load, took: begun.elapsed() })
            }
            Next::Spill { departure, retry_after } => {
                spill(departure, retry_after);
                StepEnd::Ready
            }
            Next::At(start) => {
                tokio::time::sleep_until(Instant::from_std(start)).await;
                StepEnd::Ready
            }
            Next::Gather(due) => StepEnd::Gathered(tokio::select! {
                () = tokio::time::sleep_until(Instant::from_std(due)) => Patience::UntilDue,
                () = end.wait() => Patience::Over,
            }),
            Next::Idle => return,
        };
        let now = std::time::Instant::now();
        next = match step {
            StepEnd::Gathered(patience) => lane.gathered(patience, now),
            StepEnd::Exchanged(finished) => lane.finished(finished, now),
            StepEnd::Ready => lane.next(now),
        };
    }
}

/// The end of a worker's step.
enum StepEnd {
    /// An exchange ended.
    Exchanged(Finished),
    /// The wait for a batch ended.
    Gathered(Patience),
    /// The slot is ready for the next items.
    Ready,
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use parking_lot::Mutex;
    use schemas::BatchLimits;

    use super::{
        super::{
            lane::{LanePool, LaneSettings, Offer},
            retry::RetryTiming,
        },
        *,
    };

    const SETTINGS: LaneSettings = LaneSettings {
        max_in_flight: 1,
        timing: RetryTiming { speedup: 1 },
        min_interval: Duration::ZERO,
        batch: None,
        format_bytes: 0,
    };

    fn lane(settings: LaneSettings) -> Lane<usize> {
        Lane::new(settings, Arc::new(LanePool::new(1 << 20)), "default")
    }

    #[allow(clippy::needless_pass_by_value, reason = "the shape that `work` wants")]
    fn no_spill(departure: Departure<usize>, _: Duration) {
        panic!("{departure:?} is spilled");
    }

    fn items(departure: Departure<usize>) -> Vec<usize> {
        match departure {
            Departure::Single(item) => vec![item],
            Departure::Batch(items) => items,
        }
    }

    fn start(lane: &Lane<usize>, item: usize) -> Next<usize> {
        match lane.offer(item, Instant::now()) {
            Offer::Start(next) => next,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_delivery_and_no_slot() {
        let lane = lane(SETTINGS);
        let first = start(&lane, 1);
        assert_eq!(lane.offer(2, Instant::now()), Offer::Queued);
        let delivered = Mutex::new(Vec::new());
        let deliver = async |departure| {
            let items = items(departure);
            assert_ne!(items, [1], "the first delivery panics");
            delivered.lock().extend(items);
        };
        work(&lane, first, &Shutdown::new(), deliver, no_spill).await;
        assert_eq!(*delivered.lock(), [2]);
        assert_eq!(start(&lane, 3), Next::Begin(Departure::Single(3)), "the slot is free again");
    }

    #[tokio::test]
    async fn draining_ends_the_wait_for_a_batch() {
        let batch = Some(BatchLimits { max_events: 2, max_wait_ms: 3_600_000, max_bytes: 1000 });
        let lane = lane(LaneSettings { batch, ..SETTINGS });
        let first = start(&lane, 100);
        assert!(matches!(first, Next::Gather(_)), "{first:?}");
        let end = Shutdown::new();
        end.trigger();
        let delivered = Mutex::new(Vec::new());
        let deliver = async |departure| delivered.lock().push(departure);
        work(&lane, first, &end, deliver, no_spill).await;
        assert_eq!(*delivered.lock(), [Departure::Batch(vec![100])]);
        assert!(matches!(start(&lane, 100), Next::Gather(_)), "the lane is as it was");
    }
}
