//! Setting where a group reads on, where only a person can decide.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext},
    types::RDKafkaErrorCode,
};
use schemas::Topic;

use crate::{Bus, BusError, GroupMetadata, Partition, client::log_ends, config::OFFSETS_TIMEOUT, consumer::to_list};

/// The transactional id of commits for groups with running members.
const ID: &str = "offsets";

/// An end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// The first record that the log still has.
    Earliest,
    /// Behind the last record.
    Latest,
}

/// The partitions whose offset is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetScope {
    /// Partitions without a committed offset, or with an offset outside the log. Running
    /// members have stopped these, and read them on from the new offset within seconds.
    Missing,
    /// All partitions: records are processed again, or skipped. The group must have no
    /// running member.
    All,
}

impl Bus {
    /// Sets the committed offsets of `group` in the partitions of `topic` that `scope`
    /// selects to the log's end `to`. Returns the offsets that were set, by partition.
    ///
    /// # Errors
    /// When Kafka does not answer, or all offsets of a group with a running member are to
    /// be set.
    pub fn set_offsets(
        &self,
        group: &str,
        topic: Topic,
        to: LogEnd,
        scope: OffsetScope,
    ) -> Result<Vec<(i32, i64)>, BusError> {
        let consumer: BaseConsumer =
            self.group_config(group, None).create().map_err(BusError::new("make a consumer"))?;
        let name = self.topics().name(topic);
        let partitions = self.ask_total_partitions(consumer.client(), &[topic])?;
        let all: Vec<i32> = (0..partitions).filter_map(|index| i32::try_from(index).ok()).collect();
        let list = to_list(self.topics(), all.iter().map(|index| (Partition { topic, index: *index }, 0, None)));
        let committed = committed_offsets(&consumer, &list)?;
        let mut offsets = Vec::new();
        for index in all {
            let (start, end) = log_ends(&consumer, &name, index)?;
            let current = committed.find_partition(&name, index).map(|element| element.offset());
            let is_good = matches!(current, Some(Offset::Offset(offset)) if (start..=end).contains(&offset));
            if is_good && scope == OffsetScope::Missing {
                continue;
            }
            offsets.push((index, if to == LogEnd::Earliest { start } else { end }));
        }
        if offsets.is_empty() {
            return Ok(offsets);
        }
        let set: Vec<(Partition, i64)> =
            offsets.iter().map(|(index, offset)| (Partition { topic, index: *index }, *offset)).collect();
        match scope {
            OffsetScope::All => {
                let list = to_list(self.topics(), set.iter().map(|(partition, offset)| (*partition, *offset, None)));
                consumer.commit(&list, CommitMode::Sync).map_err(BusError::new("commit offsets"))?;
            }
            // A group with running members takes the offsets of a transaction only.
            OffsetScope::Missing => {
                let member = consumer.group_metadata().map(GroupMetadata);
                let member = member.ok_or_else(|| BusError::NotJoined { group: group.to_owned() })?;
                let transaction = self.transaction(ID, Duration::ZERO)?;
                transaction.begin()?;
                transaction.commit(&set, Some(&member))?;
            }
        }
        Ok(offsets)
    }
}

/// Returns the offsets that the group of `member` has committed in the partitions of `list`.
/// A group's coordinator that moves, as right after Kafka's first start, is asked again.
pub(crate) fn committed_offsets<C: ConsumerContext>(
    member: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<TopicPartitionList, BusError> {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let deadline = Instant::now() + OFFSETS_TIMEOUT;
    loop {
        match member.committed_offsets(list.clone(), OFFSETS_TIMEOUT) {
            Ok(committed) => return Ok(committed),
            Err(error) => match error.rdkafka_error_code() {
                Some(NotCoordinator | CoordinatorLoadInProgress | CoordinatorNotAvailable)
                    if Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => return Err(BusError::new("fetch committed offsets")(error)),
            },
        }
    }
}
