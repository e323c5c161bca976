//! A worker: the task that holds one in-flight slot of a lane, and does one item
//! after another until the lane has nothing more for it.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use service::Shutdown;
use tokio::time::Instant;
use tracing::error;

use super::lane::{Lane, Next, Waiting};

/// Does `next`, and then whatever the lane names, until the lane is idle. A panic in
/// `deliver` is logged and costs only its own item: the slot goes on with the next.
/// `spill` gets the items that do not begin, each with the time until it is offered
/// again. Once `closing` is triggered, items no longer wait for their time.
pub(super) async fn work<T: Waiting, F: Future<Output = ()>>(
    lane: &Lane<T>,
    mut next: Next<T>,
    closing: &Shutdown,
    deliver: impl Fn(T) -> F,
    spill: impl Fn(T, Duration),
) {
    loop {
        let mut took = None;
        match next {
            Next::Begin(item) => {
                let begun = Instant::now();
                // What the item shares with others is behind locks that a panic does
                // not poison.
                if AssertUnwindSafe(deliver(item)).catch_unwind().await.is_err() {
                    error!("delivery panicked: its offset is held back, and it is made again after a restart");
                }
                took = Some(begun.elapsed());
            }
            Next::Spill { item, retry_after } => spill(item, retry_after),
            Next::At(start) => {
                tokio::select! {
                    () = tokio::time::sleep_until(Instant::from_std(start)) => {}
                    () = closing.wait() => {}
                }
            }
            Next::Idle => return,
        }
        let now = std::time::Instant::now();
        next = match took {
            _ if closing.is_triggered() => lane.evict(now),
            Some(took) => lane.finished(took, now),
            None => lane.next(now),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use parking_lot::Mutex;

    use super::{
        super::lane::{LanePool, LaneSettings, Offer},
        *,
    };

    const SETTINGS: LaneSettings =
        LaneSettings { max_in_flight: 1, max_retry_after: Duration::from_secs(60), min_interval: Duration::ZERO };

    fn lane(settings: LaneSettings) -> Lane<usize> {
        Lane::new(settings, Arc::new(LanePool::new(1 << 20)), "default")
    }

    fn no_spill(item: usize, _: Duration) {
        panic!("{item} is spilled");
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
        let deliver = async |item| {
            assert_ne!(item, 1, "the first delivery panics");
            delivered.lock().push(item);
        };
        work(&lane, first, &Shutdown::new(), deliver, no_spill).await;
        assert_eq!(*delivered.lock(), [2]);
        assert_eq!(start(&lane, 3), Next::Begin(3), "the slot is free again");
    }

    #[tokio::test]
    async fn closing_ends_the_wait_for_an_items_time() {
        let lane = lane(LaneSettings { min_interval: Duration::from_secs(3600), ..SETTINGS });
        let first = start(&lane, 1);
        assert_eq!(lane.offer(2, Instant::now()), Offer::Queued);
        let closing = Shutdown::new();
        let delivered = Mutex::new(Vec::new());
        let deliver = async |item| {
            delivered.lock().push(item);
            closing.trigger();
        };
        work(&lane, first, &closing, deliver, no_spill).await;
        assert_eq!(*delivered.lock(), [1, 2]);
    }
}
