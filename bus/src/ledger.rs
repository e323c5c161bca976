//! The offsets that may be committed while work finishes out of order: in each
//! partition, the highest offset below which all work is done.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::record::Partition;

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
    /// Offsets in order, each with the number of pieces of work it waits for.
    entries: VecDeque<(i64, u32)>,
    /// The offset to commit next.
    next: i64,
    /// The offset that was handed out for committing last.
    committed: i64,
}

impl Ledger {
    /// Starts tracking `partition`, which is read from `offset` on.
    pub fn assign(&mut self, partition: Partition, offset: i64) {
        self.revoke(partition);
        self.generation += 1;
        let track =
            PartitionLedger { generation: self.generation, entries: VecDeque::new(), next: offset, committed: offset };
        self.tracks.insert(partition, track);
    }

    /// Stops tracking `partition`: its unfinished work belongs to the next owner.
    pub fn revoke(&mut self, partition: Partition) {
        if let Some(track) = self.tracks.remove(&partition) {
            self.outstanding -= track.entries.iter().map(|(_, left)| *left as usize).sum::<usize>();
        }
    }

    /// Notes that the record at `offset` waits for `pieces` of work, and returns a
    /// ticket for each. With zero pieces the record is done at once. Records of a
    /// partition must be tracked in order. A partition that is not tracked gives no
    /// tickets.
    pub fn track(&mut self, partition: Partition, offset: i64, pieces: u32) -> Vec<OffsetTicket> {
        let Some(track) = self.tracks.get_mut(&partition) else { return Vec::new() };
        track.entries.push_back((offset, pieces));
        self.outstanding += pieces as usize;
        track.advance();
        (0..pieces).map(|_| OffsetTicket { partition, offset, generation: track.generation }).collect()
    }

    /// Notes that a piece of work is done, or durably handed to another owner.
    #[allow(clippy::needless_pass_by_value, reason = "a ticket is returned once")]
    pub fn done(&mut self, ticket: OffsetTicket) {
        let Some(track) = self.tracks.get_mut(&ticket.partition) else { return };
        // Work of an earlier ownership: its record is read again.
        if track.generation != ticket.generation {
            return;
        }
        let at = track.entries.binary_search_by_key(&ticket.offset, |(offset, _)| *offset);
        if let Ok(at) = at
            && let Some((_, left)) = track.entries.get_mut(at)
            && *left > 0
        {
            *left -= 1;
            self.outstanding -= 1;
            track.advance();
        }
    }

    /// Returns the number of unfinished pieces of work.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Returns the offsets to commit that have advanced since the last call: in each
    /// partition, the offset of the next record to read.
    pub fn advanced(&mut self) -> BTreeMap<Partition, i64> {
        let mut offsets = BTreeMap::new();
        for (partition, track) in &mut self.tracks {
            if track.next > track.committed {
                track.committed = track.next;
                offsets.insert(*partition, track.next);
            }
        }
        offsets
    }
}

impl PartitionLedger {
    fn advance(&mut self) {
        while let Some((offset, 0)) = self.entries.front() {
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
        assert!(ledger.advanced().is_empty());
        ledger.done(first);
        assert_eq!(ledger.advanced(), BTreeMap::from([(P, 10)]));
        assert!(ledger.advanced().is_empty());
    }

    #[test]
    fn work_of_an_earlier_ownership_counts_for_nothing() {
        let mut ledger = Ledger::default();
        ledger.assign(P, 0);
        let [stale] = ledger.track(P, 0, 1).try_into().unwrap();
        ledger.assign(P, 0);
        let [fresh] = ledger.track(P, 0, 1).try_into().unwrap();
        ledger.done(stale);
        assert!(ledger.advanced().is_empty());
        assert_eq!(ledger.outstanding(), 1);
        ledger.done(fresh);
        assert_eq!(ledger.advanced(), BTreeMap::from([(P, 1)]));
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
                let _ = ledger.advanced();
                let expected = left.iter().take_while(|n| **n == 0).count() as i64;
                prop_assert_eq!(ledger.tracks[&P].next, expected);
                prop_assert_eq!(ledger.outstanding(), tickets.len());
            }
        }
    }
}
