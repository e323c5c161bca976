//! Reading the past of a partition.

use std::time::{Duration, Instant};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use schemas::Timestamp;

use crate::{Bus, BusError, Partition, Record, client::QuietContext, config::CALL_TIMEOUT};

/// How long a poll waits.
const POLL: Duration = Duration::from_millis(200);
/// How long reading waits for the next record or error before it fails.
const SILENCE: Duration = Duration::from_secs(30);

impl Bus {
    /// Calls `visit` with every record of `partition` that was produced at `since`
    /// or later and has an offset below `end`. Blocks.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn look_back(
        &self,
        role: &str,
        partition: Partition,
        since: Timestamp,
        end: i64,
        mut visit: impl FnMut(&Record<'_>),
    ) -> Result<(), BusError> {
        let failed = |source| BusError::Kafka { what: "look back in a partition", source };
        let consumer: BaseConsumer<QuietContext> =
            self.table_config(role).create_with_context(QuietContext).map_err(failed)?;
        let name = self.topics().name(partition.topic);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&name, partition.index, Offset::Offset(since.as_millis())).map_err(failed)?;
        let found = consumer.offsets_for_times(list, CALL_TIMEOUT).map_err(failed)?;
        // Without an offset, nothing was produced since.
        let begin = match found.find_partition(&name, partition.index).map(|found| found.offset()) {
            Some(Offset::Offset(begin)) if begin < end => begin,
            _ => return Ok(()),
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&name, partition.index, Offset::Offset(begin)).map_err(failed)?;
        consumer.assign(&list).map_err(failed)?;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let offset = message.offset();
                    if offset < end {
                        visit(&Record { message, topic: partition.topic });
                    }
                    if offset + 1 >= end {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if heard.elapsed() > SILENCE => return Err(failed(error)),
                None if heard.elapsed() > SILENCE => {
                    return Err(BusError::Silent { partition, seconds: SILENCE.as_secs() });
                }
                None | Some(Err(_)) => {}
            }
        }
    }
}
