//! Blocks of rows that are stored together. Each row still knows its table and its record,
//! so that a block can be looked up, split in two, or reduced to the missing rows.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
};

use bytes::Bytes;
use schemas::{Dead, DeadOrigin, Timestamp};
use store::Table;

/// A row of a block.
#[derive(Clone, Debug)]
pub(super) struct BlockRow {
    /// The table that the row belongs to.
    pub(super) table: Table,
    /// The offset of the row's record.
    pub(super) offset: i64,
    /// The row's time.
    at: Timestamp,
    /// The row's place among the block's encoded rows.
    row: Range<usize>,
    /// The record's place among the block's records.
    record: Range<usize>,
}

/// A block that still takes records.
#[derive(Debug, Default)]
pub(super) struct OpenBlock {
    rows: Vec<BlockRow>,
    bytes: Vec<u8>,
    records: Vec<u8>,
    dead: Vec<Dead>,
    /// The first and the last offset that were passed.
    offsets: Option<(i64, i64)>,
}

impl OpenBlock {
    /// Reports whether no record has been taken.
    pub(super) const fn is_empty(&self) -> bool {
        self.offsets.is_none()
    }

    /// Returns the number of rows.
    pub(super) const fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Returns the memory that rows and records take.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes.len() + self.records.len()
    }

    /// Extends the block's range to the record at `offset`, row or not.
    pub(super) const fn pass(&mut self, offset: i64) {
        self.offsets = Some(match self.offsets {
            Some((first, _)) => (first, offset),
            None => (offset, offset),
        });
    }

    /// Adds a record and its row. `write` appends the row and returns its table and time,
    /// or none where the record makes no row. On an error nothing is added.
    pub(super) fn push<E>(
        &mut self,
        offset: i64,
        record: &[u8],
        write: impl FnOnce(&mut Vec<u8>) -> Result<Option<(Table, Timestamp)>, E>,
    ) -> Result<(), E> {
        let row = self.bytes.len();
        let start = self.records.len();
        if let Some((table, at)) = write(&mut self.bytes)? {
            self.records.extend_from_slice(record);
            let (row, record) = (row..self.bytes.len(), start..self.records.len());
            self.rows.push(BlockRow { table, offset, at, row, record });
        }
        Ok(())
    }

    /// Adds the dead letter of a record that makes no row.
    pub(super) fn add_dead(&mut self, dead: Dead) {
        self.dead.push(dead);
    }

    /// Returns the block and starts the next one. Returns none if no record was taken.
    pub(super) fn close(&mut self) -> Option<Block> {
        let Self { rows, bytes, records, dead, offsets } = std::mem::take(self);
        let (first, last) = offsets?;
        Some(Block { first, last, rows, bytes: bytes.into(), records: records.into(), dead })
    }
}

/// A complete block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The offset of the first record, row or not.
    pub(super) first: i64,
    /// The offset of the last record, row or not.
    pub(super) last: i64,
    /// The rows in the order of their offsets.
    pub(super) rows: Vec<BlockRow>,
    /// The dead letters to write when the rows are stored.
    pub(super) dead: Vec<Dead>,
    bytes: Bytes,
    records: Bytes,
}

impl Block {
    /// Returns the id of a row, which is every table's first column.
    pub(super) fn id(&self, row: &BlockRow) -> &str {
        let bytes = &self.bytes[row.row.clone()];
        // The length is one byte, because no id has 128 characters.
        let length = bytes.first().map_or(0, |length| usize::from(*length));
        bytes.get(1..=length).and_then(|id| str::from_utf8(id).ok()).unwrap_or_default()
    }

