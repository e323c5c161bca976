//! The offsets that may be committed while work finishes out of order: in each
//! partition, the highest offset below which all work is done.

use std::collections::{HashMap, VecDeque};

use crate::{done_ranges::DoneRanges, record::Partition};

/// A piece of work that an offset waits for, to be returned with [`Ledger::done`].
/// A lost ticket holds its partition's offset back for as long as the partition is
/// owned: work is repeated after a restart, and none is lost.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct OffsetTicket {
    partition: Partition,
    offset: i64,
    generation: u64,
}

/// The finished work of each owned partition.
#[derive(Debug, Default)]
pub struct Ledger {
    tracks: HashMap<Partition, PartitionLedger>,
    generation: u64,
    outstanding: usize,
}

#[derive(Debug)]
struct PartitionLedger {
    generation: u64,
    /// Records in order.
    entries: VecDeque<LedgerEntry>,
    /// The offset to commit next.
    next: i64,
    /// The records that a former owner has done.
    inherited: DoneRanges,
}

/// A record that was read.
#[derive(Clone, Copy, Debug)]
struct LedgerEntry {
    offset: i64,
    /// The pieces of work that it began with, and those that are left.
    pieces: u32,
    left: u32,
}

/// The state of a partition's work, for committing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerProgress {
    /// The partition.
    pub partition: Partition,
    /// The offset below which all work is done.
    pub offset: i64,
    /// The records from that offset on that are done.
    pub done: DoneRanges,
}

impl Ledger {
    /// Starts tracking `partition`, which is read from `offset` on.
    pub fn assign(&mut self, partition: Partition, offset: i64) {
        self.assign_with(partition, offset, DoneRanges::default());
    }

    /// Starts tracking `partition`, which is read from `offset` on, and of which a former
    /// owner has done the records `inherited`.
    pub fn assign_with(&mut self, partition: Partition, offset: i64, inherited: DoneRanges) {
        self.revoke(partition);
        self.generation += 1;
        let track = PartitionLedger { generation: self.generation, entries: VecDeque::new(), next: offset, inherited };
        self.tracks.insert(partition, track);
    }

    /// Stops tracking `partition`: its unfinished work belongs to the next owner.
    pub fn revoke(&mut self, partition: Partition) {
        if let Some(track) = self.tracks.remove(&partition) {
            self.outstanding -= track.entries.iter().map(|entry| entry.left as usize).sum::<usize>();
        }
    }

    /// Notes that the record at `offset` waits for `pieces` of work, and returns a
    /// ticket for each. With zero pieces the record is done at once. Records of a
    /// partition must be tracked in order. A partition that is not tracked gives no
    /// tickets.
    pub fn track(&mut self, partition: Partition, offset: i64, pieces: u32) -> Vec<OffsetTicket> {
        let Some(track) = self.tracks.get_mut(&partition) else { return Vec::new() };
        track.entries.push_back(LedgerEntry { offset, pieces, left: pieces });
        self.outstanding += pieces as usize;
        track.advance();
        (0..pieces).map(|_| OffsetTicket { partition, offset, generation: track.generation }).collect()
    }

    /// Tells whether a former owner has done the record at `offset`, which is then tracked
    /// with zero pieces.
    #[must_use]
    pub fn is_done(&self, partition: Partition, offset: i64) -> bool {
        self.tracks.get(&partition).is_some_and(|track| track.inherited.contains(offset))
    }

    /// Returns the offset below which all work is done, of every partition that is tracked.
    pub fn next_offsets(&self) -> impl Iterator<Item = (Partition, i64)> {
        self.tracks.iter().map(|(partition, track)| (*partition, track.next))
    }

    /// Returns the progress in every partition that is tracked. It costs a look at each
    /// record above unfinished work.
    #[must_use]
    pub fn progress(&self) -> Vec<LedgerProgress> {
        let progress = |(partition, track): (&Partition, &PartitionLedger)| LedgerProgress {
            partition: *partition,
            offset: track.next,
            done: track.done(),
        };
        self.tracks.iter().map(progress).collect()
    }

    /// Notes that a piece of work is done, or durably handed to another owner.
    #[allow(clippy::needless_pass_by_value, reason = "a ticket is returned once")]
    pub fn done(&mut self, ticket: OffsetTicket) {
        let Some(track) = self.tracks.get_mut(&ticket.partition) else { return };
        // Work of an earlier ownership: its record is read again.
        if track.generation != ticket.generation {
            return;
        }
        if let Some(entry) = track.find(ticket.offset).and_then(|at| track.entries.get_mut(at))
            && entry.left > 0
        {
            entry.left -= 1;
            self.outstanding -= 1;
            track.advance();
        }
    }

    /// Tells whether other pieces of the ticket's record are done. The next owner of the
    /// partition would do them again, unless this one is done, too.
    #[must_use]
    pub fn is_begun(&self, ticket: &OffsetTicket) -> bool {
        let Some(track) = self.tracks.get(&ticket.partition) else { return false };
        let entry = track.find(ticket.offset).and_then(|at| track.entries.get(at));
        track.generation == ticket.generation && entry.is_some_and(|entry| entry.left < entry.pieces)
    }

    /// Returns the number of unfinished pieces of work.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.outstanding
    }
}

