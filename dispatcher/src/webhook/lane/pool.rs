//! The common state of all lanes: the memory for deliveries that wait, the mean pace of all
//! endpoints, and whether reading is paused. So many slow endpoints cannot take all memory,
//! and an endpoint is told to be slow by comparison with the others only: where all are
//! slow, this process or machine is, and Kafka holds the backlog for nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;

use super::share::WorkShare;

/// The share of the mean that a new exchange has.
const NEW_SHARE: f64 = 0.02;
/// An endpoint that needs this many times the mean of all is slower than the others.
const SLOWER: f64 = 3.0;
/// The seconds for each delivery from which on an endpoint is slow whatever the others
/// are: 100 deliveries a second.
const SLOW_S: f64 = 0.01;

/// The memory and the pace that all lanes share. Lanes change the memory while they hold
/// their lock.
pub(crate) struct LanePool {
    max_bytes: usize,
    used_bytes: AtomicUsize,
    workspaces: Mutex<HashMap<String, Arc<WorkspaceShare>>>,
    state: Mutex<PoolState>,
    /// This process's share of the limits of every endpoint.
    pub(crate) share: WorkShare,
}

#[derive(Default)]
struct PoolState {
    /// The mean time of an exchange, divided by how many of them run at once.
    seconds_per_item: Option<f64>,
    paused_until: Option<Instant>,
}

/// The memory that the waiting deliveries of one workspace take.
#[derive(Default)]
pub(crate) struct WorkspaceShare {
    used_bytes: AtomicUsize,
}

/// The kind of a lane that asks for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueuePace {
    /// Its endpoint works off what waits within seconds.
    Quick,
    /// Its endpoint is slow, or its pace is not known.
    Slow,
}

impl LanePool {
    /// Makes a pool of `max_bytes` for waiting deliveries.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            used_bytes: AtomicUsize::new(0),
            workspaces: Mutex::default(),
            state: Mutex::default(),
            share: WorkShare::default(),
        }
    }

    /// Returns the share of a workspace, which all its lanes have in common.
    pub(crate) fn workspace(&self, name: &str) -> Arc<WorkspaceShare> {
        let mut workspaces = self.workspaces.lock();
        workspaces.retain(|_, share| Arc::strong_count(share) > 1);
        Arc::clone(workspaces.entry(name.to_owned()).or_default())
    }

    /// Tells whether a lane that holds `held` bytes may take `bytes` more. The less is
    /// free, the smaller is a lane's fair part, and slow lanes together leave half to
    /// quick ones.
    pub(super) fn has_room(&self, pace: QueuePace, held: usize, bytes: usize, workspace: &WorkspaceShare) -> bool {
        let used = self.used_bytes.load(Ordering::Relaxed);
        let part = match pace {
            QueuePace::Quick => self.max_bytes.saturating_sub(used) / 2,
            QueuePace::Slow => (self.max_bytes / 2).saturating_sub(used) / 8,
        };
        held + bytes <= part && workspace.used_bytes.load(Ordering::Relaxed) + bytes <= self.max_bytes / 2
    }

    pub(super) fn add(&self, bytes: usize, workspace: &WorkspaceShare) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        workspace.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: usize, workspace: &WorkspaceShare) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        workspace.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the memory of all deliveries that wait, in bytes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Counts an exchange whose endpoint works off a delivery in so many seconds.
    pub(super) fn learn(&self, seconds_per_item: f64) {
        let mut state = self.state.lock();
        let mean = state.seconds_per_item.unwrap_or(seconds_per_item);
        state.seconds_per_item = Some(mean + NEW_SHARE * (seconds_per_item - mean));
    }

    /// Tells whether an endpoint that works off a delivery in so many seconds is slower
    /// than the others.
    pub(super) fn is_slower(&self, seconds_per_item: f64) -> bool {
        let mean = self.state.lock().seconds_per_item;
        seconds_per_item > SLOW_S || mean.is_some_and(|mean| seconds_per_item > SLOWER * mean)
    }

    /// Pauses reading until a lane has worked off a part of what waits in it.
    pub(super) fn pause_reading(&self, until: Instant) {
        let mut state = self.state.lock();
        state.paused_until = Some(state.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// Tells whether reading is paused: memory is short, or lanes are full though their
    /// endpoints are no slower than others.
    pub(crate) fn pauses_reading(&self, now: Instant) -> bool {
        self.used_bytes.load(Ordering::Relaxed) >= self.max_bytes / 8 * 7
            || self.state.lock().paused_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
impl WorkspaceShare {
    /// Returns the memory that is used.
    pub(super) fn used(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lane_has_a_part_of_what_is_free_and_slow_ones_leave_half() {
        let pool = LanePool::new(1600);
        let share = pool.workspace("one");
        assert!(pool.has_room(QueuePace::Quick, 0, 800, &share));
        assert!(!pool.has_room(QueuePace::Quick, 0, 801, &share));
        assert!(pool.has_room(QueuePace::Slow, 0, 100, &share));
        assert!(!pool.has_room(QueuePace::Slow, 50, 51, &share));
        pool.add(800, &share);
        assert!(!pool.has_room(QueuePace::Slow, 0, 1, &pool.workspace("two")));
        assert!(pool.has_room(QueuePace::Quick, 0, 400, &pool.workspace("two")));
        assert!(!pool.has_room(QueuePace::Quick, 0, 1, &share), "its workspace has its part");
        pool.remove(800, &share);
        assert!(pool.has_room(QueuePace::Quick, 0, 800, &share));
    }

    #[test]
    fn one_is_slower_than_the_others_where_it_needs_three_times_as_long() {
        let pool = LanePool::new(1);
        assert!(!pool.is_slower(0.001));
        for _ in 0..1000 {
            pool.learn(0.001);
        }
        assert!(!pool.is_slower(0.0029));
        assert!(pool.is_slower(0.0031));
        for _ in 0..1000 {
            pool.learn(0.004);
        }
        assert!(!pool.is_slower(0.009), "all are slow");
        assert!(pool.is_slower(0.011), "but never less than 100 a second");
    }

    #[test]
    fn reading_is_paused_by_level() {
        let pool = LanePool::new(800);
        let share = pool.workspace("one");
        let now = Instant::now();
        assert!(!pool.pauses_reading(now));
        pool.pause_reading(now + Duration::from_millis(10));
        pool.pause_reading(now + Duration::from_millis(5));
        assert!(pool.pauses_reading(now + Duration::from_millis(9)));
        assert!(!pool.pauses_reading(now + Duration::from_millis(10)));
        pool.add(700, &share);
        assert!(pool.pauses_reading(now + Duration::from_secs(1)));
        pool.remove(1, &share);
        assert!(!pool.pauses_reading(now + Duration::from_secs(1)));
    }

    #[test]
    fn the_share_of_a_workspace_ends_with_its_lanes() {
        let pool = LanePool::new(800);
        let share = pool.workspace("one");
        assert!(Arc::ptr_eq(&share, &pool.workspace("one")));
        drop(share);
        pool.workspace("two");
        assert_eq!(pool.workspaces.lock().len(), 1);
    }
}
