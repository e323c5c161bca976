//! The work on `clicks.raw`: bundles of raw clicks become events.

pub(crate) mod address;
mod agent;
pub(crate) mod bundle;
pub(crate) mod day_keys;
pub(crate) mod enrich;
pub(crate) mod geo;
mod log_search;
mod query;
mod second_copies;
mod source;

use std::{collections::HashMap, io, sync::Arc};

use bus::{Bus, BusError, Consumer, Outgoing, Partition, Record, TransactionPair};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use schemas::{RawClick, Replayed, Timestamp, Topic};
use service::Metrics;
use tracing::{info, warn};
use uuid::Uuid;

use self::{
    bundle::Bundle,
    day_keys::DayKeys,
    enrich::Enrich,
    log_search::{LogSearch, Request, Response},
    second_copies::{SecondCopies, Verdict},
};
use crate::{
    dead::UnusableLine,
    member::{Rebalances, RecordWork},
};

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
    counts: Counts,
    copies: SecondCopies,
    search: LogSearch,
    /// Assigned partitions that are paused until the marks have been read.
    preparing: Vec<Partition>,
    /// The bundle of each partition that is paused for a search.
    held: HashMap<Partition, Bundle<'static>>,
    /// The JSON of an event, kept for its memory.
    event: Vec<u8>,
}

impl ClickWork {
    pub(crate) fn new(bus: Bus, enrich: Enrich, day_keys: Arc<DayKeys>, counts: Counts) -> io::Result<Self> {
        let search = LogSearch::start(bus.clone(), Arc::clone(&day_keys))?;
        Ok(Self {
            bus,
            enrich,
            day_keys,
            counts,
            copies: SecondCopies::default(),
            search,
            preparing: Vec::new(),
            held: HashMap::new(),
            event: Vec::with_capacity(4096),
        })
    }

    /// Processes a bundle, or holds it with its partition paused until the log has
    /// been searched. Returns the number of lines.
    fn bundle(
        &mut self,
        bundle: Bundle<'_>,
        pair: &mut TransactionPair,
        consumer: &Consumer<Rebalances>,
    ) -> Result<usize, BusError> {
        let now = Timestamp::now();
        let Bundle { partition, offset, .. } = bundle;
        let verdict = bundle.sighting.as_ref().map_or(Verdict::First, |sighting| self.copies.judge(sighting));
        let mut count = 0;
        match verdict {
            Verdict::Unknown => {
                consumer.pause(&[partition])?;
                self.search.request(Request::Search { partition: partition.index, offset })?;
                self.held.insert(partition, bundle.into_owned());
                return Ok(0);
            }
            Verdict::Second => {
                info!(%partition, offset, id = bundle.name, "second copy of a bundle dropped");
                self.counts.doubles.inc();
            }
            Verdict::Undecidable => {
                let reason = "cannot be told from a second copy: the log no longer holds all records among which a \
                              first copy could be"
                    .to_owned();
                self.bury(UnusableLine { bundle: &bundle, number: None, text: &bundle.value, reason }, now, pair)?;
            }
            Verdict::First | Verdict::FirstAgain => {
                for (number, text) in bundle.lines().enumerate() {
                    count += 1;
                    if let LineOutcome::Unusable(reason) = self.line(text, now, pair)? {
                        self.bury(UnusableLine { bundle: &bundle, number: Some(number), text, reason }, now, pair)?;
                    }
                }
                if verdict == Verdict::FirstAgain {
                    self.mark(&bundle, now, pair)?;
                }
            }
        }
        pair.read_up_to(partition, offset + 1)?;
        Ok(count)
    }

    /// Remembers an accepted bundle that says `again`, in the same transaction.
    fn mark(&mut self, bundle: &Bundle<'_>, now: Timestamp, pair: &mut TransactionPair) -> Result<(), BusError> {
        let Some(sighting) = &bundle.sighting else { return Ok(()) };
        self.copies.accept(sighting, now);
        let mark = Replayed { v: 1, partition: sighting.partition, offset: sighting.offset };
        let Ok(value) = serde_json::to_vec(&mark) else { return Ok(()) };
        let key = Uuid::from_u128(sighting.id).to_string();
        pair.send(&Outgoing { partition: Some(0), ..Outgoing::keyed(Topic::Replayed, key.as_bytes(), Some(&value)) })
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
        let partition = line.bundle.partition;
        warn!(%partition, offset = line.bundle.offset, line = line.number, reason = line.reason, "unusable record goes to `dead`");
        self.counts.dead.inc();
        let value = line.dead_letter(self.bus.topics(), now);
        pair.send(&Outgoing::keyed(Topic::Dead, partition.topic.suffix().as_bytes(), Some(&value)))
    }
}

impl RecordWork for ClickWork {
    fn reset(&mut self) {
        self.search.cancel();
        self.copies.reset();
        self.preparing.clear();
        self.held.clear();
    }

    fn assigned(&mut self, partitions: &[Partition], consumer: &Consumer<Rebalances>) -> Result<(), BusError> {
        consumer.pause(partitions)?;
        self.preparing.extend_from_slice(partitions);
        self.search.request(Request::Prepare)
    }

    fn is_waiting(&self) -> bool {
        !self.preparing.is_empty() || !self.held.is_empty()
    }

    fn resume(&mut self, pair: &mut TransactionPair, consumer: &Consumer<Rebalances>) -> Result<usize, BusError> {
        let mut lines = 0;
        while let Some(response) = self.search.response()? {
            match response {
                Response::Mark(id, mark) => self.copies.mark(id, mark),
                Response::Prepared => {
                    self.copies.expire();
                    consumer.resume(&std::mem::take(&mut self.preparing))?;
                }
                Response::Searched { partition, result } => {
                    self.copies.searched(partition, result);
                    let partition = Partition { topic: Topic::ClicksRaw, index: partition };
                    if let Some(bundle) = self.held.remove(&partition) {
                        lines += self.bundle(bundle, pair, consumer)?;
                        if !self.held.contains_key(&partition) {
                            consumer.resume(&[partition])?;
                        }
                    }
                }
            }
        }
        Ok(lines)
    }

    fn process(
        &mut self,
        record: &Record<'_>,
        pair: &mut TransactionPair,
        consumer: &Consumer<Rebalances>,
    ) -> Result<usize, BusError> {
        self.bundle(Bundle::read(record), pair, consumer)
    }
}
