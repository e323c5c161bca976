//! The first offset of each group in each partition. Whoever makes a partition commits
//! offset 0 for every group that reads it, so that a missing offset always means a lost
//! one, and is never taken for a beginning.
//!
//! The offsets go into groups with running members, which Kafka allows a transaction
//! only. Its transactional id is fixed: of two processes that do this at once, the later
//! one fences the earlier, so no offset is turned back that a member has committed since
//! it was looked for.

use std::{collections::BTreeSet, thread, time::Duration};

use rdkafka::{
    Offset,
    consumer::{BaseConsumer, Consumer as _},
};
use schemas::ConsumerGroup;
use tracing::info;

use crate::{
    Bus, BusError, GroupMetadata, Partition, Transaction,
    client::{connect, log_ends},
    config::FIRST_BROKER,
    consumer::to_list,
    offsets::committed_offsets,
};

/// The transactional id.
const ID: &str = "first-offsets";
/// How often a process that was fenced tries again, and the pause before it does.
const ATTEMPTS: usize = 20;
const RETRY: Duration = Duration::from_millis(250);

/// A group, and partitions in which it has no offset and reads from offset 0.
struct NewPartitions {
    group: ConsumerGroup,
    member: BaseConsumer,
    partitions: Vec<Partition>,
}

impl Bus {
    /// Commits offset 0 for every group that has no offset in a partition, where that is
    /// its beginning: the partition is in `created`, or its log is empty, or it begins at
    /// 0 and the group has offsets in other partitions of the topic. Returns the number
    /// of offsets.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub(crate) fn commit_first_offsets(&self, created: &BTreeSet<Partition>) -> Result<usize, BusError> {
        if created.is_empty() && self.new_partitions(created)?.is_empty() {
            return Ok(0);
        }
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            match self.commit_missing(created) {
                Err(BusError::Fenced { .. }) if attempts > 0 => thread::sleep(RETRY),
                outcome => return outcome,
            }
        }
    }

    fn commit_missing(&self, created: &BTreeSet<Partition>) -> Result<usize, BusError> {
        let transaction = self.transaction(ID, Duration::ZERO)?;
        // An offset that another process commits from here on fences this one.
        let groups = self.new_partitions(created)?;
        if groups.is_empty() {
            return Ok(0);
        }
        transaction.begin()?;
        let mut count = 0;
        for group in &groups {
            add_offsets(&transaction, group)?;
            count += group.partitions.len();
        }
        transaction.commit_records()?;
        info!(offsets = count, "first offsets committed");
        Ok(count)
    }

    /// Returns the groups that have partitions to begin with.
    fn new_partitions(&self, created: &BTreeSet<Partition>) -> Result<Vec<NewPartitions>, BusError> {
        // Each group has a coordinator of its own to be asked.
        let found: Vec<Result<NewPartitions, BusError>> = thread::scope(|scope| {
            let asked = ConsumerGroup::ALL.map(|group| scope.spawn(move || self.new_partitions_of(group, created)));
            let gone = |_| Err(BusError::Gone { what: "look for the offsets of a group" });
            asked.into_iter().map(|asked| asked.join().unwrap_or_else(gone)).collect()
        });
        let groups: Result<Vec<NewPartitions>, BusError> = found.into_iter().collect();
        Ok(groups?.into_iter().filter(|group| !group.partitions.is_empty()).collect())
    }

    fn new_partitions_of(
        &self,
        group: ConsumerGroup,
        created: &BTreeSet<Partition>,
    ) -> Result<NewPartitions, BusError> {
        let member: BaseConsumer =
            self.group_config(group.name(), None).create().map_err(BusError::new("make a consumer"))?;
        let names: Vec<String> = group.topics().iter().map(|topic| self.topics().name(*topic)).collect();
        connect(member.client(), names.first().map_or("", String::as_str), FIRST_BROKER)
            .map_err(BusError::new("ask for a topic"))?;
        let all: Vec<Partition> = group
            .topics()
            .iter()
            .flat_map(|topic| {
                (0..self.total_partitions(&[*topic]))
                    .filter_map(|index| Some(Partition { topic: *topic, index: i32::try_from(index).ok()? }))
            })
            .collect();
        let list = to_list(self.topics(), all.iter().map(|partition| (*partition, 0, None)));
        let committed = committed_offsets(&member, &list)?;
        let has_offset = |partition: &Partition| {
            let element = committed.find_partition(&self.topics().name(partition.topic), partition.index);
            element.is_some_and(|element| matches!(element.offset(), Offset::Offset(_)))
        };
        let (known, missing): (Vec<Partition>, Vec<Partition>) = all.into_iter().partition(has_offset);
        let mut partitions = Vec::new();
        for partition in missing {
            let reads_topic = known.iter().any(|known| known.topic == partition.topic);
            if created.contains(&partition) || self.begins_at_0(&member, partition, reads_topic)? {
                partitions.push(partition);
            }
        }
        Ok(NewPartitions { group, member, partitions })
    }

    /// Whether a partition without an offset can only be read from offset 0: nothing was
    /// ever written to it, or nothing was deleted and the group has not lost its offsets.
    fn begins_at_0(&self, member: &BaseConsumer, partition: Partition, reads_topic: bool) -> Result<bool, BusError> {
        let (start, end) = log_ends(member, &self.topics().name(partition.topic), partition.index)?;
        Ok(start == 0 && (end == 0 || reads_topic))
    }
}

fn add_offsets(transaction: &Transaction, new: &NewPartitions) -> Result<(), BusError> {
    let group = new.member.group_metadata().map(GroupMetadata);
    let group = group.ok_or_else(|| BusError::NotJoined { group: new.group.name().to_owned() })?;
    let offsets: Vec<(Partition, i64)> = new.partitions.iter().map(|partition| (*partition, 0)).collect();
    transaction.add_offsets(&offsets, &group)
}
