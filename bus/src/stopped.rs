//! Partitions that a consumer does not read, because reading on by itself could lose or
//! double records, or because the results could not be written. The consumer's other
//! partitions go on. The process is not ready meanwhile, with the command that a person
//! has to run, if any; once the reason is gone, the consumer reads the partition again.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, info};

use crate::record::Partition;

/// Why a partition is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StopReason {
    /// The group has no committed offset: it was lost, or a first one was never committed.
    #[error(
        "group {group} has no committed offset in {topic}[{partition}], whose log begins at {start}. If the topic or the \
         partition is new: `{migrate}`. If offsets were lost: `{earliest}` does its work again from the first record that \
         is still there, and the same with `latest` in place of `earliest` skips the present records"
    )]
    NoOffset { group: String, topic: String, partition: i32, start: i64, migrate: String, earliest: String },
    /// The log no longer holds the offset that the group reads next.
    #[error(
        "group {group} should read {topic}[{partition}] from offset {offset}, but the log holds {start} to {end}: records \
         were deleted before they were read. `{earliest}` goes on at the first record that is still there, and the same \
         with `latest` in place of `earliest` skips the present records"
    )]
    OffsetGone { group: String, topic: String, partition: i32, offset: i64, start: i64, end: i64, earliest: String },
    /// The partition that takes the results has no leader.
    #[error(
        "what group {group} makes of its records goes to {topic}[{partition}], which has no leader: a broker is away. They \
         wait in Kafka, and are read once it is back"
    )]
    OutputAway { group: String, topic: String, partition: i32 },
}

/// The stopped partitions of all consumers of a process, with the reasons.
#[derive(Clone, Debug)]
pub(crate) struct StoppedPartitions(Arc<watch::Sender<BTreeMap<String, String>>>);

impl Default for StoppedPartitions {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl StoppedPartitions {
    /// Returns the stopped partitions, each under its group and name, with the reason.
    pub(crate) fn subscribe(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.0.subscribe()
    }

    /// Returns the share of a group's consumer, which is empty again once it is dropped.
    pub(crate) fn of_consumer(&self, group: &str) -> ConsumerStops {
        ConsumerStops { group: group.to_owned(), all: self.clone(), stopped: Mutex::default() }
    }
}

/// The stopped partitions of one consumer.
pub(crate) struct ConsumerStops {
    group: String,
    all: StoppedPartitions,
    stopped: Mutex<BTreeMap<Partition, StopReason>>,
}

impl ConsumerStops {
    /// Notes that a partition is not read.
    pub(crate) fn stop(&self, partition: Partition, reason: StopReason) {
        let (name, text) = (self.name(partition), reason.to_string());
        if self.stopped.lock().insert(partition, reason).is_none() {
            error!(group = self.group, %partition, reason = text, "partition stopped: the others are read on");
        }
        self.all.0.send_modify(|all| drop(all.insert(name, text)));
    }

    /// Forgets all stopped partitions, as after a rebalance.
    pub(crate) fn clear(&self) {
        let stopped = std::mem::take(&mut *self.stopped.lock());
        if stopped.is_empty() {
            return;
        }
        info!(group = self.group, "stopped partitions are looked at again");
        self.all.0.send_modify(|all| {
            for partition in stopped.into_keys() {
                all.remove(&self.name(partition));
            }
        });
    }

    /// Returns the stopped partitions, with the reasons.
    pub(crate) fn partitions(&self) -> BTreeMap<Partition, StopReason> {
        self.stopped.lock().clone()
    }

    fn name(&self, partition: Partition) -> String {
        format!("{} {partition}", self.group)
    }
}

impl Drop for ConsumerStops {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use schemas::Topic;

    use super::*;

    #[test]
    fn a_stopped_partition_is_shown_until_its_consumer_is_gone() {
        let all = StoppedPartitions::default();
        let shown = all.subscribe();
        let consumer = all.of_consumer("g");
        let reason = StopReason::NoOffset {
            group: "g".to_owned(),
            topic: "clickhook.clicks".to_owned(),
            partition: 2,
            start: 7,
            migrate: "clickhook migrate".to_owned(),
            earliest: "clickhook offsets set --group g --topic clicks --to earliest".to_owned(),
        };
        consumer.stop(Partition { topic: Topic::Clicks, index: 2 }, reason);
        assert!(
            shown.borrow()["g clicks[2]"].contains("`clickhook offsets set --group g --topic clicks --to earliest`")
        );
        drop(consumer);
        assert!(shown.borrow().is_empty());
    }
}
