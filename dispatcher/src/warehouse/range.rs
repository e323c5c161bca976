//! The range of a partition's records that is on its way into a table. It is recorded
//! with the committed offset before the insert, so that a new owner of the partition
//! knows which rows to look for.

use std::fmt;

/// A range of a partition's records, with the insert that may have stored its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffsetRange {
    /// The offset of the first record.
    pub(super) first: i64,
    /// The offset of the last record.
    pub(super) last: i64,
    /// The number of rows that the range makes.
    pub(super) rows: usize,
    /// The number of the insert, drawn at random. The insert may hold the rows of other
    /// partitions, too. None before the first insert.
    pub(super) insert: Option<u64>,
}

/// The error for commit metadata that this program did not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnreadableNote;

/// The prefix of the metadata: its format and version.
const VERSION: &str = "inserting/2";
/// The version before, whose inserts had no number: `first last rows round`.
const BEFORE: &str = "inserting/1";

impl OffsetRange {
    /// Returns the commit metadata that records the range.
    pub(super) fn encode(&self) -> String {
        match self.insert {
            Some(insert) => format!("{VERSION} {} {} {} {insert:016x}", self.first, self.last, self.rows),
            None => format!("{BEFORE} {} {} {} 0", self.first, self.last, self.rows),
        }
    }

    /// Reads the range that metadata records, if it records one.
    pub(super) fn decode(metadata: &str) -> Result<Option<Self>, UnreadableNote> {
        if metadata.is_empty() {
            return Ok(None);
        }
        let words: Vec<&str> = metadata.split(' ').collect();
        let &[version, first, last, rows, insert] = words.as_slice() else { return Err(UnreadableNote) };
        let insert = match version {
            VERSION => Some(u64::from_str_radix(insert, 16).map_err(|_| UnreadableNote)?),
            BEFORE => number::<u32>(insert).map(|_| None)?,
            _ => return Err(UnreadableNote),
        };
        let range = Self { first: number(first)?, last: number(last)?, rows: number(rows)?, insert };
        if range.first < 0 || range.last < range.first {
            return Err(UnreadableNote);
        }
        Ok(Some(range))
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, UnreadableNote> {
    word.parse().map_err(|_| UnreadableNote)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_metadata_is_not_taken_for_none() {
        assert_eq!(OffsetRange::decode(""), Ok(None));
        for foreign in [
            "x",
            "inserting/3 1 2 3 4",
            "inserting/2 1 2 3",
            "inserting/2 2 1 3 0",
            "inserting/2 1 2 3 4 5",
            "inserting/2 1 2 3 g",
            "inserting/1 1 2 3 x",
        ] {
            assert_eq!(OffsetRange::decode(foreign), Err(UnreadableNote), "{foreign}");
        }
    }

    #[test]
    fn a_range_of_the_version_before_has_no_insert() {
        let range = OffsetRange { first: 1, last: 2, rows: 3, insert: None };
        assert_eq!(OffsetRange::decode("inserting/1 1 2 3 7"), Ok(Some(range)));
    }

    proptest! {
        #[test]
        fn a_recorded_range_is_read_back(
            first in 0..=i64::MAX, length in 0..=i64::MAX, rows: usize, insert: Option<u64>,
        ) {
            let range = OffsetRange { first, last: first.saturating_add(length), rows, insert };
            prop_assert_eq!(OffsetRange::decode(&range.encode()), Ok(Some(range)));
        }
    }
}