impl PartitionLedger {
    fn find(&self, offset: i64) -> Option<usize> {
        self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()
    }

    /// Returns the records behind unfinished work that are done.
    fn done(&self) -> DoneRanges {
        let mut done = DoneRanges::default();
        let mut run: Option<(i64, i64)> = None;
        // Offsets between two records that are done have no records.
        for LedgerEntry { offset, left, .. } in &self.entries {
            run = match (run, left) {
                (Some((start, _)), 0) => Some((start, offset + 1)),
                (None, 0) => Some((*offset, offset + 1)),
                (Some((start, end)), _) => {
                    done.push(start..end);
                    None
                }
                (None, _) => None,
            };
        }
        let read_to = self.entries.back().map_or(self.next, |entry| entry.offset + 1);
        if let Some((start, end)) = run {
            done.push(start..end);
        }
        for range in self.inherited.since_offset(read_to) {
            done.push(range);
        }
        done
    }

    fn advance(&mut self) {
        while let Some(LedgerEntry { offset, left: 0, .. }) = self.entries.front() {
            self.next = offset + 1;
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::Topic;

    use super::*;

    const P: Partition = Partition { topic: Topic::Clicks, index: 0 };

    fn offset(ledger: &Ledger) -> i64 {
        ledger.progress()[0].offset
    }

    #[test]
    fn an_offset_waits_for_all_below_it() {
        let mut ledger = Ledger::default();
        ledger.assign(P, 5);
        let [first] = ledger.track(P, 5, 1).try_into().unwrap();
        let mut second = ledger.track(P, 6, 2);
        assert!(ledger.track(P, 9, 0).is_empty());
        for ticket in second.drain(..) {
            ledger.done(ticket);
        }
        assert_eq!(offset(&ledger), 5);
        ledger.done(first);
        assert_eq!(offset(&ledger), 10);
    }

    #[test]
    fn the_next_owner_learns_what_is_done_above_the_offset() {
        let mut ledger = Ledger::default();
        ledger.assign(P, 5);
        let mut tickets: Vec<OffsetTicket> = [5, 6, 8, 9].iter().flat_map(|at| ledger.track(P, *at, 1)).collect();
        ledger.done(tickets.remove(3));
        ledger.done(tickets.remove(1));
        let progress = ledger.progress();
        assert_eq!(progress[0].offset, 5);
        let metadata = progress[0].done.to_metadata(5).unwrap();
        assert_eq!(metadata, "done1:1 1,2 1,");

        let mut next = Ledger::default();
        next.assign_with(P, 5, DoneRanges::from_metadata(5, &metadata));
        let [first] = next.track(P, 5, 1).try_into().unwrap();
        assert!(!next.is_done(P, 5));
        assert!(next.is_done(P, 6));
        assert_eq!(next.progress()[0].done, progress[0].done, "what was inherited is handed on");
        assert!(next.track(P, 6, 0).is_empty());
        next.done(first);
        assert_eq!(next.progress()[0].offset, 7);
        assert_eq!(next.progress()[0].done.to_metadata(7).unwrap(), "done1:2 1,");
    }

    #[test]
    fn a_record_is_begun_when_one_of_its_pieces_is_done() {
        let mut ledger = Ledger::default();
        ledger.assign(P, 0);
        let mut pieces = ledger.track(P, 0, 2);
        let [alone] = ledger.track(P, 1, 1).try_into().unwrap();
        let other = pieces.pop().unwrap();
        assert!(!ledger.is_begun(&other));
        ledger.done(pieces.pop().unwrap());
        assert!(ledger.is_begun(&other));
        assert!(!ledger.is_begun(&alone));
        ledger.assign(P, 0);
        assert!(!ledger.is_begun(&other), "it is of an earlier ownership");
    }

    #[test]
    fn work_of_an_earlier_ownership_counts_for_nothing() {
        let mut ledger = Ledger::default();
        ledger.assign(P, 0);
        let [stale] = ledger.track(P, 0, 1).try_into().unwrap();
        ledger.assign(P, 0);
        let [fresh] = ledger.track(P, 0, 1).try_into().unwrap();
        ledger.done(stale);
        assert_eq!(offset(&ledger), 0);
        assert_eq!(ledger.outstanding(), 1);
        ledger.done(fresh);
        assert_eq!(offset(&ledger), 1);
        assert_eq!(ledger.outstanding(), 0);
    }

    proptest! {
        #[test]
        fn nothing_is_committed_before_it_is_done(
            pieces in prop::collection::vec(0_u32..4, 1..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..120),
        ) {
            let mut ledger = Ledger::default();
            ledger.assign(P, 0);
            let mut left = pieces.clone();
            let mut tickets: Vec<OffsetTicket> =
                pieces.iter().enumerate().flat_map(|(offset, n)| ledger.track(P, offset as i64, *n)).collect();
            for index in order {
                if tickets.is_empty() {
                    break;
                }
                let ticket = tickets.swap_remove(index.index(tickets.len()));
                left[ticket.offset as usize] -= 1;
                ledger.done(ticket);
                let expected = left.iter().take_while(|n| **n == 0).count() as i64;
                prop_assert_eq!(ledger.tracks[&P].next, expected);
                prop_assert_eq!(ledger.outstanding(), tickets.len());
            }
        }
    }
}
