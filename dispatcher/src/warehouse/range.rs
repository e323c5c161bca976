//! The range of a partition's records that is on its way into a table. It is recorded
//! with the committed offset before the insert, so that a new owner of the partition
//! knows which rows to look for.

use std::fmt;

/// A range of a partition's records, with the number of the try to insert it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffsetRange {
    /// The offset of the first record.
    pub(super) first: i64,
    /// The offset of the last record.
    pub(super) last: i64,
    /// The number of rows that the range makes.
    pub(super) rows: usize,
    /// The number of the try, from 0. It rises each time that ClickHouse reports rows as
    /// present which are not. Each try has a deduplication token of its own.
    pub(super) round: u32,
}

/// The error for commit metadata that this program did not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnreadableNote;

/// The prefix of the metadata: its format and version.
const VERSION: &str = "inserting/1";

impl OffsetRange {
    /// Returns the commit metadata that records the range.
    pub(super) fn encode(&self) -> String {
        format!("{VERSION} {} {} {} {}", self.first, self.last, self.rows, self.round)
    }

    /// Reads the range that metadata records, if it records one.
    pub(super) fn decode(metadata: &str) -> Result<Option<Self>, UnreadableNote> {
        if metadata.is_empty() {
            return Ok(None);
        }
        let mut words = metadata.strip_prefix(VERSION).ok_or(UnreadableNote)?.split_ascii_whitespace();
        let range = Self {
            first: number(words.next())?,
            last: number(words.next())?,
            rows: number(words.next())?,
            round: number(words.next())?,
        };
        if words.next().is_some() || range.first < 0 || range.last < range.first {
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

fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, UnreadableNote> {
    word.and_then(|word| word.parse().ok()).ok_or(UnreadableNote)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_metadata_is_not_taken_for_none() {
        assert_eq!(OffsetRange::decode(""), Ok(None));
        for foreign in ["x", "inserting/2 1 2 3 4", "inserting/1 1 2 3", "inserting/1 2 1 3 0", "inserting/1 1 2 3 4 5"]
        {
            assert_eq!(OffsetRange::decode(foreign), Err(UnreadableNote), "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn a_recorded_range_is_read_back(first in 0..=i64::MAX, length in 0..=i64::MAX, rows: usize, round: u32) {
            let range = OffsetRange { first, last: first.saturating_add(length), rows, round };
            prop_assert_eq!(OffsetRange::decode(&range.encode()), Ok(Some(range)));
        }
    }
}
