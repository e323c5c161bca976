//! Reading a range of a partition's log outside any consumer group.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use schemas::Timestamp;

use crate::{
    Bus, BusError, Partition, Record,
    client::{QuietContext, connect, log_ends},
    config::{CALL_TIMEOUT, FIRST_BROKER},
};

/// How long a poll waits.
const POLL: Duration = Duration::from_millis(200);
/// How long reading waits for the next record or error before it fails.
const SILENCE: Duration = Duration::from_secs(30);

/// A reader of committed records outside any consumer group.
pub struct LogReader {
    consumer: BaseConsumer<QuietContext>,
    bus: Bus,
    connected: AtomicBool,
}

impl Bus {
    /// Makes a reader of committed records outside any consumer group.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn log_reader(&self, role: &str) -> Result<LogReader, BusError> {
        let consumer =
            self.table_config(role).create_with_context(QuietContext).map_err(BusError::new("make a reader"))?;
        Ok(LogReader { consumer, bus: self.clone(), connected: AtomicBool::new(false) })
    }
}

impl LogReader {
    /// Returns the offsets that the log of `partition` holds: from its first record
    /// to before the first record of an open transaction.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn range(&self, partition: Partition) -> Result<Range<i64>, BusError> {
        let name = self.bus.topics().name(partition.topic);
        if !self.connected.swap(true, Ordering::Relaxed) {
            // Without, the first question may be repeated only after a second. A broker
            // that does not answer now is reported by that question.
            let _ = connect(self.consumer.client(), &name, FIRST_BROKER);
        }
        let (begin, end) = log_ends(&self.consumer, &name, partition.index)?;
        Ok(begin..end)
    }

    /// Returns the first offset of `partition` whose record is not older than `at`; behind
    /// the last record if all are older. The time is the one that the topic keeps.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn offset_at(&self, partition: Partition, at: Timestamp) -> Result<i64, BusError> {
        let failed = BusError::new("look for the offset of a time");
        let name = self.bus.topics().name(partition.topic);
        let mut list = TopicPartitionList::new();
        let time = Offset::Offset(at.as_millis().max(0));
        list.add_partition_offset(&name, partition.index, time).map_err(failed)?;
        let found = self.consumer.offsets_for_times(list, CALL_TIMEOUT).map_err(failed)?;
        let found = found.find_partition(&name, partition.index).ok_or(KafkaError::Canceled).map_err(failed)?;
        found.error().map_err(failed)?;
        match found.offset() {
            Offset::Offset(offset) => Ok(offset),
            _ => Ok(self.range(partition)?.end),
        }
    }

    /// Calls `visit` with every record of `partition` in `offsets`, until `visit`
    /// returns false. `offsets.start` must be in the log. Blocks, and calls
    /// `stopped` several times a second: once that returns true, reading ends.
    ///
    /// # Errors
    /// When Kafka does not answer, or `offsets.start` is no longer in the log.
    pub fn read(
        &self,
        partition: Partition,
        offsets: Range<i64>,
        stopped: impl Fn() -> bool,
        mut visit: impl FnMut(&Record<'_>) -> bool,
    ) -> Result<(), BusError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let failed = BusError::new("read a range of a partition");
        let name = self.bus.topics().name(partition.topic);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&name, partition.index, Offset::Offset(offsets.start)).map_err(failed)?;
        self.consumer.assign(&list).map_err(failed)?;
        let mut heard = Instant::now();
        while !stopped() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let offset = message.offset();
                    let wanted = offset < offsets.end;
                    if !wanted || !visit(&Record { message, topic: partition.topic }) || offset + 1 >= offsets.end {
                        break;
                    }
                }
                // The end is at the latest where `range` said: markers of
                // transactions take up offsets, too.
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if is_gone(&error) || heard.elapsed() > SILENCE => return Err(failed(error)),
                None if heard.elapsed() > SILENCE => {
                    return Err(BusError::Silent { partition, seconds: SILENCE.as_secs() });
                }
                None | Some(Err(_)) => {}
            }
        }
        self.consumer.unassign().map_err(failed)
    }
}

fn is_gone(error: &KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
    matches!(error.rdkafka_error_code(), Some(AutoOffsetReset | OffsetOutOfRange))
}
