//! Waiting for the open transactions of a topic. A reader of committed records
//! sees the topic's end at the last stable offset (KIP-98): before the first
//! transaction that is still open, even if records behind it are committed. A
//! reader that must not miss a committed record waits first until the last stable
//! offset has reached the high watermark.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use schemas::Topic;

use crate::{
    Bus, BusError,
    config::{CALL_TIMEOUT, TRANSACTION_TIMEOUT},
};

/// How often the two offsets are compared.
const STEP: Duration = Duration::from_millis(10);

impl Bus {
    /// Waits until every transaction that is now open in `topics` is committed or
    /// aborted. A [table](Bus::table) that is opened afterwards has, once caught
    /// up, applied every record that was committed before this call.
    ///
    /// # Errors
    /// When Kafka does not answer, or a transaction stays open for longer than
    /// Kafka lets one.
    pub fn wait_for_open_transactions(&self, role: &str, topics: &[Topic]) -> Result<(), BusError> {
        let client = |isolation: &str| -> Result<BaseConsumer, BusError> {
            let mut config = self.table_config(role);
            config.set("isolation.level", isolation).create().map_err(BusError::new("make a client"))
        };
        let all = client("read_uncommitted")?;
        let committed = client("read_committed")?;
        let end = |client: &BaseConsumer, name: &str, index: i32| -> Result<i64, BusError> {
            let ends = client.fetch_watermarks(name, index, CALL_TIMEOUT);
            Ok(ends.map_err(BusError::new("fetch where a log ends"))?.1)
        };
        let deadline = Instant::now() + TRANSACTION_TIMEOUT + CALL_TIMEOUT;
        for topic in topics {
            let name = self.topics().name(*topic);
            for index in 0..i32::from(self.partitions(*topic)) {
                let target = end(&all, &name, index)?;
                while end(&committed, &name, index)? < target {
                    if Instant::now() > deadline {
                        return Err(BusError::OpenTransaction { topic: name });
                    }
                    thread::sleep(STEP);
                }
            }
        }
        Ok(())
    }
}
