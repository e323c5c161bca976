//! How many partitions the topics have. Kafka has the truth: `kafka.partitions` is the
//! number with which topics are made, and `clickhook partitions widen` raises it while
//! the processes run. A producer that chooses partitions itself uses a new partition
//! a while after every shared topic has it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use schemas::{Topic, topics::Spread};
use tracing::info;

/// How long a larger number is known before producers use it. Their clients refuse a
/// partition that they have not heard of, and ask for partitions every 10 s.
const USED_AFTER: Duration = Duration::from_secs(12);

/// The numbers of partitions, as far as they were read from Kafka.
#[derive(Debug, Default)]
pub(crate) struct PartitionCounts {
    counts: Mutex<BTreeMap<Topic, u16>>,
    /// The smallest number of a shared topic, which producers use; 0 while none is known.
    shared: AtomicU16,
    /// A larger number that every shared topic has, and when it was first read.
    raised: Mutex<Option<(u16, Instant)>>,
}

impl PartitionCounts {
    /// Takes numbers that were read from Kafka.
    pub(crate) fn set(&self, read: impl IntoIterator<Item = (Topic, u16)>) {
        self.set_at(read, Instant::now());
    }

    fn set_at(&self, read: impl IntoIterator<Item = (Topic, u16)>, now: Instant) {
        let mut counts = self.counts.lock();
        counts.extend(read);
        let shared = Topic::ALL.into_iter().filter(|topic| topic.spread() == Spread::Shared);
        let known: Option<Vec<u16>> = shared.map(|topic| counts.get(&topic).copied()).collect();
        // A producer may not use a partition that only some topics have.
        let Some(smallest) = known.and_then(|known| known.into_iter().min()) else { return };
        let before = self.shared.load(Ordering::Relaxed);
        if before != 0 && smallest > before {
            let mut raised = self.raised.lock();
            match *raised {
                Some((number, since)) if number == smallest => {
                    if now.saturating_duration_since(since) < USED_AFTER {
                        return;
                    }
                }
                _ => {
                    *raised = Some((smallest, now));
                    return;
                }
            }
        }
        self.shared.store(smallest, Ordering::Relaxed);
        if before != 0 && before != smallest {
            info!(before, now = smallest, "producers use another number of partitions");
        }
    }

    /// Returns the number of partitions that every shared topic has, if it is known.
    pub(crate) fn shared(&self) -> Option<u16> {
        Some(self.shared.load(Ordering::Relaxed)).filter(|shared| *shared > 0)
    }

    /// Returns the number of partitions of one topic, if it is known.
    pub(crate) fn of(&self, topic: Topic) -> Option<u16> {
        self.counts.lock().get(&topic).copied()
    }
}

/// The numbers of partitions that all clones of a bus share.
pub(crate) type SharedCounts = Arc<PartitionCounts>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_partition_is_used_a_while_after_every_shared_topic_has_it() {
        let (counts, begun) = (PartitionCounts::default(), Instant::now());
        let shared = |count: u16| {
            Topic::ALL.into_iter().filter(|topic| topic.spread() == Spread::Shared).map(move |topic| (topic, count))
        };
        assert_eq!(counts.shared(), None);
        counts.set_at(shared(4), begun);
        counts.set_at([(Topic::Clicks, 6)], begun);
        assert_eq!((counts.shared(), counts.of(Topic::Clicks)), (Some(4), Some(6)));
        counts.set_at(shared(6), begun);
        counts.set_at(shared(6), begun + USED_AFTER / 2);
        assert_eq!(counts.shared(), Some(4));
        counts.set_at(shared(6), begun + USED_AFTER);
        assert_eq!(counts.shared(), Some(6));
    }
}
