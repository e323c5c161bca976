//! The records of a partition that are done though one before them is not. They are
//! committed beside the offset, as its metadata, so that the partition's next owner
//! skips them: without them, one slow piece of work makes all work behind it happen
//! again after every rebalance.

use std::{fmt::Write, ops::Range};

/// The beginning of the metadata, with the version of its format.
const PREFIX: &str = "done1:";
/// The longest metadata. Kafka takes 4096 bytes (`offset.metadata.max.bytes`).
const MAX_BYTES: usize = 4000;

/// Ranges of offsets, in order and without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DoneRanges(Vec<Range<i64>>);

impl DoneRanges {
    /// Adds a range behind all others, joined with the last one if nothing is between
    /// them.
    pub(crate) fn push(&mut self, range: Range<i64>) {
        match self.0.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.0.push(range),
        }
    }

    /// Returns the ranges that begin at `offset` or later.
    pub(crate) fn since_offset(&self, offset: i64) -> impl Iterator<Item = Range<i64>> {
        self.0.iter().filter(move |range| range.end > offset).map(move |range| range.start.max(offset)..range.end)
    }

    /// Tells whether the record at `offset` is done.
    #[must_use]
    pub fn contains(&self, offset: i64) -> bool {
        let behind = self.0.partition_point(|range| range.end <= offset);
        self.0.get(behind).is_some_and(|range| range.contains(&offset))
    }

    /// Returns the metadata that goes with the committed offset `base`, if there are any
    /// ranges: in turn the number of offsets that are not done and of those that are.
    /// Ranges that find no room are left out: their records are processed again.
    #[must_use]
    pub fn to_metadata(&self, base: i64) -> Option<String> {
        let mut text = PREFIX.to_owned();
        let mut at = base;
        for range in self.since_offset(base) {
            let before = text.len();
            // Writing to a string cannot fail.
            let _ = write!(text, "{} {},", range.start - at, range.end - range.start);
            if text.len() > MAX_BYTES {
                text.truncate(before);
                break;
            }
            at = range.end;
        }
        (text.len() > PREFIX.len()).then_some(text)
    }

    /// Reads the metadata of the committed offset `base`. Text of any other kind has no
    /// ranges.
    #[must_use]
    pub fn from_metadata(base: i64, text: &str) -> Self {
        Self::parse(base, text).unwrap_or_default()
    }

    fn parse(base: i64, text: &str) -> Option<Self> {
        let mut ranges = Self::default();
        let mut at = base;
        for pair in text.strip_prefix(PREFIX)?.split_terminator(',') {
            let (gap, run) = pair.split_once(' ')?;
            let (gap, run): (u32, u32) = (gap.parse().ok()?, run.parse().ok()?);
            let start = at.checked_add(i64::from(gap))?;
            at = start.checked_add(i64::from(run))?;
            ranges.push(start..at);
        }
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(ranges: &[Range<i64>]) -> DoneRanges {
        let mut done = DoneRanges::default();
        for range in ranges {
            done.push(range.clone());
        }
        done
    }

    #[test]
    fn metadata_has_runs_from_the_committed_offset_on() {
        let done = ranges(&[12..13, 20..30]);
        assert_eq!(done.to_metadata(10).unwrap(), "done1:2 1,7 10,");
        assert_eq!(done.to_metadata(25).unwrap(), "done1:0 5,");
        assert_eq!(done.to_metadata(30), None);
        assert_eq!(DoneRanges::default().to_metadata(0), None);
    }

    #[test]
    fn text_of_another_kind_has_no_ranges() {
        for text in ["", "done1:", "done2:1 1,", "done1:1", "done1:1 -1,", "done1:a b,", "{\"v\":1}"] {
            assert_eq!(DoneRanges::from_metadata(5, text), DoneRanges::default(), "{text}");
        }
        assert_eq!(DoneRanges::from_metadata(i64::MAX, "done1:1 1,"), DoneRanges::default());
    }

    #[test]
    fn ranges_that_find_no_room_are_left_out() {
        let many: Vec<Range<i64>> = (0..10_000).map(|n| 3 * n + 1..3 * n + 2).collect();
        let text = ranges(&many).to_metadata(0).unwrap();
        assert!(text.len() <= MAX_BYTES);
        let read = DoneRanges::from_metadata(0, &text);
        assert!(read.0.len() > 500);
        assert_eq!(read.0, many[..read.0.len()]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(base in 0_i64..1000, runs in prop::collection::vec((1_i64..50, 1_i64..50), 0..50)) {
            let mut done = DoneRanges::default();
            let mut at = base;
            for (gap, run) in runs {
                done.push(at + gap..at + gap + run);
                at += gap + run;
            }
            let text = done.to_metadata(base).unwrap_or_default();
            let read = DoneRanges::from_metadata(base, &text);
            prop_assert_eq!(&read, &done);
            for offset in base..at + 5 {
                prop_assert_eq!(read.contains(offset), done.0.iter().any(|range| range.contains(&offset)));
            }
        }
    }
}
