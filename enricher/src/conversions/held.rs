//! A report that is held, and when its click is looked for.

use std::time::{Duration, Instant};

use bus::OffsetTicket;
use schemas::{RawConversion, Timestamp, Topic};

/// How long after it was read from `conversions.waiting` a report's click is looked for
/// again, before the hold is over. The row of a click follows the click within seconds, or
/// minutes where ClickHouse is late. With the lookups when the report comes and when the
/// hold is over there are five.
const STEPS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(12), Duration::from_secs(80)];
/// How long a report waits at least after this process has read it: its click may be as
/// late as the report is.
const AT_LEAST: Duration = Duration::from_secs(30);

/// A report whose offset is not committed yet.
pub(super) struct HeldReport {
    pub(super) raw: RawConversion,
    /// `conversions.raw`, or `conversions.waiting` where the click was not found before.
    pub(super) topic: Topic,
    pub(super) ticket: OffsetTicket,
    first_read: Instant,
    /// When the hold is over.
    ends: Instant,
}

impl HeldReport {
    pub(super) fn new(raw: RawConversion, topic: Topic, ticket: OffsetTicket, hold: Duration) -> Self {
        let first_read = Instant::now();
        let held_for = Timestamp::now().since(raw.received_at);
        let ends = first_read + hold.saturating_sub(held_for).max(hold.min(AT_LEAST));
        Self { raw, topic, ticket, first_read, ends }
    }

    /// Returns the time of the next lookup after `now`: the last one is when the hold is
    /// over.
    pub(super) fn next_lookup(&self, now: Instant) -> Instant {
        let steps = STEPS.map(|step| self.first_read + step);
        steps.into_iter().find(|at| *at > now && *at < self.ends).unwrap_or(self.ends)
    }

    /// Whether the hold is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.topic == Topic::ConversionsWaiting && now >= self.ends
    }
}
