//! Waiting for the open transactions of a topic. A reader of committed records
//! sees the topic's end at the last stable offset (KIP-98): before the first
//! transaction that is still open, even if records behind it are committed. A
//! reader that must not miss a committed record waits first until the last stable
//! offset has reached the high watermark.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use schemas::Topic;

use crate::{
    Bus, BusError,
    client::{QuietContext, connect},
    config::{CALL_TIMEOUT, FIRST_BROKER, TRANSACTION_TIMEOUT},
};

/// How often the two offsets are compared.
const STEP: Duration = Duration::from_millis(10);

/// The two clients that see the two ends of a log.
pub struct LogEnds {
    high_watermark: BaseConsumer<QuietContext>,
    /// Reads committed records, and may be used for that.
    pub(crate) last_stable: Arc<BaseConsumer<QuietContext>>,
}

impl Bus {
    /// Waits once, with clients of its own, as [`LogEnds::wait_for_open_transactions`] does.
    ///
    /// # Errors
    /// When Kafka does not answer, or a transaction stays open for longer than
    /// Kafka lets one.
    pub fn wait_for_open_transactions(&self, role: &str, topics: &[Topic]) -> Result<(), BusError> {
        let ends = self.log_ends(role)?;
        ends.connect(self, topics);
        ends.wait_for_open_transactions(self, topics)
    }

    /// Makes the two clients, without connecting.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn log_ends(&self, role: &str) -> Result<LogEnds, BusError> {
        let client = |isolation: &str| {
            let mut config = self.table_config(role);
            config.set("isolation.level", isolation);
            // The end of a topic shows in a fetch without records, which the broker delays
            // by this long. What is read once asks for it a few times only.
            config.set("fetch.wait.max.ms", "5");
            config.create_with_context(QuietContext).map_err(BusError::new("make a client"))
        };
        Ok(LogEnds { high_watermark: client("read_uncommitted")?, last_stable: Arc::new(client("read_committed")?) })
    }
}

impl LogEnds {
    /// Connects the clients, or returns after a while if Kafka does not answer.
    pub fn connect(&self, bus: &Bus, topics: &[Topic]) {
        let Some(topic) = topics.first() else { return };
        for client in [&self.high_watermark, &*self.last_stable] {
            // A broker that does not answer now is reported by the request that needs it.
            let _ = connect(client.client(), &bus.topics().name(*topic), FIRST_BROKER);
        }
    }

    /// Waits until every transaction that is now open in `topics` is committed or
    /// aborted. A [table](Bus::table) that is opened afterwards has, once caught
    /// up, applied every record that was committed before this call.
    ///
    /// # Errors
    /// When Kafka does not answer, or a transaction stays open for longer than
    /// Kafka lets one.
    pub fn wait_for_open_transactions(&self, bus: &Bus, topics: &[Topic]) -> Result<(), BusError> {
        let target = ends(&self.high_watermark, bus, topics)?;
        let deadline = Instant::now() + TRANSACTION_TIMEOUT + CALL_TIMEOUT;
        loop {
            let stable = ends(&self.last_stable, bus, topics)?;
            let behind = target.iter().zip(&stable).find(|((_, target), (_, stable))| stable < target);
            let Some(((topic, _), _)) = behind else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(BusError::OpenTransaction { topic: bus.topics().name(*topic) });
            }
            thread::sleep(STEP);
        }
    }
}

/// Returns the end of each partition of `topics` as `client` sees it, in one request.
fn ends(client: &BaseConsumer<QuietContext>, bus: &Bus, topics: &[Topic]) -> Result<Vec<(Topic, i64)>, BusError> {
    let failed = BusError::new("fetch where a log ends");
    let mut list = TopicPartitionList::new();
    let mut partitions = Vec::new();
    for &topic in topics {
        let name = bus.topics().name(topic);
        for index in 0..i32::from(bus.partitions(topic)) {
            // As a timestamp, librdkafka's number for the end asks for the end.
            list.add_partition_offset(&name, index, Offset::End).map_err(failed)?;
            partitions.push((topic, name.clone(), index));
        }
    }
    let answered = client.offsets_for_times(list, CALL_TIMEOUT).map_err(failed)?;
    let end = |(topic, name, index): (Topic, String, i32)| {
        let found = answered.find_partition(&name, index).ok_or(KafkaError::Canceled).map_err(failed)?;
        found.error().map_err(failed)?;
        match found.offset() {
            Offset::Offset(end) => Ok((topic, end)),
            _ => Err(failed(KafkaError::Canceled)),
        }
    };
    partitions.into_iter().map(end).collect()
}
