//! When the end of a topic is an end. Whoever reads committed records is told of
//! an end at the last stable offset (KIP-98): where the first transaction that is
//! still open begins, whatever was committed behind it. So that a reader's end is
//! not before the last committed record, the two ends are made to meet first.

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

/// How often the ends are compared.
const STEP: Duration = Duration::from_millis(10);

impl Bus {
    /// Waits until whatever stands in `topics` now is committed or aborted. A
    /// [table](Bus::table) that is opened afterwards has told of every record
    /// that was committed before this call when it is caught up.
    ///
    /// # Errors
    /// When Kafka does not answer, or a transaction stays open for longer than
    /// Kafka lets one.
    pub fn settle(&self, role: &str, topics: &[Topic]) -> Result<(), BusError> {
        let client = |isolation: &str| -> Result<BaseConsumer, BusError> {
            let mut config = self.table_config(role);
            config.set("isolation.level", isolation).create().map_err(BusError::new("make a client"))
        };
        let (all, committed) = (client("read_uncommitted")?, client("read_committed")?);
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
                        return Err(BusError::Unsettled { topic: name });
                    }
                    thread::sleep(STEP);
                }
            }
        }
        Ok(())
    }
}
