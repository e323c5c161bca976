//! The claims of deliveries on the offsets of their records. A consumer has a ledger
//! of its partitions, and each delivery holds a claim in it. An offset is committed
//! when every claim below it is complete. A claim that is dropped before holds its
//! offset back, so that its record is read again after a restart.
//!
//! A partition that goes to another member passes through the steps of [`Tenure`], and its claims
//! tell them to the deliveries.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Assigned, Commit, DoneRanges, Ledger, LedgerProgress, OffsetTicket, Partition};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The time that an exchange has from its beginning, if its partition is handed over. All members
/// of the group wait meanwhile; endpoints that are well answer within it.
pub(super) const GRACE: Duration = Duration::from_millis(250);

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
    /// The partitions that this consumer owns.
    owned: HashMap<Partition, Arc<OwnedPartition>>,
}

/// How far this consumer's ownership of a partition has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tenure {
    /// Deliveries begin.
    Holding,
    /// No delivery begins, and those that have begun may end.
    Closing,
    /// No delivery goes on: it is written to a delay topic, or left to the next owner.
    Ending,
    /// The partition is another member's.
    Over,
}

/// The state of a partition that its claims share.
struct OwnedPartition {
    tenure: watch::Sender<Tenure>,
    /// Held by every claim whose delivery was begun, or is being written to Kafka.
    busy: Arc<()>,
}

/// A delivery's claim on the offset of its record.
pub(super) struct OffsetClaim {
    ticket: OffsetTicket,
    claims: Arc<OffsetClaims>,
    partition: Arc<OwnedPartition>,
    busy: Option<Arc<()>>,
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
        let claim =
            |ticket| OffsetClaim { ticket, claims: Arc::clone(self), partition: Arc::clone(&owned), busy: None };
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

    /// Lets the ownership of partitions come to `tenure`, and tells their claims.
    pub(super) fn enter(&self, partitions: &[Partition], tenure: Tenure) {
        let ownership = self.ownership.lock();
        for owned in partitions.iter().filter_map(|partition| ownership.owned.get(partition)) {
            owned.tenure.send_replace(tenure);
        }
    }

    /// Returns the claims on partitions whose deliveries were begun and have not ended.
    pub(super) fn busy(&self, partitions: &[Partition]) -> usize {
        let ownership = self.ownership.lock();
        let owned = partitions.iter().filter_map(|partition| ownership.owned.get(partition));
        owned.map(|owned| Arc::strong_count(&owned.busy) - 1).sum()
    }

    /// Ends the ownership of partitions: what is not done is the next owner's.
    pub(super) fn release(&self, partitions: &[Partition]) {
        let mut ownership = self.ownership.lock();
        for partition in partitions {
            ownership.release(*partition);
        }
    }

    /// Returns the partitions that this consumer owns.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.ownership.lock().owned.keys().copied().collect()
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

    /// Takes note of newly assigned partitions.
    pub(super) fn assigned(&self, partitions: &[Assigned]) {
        let mut ownership = self.ownership.lock();
        ownership.assignments += 1;
        for assigned in partitions {
            let Assigned { partition, offset, metadata } = assigned;
            let done = DoneRanges::from_metadata(*offset, metadata);
            let metadata = done.to_metadata(*offset);
            ownership.handed_out.insert(*partition, Commit { partition: *partition, offset: *offset, metadata });
            ownership.ledger.assign_with(*partition, *offset, done);
            let owned = OwnedPartition { tenure: watch::Sender::new(Tenure::Holding), busy: Arc::default() };
            ownership.owned.insert(assigned.partition, Arc::new(owned));
        }
    }
}

impl PartitionOwnership {
    fn release(&mut self, partition: Partition) {
        self.ledger.revoke(partition);
        self.handed_out.remove(&partition);
        if let Some(owned) = self.owned.remove(&partition) {
            owned.tenure.send_replace(Tenure::Over);
        }
    }
}

impl OffsetClaim {
    /// Completes the claim: the delivery is made, or Kafka has a record that stands
    /// for it.
    pub(super) fn complete(self) {
        self.claims.ownership.lock().ledger.done(self.ticket);
    }

    /// Notes that the delivery begins, or is written to Kafka: the partition's handover
    /// waits for it.
    pub(super) fn begin(&mut self) {
        self.busy.get_or_insert_with(|| Arc::clone(&self.partition.busy));
    }

    /// Notes that the delivery waits again.
    pub(super) fn rest(&mut self) {
        self.busy = None;
    }

    /// Returns how far the ownership of the claim's partition has come.
    pub(super) fn tenure(&self) -> Tenure {
        *self.partition.tenure.borrow()
    }

    /// Waits until the ownership of the claim's partition has come to `tenure`.
    pub(super) async fn reaches(&self, tenure: Tenure) {
        let mut reached = self.partition.tenure.subscribe();
        // The partition keeps the sender.
        let _ = reached.wait_for(|now| *now >= tenure).await;
    }

    /// Tells whether two claims are on one partition.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.partition, &other.partition)
    }

    /// Tells whether the record's deliveries to other endpoints are made. The next owner would
    /// make them again, unless this one is made or written to Kafka.
    pub(super) fn is_begun(&self) -> bool {
        self.claims.ownership.lock().ledger.is_begun(&self.ticket)
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_next_owner_skips_what_is_done() {
        let claims = Arc::new(OffsetClaims::default());
        assign(&claims, 3);
        let open = track(&claims, 3, 1);
        track(&claims, 4, 1).pop().unwrap().complete();
        let commits = claims.advanced();
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
    fn claims_are_told_how_far_a_handover_has_come_and_count_for_nothing_after_it() {
        let claims = Arc::new(OffsetClaims::default());
        assign(&claims, 0);
        let mut open = track(&claims, 1, 2);
        let mut first = open.pop().unwrap();
        let second = open.pop().unwrap();
        assert_eq!((first.tenure(), claims.busy(&[P])), (Tenure::Holding, 0));
        first.begin();
        first.begin();
        assert_eq!(claims.busy(&[P]), 1);
        claims.enter(&[P], Tenure::Closing);
        assert_eq!(second.tenure(), Tenure::Closing);
        assert!(!second.is_begun());
        first.complete();
        assert_eq!(claims.busy(&[P]), 0);
        assert!(second.is_begun(), "the next owner would make the first one again");
        claims.release(&[P]);
        assert_eq!(second.tenure(), Tenure::Over);
        assert!(matches!(claims.track(P, 2, 1), Tracked::Revoked));
        assign(&claims, 1);
        second.complete();
        assert!(claims.advanced().is_empty(), "the claim was on an earlier ownership");
    }
}