    /// Returns rows as they go over the wire.
    pub(super) fn encoded<'a>(&self, rows: impl Iterator<Item = &'a BlockRow> + Clone) -> Bytes {
        // The rows of a whole block, or of a half, are contiguous and need no copy.
        let length: usize = rows.clone().map(|row| row.row.len()).sum();
        let start = rows.clone().map(|row| row.row.start).min().unwrap_or_default();
        let end = rows.clone().map(|row| row.row.end).max().unwrap_or_default();
        if end - start == length {
            return self.bytes.slice(start..end);
        }
        rows.flat_map(|row| self.bytes[row.row.clone()].iter().copied()).collect()
    }

    /// Returns the tables that the rows belong to.
    pub(super) fn tables(&self) -> BTreeSet<Table> {
        self.rows.iter().map(|row| row.table).collect()
    }

    /// Returns the earliest and the latest time of the rows.
    pub(super) fn times(&self) -> (Timestamp, Timestamp) {
        let times = self.rows.iter().map(|row| row.at);
        (times.clone().min().unwrap_or_default(), times.max().unwrap_or_default())
    }

    /// Returns the rows that are not among `present`.
    pub(super) fn missing(&self, present: &HashSet<(u64, String)>) -> Vec<BlockRow> {
        let known: HashSet<(i64, &str)> =
            present.iter().map(|(offset, id)| (offset.cast_signed(), id.as_str())).collect();
        self.rows.iter().filter(|row| !known.contains(&(row.offset, self.id(row)))).cloned().collect()
    }

    /// Splits the block into two with half of the rows each. A block of fewer than two
    /// rows stays whole.
    pub(super) fn halves(mut self) -> (Self, Option<Self>) {
        if self.rows.len() < 2 {
            return (self, None);
        }
        let right_rows = self.rows.split_off(self.rows.len() / 2);
        let cut = right_rows.first().map_or(self.last, |row| row.offset);
        let (right_dead, left_dead): (Vec<Dead>, Vec<Dead>) =
            self.dead.drain(..).partition(|dead| dead.origin.offset >= cut);
        // A range ends at a record that makes a row or a dead letter, because every
        // reader meets such a record again.
        let left_offsets =
            self.rows.iter().map(|row| row.offset).chain(left_dead.iter().map(|dead| dead.origin.offset));
        let left_last = left_offsets.max().unwrap_or(self.first);
        let right = Self { first: cut, rows: right_rows, dead: right_dead, ..self.clone() };
        self.last = left_last;
        self.dead = left_dead;
        (self, Some(right))
    }

    /// Turns the rows into dead letters, with ClickHouse's error as the reason.
    pub(super) fn dead_letter_rows(&mut self, topic: &str, partition: i32, reason: &str, at: Timestamp) {
        for row in std::mem::take(&mut self.rows) {
            let payload = String::from_utf8_lossy(&self.records[row.record.clone()]);
            let origin = DeadOrigin::record(topic.to_owned(), partition, row.offset);
            let reason = format!("ClickHouse refuses its row: {reason}");
            self.dead.push(Dead::of_record(reason, at, origin, &payload));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(offsets: &[i64]) -> Block {
        let mut open = OpenBlock::default();
        for offset in offsets {
            open.pass(*offset);
            let write = |bytes: &mut Vec<u8>| {
                let id = format!("id{offset}");
                bytes.push(id.len() as u8);
                bytes.extend_from_slice(id.as_bytes());
                bytes.extend_from_slice(b" and more");
                Ok::<_, ()>(Some((Table::Clicks, Timestamp::from_millis(*offset))))
            };
            open.push(*offset, b"{}", write).unwrap();
        }
        open.close().unwrap()
    }

    #[test]
    fn only_missing_rows_are_sent_again() {
        let block = block(&[3, 5, 6, 9]);
        let present = HashSet::from([(5, "id5".to_owned()), (6, "another".to_owned()), (9, "id9".to_owned())]);
        let missing = block.missing(&present);
        assert_eq!(missing.iter().map(|row| row.offset).collect::<Vec<_>>(), [3, 6]);
        assert_eq!(block.encoded(missing.iter()), b"\x03id3 and more\x03id6 and more".as_slice());
        assert_eq!(block.encoded(block.rows.iter()), block.bytes);
        assert_eq!(block.times(), (Timestamp::from_millis(3), Timestamp::from_millis(9)));
    }

    proptest! {
        #[test]
        fn halves_are_the_whole(steps in prop::collection::vec(1_i64..4, 2..60)) {
            let offsets: Vec<i64> = steps.iter().scan(0, |at, step| { *at += step; Some(*at) }).collect();
            let whole = block(&offsets);
            let first = whole.first;
            let last = whole.last;
            let (left, right) = whole.halves();
            let right = right.unwrap();
            prop_assert!(left.last < right.first);
            prop_assert_eq!(left.first, first);
            prop_assert_eq!(right.last, last);
            let both: Vec<i64> = left.rows.iter().chain(&right.rows).map(|row| row.offset).collect();
            prop_assert_eq!(both, offsets);
            prop_assert!(left.rows.iter().all(|row| row.offset <= left.last));
            prop_assert!(left.rows.len().abs_diff(right.rows.len()) <= 1);
        }
    }
}
