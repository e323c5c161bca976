//! The spool's index: which bundles are on disk, how many bytes they hold, and which
//! of them are to be produced from there. Nothing here does I/O; the spooler asks and
//! carries out.
//!
//! Bundles are produced from disk when the Kafka client does not have them: those of a
//! former process, and those that did not fit. Each partition has its own queue, so
//! that one that does not answer holds back only its own. A bundle that Kafka refuses
//! for its size waits apart from them, and holds back none.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::recording::bundle::{BundleNumber, Handed};

/// How many bundles of a partition are on their way from disk to Kafka at once.
const IN_FLIGHT: usize = 16;
/// The pause of a partition whose last replay has failed.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause of a bundle that Kafka refuses for its size.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The limits of a spool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpoolLimits {
    /// How many bytes of bundles may be on disk.
    pub(crate) max_bytes: u64,
    /// How many bytes of a partition may be on their way from disk to Kafka at once. One
    /// bundle always may.
    pub(crate) replay_bytes: u64,
}

/// How full a spool is, in the steps that operators are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SpoolLevel {
    Low,
    Half,
    /// Four fifths.
    High,
    /// The spool has no room for a bundle.
    Full,
}

impl SpoolLevel {
    /// The share of the spool's size at which the level begins.
    pub(crate) const fn percent(self) -> u8 {
        match self {
            Self::Low => 0,
            Self::Half => 50,
            Self::High => 80,
            Self::Full => 100,
        }
    }
}

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
    in_flight_bytes: u64,
    paused_until: Option<Instant>,
}

/// The bundles on disk.
#[derive(Debug)]
pub(crate) struct SpoolIndex {
    limits: SpoolLimits,
    next: u64,
    bytes: u64,
    full: bool,
    level: SpoolLevel,
    entries: HashMap<u64, SpooledEntry>,
    /// The keys of this process's bundles that are not to be produced from disk yet.
    keys: HashMap<BundleNumber, u64>,
    replays: BTreeMap<i32, ReplayQueue>,
    /// The bundles that Kafka refuses for their size, and when each is tried again.
    refused: VecDeque<(Instant, u64)>,
}

