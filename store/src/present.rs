//! Finding out which rows of a range of records are present. They are looked for by their
//! ids, in the projection `by_row` that every table has, so that the cost follows from
//! the range and not from the table. Ids sort by time; those of one range are close to
//! each other, but for a few records that came late or are replayed.

use std::collections::HashSet;

use schemas::Timestamp;

use crate::{Store, StoreError, Table};

/// The most intervals of ids in one question. Each costs ClickHouse a search per part.
const MAX_INTERVALS: usize = 32;
/// The distance of two ids above which they are in different intervals, in units of 256 ms.
const FAR: u64 = 16;

/// The rows of a partition that are looked for.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The table of the rows.
    pub table: Table,
    /// The topic that the rows came from.
    pub topic: &'a str,
    /// The partition that the rows came from.
    pub partition: u16,
    /// The first offset.
    pub first: u64,
    /// The last offset.
    pub last: u64,
    /// The ids and times of the rows.
    pub rows: Vec<(&'a str, Timestamp)>,
}

impl Store {
    /// Returns the rows of a span that are present, each by its offset and id.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn present(&self, span: &Span<'_>) -> Result<HashSet<(u64, String)>, StoreError> {
        if span.rows.is_empty() {
            return Ok(HashSet::new());
        }
        let months: HashSet<String> = span.rows.iter().map(|(_, at)| month(*at)).collect();
        let sql = format!(
            "SELECT kafka_offset, id FROM {} WHERE ({}) AND kafka_topic = {{topic:String}} \
             AND kafka_partition = {{partition:UInt16}} AND kafka_offset BETWEEN {{first:UInt64}} AND {{last:UInt64}} \
             AND _partition_id IN {{months:Array(String)}}",
            span.table.name(),
            condition(&intervals(span.rows.iter().map(|(id, _)| *id).collect()))
        );
        let query = self
            .exact_query(&sql)
            .param("topic", span.topic)
            .param("partition", span.partition)
            .param("first", span.first)
            .param("last", span.last)
            .param("months", Vec::from_iter(months));
        Ok(self.timed(query.fetch_all::<(u64, String)>()).await?.into_iter().collect())
    }
}

/// Returns the partition of a table (`toYYYYMM`) that rows of a time are in.
fn month(at: Timestamp) -> String {
    // `2026-02-…`; no text of a time is shorter.
    at.to_string().chars().filter(char::is_ascii_digit).take(6).collect()
}

/// Returns a few intervals that contain the ids: they are divided where they are farthest
/// apart.
fn intervals(mut ids: Vec<&str>) -> Vec<(&str, &str)> {
    ids.sort_unstable();
    let mut gaps: Vec<(u64, usize)> = ids
        .windows(2)
        .enumerate()
        .map(|(nth, pair)| (position(pair[1]).saturating_sub(position(pair[0])), nth + 1))
        .filter(|(gap, _)| *gap > FAR)
        .collect();
    gaps.sort_unstable_by(|left, right| right.cmp(left));
    gaps.truncate(MAX_INTERVALS - 1);
    let mut starts: Vec<usize> = gaps.into_iter().map(|(_, start)| start).collect();
    starts.push(0);
    starts.sort_unstable();
    let ends = starts.iter().skip(1).copied().chain([ids.len()]);
    starts.iter().zip(ends).filter_map(|(start, end)| Some((*ids.get(*start)?, *ids.get(end - 1)?))).collect()
}

/// Returns the time of an id in units of 256 ms: the first 8 of its base32 digits.
fn position(id: &str) -> u64 {
    let digits = id.split_once('_').map_or(id, |(_, digits)| digits).bytes().take(8);
    let value = |byte: u8| u64::from(if byte.is_ascii_digit() { byte - b'0' } else { byte.wrapping_sub(b'A' - 10) });
    digits.fold(0, |position, byte| position << 5 | value(byte) & 31)
}

/// Returns the condition that an id is in one of the intervals. Ids are of letters, digits
/// and underscores, so they need no quoting.
fn condition(intervals: &[(&str, &str)]) -> String {
    let each = intervals.iter().map(|(first, last)| format!("id BETWEEN '{first}' AND '{last}'"));
    each.collect::<Vec<String>>().join(" OR ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::ClickId;

    use super::*;

    fn ids(millis: &[i64]) -> Vec<String> {
        millis.iter().map(|at| ClickId::new(Timestamp::from_millis(*at), 0, 1).to_string()).collect()
    }

    #[test]
    fn a_month_is_named_as_clickhouse_names_it() {
        assert_eq!(month("2026-02-28T23:59:59.999Z".parse().unwrap()), "202602");
        assert_eq!(month(Timestamp::from_millis(0)), "197001");
    }

    #[test]
    fn ids_that_came_late_have_an_interval_of_their_own() {
        let at = 1_770_301_425_120;
        let day = 86_400_000;
        let texts = ids(&[at, at - 3 * day, at + 900, at - 3 * day + 5, at + 20]);
        let found = intervals(texts.iter().map(String::as_str).collect());
        assert_eq!(found, [(&*texts[1], &*texts[3]), (&*texts[0], &*texts[2])]);
        assert_eq!(intervals(vec!["evt_1"]), [("evt_1", "evt_1")]);
    }

    proptest! {
        #[test]
        fn every_id_is_in_an_interval(millis in prop::collection::vec(0_i64..10_413_791_999_999, 1..200)) {
            let texts = ids(&millis);
            let found = intervals(texts.iter().map(String::as_str).collect());
            prop_assert!(found.len() <= MAX_INTERVALS);
            for id in &texts {
                prop_assert!(found.iter().any(|(first, last)| (*first..=*last).contains(&id.as_str())));
            }
            for pair in found.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0);
            }
        }
    }
}
