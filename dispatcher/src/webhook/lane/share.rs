//! The share of the work that this process has: the partitions that its consumers own, of
//! all partitions of their topics. Every dispatcher delivers to every endpoint, so each
//! takes its share of an endpoint's limits, without a word between them.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use schemas::ConsumerGroup;

/// The partitions that the consumers own, by their groups.
#[derive(Default)]
pub(crate) struct WorkShare {
    groups: Mutex<HashMap<ConsumerGroup, OwnedPartitions>>,
}

/// The partitions of a group's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnedPartitions {
    /// The partitions that this process owns.
    pub owned: usize,
    /// The partitions that exist.
    pub total: usize,
}

impl WorkShare {
    /// Notes the partitions of one group. While a group owns none, as in a rebalance, what
    /// it owned before counts.
    pub(crate) fn set(&self, group: ConsumerGroup, partitions: OwnedPartitions) {
        if partitions.owned > 0 {
            self.groups.lock().insert(group, partitions);
        }
    }

    /// Returns this process's part of a limit: at least one.
    pub(crate) fn of(&self, limit: usize) -> usize {
        match self.partitions() {
            Some(OwnedPartitions { owned, total }) => (limit * owned).div_ceil(total).max(1),
            None => limit,
        }
    }

    /// Returns the interval of this process, where all processes together keep `interval`.
    pub(crate) fn interval(&self, interval: Duration) -> Duration {
        match self.partitions() {
            Some(OwnedPartitions { owned, total }) => interval.mul_f64(total as f64 / owned as f64),
            None => interval,
        }
    }

    /// Tells whether no other process has a part of the work.
    pub(crate) fn is_whole(&self) -> bool {
        self.partitions().is_none_or(|OwnedPartitions { owned, total }| owned >= total)
    }

    /// Returns the partitions of all groups; none before anything is known, when the process
    /// may be the only one.
    fn partitions(&self) -> Option<OwnedPartitions> {
        let groups = self.groups.lock();
        let owned: usize = groups.values().map(|group| group.owned.min(group.total)).sum();
        let total: usize = groups.values().map(|group| group.total).sum();
        (owned > 0).then_some(OwnedPartitions { owned, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_divided_by_the_partitions_that_are_owned() {
        let share = WorkShare::default();
        assert_eq!(share.of(32), 32);
        assert!(share.is_whole());
        share.set(ConsumerGroup::WebhookClicks, OwnedPartitions { owned: 2, total: 4 });
        assert_eq!(share.of(32), 16);
        assert_eq!(share.of(1), 1);
        assert!(!share.is_whole());
        assert_eq!(share.interval(Duration::from_millis(10)), Duration::from_millis(20));
        share.set(ConsumerGroup::WebhookDelay, OwnedPartitions { owned: 24, total: 24 });
        assert_eq!(share.of(28), 26);
        share.set(ConsumerGroup::WebhookDelay, OwnedPartitions { owned: 0, total: 24 });
        assert_eq!(share.of(28), 26, "a rebalance changes nothing until it has ended");
        share.set(ConsumerGroup::WebhookDelay, OwnedPartitions { owned: 1, total: 24 });
        share.set(ConsumerGroup::WebhookClicks, OwnedPartitions { owned: 1, total: 400 });
        assert_eq!(share.of(32), 1, "at least one");
    }
}
