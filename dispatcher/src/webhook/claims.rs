//! The claims of deliveries on the offsets of their records. A consumer has a ledger
//! of its partitions, and each delivery holds a claim in it. An offset is committed
//! when every claim below it is complete. A claim that is dropped before holds its
//! offset back, so that its record is read again after a restart.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bus::{Assigned, Assignments, Commit, DoneRanges, Ledger, LedgerProgress, OffsetTicket, Partition, Revoked};
use parking_lot::Mutex;

/// The ledger of one consumer, shared with the deliveries that came from it.
#[derive(Default)]
pub(super) struct OffsetClaims {
    ownership: Mutex<PartitionOwnership>,
}

#[derive(Default)]
struct PartitionOwnership {
    ledger: Ledger,
    /// The assignments so far, with or without partitions.
    assignments: u64,
    /// The commit of each partition that was handed out last.
    handed_out: HashMap<Partition, Commit>,
    /// A flag for each partition that this consumer owns, shared with its claims:
    /// false once the partition was revoked.
    owned: HashMap<Partition, Arc<AtomicBool>>,
}

/// A delivery's claim on the offset of its record.
pub(super) struct OffsetClaim {
    ticket: OffsetTicket,
    claims: Arc<OffsetClaims>,
    owned: Arc<AtomicBool>,
}

/// The answer of the ledger to a record that was read.
pub(super) enum Tracked {
    /// The partition is owned: here are as many claims as were asked for.
    Owned(Vec<OffsetClaim>),
    /// A former owner of the partition has done the record's work.
    Done,
    /// The partition was revoked: another member reads the record.
    Revoked,
}

impl OffsetClaims {
    /// Tracks the record at `offset`, which was read and waits for `pieces` of work.
    pub(super) fn track(self: &Arc<Self>, partition: Partition, offset: i64, pieces: usize) -> Tracked {
        let mut ownership = self.ownership.lock();
        let Some(owned) = ownership.owned.get(&partition).map(Arc::clone) else { return Tracked::Revoked };
        if ownership.ledger.is_done(partition, offset) {
            ownership.ledger.track(partition, offset, 0);
            return Tracked::Done;
        }
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        let tickets = ownership.ledger.track(partition, offset, pieces);
        let claim = |ticket| OffsetClaim { ticket, claims: Arc::clone(self), owned: Arc::clone(&owned) };
        Tracked::Owned(tickets.into_iter().map(claim).collect())
    }

    /// Returns the offsets to be committed of partitions where something was done since
    /// the last call. The metadata of an offset says which records above it are done.
    pub(super) fn advanced(&self) -> Vec<Commit> {
        let mut ownership = self.ownership.lock();
        let mut commits = Vec::new();
        for LedgerProgress { partition, offset, done } in ownership.ledger.progress() {
            let commit = Commit { partition, offset, metadata: done.to_metadata(offset) };
            if ownership.handed_out.get(&partition) != Some(&commit) {
                ownership.handed_out.insert(partition, commit.clone());
                commits.push(commit);
            }
        }
        commits
    }

    /// Returns the number of assignments so far. Each assignment resumes partitions that
    /// were paused.
    pub(super) fn assignments(&self) -> u64 {
        self.ownership.lock().assignments
    }

    /// Ends the ownership of every partition: the consumer is gone.
    pub(super) fn revoke_all(&self) {
        let mut ownership = self.ownership.lock();
        let partitions: Vec<Partition> = ownership.owned.keys().copied().collect();
        for partition in partitions {
            ownership.revoke(partition);
        }
    }

    /// Returns the number of partitions that this consumer owns.
    pub(super) fn owned(&self) -> usize {
        self.ownership.lock().owned.len()
    }

    /// Returns the offset below which everything is done, of each partition.
    pub(super) fn next_offsets(&self) -> Vec<(Partition, i64)> {
        self.ownership.lock().ledger.next_offsets().collect()
    }

    /// Returns the number of open claims.
    pub(super) fn outstanding(&self) -> usize {
        self.ownership.lock().ledger.outstanding()
    }
}

impl Assignments for OffsetClaims {
    fn assigned(&self, partitions: &[Assigned]) {
        let mut ownership = self.ownership.lock();
        ownership.assignments += 1;
        for assigned in partitions {
            let Assigned { partition, offset, metadata } = assigned;
            let done = DoneRanges::from_metadata(*offset, metadata);
            let metadata = done.to_metadata(*offset);
            ownership.handed_out.insert(*partition, Commit { partition: *partition, offset: *offset, metadata });
            ownership.ledger.assign_with(*partition, *offset, done);
            ownership.owned.insert(assigned.partition, Arc::new(AtomicBool::new(true)));
        }
    }

