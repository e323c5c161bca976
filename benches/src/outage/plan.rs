//! The rounds of `bench outage`, and the limits that redirects are held to.

use std::time::Duration;

/// The time for which a redirect waits for Kafka.
pub(super) const ACK_BUDGET_MS: u64 = 25;
/// The time that a redirect may take beyond it.
pub(super) const ALLOWANCE_MS: u64 = 10;

/// The rounds, and the load of each of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) rounds: u16,
    pub(super) outage: Duration,
    pub(super) rate: u32,
    /// The time for which the load runs before an outage.
    pub(super) before: Duration,
    /// The time for which the load runs after an outage.
    pub(super) after: Duration,
}
