//! The book of rows: each record that the warehouse has done is a row in ClickHouse or a
//! dead letter, tests excepted. Pure, but for the question to ClickHouse.

use std::collections::{BTreeMap, HashSet};

use bus::Partition;
use schemas::{Timestamp, Topic};
use serde::Serialize;
use store::{PartitionRange, Store, Table};

use super::places::RecordPlace;

/// The longest time that a record may be younger than what its row tells of: nothing waits
/// for longer before it is recorded.
const LATE_DAYS: i64 = 14;

/// The records of one topic by what has become of them in ClickHouse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct StoredCounts {
    /// Records that make a row each.
    pub(super) captured: u64,
    /// Records that have their row.
    pub(super) stored: u64,
    /// Records that the warehouse has not done.
    pub(super) waiting: u64,
    pub(super) dead: u64,
    /// Records that the warehouse has done, and that have neither.
    pub(super) missing: u64,
    /// Rows with the id of another row.
    pub(super) doubled: u64,
    /// Erasures of persons that were recorded: their rows are missing rightly.
    pub(super) erasures: u64,
}

impl StoredCounts {
    /// Tells whether all is there, or an erasure explains what is missing.
    pub(super) const fn is_balanced(&self) -> bool {
        self.doubled == 0 && (self.missing == 0 || self.erasures > 0)
    }
}

/// A partition with fewer rows than records, or with more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RowDifference {
    pub(super) table: &'static str,
    pub(super) partition: String,
    /// The first offset that was counted, and the one behind the last.
    pub(super) offsets: (i64, i64),
    pub(super) records: u64,
    pub(super) stored: u64,
    pub(super) dead: u64,
    /// The question that lists the offsets which have rows.
    pub(super) query: String,
}

/// The records of one partition.
#[derive(Clone, Copy, Debug, Default)]
struct PartitionRecords {
    start: i64,
    /// The offset below which the warehouse is done.
    stored_below: i64,
    done: u64,
    open: u64,
}

/// The records that make rows.
#[derive(Default)]
pub(super) struct RowBook {
    partitions: BTreeMap<Partition, PartitionRecords>,
    dead: HashSet<RecordPlace>,
    erasures: u64,
}

/// The topics whose records make rows, each with its tables.
const TOPICS: [(Topic, &[Table]); 3] = [
    (Topic::Clicks, &[Table::Clicks]),
    (Topic::Events, &[Table::LinkEvents, Table::Conversions, Table::Audit]),
    (Topic::Attempts, &[Table::Deliveries]),
];

impl RowBook {
    /// Begins to count a partition, from `start` on.
    pub(super) fn partition(&mut self, partition: Partition, start: i64, stored_below: i64) {
        self.partitions.insert(partition, PartitionRecords { start, stored_below, ..PartitionRecords::default() });
    }

    /// Counts a record that makes a row.
    pub(super) fn record(&mut self, place: RecordPlace) {
        if let Some(records) = self.partitions.get_mut(&place.partition) {
            let counter = if place.offset < records.stored_below { &mut records.done } else { &mut records.open };
            *counter += 1;
        }
    }

    /// Notes a dead letter of a record.
    pub(super) fn dead(&mut self, place: RecordPlace) {
        let is_counted = self
            .partitions
            .get(&place.partition)
            .is_some_and(|records| (records.start..records.stored_below).contains(&place.offset));
        if is_counted {
            self.dead.insert(place);
        }
    }

    /// Notes the erasure of a person.
    pub(super) const fn erasure(&mut self) {
        self.erasures += 1;
    }

    /// Compares the records with the rows.
    pub(super) async fn compare(
        self,
        store: &Store,
        since: Timestamp,
        name: impl Fn(Topic) -> String,
    ) -> anyhow::Result<CountedRows> {
        let mut counted = CountedRows::default();
        let since = Timestamp::from_millis(since.as_millis().saturating_sub(LATE_DAYS * 24 * 3600 * 1000).max(0));
        for (topic, tables) in TOPICS {
            let ranges: Vec<PartitionRange> = self.ranges(topic).collect();
            let mut stored = BTreeMap::<u16, u64>::new();
            let mut counts = StoredCounts::default();
            for table in tables {
                // A conversion may tell of a time long ago.
                let since = (*table != Table::Conversions).then_some(since);
                for rows in store.row_counts(*table, &name(topic), &ranges, since).await? {
                    *stored.entry(rows.partition).or_default() += rows.records;
                    counts.doubled += rows.rows - rows.ids;
                }
            }
            for (partition, records) in self.of_topic(topic) {
                let dead = self.dead.iter().filter(|place| place.partition == *partition).count() as u64;
                let rows = u16::try_from(partition.index).ok().and_then(|index| stored.get(&index)).copied();
                let rows = rows.unwrap_or_default();
                counts.captured += records.done + records.open;
                counts.waiting += records.open;
                counts.stored += rows;
                counts.dead += dead;
                if records.done > rows + dead {
                    counts.missing += records.done - rows - dead;
                    counted.differences.push(RowDifference {
                        table: tables[0].name(),
                        partition: partition.to_string(),
                        offsets: (records.start, records.stored_below),
                        records: records.done,
                        stored: rows,
                        dead,
                        query: query(tables, &name(topic), *partition, records),
                    });
                }
            }
            if topic != Topic::Attempts {
                counts.erasures = self.erasures;
            }
            counted.counts.push((topic, counts));
        }
        Ok(counted)
    }

    fn of_topic(&self, topic: Topic) -> impl Iterator<Item = (&Partition, &PartitionRecords)> {
        self.partitions.iter().filter(move |(partition, _)| partition.topic == topic)
    }

    fn ranges(&self, topic: Topic) -> impl Iterator<Item = PartitionRange> {
        self.of_topic(topic).filter_map(|(partition, records)| {
            let start = u64::try_from(records.start).ok()?;
            let end = u64::try_from(records.stored_below).ok()?;
            let index = u16::try_from(partition.index).ok()?;
            (start < end).then_some(PartitionRange { partition: index, offsets: start..end })
        })
    }
}

/// The result of an audit of rows.
#[derive(Default)]
pub(super) struct CountedRows {
    pub(super) counts: Vec<(Topic, StoredCounts)>,
    pub(super) differences: Vec<RowDifference>,
}

/// Returns the question that lists the offsets which have rows.
fn query(tables: &[Table], topic: &str, partition: Partition, records: &PartitionRecords) -> String {
    let of_table = |table: &Table| {
        format!(
            "SELECT kafka_offset FROM {} WHERE kafka_topic = '{topic}' AND kafka_partition = {} AND kafka_offset >= {} AND \
             kafka_offset < {}",
            table.name(),
            partition.index,
            records.start,
            records.stored_below
        )
    };
    let tables: Vec<String> = tables.iter().map(of_table).collect();
    format!("SELECT DISTINCT kafka_offset FROM ({}) ORDER BY kafka_offset", tables.join(" UNION ALL "))
}