impl SpoolIndex {
    /// Makes the index of a spool with the bundles of a former process, all of which
    /// are to be produced.
    pub(crate) fn new(limits: SpoolLimits, left: &[LeftBundle]) -> Self {
        let mut index = Self {
            limits,
            next: left.last().map_or(0, |last| last.key + 1),
            bytes: 0,
            full: false,
            level: SpoolLevel::Low,
            entries: HashMap::new(),
            keys: HashMap::new(),
            replays: BTreeMap::new(),
            refused: VecDeque::new(),
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
        !self.refused.is_empty() || self.replays.values().any(|queue| !queue.keys.is_empty())
    }

    /// How many bundles Kafka refuses for their size.
    pub(crate) fn refused_len(&self) -> usize {
        self.refused.len()
    }

    /// Whether the spool has no room for a bundle.
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    /// Looks how full the spool is; returns the level if it is another than before. A
    /// level ends once the spool is clearly below it.
    pub(crate) fn new_level(&mut self) -> Option<SpoolLevel> {
        let tenth = self.limits.max_bytes / 10;
        let start = |level: SpoolLevel| tenth * u64::from(level.percent() / 10);
        // Not sooner: the next bundle could be refused again.
        self.full &= self.bytes >= start(SpoolLevel::High);
        let level = match self.bytes {
            _ if self.full => SpoolLevel::Full,
            bytes if bytes >= start(SpoolLevel::High) => SpoolLevel::High,
            bytes if bytes >= start(SpoolLevel::Half) => SpoolLevel::Half,
            _ => SpoolLevel::Low,
        };
        let stays = level < self.level && self.bytes + tenth >= start(self.level);
        if level == self.level || stays {
            return None;
        }
        self.level = level;
        Some(level)
    }

    /// How many bytes the spool may hold. Once it is full, some must go before others
    /// come: it would become full and not full with every bundle otherwise.
    const fn room(&self) -> u64 {
        if self.full { self.limits.max_bytes / 10 * 9 } else { self.limits.max_bytes }
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
        while let Some((_, key)) = self.refused.pop_front_if(|(due, _)| *due <= now) {
            if let Some(entry) = self.entries.get(&key) {
                self.replays.entry(entry.partition).or_default().keys.push_back(key);
            }
        }
        for (partition, queue) in &mut self.replays {
            let paused = queue.paused_until.is_some_and(|until| until > now);
            if paused || queue.in_flight >= IN_FLIGHT || is_late(*partition) {
                continue;
            }
            while let Some(key) = queue.keys.front().copied() {
                let Some(entry) = self.entries.get(&key) else {
                    queue.keys.pop_front();
                    continue;
                };
                if queue.in_flight > 0 && queue.in_flight_bytes + entry.bytes > self.limits.replay_bytes {
                    break;
                }
                queue.keys.pop_front();
                queue.in_flight += 1;
                queue.in_flight_bytes += entry.bytes;
                return Some((key, entry.handed));
            }
        }
        None
    }

    /// Takes note that Kafka has a bundle that was produced from disk.
    pub(crate) fn replayed(&mut self, key: u64) {
        self.landed(key, Handed::Once);
        self.remove(key);
    }

    /// Puts a bundle behind the others of its partition, which pauses: Kafka has not
    /// acknowledged the bundle, or the client did not take it. It may be the only one.
    pub(crate) fn not_replayed(&mut self, key: u64, handed: Handed, now: Instant) {
        let Some(entry) = self.landed(key, handed) else { return };
        let queue = self.replays.entry(entry.partition).or_default();
        queue.keys.push_back(key);
        queue.paused_until = Some(now + PAUSE);
    }

    /// Puts a bundle apart from the others of its partition, which go on: Kafka refuses
    /// it for its size.
    pub(crate) fn refused(&mut self, key: u64, handed: Handed, now: Instant) {
        if self.landed(key, handed).is_some() {
            self.refused.push_back((now + REFUSED_PAUSE, key));
        }
    }

    /// Forgets a bundle that is not in the file, or is no bundle.
    pub(crate) fn forget(&mut self, key: u64) {
        self.landed(key, Handed::Never);
        self.remove(key);
    }

    /// Takes note that a bundle is no longer on its way to Kafka.
    fn landed(&mut self, key: u64, handed: Handed) -> Option<SpooledEntry> {
        let entry = self.entries.get_mut(&key)?;
        if handed == Handed::Once {
            entry.handed = handed;
        }
        if let Some(queue) = self.replays.get_mut(&entry.partition) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
            queue.in_flight_bytes = queue.in_flight_bytes.saturating_sub(entry.bytes);
        }
        Some(*entry)
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SpoolLimits = SpoolLimits { max_bytes: 1000, replay_bytes: 250 };

    /// A spool with bundles of 100 bytes, of one partition.
    fn spool(bundles: u64) -> SpoolIndex {
        let left: Vec<LeftBundle> =
            (0..bundles).map(|key| LeftBundle { key, bytes: 100, partition: Some(0) }).collect();
        SpoolIndex::new(LIMITS, &left)
    }

    fn next(index: &mut SpoolIndex, now: Instant) -> Option<u64> {
        index.next_replay(now, |_| false).map(|(key, _)| key)
    }

    #[test]
    fn a_level_is_told_once_and_again_after_the_spool_fell_clearly_below_it() {
        let mut index = spool(0);
        assert_eq!(index.new_level(), None);
        let mut told = Vec::new();
        for number in 0..11 {
            index.admit(number, 0, 100);
            told.extend(index.new_level().map(|level| (number + 1, level)));
        }
        assert_eq!(told, [(5, SpoolLevel::Half), (8, SpoolLevel::High), (11, SpoolLevel::Full)]);
        assert_eq!(index.bytes(), 1000);
        told.clear();
        for number in 0..10 {
            index.erase(number);
            told.extend(index.new_level().map(|level| (9 - number, level)));
        }
        assert_eq!(told, [(7, SpoolLevel::Half), (3, SpoolLevel::Low)]);
        // Around a level, nothing is told.
        for number in 20..24 {
            index.admit(number, 0, 100);
            assert_eq!(index.new_level(), None);
        }
        index.admit(24, 0, 100);
        assert_eq!(index.new_level(), Some(SpoolLevel::Half));
        index.erase(24);
        assert_eq!(index.new_level(), None);
        index.admit(25, 0, 100);
        assert_eq!(index.new_level(), None);
    }

    #[test]
    fn replays_are_bounded_by_their_bytes_and_a_large_bundle_still_goes() {
        let now = Instant::now();
        let mut index = spool(4);
        assert_eq!(next(&mut index, now), Some(0));
        assert_eq!(next(&mut index, now), Some(1));
        assert_eq!(next(&mut index, now), None, "a third is above the limit");
        index.replayed(0);
        assert_eq!(next(&mut index, now), Some(2));
        let large = [LeftBundle { key: 0, bytes: 900, partition: Some(0) }];
        assert_eq!(next(&mut SpoolIndex::new(LIMITS, &large), now), Some(0));
    }

    #[test]
    fn a_bundle_that_kafka_refuses_holds_back_no_other_and_is_tried_again() {
        let now = Instant::now();
        let mut index = spool(3);
        assert_eq!(next(&mut index, now), Some(0));
        index.refused(0, Handed::Once, now);
        assert_eq!(index.refused_len(), 1);
        for key in [1, 2] {
            assert_eq!(next(&mut index, now), Some(key));
            index.replayed(key);
        }
        assert_eq!(next(&mut index, now), None);
        assert!(index.has_replays());
        let later = now + REFUSED_PAUSE;
        assert_eq!(index.next_replay(later, |_| false), Some((0, Handed::Once)));
        assert_eq!(index.refused_len(), 0);
    }

    #[test]
    fn a_replay_that_fails_goes_behind_the_others_of_its_partition() {
        let now = Instant::now();
        let mut index = spool(2);
        assert_eq!(next(&mut index, now), Some(0));
        index.not_replayed(0, Handed::Once, now);
        assert_eq!(next(&mut index, now), None, "the partition pauses");
        let later = now + PAUSE;
        assert_eq!(next(&mut index, later), Some(1));
        assert_eq!(next(&mut index, later), Some(0));
    }
}