    fn revoked(&self, revoked: &Revoked<'_>) -> Vec<Commit> {
        let commits = self.advanced();
        let mut ownership = self.ownership.lock();
        for partition in revoked.partitions {
            ownership.revoke(*partition);
        }
        commits
    }
}

impl PartitionOwnership {
    fn revoke(&mut self, partition: Partition) {
        self.ledger.revoke(partition);
        self.handed_out.remove(&partition);
        if let Some(owned) = self.owned.remove(&partition) {
            owned.store(false, Ordering::Relaxed);
        }
    }
}

impl OffsetClaim {
    /// Completes the claim: the delivery is made, or Kafka has a record that stands
    /// for it.
    pub(super) fn complete(self) {
        self.claims.ownership.lock().ledger.done(self.ticket);
    }

    /// Reports whether this process still owns the partition, and so delivers its
    /// records.
    pub(super) fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use bus::BusError;
    use schemas::Topic;

    use super::*;

    const P: Partition = Partition { topic: Topic::Clicks, index: 0 };

    fn assign(claims: &OffsetClaims, offset: i64) {
        claims.assigned(&[Assigned { partition: P, offset, metadata: String::new() }]);
    }

    fn track(claims: &Arc<OffsetClaims>, offset: i64, pieces: usize) -> Vec<OffsetClaim> {
        match claims.track(P, offset, pieces) {
            Tracked::Owned(claims) => claims,
            Tracked::Done | Tracked::Revoked => panic!("the record is not to be processed"),
        }
    }

    #[test]
    fn an_offset_is_committed_when_its_claims_are_complete() {
        let claims = Arc::new(OffsetClaims::default());
        assign(&claims, 3);
        let mut open = track(&claims, 3, 2);
        open.pop().unwrap().complete();
        assert!(claims.advanced().is_empty());
        open.pop().unwrap().complete();
        assert_eq!(claims.advanced(), [Commit { partition: P, offset: 4, metadata: None }]);
    }

    fn lost() -> BusError {
        BusError::PartitionsLost { group: "webhook.clicks".to_owned() }
    }

    #[test]
    fn the_next_owner_skips_what_is_done() {
        let claims = Arc::new(OffsetClaims::default());
        assign(&claims, 3);
        let open = track(&claims, 3, 1);
        track(&claims, 4, 1).pop().unwrap().complete();
        let commits = claims.revoked(&Revoked { partitions: &[P], lost: false, group: &|| Err(lost()) });
        assert_eq!(commits, [Commit { partition: P, offset: 3, metadata: Some("done1:1 1,".to_owned()) }]);
        drop(open);

        let next = Arc::new(OffsetClaims::default());
        next.assigned(&[Assigned { partition: P, offset: 3, metadata: "done1:1 1,".to_owned() }]);
        assert!(next.advanced().is_empty(), "nothing was done yet");
        let mut first = track(&next, 3, 1);
        assert!(matches!(next.track(P, 4, 1), Tracked::Done));
        first.pop().unwrap().complete();
        assert_eq!(next.advanced(), [Commit { partition: P, offset: 5, metadata: None }]);
    }

    #[test]
    fn a_dropped_claim_holds_its_offset_back() {
        let claims = Arc::new(OffsetClaims::default());
        assign(&claims, 0);
        drop(track(&claims, 0, 1));
        track(&claims, 1, 1).pop().unwrap().complete();
        // The offset stands still, and its metadata tells what is done above it.
        let metadata = Some("done1:1 1,".to_owned());
        assert_eq!(claims.advanced(), [Commit { partition: P, offset: 0, metadata }]);
        assert_eq!(claims.outstanding(), 1);
    }

    #[test]
    fn what_is_done_is_committed_when_partitions_go_and_the_rest_is_let_go() {
        let claims = Arc::new(OffsetClaims::default());
        assign(&claims, 0);
        let open = track(&claims, 1, 1).pop().unwrap();
        assert!(open.is_owned());
        let commits = claims.revoked(&Revoked { partitions: &[P], lost: false, group: &|| Err(lost()) });
        assert!(commits.is_empty());
        assert!(!open.is_owned());
        assert!(matches!(claims.track(P, 2, 1), Tracked::Revoked));
        assign(&claims, 1);
        open.complete();
        assert!(claims.advanced().is_empty(), "the claim was on an earlier ownership");
    }
}
