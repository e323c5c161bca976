//! What a consumer owes: the ledger of its partitions, and the claims that its
//! deliveries hold on it. An offset is committed when every claim below it is
//! settled; a claim that is dropped unsettled holds it back, so that its record
//! is read again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bus::{Assigned, Assignments, Commit, Ledger, Partition, Revoked, Ticket};
use parking_lot::Mutex;

/// The ledger of one consumer, shared with the deliveries that it began.
#[derive(Default)]
pub(super) struct Claims {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    ledger: Ledger,
    /// Whether a partition is still ours, for those who hold a claim on it.
    ours: HashMap<Partition, Arc<AtomicBool>>,
}

/// One delivery's claim on its record's offset.
pub(super) struct Claim {
    ticket: Ticket,
    claims: Arc<Claims>,
    ours: Arc<AtomicBool>,
}

/// What a record that was read is to us.
pub(super) enum Tracked {
    /// It is ours, with as many claims as were asked for.
    Ours(Vec<Claim>),
    /// Its partition was taken from us: another member reads it.
    Gone,
}

impl Claims {
    /// Notes that the record at `offset` was read and waits for `pieces` of work.
    pub(super) fn track(self: &Arc<Self>, partition: Partition, offset: i64, pieces: usize) -> Tracked {
        let mut inner = self.inner.lock();
        let Some(ours) = inner.ours.get(&partition).map(Arc::clone) else { return Tracked::Gone };
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        let tickets = inner.ledger.track(partition, offset, pieces);
        let claim = |ticket| Claim { ticket, claims: Arc::clone(self), ours: Arc::clone(&ours) };
        Tracked::Ours(tickets.into_iter().map(claim).collect())
    }

    /// What can be committed and was not yet.
    pub(super) fn advanced(&self) -> Vec<Commit> {
        let advanced = self.inner.lock().ledger.advanced();
        advanced.into_iter().map(|(partition, offset)| Commit { partition, offset, metadata: None }).collect()
    }

    /// How many claims are open.
    pub(super) fn outstanding(&self) -> usize {
        self.inner.lock().ledger.outstanding()
    }
}

impl Assignments for Claims {
    fn assigned(&self, partitions: &[Assigned]) {
        let mut inner = self.inner.lock();
        for assigned in partitions {
            inner.ledger.assign(assigned.partition, assigned.offset);
            inner.ours.insert(assigned.partition, Arc::new(AtomicBool::new(true)));
        }
    }

    fn revoked(&self, revoked: &Revoked<'_>) -> Vec<Commit> {
        let commits = self.advanced();
        let mut inner = self.inner.lock();
        for partition in revoked.partitions {
            inner.ledger.revoke(*partition);
            if let Some(ours) = inner.ours.remove(partition) {
                ours.store(false, Ordering::Relaxed);
            }
        }
        commits
    }
}

impl Claim {
    /// The work is done, or durably someone else's.
    pub(super) fn settle(self) {
        self.claims.inner.lock().ledger.done(self.ticket);
    }

    /// Whether the record is still ours to deliver.
    pub(super) fn holds(&self) -> bool {
        self.ours.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use schemas::Topic;

    use super::*;

    const P: Partition = Partition { topic: Topic::Clicks, index: 0 };

    fn assign(claims: &Claims, offset: i64) {
        claims.assigned(&[Assigned { partition: P, offset, metadata: String::new() }]);
    }

    fn track(claims: &Arc<Claims>, offset: i64, pieces: usize) -> Vec<Claim> {
        match claims.track(P, offset, pieces) {
            Tracked::Ours(claims) => claims,
            Tracked::Gone => panic!("the partition is not ours"),
        }
    }

    #[test]
    fn an_offset_is_committed_when_its_claims_are_settled() {
        let claims = Arc::new(Claims::default());
        assign(&claims, 3);
        let mut open = track(&claims, 3, 2);
        open.pop().unwrap().settle();
        assert!(claims.advanced().is_empty());
        open.pop().unwrap().settle();
        assert_eq!(claims.advanced(), [Commit { partition: P, offset: 4, metadata: None }]);
    }

    #[test]
    fn a_dropped_claim_holds_its_offset_back() {
        let claims = Arc::new(Claims::default());
        assign(&claims, 0);
        drop(track(&claims, 0, 1));
        track(&claims, 1, 1).pop().unwrap().settle();
        assert!(claims.advanced().is_empty());
        assert_eq!(claims.outstanding(), 1);
    }

    #[test]
    fn what_is_done_is_committed_when_partitions_go_and_the_rest_is_let_go() {
        let claims = Arc::new(Claims::default());
        assign(&claims, 0);
        let open = track(&claims, 1, 1).pop().unwrap();
        assert!(open.holds());
        let commits = claims.revoked(&Revoked { partitions: &[P], lost: false });
        assert!(commits.is_empty());
        assert!(!open.holds());
        assert!(matches!(claims.track(P, 2, 1), Tracked::Gone));
        assign(&claims, 1);
        open.settle();
        assert!(claims.advanced().is_empty(), "the claim was on an earlier ownership");
    }
}
