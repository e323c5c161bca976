//! A report that is held, and when its click is looked for.

use std::time::{Duration, Instant};

use bus::OffsetTicket;
use schemas::{RawConversion, Timestamp, Topic};

/// How long after it was first read a report's click is looked for again, before the hold
/// is over.
const STEPS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];
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

/// When a report's click is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextLookup {
    /// At this moment, and perhaps again.
    Step(Instant),
    /// At this moment for the last time.
    Last(Instant),
}

impl NextLookup {
    pub(super) const fn at(self) -> Instant {
        match self {
            Self::Step(at) | Self::Last(at) => at,
        }
    }
}

impl HeldReport {
    pub(super) fn new(raw: RawConversion, topic: Topic, ticket: OffsetTicket, hold: Duration) -> Self {
        let first_read = Instant::now();
        let held_for = Timestamp::now().since(raw.received_at);
        let ends = first_read + hold.saturating_sub(held_for).max(hold.min(AT_LEAST));
        Self { raw, topic, ticket, first_read, ends }
    }

    /// Returns the next lookup after `now`.
    pub(super) fn next_lookup(&self, now: Instant) -> NextLookup {
        let steps = STEPS.into_iter().map(|step| self.first_read + step);
        match steps.filter(|at| *at > now && *at < self.ends).min() {
            Some(at) => NextLookup::Step(at),
            None => NextLookup::Last(self.ends),
        }
    }

    /// Whether the hold is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.topic == Topic::ConversionsWaiting && now >= self.ends
    }
}
