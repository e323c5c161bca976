//! The work on `clicks.raw`: bundles of raw clicks become events.

pub(crate) mod address;
mod agent;
mod bundles;
pub(crate) mod day_keys;
pub(crate) mod enrich;
pub(crate) mod geo;
mod query;
mod source;

use std::{sync::Arc, time::Duration};

use bus::{Assigned, Bus, BusError, Outgoing, Partition, Record, TransactionPair};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use schemas::{RawClick, Timestamp, Topic};
use service::Metrics;
use tracing::{info, warn};
use uuid::Uuid;

use self::{bundles::Bundles, day_keys::DayKeys, enrich::Enrich};
use crate::{dead::UnusableLine, member::RecordWork};

/// The metrics of the work on clicks.
pub(crate) struct Counts {
    clicks: Counter,
    visits: Family<VisitLabels, Counter>,
    dead: Counter,
    doubles: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VisitLabels {
    class: &'static str,
}

impl Counts {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            clicks: metrics.counter("clickhook_enricher_clicks", "Clicks and scans enriched"),
            visits: metrics
                .family_counter("clickhook_enricher_visits", "Visits that are neither click nor scan, by their class"),
            dead: metrics.counter("clickhook_enricher_dead", "Lines that could not be enriched"),
            doubles: metrics.counter("clickhook_enricher_doubles", "Second copies of bundles that were dropped"),
        }
    }
}

/// The outcome of a line.
enum LineOutcome {
    /// The line became an event.
    Enriched,
    /// The line is a visit that is no click, and is only counted by its class.
    Counted,
    /// The line cannot be used, for this reason.
    Unusable(String),
}

/// The work on bundles of clicks.
pub(crate) struct ClickWork {
    bus: Bus,
    enrich: Enrich,
    day_keys: Arc<DayKeys>,
    horizon: Duration,
    counts: Counts,
    /// The bundles whose offsets are committed or will be with the open transaction.
    bundles: Bundles,
    /// The JSON of an event, kept for its memory.
    event: Vec<u8>,
}

impl ClickWork {
    pub(crate) fn new(bus: Bus, enrich: Enrich, day_keys: Arc<DayKeys>, horizon: Duration, counts: Counts) -> Self {
        let event = Vec::with_capacity(4096);
        Self { bus, enrich, day_keys, horizon, counts, bundles: Bundles::new(horizon), event }
    }

    /// Whether a record is the second copy of a bundle.
    fn is_second_copy(&mut self, record: &Record<'_>, now: Timestamp) -> Result<bool, BusError> {
        let Some(id) = bundle_id(record) else { return Ok(false) };
        if let Some(since) = self.bundles.unknown_before(record.partition().index, id, now) {
            self.look_back(record.partition(), since, record.offset())?;
        }
        let is_second = !self.bundles.note(id);
        if is_second {
            info!(partition = %record.partition(), offset = record.offset(), %id, "second copy of a bundle dropped");
            self.counts.doubles.inc();
        }
        Ok(is_second)
    }

    /// Notes the bundles of a partition since `since` and below the offset `end`.
    fn look_back(&mut self, partition: Partition, since: Timestamp, end: i64) -> Result<(), BusError> {
        if end == 0 {
            return Ok(());
        }
        self.bus.look_back("enricher", partition, since, end, |record| {
            if let Some(id) = bundle_id(record) {
                self.bundles.note(id);
            }
        })
    }

    fn line(&mut self, line: &[u8], now: Timestamp, pair: &mut TransactionPair) -> Result<LineOutcome, BusError> {
        let raw: RawClick<'_> = match serde_json::from_slice(line) {
            Ok(raw) => raw,
            Err(error) => return Ok(LineOutcome::Unusable(format!("not a click: {error}"))),
        };
        if !raw.class.counts() {
            self.counts.visits.get_or_create(&VisitLabels { class: raw.class.as_str() }).inc();
            return Ok(LineOutcome::Counted);
        }
        let key = self.day_keys.key_for(raw.id.timestamp(), now);
        let envelope = match self.enrich.event(&raw, key.as_ref()) {
            Ok(envelope) => envelope,
            Err(error) => return Ok(LineOutcome::Unusable(error.to_string())),
        };
        self.event.clear();
        if let Err(error) = serde_json::to_writer(&mut self.event, &envelope) {
            return Ok(LineOutcome::Unusable(error.to_string()));
        }
        let id = raw.id.to_string();
        let headers = raw.traceparent.as_deref().map(|trace| [("traceparent", trace.as_bytes())]);
        pair.send(&Outgoing {
            topic: Topic::Clicks,
            partition: Some(self.bus.partition_of(Topic::Clicks, raw.id)),
            key: Some(id.as_bytes()),
            value: Some(&self.event),
            headers: headers.as_ref().map_or(&[], |headers| headers),
        })?;
        self.counts.clicks.inc();
        Ok(LineOutcome::Enriched)
    }

    fn bury(&self, line: UnusableLine<'_>, now: Timestamp, pair: &mut TransactionPair) -> Result<(), BusError> {
        let partition = line.record.partition();
        warn!(%partition, offset = line.record.offset(), line = line.number, reason = line.reason, "line goes to `dead`");
        self.counts.dead.inc();
        let value = line.dead_letter(self.bus.topics(), now);
        pair.send(&Outgoing::keyed(Topic::Dead, partition.topic.suffix().as_bytes(), Some(&value)))
    }
}

impl RecordWork for ClickWork {
    fn reset(&mut self) {
        self.bundles = Bundles::new(self.horizon);
    }

    fn assigned(&mut self, assigned: &Assigned) -> Result<(), BusError> {
        let since = self.bundles.begin(assigned.partition.index, Timestamp::now());
        self.look_back(assigned.partition, since, assigned.offset)
    }

    fn process(&mut self, record: &Record<'_>, pair: &mut TransactionPair) -> Result<usize, BusError> {
        let now = Timestamp::now();
        let mut count = 0;
        if !self.is_second_copy(record, now)? {
            let value = record.value().unwrap_or_default();
            let lines = value.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            for (number, text) in lines.enumerate() {
                count += 1;
                if let LineOutcome::Unusable(reason) = self.line(text, now, pair)? {
                    self.bury(UnusableLine { record, number, text, reason }, now, pair)?;
                }
            }
        }
        pair.read_up_to(record.partition(), record.offset() + 1)?;
        Ok(count)
    }
}

/// Returns the id that a redirector gave a bundle. A bundle of another producer
/// may have none.
fn bundle_id(record: &Record<'_>) -> Option<Uuid> {
    Uuid::try_parse_ascii(record.header("bundle")?).ok()
}
