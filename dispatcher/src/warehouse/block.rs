//! Blocks of rows of one partition that are stored together. Each row still knows its
//! table and its record, so that a block can be looked up, and reduced to its missing rows.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use schemas::{Dead, Timestamp};
use store::Table;

/// A row of a block.
#[derive(Clone, Debug)]
pub(super) struct BlockRow {
    /// The table that the row belongs to.
    pub(super) table: Table,
    /// The offset of the row's record.
    pub(super) offset: i64,
    /// The row's time.
    pub(super) at: Timestamp,
    /// The row's place among the block's encoded rows.
    row: Range<usize>,
}

/// A block that still takes records.
#[derive(Debug, Default)]
pub(super) struct OpenBlock {
    rows: Vec<BlockRow>,
    bytes: Vec<u8>,
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

    /// Returns the memory that the rows take.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Extends the block's range to the record at `offset`, row or not.
    pub(super) const fn pass(&mut self, offset: i64) {
        self.offsets = Some(match self.offsets {
            Some((first, _)) => (first, offset),
            None => (offset, offset),
        });
    }

    /// Adds the rows of a record, which `write` appends. On an error nothing is added.
    pub(super) fn push<E>(
        &mut self,
        offset: i64,
        write: impl FnOnce(&mut RecordRows<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (rows, bytes) = (self.rows.len(), self.bytes.len());
        let written = write(&mut RecordRows { block: self, offset });
        if written.is_err() {
            self.rows.truncate(rows);
            self.bytes.truncate(bytes);
        }
        written
    }

    /// Adds the dead letter of a record that makes no row.
    pub(super) fn add_dead(&mut self, dead: Dead) {
        self.dead.push(dead);
    }

    /// Returns the block and starts the next one. Returns none if no record was taken.
    pub(super) fn close(&mut self) -> Option<Block> {
        let Self { rows, bytes, dead, offsets } = std::mem::take(self);
        let (first, last) = offsets?;
        let tables: BTreeSet<Table> = rows.iter().map(|row| row.table).collect();
        let tables = tables.into_iter().collect();
        Some(Block { first, last, rows: rows.into(), tables, bytes: bytes.into(), dead })
    }
}

/// The rows of one record, while they are written.
pub(super) struct RecordRows<'a> {
    block: &'a mut OpenBlock,
    offset: i64,
}

impl RecordRows<'_> {
    /// Adds the row that `write` appends. It returns the row's time, or none where it appends
    /// no row.
    pub(super) fn add<E>(
        &mut self,
        table: Table,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Option<Timestamp>, E>,
    ) -> Result<(), E> {
        let start = self.block.bytes.len();
        if let Some(at) = write(&mut self.block.bytes)? {
            let row = start..self.block.bytes.len();
            self.block.rows.push(BlockRow { table, offset: self.offset, at, row });
        }
        Ok(())
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
    pub(super) rows: Arc<[BlockRow]>,
    /// The tables that the rows belong to.
    pub(super) tables: Vec<Table>,
    /// The dead letters to write when the rows are stored.
    pub(super) dead: Vec<Dead>,
    bytes: Bytes,
}

impl Block {
    /// Returns the id of a row, which is every table's first column.
    pub(super) fn id(&self, row: &BlockRow) -> &str {
        let bytes = &self.bytes[row.row.clone()];
        // The length is one byte, because no id has 128 characters.
        let length = bytes.first().map_or(0, |length| usize::from(*length));
        bytes.get(1..=length).and_then(|id| str::from_utf8(id).ok()).unwrap_or_default()
    }

    /// Returns rows as they were written. Those that follow each other are one piece, and
    /// none is copied.
    pub(super) fn encoded<'a>(&self, rows: impl Iterator<Item = &'a BlockRow>) -> Vec<Bytes> {
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for row in rows {
            match pieces.last_mut() {
                Some(piece) if piece.end == row.row.start => piece.end = row.row.end,
                _ => pieces.push(row.row.clone()),
            }
        }
        pieces.into_iter().map(|piece| self.bytes.slice(piece)).collect()
    }

    /// Returns the rows that are not among `present`.
    pub(super) fn missing(&self, present: &HashSet<(u64, String)>) -> Arc<[BlockRow]> {
        let known: HashSet<(i64, &str)> =
            present.iter().map(|(offset, id)| (offset.cast_signed(), id.as_str())).collect();
        self.rows.iter().filter(|row| !known.contains(&(row.offset, self.id(row)))).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(record: &mut RecordRows<'_>, id: &str) -> Result<(), &'static str> {
        let at = Timestamp::from_millis(record.offset);
        record.add(Table::Clicks, |bytes| {
            bytes.push(id.len() as u8);
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(b" and more");
            Ok(Some(at))
        })
    }

    #[test]
    fn a_record_has_all_of_its_rows_or_none() {
        let mut open = OpenBlock::default();
        let two = |record: &mut RecordRows<'_>| add(record, "a").and_then(|()| add(record, "b"));
        open.push(1, two).unwrap();
        assert_eq!(open.push(2, |record| two(record).and(Err("no third"))), Err("no third"));
        open.pass(2);
        let block = open.close().unwrap();
        let rows: Vec<(i64, &str)> = block.rows.iter().map(|row| (row.offset, block.id(row))).collect();
        assert_eq!(rows, [(1, "a"), (1, "b")]);
    }

    #[test]
    fn only_missing_rows_are_sent_again() {
        let mut open = OpenBlock::default();
        for offset in [3, 5, 6, 9] {
            open.pass(offset);
            let id = format!("id{offset}");
            open.push(offset, |record| add(record, &id)).unwrap();
        }
        let block = open.close().unwrap();
        let present = HashSet::from([(5, "id5".to_owned()), (6, "another".to_owned()), (9, "id9".to_owned())]);
        let missing = block.missing(&present);
        assert_eq!(missing.iter().map(|row| row.offset).collect::<Vec<_>>(), [3, 6]);
        assert_eq!(block.encoded(missing.iter()), [b"\x03id3 and more".as_slice(), b"\x03id6 and more"]);
        assert_eq!(block.encoded(block.rows.iter()), std::slice::from_ref(&block.bytes));
        assert_eq!((block.first, block.last), (3, 9));
    }
}
