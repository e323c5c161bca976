//! The number of rows that came from ranges of Kafka's partitions, which an audit compares
//! with the records there.

use std::{ops::Range, time::Duration};

use clickhouse::Row;
use schemas::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Store, StoreError, Table, config::limited};

/// The offsets of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRange {
    /// The partition's number.
    pub partition: u16,
    /// The offsets.
    pub offsets: Range<u64>,
}

/// The rows of a table that came from one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct RowCount {
    /// The partition's number.
    pub partition: u16,
    /// The records that have rows.
    pub records: u64,
    /// The rows.
    pub rows: u64,
    /// The ids that the rows have: fewer than rows where a row is there twice.
    pub ids: u64,
}

impl Store {
    /// Counts the rows of `table` that came from `ranges` of the topic with the full name
    /// `topic`; partitions without rows are left out. Rows whose time is before `since` are
    /// left out, which spares ClickHouse the months before.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn row_counts(
        &self,
        table: Table,
        topic: &str,
        ranges: &[PartitionRange],
        since: Option<Timestamp>,
    ) -> Result<Vec<RowCount>, StoreError> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let of_range = |PartitionRange { partition, offsets }: &PartitionRange| {
            let Range { start, end } = offsets;
            format!("(kafka_partition = {partition} AND kafka_offset >= {start} AND kafka_offset < {end})")
        };
        let ranges: Vec<String> = ranges.iter().map(of_range).collect();
        let sql = format!(
            "SELECT kafka_partition AS partition, uniqExact(kafka_offset) AS records, count() AS rows, \
             uniqExact(id) AS ids FROM {} WHERE kafka_topic = {{topic:String}} \
             AND timestamp >= fromUnixTimestamp64Milli({{since:Int64}}, 'UTC') AND ({}) \
             GROUP BY partition ORDER BY partition",
            table.name(),
            ranges.join(" OR "),
        );
        let since = since.map_or(0, Timestamp::as_millis);
        let query = self.exact_query(&sql).param("topic", topic).param("since", since);
        let limit = Duration::from_millis(self.config().insert_timeout_ms);
        self.within(limit, limited(query, limit).fetch_all()).await
    }
}
