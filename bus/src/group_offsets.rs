//! The progress of a group, as Kafka has it: read without joining the group, by commands
//! that compare what was done with what was recorded.

use rdkafka::{
    Offset,
    consumer::{BaseConsumer, Consumer as _},
};
use schemas::ConsumerGroup;

use crate::{
    Bus, BusError, DoneRanges, Partition,
    client::{QuietContext, connect},
    config::FIRST_BROKER,
    consumer::to_list,
    offsets::committed_offsets,
};

/// The committed progress of a group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupProgress {
    /// The partition.
    pub partition: Partition,
    /// The offset below which all records are done; none if the group has no offset there.
    pub offset: Option<i64>,
    /// The records from that offset on that are done nevertheless. Empty for groups that
    /// commit other metadata.
    pub done: DoneRanges,
}

impl GroupProgress {
    /// Tells whether the record at `offset` is done.
    #[must_use]
    pub fn is_done(&self, offset: i64) -> bool {
        self.offset.is_some_and(|committed| offset < committed) || self.done.contains(offset)
    }
}

impl Bus {
    /// Returns the committed progress of `group` in every partition that it reads. Offsets
    /// of an open transaction are waited for. Blocks.
    ///
    /// # Errors
    /// When Kafka does not answer, or a transaction with offsets of the group stays open.
    pub fn group_progress(&self, group: ConsumerGroup) -> Result<Vec<GroupProgress>, BusError> {
        let client: BaseConsumer<QuietContext> = self
            .group_config(group.name(), None)
            .create_with_context(QuietContext)
            .map_err(BusError::new("make a client"))?;
        let partitions: Vec<Partition> = group
            .topics()
            .iter()
            .flat_map(|topic| (0..i32::from(self.partitions(*topic))).map(|index| Partition { topic: *topic, index }))
            .collect();
        let Some(first) = partitions.first() else { return Ok(Vec::new()) };
        connect(client.client(), &self.topics().name(first.topic), FIRST_BROKER)
            .map_err(BusError::new("ask for a topic"))?;
        let list = to_list(self.topics(), partitions.iter().map(|partition| (*partition, 0, None)));
        let committed = committed_offsets(&client, &list)?;
        let mut progress = Vec::with_capacity(partitions.len());
        for element in committed.elements() {
            element.error().map_err(BusError::new("fetch a committed offset"))?;
            let Some(topic) = self.topics().parse(element.topic()) else { continue };
            let partition = Partition { topic, index: element.partition() };
            let offset = if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None };
            let done = DoneRanges::from_metadata(offset.unwrap_or_default(), element.metadata());
            progress.push(GroupProgress { partition, offset, done });
        }
        Ok(progress)
    }
}
