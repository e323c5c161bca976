//! The stretch of a partition that is on its way into a table, as it is recorded
//! with the offset before it goes: what a new owner of the partition must look for.

use std::fmt;

/// A stretch of a partition, and which try at it this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The offset of its first record.
    pub(super) first: i64,
    /// The offset of its last record.
    pub(super) last: i64,
    /// How many rows it makes.
    pub(super) rows: usize,
    /// From 0; one higher each time ClickHouse said that the rows are there and
    /// they were not. Each has a token of its own.
    pub(super) round: u32,
}

/// Commit metadata that this program did not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// What the metadata begins with.
const VERSION: &str = "inserting/1";

impl Range {
    /// The commit metadata that records it.
    pub(super) fn encode(&self) -> String {
        format!("{VERSION} {} {} {} {}", self.first, self.last, self.rows, self.round)
    }

    /// The range that metadata records, if any.
    pub(super) fn decode(metadata: &str) -> Result<Option<Self>, Unreadable> {
        if metadata.is_empty() {
            return Ok(None);
        }
        let mut words = metadata.strip_prefix(VERSION).ok_or(Unreadable)?.split_ascii_whitespace();
        let range = Self {
            first: number(words.next())?,
            last: number(words.next())?,
            rows: number(words.next())?,
            round: number(words.next())?,
        };
        if words.next().is_some() || range.first < 0 || range.last < range.first {
            return Err(Unreadable);
        }
        Ok(Some(range))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, Unreadable> {
    word.and_then(|word| word.parse().ok()).ok_or(Unreadable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_ours_is_told_from_nothing() {
        assert_eq!(Range::decode(""), Ok(None));
        for foreign in ["x", "inserting/2 1 2 3 4", "inserting/1 1 2 3", "inserting/1 2 1 3 0", "inserting/1 1 2 3 4 5"]
        {
            assert_eq!(Range::decode(foreign), Err(Unreadable), "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn what_is_recorded_is_what_is_read(first in 0..=i64::MAX, length in 0..=i64::MAX, rows: usize, round: u32) {
            let range = Range { first, last: first.saturating_add(length), rows, round };
            prop_assert_eq!(Range::decode(&range.encode()), Ok(Some(range)));
        }
    }
}
