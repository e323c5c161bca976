//! A partition is handed over to another member of its group, in a rebalance or because this
//! process stops. What was delivered is committed, with all that a repeated delivery would
//! follow from: a record is read again from its beginning, so where some of its deliveries are
//! made and one is not, that one is written to a delay topic. So an endpoint that hangs or is
//! slow has nothing sent to others a second time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bus::{Assigned, Assignments, Commit, Partition, Revoked};
use tracing::warn;

use super::{
    claims::{GRACE, OffsetClaims, Tenure},
    deliver::Deliverer,
};

/// The time that Kafka has to take the log of the last attempts, too.
const LOGGED_WITHIN: Duration = Duration::from_millis(100);
/// The time that Kafka has to take what is written to delay topics.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);
/// The time between two looks at what has ended.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The partitions of one consumer, and who delivers their records.
pub(super) struct PartitionOwner {
    pub claims: Arc<OffsetClaims>,
    pub deliverer: Arc<Deliverer>,
}

impl PartitionOwner {
    /// Ends the deliveries of partitions. Blocks.
    pub(super) fn hand_over(&self, partitions: &[Partition]) {
        self.claims.enter(partitions, Tenure::Closing);
        self.wait(partitions, GRACE + LOGGED_WITHIN);
        self.claims.enter(partitions, Tenure::Ending);
        self.deliverer.withdraw();
        let left = self.wait(partitions, WRITTEN_WITHIN);
        if left > 0 {
            warn!(left, "deliveries not written to Kafka in time: the next owner of their partitions makes them again");
        }
    }

    /// Waits until no delivery of the partitions runs, at most `patience`. Returns how many do.
    fn wait(&self, partitions: &[Partition], patience: Duration) -> usize {
        let begun = Instant::now();
        loop {
            let busy = self.claims.busy(partitions);
            if busy == 0 || begun.elapsed() >= patience {
                return busy;
            }
            self.deliverer.outbox.hurry_log(LOOK_EVERY);
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Assignments for PartitionOwner {
    fn assigned(&self, partitions: &[Assigned]) {
        self.claims.assigned(partitions);
    }

    fn revoked(&self, revoked: &Revoked<'_>) -> Vec<Commit> {
        // Where another member may have the partitions already, it reads what was not committed.
        if !revoked.lost {
            self.hand_over(revoked.partitions);
        }
        let commits = self.claims.advanced();
        self.claims.release(revoked.partitions);
        commits
    }
}
