//! The decision whether a bundle is the second copy of another. Only a new process
//! produces again what an old process may have produced, and its records say so:
//! header `again`, and header `after`, the last offset of the partition that was
//! acknowledged before the first copy was sent. So a first copy is behind `after`.
//!
//! A record that says `again` is accepted only if a search of the log found no
//! first copy. Accepted records are remembered durably, because a first copy may
//! still arrive after them. An ordinary record needs no memory of other bundles: an
//! idempotent client never doubles a record.

use std::collections::HashMap;

use schemas::Timestamp;

/// How far ahead a redirector's clock may be. It matters only for bundles without an
/// offset that were made when the log begins.
const CLOCK_AHEAD_MS: i64 = 3_600_000;
/// How long a mark is kept: as long as its topic keeps it.
const MARKS_MS: i64 = 72 * 3_600_000;

/// A bundle's id.
pub(super) type BundleId = u128;

/// The place of a bundle in `clicks.raw`, as far as the decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) id: BundleId,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) again: Again,
}

/// Whether a record may be a second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The record is the only copy that its producer sent.
    No,
    /// The record may be a second copy; a first copy is behind the offset `after`. It
    /// may be anywhere where the producer knew of no acknowledged offset.
    Yes { after: Option<i64> },
}

/// The record of a bundle that was accepted although it says `again`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// When the mark was appended to its topic.
    pub(super) at: Timestamp,
}

/// The result of a search for first copies in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SearchResult {
    /// The first offset that was searched.
    pub(super) from: i64,
    /// When the first record that was searched was appended.
    pub(super) from_at: Option<Timestamp>,
    /// The first copy of each bundle that says `again`; it may be that record itself.
    pub(super) first: HashMap<BundleId, i64>,
}

impl SearchResult {
    /// Whether everything was searched that was appended since `at`, by a redirector's
    /// clock.
    fn reaches_back_to(&self, at: Timestamp) -> bool {
        self.from_at.is_some_and(|from| from.as_millis() <= at.as_millis() - CLOCK_AHEAD_MS)
    }
}

/// Returns when a bundle was made, by its redirector's clock: the time of its UUIDv7.
fn made(id: BundleId) -> Timestamp {
    Timestamp::from_millis(i64::try_from(id >> 80).unwrap_or_default())
}

/// The decision on a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The record is to be processed.
    First,
    /// The record says `again` and has no first copy: it is to be processed, and to
    /// be marked.
    FirstAgain,
    /// Another copy was processed.
    Second,
    /// The log no longer holds all offsets where a first copy can be.
    Undecidable,
    /// The log must be searched first.
    Unknown,
}

/// The knowledge about second copies.
#[derive(Default)]
pub(super) struct SecondCopies {
    /// Marks that were read from their topic.
    marks: HashMap<BundleId, Mark>,
    /// Marks that are, or will be, committed with transactions of this ownership.
    own: HashMap<BundleId, Mark>,
    newest: i64,
    /// The latest search of each partition.
    searches: HashMap<i32, SearchResult>,
}

impl SecondCopies {
    /// Forgets everything that depends on uncommitted records.
    pub(super) fn reset(&mut self) {
        self.own.clear();
        self.searches.clear();
    }

    pub(super) fn judge(&self, record: &Sighting) -> Verdict {
        if let Some(mark) = self.own.get(&record.id).or_else(|| self.marks.get(&record.id)) {
            let is_marked_record = (mark.partition, mark.offset) == (record.partition, record.offset);
            return if is_marked_record { Verdict::FirstAgain } else { Verdict::Second };
        }
        let Again::Yes { after } = record.again else { return Verdict::First };
        let Some(search) = self.searches.get(&record.partition) else { return Verdict::Unknown };
        match search.first.get(&record.id) {
            None => Verdict::Unknown,
            Some(first) if *first < record.offset => Verdict::Second,
            Some(_) if search.from <= first_searched(after) => Verdict::FirstAgain,
            Some(_) if after.is_none() && search.reaches_back_to(made(record.id)) => Verdict::FirstAgain,
            Some(_) => Verdict::Undecidable,
        }
    }

