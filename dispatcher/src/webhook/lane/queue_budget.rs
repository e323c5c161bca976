//! The deliveries that may wait in all lanes together, so that many slow endpoints
//! cannot take all memory.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A count of the deliveries that wait in all lanes, and its limit. Lanes change it
/// while they hold their lock.
pub(crate) struct QueueBudget {
    max: usize,
    queued: AtomicUsize,
}

impl QueueBudget {
    /// Makes a budget of `max` waiting deliveries.
    pub(crate) const fn new(max: usize) -> Self {
        Self { max, queued: AtomicUsize::new(0) }
    }

    /// Returns how many deliveries may wait in one lane, however quick its endpoint
    /// is. `queue` is what a lane may have however slow it is.
    pub(super) fn lane_limit(&self, queue: usize) -> usize {
        let free = self.max.saturating_sub(self.queued.load(Ordering::Relaxed));
        // However quick an endpoint is, it leaves room for others.
        if free == 0 { 0 } else { (free / 2).max(queue) }
    }

    pub(super) fn add(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, count: usize) {
        self.queued.fetch_sub(count, Ordering::Relaxed);
    }
}
