//! Reading everything that is committed in topics of one partition each, once. A
//! [`Table`](crate::Table) follows its topic; this reader stops at its end, and one
//! client reads all topics, so that a start waits for few clients.

use std::time::{Duration, Instant};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError,
};
use schemas::Topic;

use crate::{Bus, BusError, Change, Partition, client::QuietContext, open_transactions::LogEnds};

/// How long a poll waits.
const POLL: Duration = Duration::from_millis(200);
/// How long reading waits for the next record or error before it fails.
const SILENCE: Duration = Duration::from_secs(30);

/// A reader of everything that is committed in topics of one partition each.
pub struct CommittedReader {
    ends: LogEnds,
    bus: Bus,
}

impl Bus {
    /// Makes a reader of everything that is committed in topics, without connecting.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn committed_reader(&self, role: &str) -> Result<CommittedReader, BusError> {
        Ok(CommittedReader { ends: self.log_ends(role)?, bus: self.clone() })
    }
}

impl CommittedReader {
    /// Connects to Kafka, so that [`read`](Self::read) need not; returns after a few
    /// seconds if Kafka does not answer. Blocks.
    pub fn connect(&self, topics: &[Topic]) {
        self.ends.connect(&self.bus, topics);
    }

    /// Waits for the open transactions of `topics`, and calls `apply` with every record
    /// that was committed before this call, topic after topic. Blocks, and calls
    /// `stopped` several times a second: once that returns true, reading ends. Returns
    /// whether everything was read.
    ///
    /// # Errors
    /// When Kafka does not answer, or a transaction stays open for longer than Kafka
    /// lets one.
    pub fn read(
        &self,
        topics: &[Topic],
        stopped: impl Fn() -> bool,
        mut apply: impl FnMut(Topic, Change<'_>),
    ) -> Result<bool, BusError> {
        self.ends.wait_for_open_transactions(&self.bus, topics)?;
        // This client knows the partitions' leaders by now. One that did not would begin
        // to read only when librdkafka's timer fires, which it does once a second.
        let consumer = &self.ends.last_stable;
        let failed = BusError::new("read a topic");
        let mut list = TopicPartitionList::new();
        let mut queues = Vec::new();
        for &topic in topics {
            let name = self.bus.topics().name(topic);
            list.add_partition_offset(&name, 0, Offset::Beginning).map_err(failed)?;
            let queue = consumer.split_partition_queue(&name, 0);
            queues.push((topic, queue.ok_or_else(|| failed(KafkaError::Canceled))?));
        }
        consumer.assign(&list).map_err(failed)?;
        for (topic, queue) in &queues {
            if !self.read_to_end(*topic, queue, &stopped, &mut apply)? {
                return Ok(false);
            }
        }
        consumer.unassign().map_err(failed)?;
        Ok(true)
    }

    fn read_to_end(
        &self,
        topic: Topic,
        queue: &PartitionQueue<QuietContext>,
        stopped: impl Fn() -> bool,
        mut apply: impl FnMut(Topic, Change<'_>),
    ) -> Result<bool, BusError> {
        let mut heard = Instant::now();
        while !stopped() {
            match queue.poll(POLL) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if let Some(key) = message.key() {
                        apply(topic, Change::of_record(key, message.payload()));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
                Some(Err(source)) if heard.elapsed() > SILENCE => {
                    return Err(BusError::new("read a topic")(source));
                }
                None if heard.elapsed() > SILENCE => {
                    let partition = Partition { topic, index: 0 };
                    return Err(BusError::Silent { partition, seconds: SILENCE.as_secs() });
                }
                None | Some(Err(_)) => {
                    // The client's own events come on its own queue.
                    let _ = self.ends.last_stable.poll(Duration::ZERO);
                }
            }
        }
        Ok(false)
    }
}