    /// Notes that a record that says `again` was accepted.
    pub(super) fn accept(&mut self, record: &Sighting, at: Timestamp) {
        self.own.insert(record.id, Mark { partition: record.partition, offset: record.offset, at });
    }

    /// Takes a mark from its topic.
    pub(super) fn mark(&mut self, id: BundleId, mark: Mark) {
        self.newest = self.newest.max(mark.at.as_millis());
        self.marks.insert(id, mark);
    }

    /// Forgets marks that their topic has deleted. Ages are counted from the newest
    /// mark: all times are the broker's.
    pub(super) fn expire(&mut self) {
        let oldest = self.newest - MARKS_MS;
        self.marks.retain(|_, mark| mark.at.as_millis() >= oldest);
    }

    pub(super) fn searched(&mut self, partition: i32, result: SearchResult) {
        self.searches.insert(partition, result);
    }
}

/// Returns the first offset at which a first copy can be.
pub(super) fn first_searched(after: Option<i64>) -> i64 {
    after.map_or(0, |after| after.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, again: Again) -> Sighting {
        Sighting { id: 7, partition: 0, offset, again }
    }

    fn searched(from: i64, first: i64) -> SecondCopies {
        let mut copies = SecondCopies::default();
        copies.searched(0, SearchResult { from, from_at: None, first: HashMap::from([(7, first)]) });
        copies
    }

    #[test]
    fn an_ordinary_record_is_the_first_without_a_search() {
        assert_eq!(SecondCopies::default().judge(&record(9, Again::No)), Verdict::First);
    }

    #[test]
    fn a_record_that_says_again_is_searched_for() {
        let again = record(9, Again::Yes { after: Some(3) });
        assert_eq!(SecondCopies::default().judge(&again), Verdict::Unknown);
        assert_eq!(searched(4, 5).judge(&again), Verdict::Second);
        assert_eq!(searched(4, 9).judge(&again), Verdict::FirstAgain);
        assert_eq!(searched(5, 9).judge(&again), Verdict::Undecidable);
        // A copy that is found decides, even if the log begins late.
        assert_eq!(searched(5, 6).judge(&again), Verdict::Second);
        // Without an offset, a first copy may have been anywhere in the log.
        let anywhere = record(9, Again::Yes { after: None });
        assert_eq!(searched(0, 9).judge(&anywhere), Verdict::FirstAgain);
        assert_eq!(searched(5, 9).judge(&anywhere), Verdict::Undecidable);
    }

    #[test]
    fn a_log_that_reaches_back_to_before_a_bundle_was_made_decides_without_an_offset() {
        let hours = |hours: i64| Timestamp::from_millis(hours * 3_600_000);
        for (made, expected) in [(10, Verdict::FirstAgain), (8, Verdict::Undecidable)] {
            let id = u128::from(hours(made).as_millis().unsigned_abs()) << 80;
            let mut copies = SecondCopies::default();
            let first = HashMap::from([(id, 9)]);
            copies.searched(0, SearchResult { from: 5, from_at: Some(hours(8)), first });
            let record = Sighting { id, ..record(9, Again::Yes { after: None }) };
            assert_eq!(copies.judge(&record), expected, "made at {made} h");
        }
    }

    #[test]
    fn after_an_accepted_record_every_other_copy_is_the_second() {
        let mut copies = searched(4, 9);
        let again = record(9, Again::Yes { after: Some(3) });
        copies.accept(&again, Timestamp::from_millis(0));
        assert_eq!(copies.judge(&again), Verdict::FirstAgain);
        assert_eq!(copies.judge(&record(12, Again::No)), Verdict::Second);
        assert_eq!(copies.judge(&record(13, Again::Yes { after: Some(3) })), Verdict::Second);
        copies.reset();
        assert_eq!(copies.judge(&record(12, Again::No)), Verdict::First);
        copies.mark(7, Mark { partition: 0, offset: 9, at: Timestamp::from_millis(0) });
        copies.expire();
        assert_eq!(copies.judge(&record(12, Again::No)), Verdict::Second);
        copies.mark(8, Mark { partition: 0, offset: 10, at: Timestamp::from_millis(MARKS_MS + 1) });
        copies.expire();
        assert_eq!(copies.judge(&record(12, Again::No)), Verdict::First);
    }
}
