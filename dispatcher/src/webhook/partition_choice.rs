//! The choice of a partition for a record that may go to any: one whose partition does
//! not answer is written to another, so that one partition without a leader holds up no
//! delivery.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bus::Partition;
use parking_lot::Mutex;
use schemas::Topic;

/// How long a partition that did not take a record is avoided.
const AVOIDED: Duration = Duration::from_secs(60);
/// Records in a row that go to the same partition, so that they share a batch.
const RUN: usize = 16;

/// The partitions that are avoided, and the one whose turn it is.
#[derive(Default)]
pub(super) struct PartitionChoice {
    turn: AtomicUsize,
    avoided: Mutex<HashMap<Partition, Instant>>,
}

impl PartitionChoice {
    /// Returns one of the topic's `count` partitions. Where all of them are avoided, each
    /// still has its turn.
    pub(super) fn choose(&self, topic: Topic, count: u16, now: Instant) -> Partition {
        let count = usize::from(count.max(1));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) / RUN;
        let partition = |index: usize| Partition { topic, index: (index % count) as i32 };
        let avoided = self.avoided.lock();
        let is_avoided = |candidate: &Partition| avoided.get(candidate).is_some_and(|until| now < *until);
        let usable = (turn..turn + count).map(partition).find(|candidate| !is_avoided(candidate));
        // In a run of records that no partition takes, each tries another one.
        usable.unwrap_or_else(|| partition(self.turn.load(Ordering::Relaxed)))
    }

    /// Notes that a partition did not take a record.
    pub(super) fn failed(&self, partition: Partition, now: Instant) {
        let mut avoided = self.avoided.lock();
        avoided.retain(|_, until| now < *until);
        avoided.insert(partition, now + AVOIDED);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn chosen(choice: &PartitionChoice, now: Instant) -> HashSet<i32> {
        (0..10 * RUN).map(|_| choice.choose(Topic::Dead, 4, now).index).collect()
    }

    #[test]
    fn every_partition_has_its_turn_and_one_that_fails_is_avoided_for_a_while() {
        let choice = PartitionChoice::default();
        let now = Instant::now();
        assert_eq!(chosen(&choice, now), HashSet::from([0, 1, 2, 3]));
        choice.failed(Partition { topic: Topic::Dead, index: 2 }, now);
        choice.failed(Partition { topic: Topic::Attempts, index: 1 }, now);
        assert_eq!(chosen(&choice, now), HashSet::from([0, 1, 3]));
        assert_eq!(chosen(&choice, now + AVOIDED), HashSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn where_all_fail_all_are_tried() {
        let choice = PartitionChoice::default();
        let now = Instant::now();
        for index in 0..4 {
            choice.failed(Partition { topic: Topic::Dead, index }, now);
        }
        assert_eq!(chosen(&choice, now), HashSet::from([0, 1, 2, 3]));
    }
}
