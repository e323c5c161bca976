//! A report that is held, and when its click is looked for.

use std::time::{Duration, Instant};

use bus::{OffsetTicket, Partition, Record};
use schemas::{RawConversion, Timestamp, Topic};

/// The header of a record that continues a trace (W3C Trace Context).
pub(super) const TRACEPARENT: &str = "traceparent";

/// How long after it was read from `conversions.waiting` a report's click is looked for
/// again, before the hold is over. The row of a click follows the click within seconds, or
/// minutes where ClickHouse is late. With the lookups when the report comes and when the
/// hold is over there are five.
const STEPS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(12), Duration::from_secs(80)];
/// How long a report waits at least after this process has read it: its click may be as
/// late as the report is.
const AT_LEAST: Duration = Duration::from_secs(30);

/// A report as it was read.
pub(super) struct ReadReport {
    pub(super) raw: RawConversion,
    /// A partition of `conversions.raw`, or of `conversions.waiting` where the click was
    /// not found before.
    pub(super) partition: Partition,
    pub(super) offset: i64,
    /// The trace of the request that reported it, which the event continues.
    pub(super) traceparent: Option<Box<str>>,
}

impl ReadReport {
    /// Reads a record, or says why it cannot be used.
    pub(super) fn read(record: &Record<'_>) -> Result<Self, String> {
        let value = record.value().ok_or("the record is empty")?;
        let raw: RawConversion =
            serde_json::from_slice(value).map_err(|error| format!("the record cannot be read: {error}"))?;
        if raw.v != 1 {
            return Err(format!("the record's format is version {}, only 1 is known", raw.v));
        }
        let traceparent = record.header(TRACEPARENT).and_then(|trace| str::from_utf8(trace).ok()).map(Into::into);
        Ok(Self { raw, partition: record.partition(), offset: record.offset(), traceparent })
    }
}

/// A report whose offset is not committed yet.
pub(super) struct HeldReport {
    pub(super) report: ReadReport,
    pub(super) ticket: OffsetTicket,
    first_read: Instant,
    /// When the hold is over.
    ends: Instant,
}

impl HeldReport {
    pub(super) fn new(report: ReadReport, ticket: OffsetTicket, hold: Duration) -> Self {
        let first_read = Instant::now();
        let held_for = Timestamp::now().since(report.raw.received_at);
        let ends = first_read + hold.saturating_sub(held_for).max(hold.min(AT_LEAST));
        Self { report, ticket, first_read, ends }
    }

    /// Whether the click was not found before.
    pub(super) fn has_waited(&self) -> bool {
        self.report.partition.topic == Topic::ConversionsWaiting
    }

    /// Returns the time of the next lookup after `now`: the last one is when the hold is
    /// over.
    pub(super) fn next_lookup(&self, now: Instant) -> Instant {
        let steps = STEPS.map(|step| self.first_read + step);
        steps.into_iter().find(|at| *at > now && *at < self.ends).unwrap_or(self.ends)
    }

    /// Whether the hold is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.has_waited() && now >= self.ends
    }
}
