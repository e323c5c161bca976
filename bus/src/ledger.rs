//! Which offsets may be committed while the work behind them finishes out of
//! order: the highest below which everything is done.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::record::Partition;

/// A piece of work that an offset waits for. Give it back with [`Ledger::done`];
/// one that is lost holds its partition's offset back for ever, which repeats
/// work after a restart but loses none.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    partition: Partition,
    offset: i64,
    generation: u64,
}

/// What is done in each partition that is owned.
#[derive(Debug, Default)]
pub struct Ledger {
    tracks: HashMap<Partition, Track>,
    generation: u64,
    outstanding: usize,
}

#[derive(Debug)]
struct Track {
    generation: u64,
    /// Offsets in order, each with how many pieces of work it still waits for.
    entries: VecDeque<(i64, u32)>,
    /// The offset to commit next.
    next: i64,
    /// What was handed out for committing last.
    committed: i64,
}

impl Ledger {
    /// `partition` is now ours and read from `offset` on.
    pub fn assign(&mut self, partition: Partition, offset: i64) {
        self.revoke(partition);
        self.generation += 1;
        let track = Track { generation: self.generation, entries: VecDeque::new(), next: offset, committed: offset };
        self.tracks.insert(partition, track);
    }

    /// `partition` is no longer ours; what is still under way there will not be
    /// committed by us.
    pub fn revoke(&mut self, partition: Partition) {
        if let Some(track) = self.tracks.remove(&partition) {
            self.outstanding -= track.entries.iter().map(|(_, left)| *left as usize).sum::<usize>();
        }
    }

    /// The record at `offset` has been read and waits for `pieces` of work: as
    /// many tickets. With none it is done at once. Records of a partition must
    /// be tracked in order; one that is not ours gives no tickets.
    pub fn track(&mut self, partition: Partition, offset: i64, pieces: u32) -> Vec<Ticket> {
        let Some(track) = self.tracks.get_mut(&partition) else { return Vec::new() };
        track.entries.push_back((offset, pieces));
        self.outstanding += pieces as usize;
        track.advance();
        (0..pieces).map(|_| Ticket { partition, offset, generation: track.generation }).collect()
    }

    /// A piece of work is done, or durably someone else's.
    #[allow(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn done(&mut self, ticket: Ticket) {
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

    /// How many pieces of work are under way.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The offsets that have advanced since the last call, each the offset of
    /// the next record to read, ready to be committed.
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

impl Track {
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
            let mut tickets: Vec<Ticket> =
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
