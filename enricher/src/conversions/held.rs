//! A report that is held, and when its click is looked for.

use std::time::{Duration, Instant};

use bus::OffsetTicket;
use schemas::{RawConversion, Timestamp, Topic};

/// How long after it was first read a report's click is looked for again, before the hold
/// is over. The row of a click follows the click within seconds, or minutes where
/// ClickHouse is late.
const STEPS: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(8),
    Duration::from_secs(23),
    Duration::from_secs(83),
    Duration::from_secs(300),
];
/// The steps for a click that was old when the report came: its row should be there, or
/// its redirector was cut off.
const STEPS_OF_OLD: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(83)];
/// The age above which a click is old.
const OLD: Duration = Duration::from_secs(300);
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
        let age = self.raw.click_id.map(|click| self.raw.received_at.since(click.timestamp()));
        let steps: &[Duration] = if age.is_some_and(|age| age > OLD) { &STEPS_OF_OLD } else { &STEPS };
        let steps = steps.iter().map(|step| self.first_read + *step);
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
