//! The spool's index: which bundles are on disk, how many bytes they hold, and which
//! of them are to be produced from there. Nothing here does I/O; the spooler asks and
//! carries out.
//!
//! Bundles are produced from disk when the Kafka client does not have them: those of a
//! former process, and those that did not fit. Each partition has its own queue, so
//! that one that does not answer holds back only its own.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::recording::bundle::{BundleNumber, Handed};

/// How many bundles of a partition are on their way from disk to Kafka at once.
const IN_FLIGHT: usize = 16;
/// The pause of a partition whose last replay has failed, and of a bundle that was
/// refused.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Whether the spool has room for a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The bundle gets this key.
    Key(u64),
    Full,
}

/// A bundle on disk, as a former process left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftBundle {
    pub(crate) key: u64,
    pub(crate) bytes: u64,
    /// None where the bundle cannot be decoded.
    pub(crate) partition: Option<i32>,
}

/// A bundle on disk.
#[derive(Clone, Copy, Debug)]
struct SpooledEntry {
    bytes: u64,
    partition: i32,
    handed: Handed,
}

#[derive(Debug, Default)]
struct ReplayQueue {
    keys: VecDeque<u64>,
    in_flight: usize,
    paused_until: Option<Instant>,
}

/// The bundles on disk.
#[derive(Debug)]
pub(crate) struct SpoolIndex {
    max_bytes: u64,
    next: u64,
    bytes: u64,
    full: bool,
    entries: HashMap<u64, SpooledEntry>,
    /// The keys of this process's bundles that are not to be produced from disk yet.
    keys: HashMap<BundleNumber, u64>,
    replays: BTreeMap<i32, ReplayQueue>,
}

impl SpoolIndex {
    /// Makes the index of a spool with the bundles of a former process, all of which
    /// are to be produced.
    pub(crate) fn new(max_bytes: u64, left: &[LeftBundle]) -> Self {
        let mut index = Self {
            max_bytes,
            next: left.last().map_or(0, |last| last.key + 1),
            bytes: 0,
            full: false,
            entries: HashMap::new(),
            keys: HashMap::new(),
            replays: BTreeMap::new(),
        };
        for left in left {
            // A bundle that cannot be decoded is found out when it is read.
            let partition = left.partition.unwrap_or_default();
            let entry = SpooledEntry { bytes: left.bytes, partition, handed: Handed::Once };
            index.entries.insert(left.key, entry);
            index.bytes += left.bytes;
            index.replays.entry(partition).or_default().keys.push_back(left.key);
        }
        index
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a bundle waits to be produced from disk.
    pub(crate) fn has_replays(&self) -> bool {
        self.replays.values().any(|queue| !queue.keys.is_empty())
    }

    /// How many bytes the spool may hold. Once it is full, some must go before others
    /// come: it would become full and not full with every bundle otherwise.
    const fn room(&self) -> u64 {
        if self.full { self.max_bytes / 10 * 9 } else { self.max_bytes }
    }

    /// Makes room for a bundle.
    pub(crate) fn admit(&mut self, number: BundleNumber, partition: i32, bytes: u64) -> Admission {
        self.full = self.bytes + bytes > self.room();
        if self.full {
            return Admission::Full;
        }
        let key = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.entries.insert(key, SpooledEntry { bytes, partition, handed: Handed::Never });
        self.keys.insert(number, key);
        Admission::Key(key)
    }

    /// Takes back a bundle that the disk did not take.
    pub(crate) fn withdraw(&mut self, number: BundleNumber) {
        if let Some(key) = self.keys.remove(&number) {
            self.remove(key);
        }
    }

    /// Removes a bundle of this process; returns the key to erase.
    pub(crate) fn erase(&mut self, number: BundleNumber) -> Option<u64> {
        let key = self.keys.remove(&number)?;
        self.remove(key);
        Some(key)
    }

    /// Puts a bundle of this process into its partition's queue.
    pub(crate) fn replay(&mut self, number: BundleNumber, handed: Handed) {
        let Some(key) = self.keys.remove(&number) else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.handed = handed;
        self.replays.entry(entry.partition).or_default().keys.push_back(key);
    }

    /// Takes the next bundle to produce, of a partition that is not late.
    pub(crate) fn next_replay(&mut self, now: Instant, is_late: impl Fn(i32) -> bool) -> Option<(u64, Handed)> {
        for (partition, queue) in &mut self.replays {
            let paused = queue.paused_until.is_some_and(|until| until > now);
            if paused || queue.in_flight >= IN_FLIGHT || is_late(*partition) {
                continue;
            }
            while let Some(key) = queue.keys.pop_front() {
                let Some(entry) = self.entries.get(&key) else { continue };
                queue.in_flight += 1;
                return Some((key, entry.handed));
            }
        }
        None
    }

    /// Takes note that Kafka has a bundle that was produced from disk.
    pub(crate) fn replayed(&mut self, key: u64) {
        self.landed(key);
        self.remove(key);
    }

    /// Puts a bundle behind the others of its partition, which pauses: Kafka has not
    /// acknowledged the bundle, or the client did not take it. It may be the only one.
    pub(crate) fn not_replayed(&mut self, key: u64, handed: Handed, now: Instant) {
        self.landed(key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if handed == Handed::Once {
            entry.handed = handed;
        }
        let queue = self.replays.entry(entry.partition).or_default();
        queue.keys.push_back(key);
        queue.paused_until = Some(now + PAUSE);
    }

    /// Takes a bundle out of the index that cannot be read.
    pub(crate) fn set_aside(&mut self, key: u64) {
        self.landed(key);
        self.remove(key);
    }

    fn landed(&mut self, key: u64) {
        let partition = self.entries.get(&key).map(|entry| entry.partition);
        if let Some(queue) = partition.and_then(|partition| self.replays.get_mut(&partition)) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
        }
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.bytes;
        }
    }
}
