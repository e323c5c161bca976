//! The work on `clicks.raw`: bundles of raw clicks become events.

pub(crate) mod address;
pub(crate) mod address_data;
pub(crate) mod agent;
pub(crate) mod bundle;
pub(crate) mod day_keys;
pub(crate) mod enrich;
mod enriched;
pub(crate) mod enriching;
pub(crate) mod lines;
mod links;
mod log_search;
pub(crate) mod query;
mod recent;
mod second_copies;
mod source;

use std::{collections::HashMap, io, sync::Arc, time::Instant};

use bus::{Assigned, Bus, BusError, Consumer, Outgoing, Partition, Record, TransactionPair};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use schemas::{ClickId, Replayed, Timestamp, Topic};
use service::Metrics;
use tracing::{info, warn};
use uuid::Uuid;

use self::{
    bundle::Bundle,
    enriching::{BundleEnricher, Enriching, Wait},
    lines::EnrichedLines,
    log_search::{LogSearch, Request, Response},
    second_copies::{SecondCopies, Verdict},
};
use crate::{
    answers,
    dead::{self, UnusableLine},
    member::{PREPARED_WITHIN, Rebalances, RecordWork, partitions},
};

/// The metrics of the work on clicks.
pub(crate) struct Counts {
    clicks: Counter,
    visits: Family<VisitLabels, Counter>,
    dead: Counter,
    doubles: Counter,
    contradictions: Family<ContradictionLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ContradictionLabels {
    kind: &'static str,
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
            contradictions: metrics.family_counter(
                "clickhook_enricher_contradictions",
                "Clicks of people whose other headers contradict their user agent",
            ),
        }
    }
}

/// The number of lines in a transaction above which bundles go to worker threads.
/// Below it, a hand-over costs a click more than it gains.
const BUSY_LINES: usize = 256;

/// The work on bundles of clicks.
pub(crate) struct ClickWork {
    bus: Bus,
    enriching: Enriching,
    counts: Counts,
    copies: SecondCopies,
    search: LogSearch,
    /// Assigned partitions that are paused until the marks have been read.
    preparing: Vec<Partition>,
    /// The bundle of each partition that is paused for a search.
    held: HashMap<Partition, Bundle<'static>>,
    /// The number of lines that the open transaction has.
    lines: usize,
}

impl ClickWork {
    pub(crate) fn new(bus: Bus, enricher: BundleEnricher, workers: usize, counts: Counts) -> io::Result<Self> {
        let search = LogSearch::start(bus.clone(), Arc::clone(&enricher.day_keys))?;
        Ok(Self {
            bus,
            enriching: Enriching::start(enricher, workers)?,
            counts,
            copies: SecondCopies::default(),
            search,
            preparing: Vec::new(),
            held: HashMap::new(),
            lines: 0,
        })
    }

    /// Processes a bundle, or hands it to a worker, or holds it with its partition paused
    /// until the log has been searched. Returns the number of lines that were processed,
    /// of this bundle or of earlier ones.
    fn bundle(
        &mut self,
        bundle: Bundle<'_>,
        pair: &mut TransactionPair,
        consumer: &Consumer<Rebalances>,
    ) -> Result<usize, BusError> {
        if pair.age().is_none() {
            self.lines = 0;
        }
        let now = Timestamp::now();
        let verdict = bundle.sighting.as_ref().map_or(Verdict::First, |sighting| self.copies.judge(sighting));
        let is_much = self.enriching.is_busy() || self.lines >= BUSY_LINES;
        if verdict == Verdict::First && is_much && self.enriching.has_workers() {
            let mut count = self.take_enriched(Wait::No, pair)?;
            if self.enriching.is_full() {
                count += self.take_one(Wait::UntilDone, pair)?.unwrap_or_default();
            }
            self.enriching.hand_in(bundle.into_owned(), now);
            return Ok(count);
        }
        // The offset of this bundle must not be committed before those of earlier ones.
        let mut count = self.take_enriched(Wait::UntilDone, pair)?;
        let Bundle { partition, offset, .. } = bundle;
        match verdict {
            Verdict::Unknown => {
                consumer.pause(&[partition])?;
                self.search.request(Request::Search { partition: partition.index, offset })?;
                self.held.insert(partition, bundle.into_owned());
                return Ok(count);
            }
            Verdict::Second => {
                info!(%partition, offset, id = bundle.name, "second copy of a bundle dropped");
                self.counts.doubles.inc();
                pair.read_up_to(partition, offset + 1)?;
            }
            Verdict::Undecidable => {
                let reason = "cannot be told from a second copy: the log no longer holds all records among which a \
                              first copy could be"
                    .to_owned();
                self.bury(UnusableLine { bundle: &bundle, number: None, text: &bundle.value, reason }, now, pair)?;
                pair.read_up_to(partition, offset + 1)?;
            }
            Verdict::First | Verdict::FirstAgain => {
                let lines = self.enriching.at_once(&bundle, now);
                count += self.send(&bundle, &lines, now, pair)?;
                self.enriching.give_back(lines);
                if verdict == Verdict::FirstAgain {
                    self.mark(&bundle, now, pair)?;
                }
            }
        }
        Ok(count)
    }

    /// Produces the events of all bundles that the workers are done with, or of all.
    /// Returns the number of lines.
    fn take_enriched(&mut self, wait: Wait, pair: &mut TransactionPair) -> Result<usize, BusError> {
        let mut count = 0;
        while let Some(lines) = self.take_one(wait, pair)? {
            count += lines;
        }
        Ok(count)
    }

    /// Produces the events of the oldest bundle that the workers have. Returns the number
    /// of lines, or `None` where there is no bundle, or it is not done and not waited for.
    fn take_one(&mut self, wait: Wait, pair: &mut TransactionPair) -> Result<Option<usize>, BusError> {
        let Some((bundle, lines)) = self.enriching.take(wait)? else { return Ok(None) };
        let count = self.send(&bundle, &lines, Timestamp::now(), pair)?;
        self.enriching.give_back(lines);
        Ok(Some(count))
    }

    /// Produces the events of a bundle and its offset. Returns the number of lines.
    fn send(
        &mut self,
        bundle: &Bundle<'_>,
        lines: &EnrichedLines,
        now: Timestamp,
        pair: &mut TransactionPair,
    ) -> Result<usize, BusError> {
        let mut key = Vec::with_capacity(ClickId::TEXT_BYTES);
        for (id, json, traceparent) in lines.events() {
            key.clear();
            id.write_to(&mut key);
            let headers = traceparent.map(|trace| [("traceparent", trace.as_bytes())]);
            pair.send(&Outgoing {
                topic: Topic::Clicks,
                partition: Some(self.bus.partition_of(Topic::Clicks, id)),
                key: Some(&key),
                value: Some(json),
                headers: headers.as_ref().map_or(&[], |headers| headers),
            })?;
            self.counts.clicks.inc();
        }
        for contradiction in &lines.contradictions {
            self.counts.contradictions.get_or_create(&ContradictionLabels { kind: contradiction.as_str() }).inc();
        }
        for class in &lines.visits {
            self.counts.visits.get_or_create(&VisitLabels { class: class.as_str() }).inc();
        }
        for line in &lines.unusable {
            let reason = line.reason.clone();
            self.bury(UnusableLine { bundle, number: Some(line.number), text: &line.text, reason }, now, pair)?;
        }
        pair.read_up_to(bundle.partition, bundle.offset + 1)?;
        self.lines += lines.count;
        Ok(lines.count)
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

    fn bury(&self, line: UnusableLine<'_>, now: Timestamp, pair: &mut TransactionPair) -> Result<(), BusError> {
        let partition = line.bundle.partition;
        warn!(%partition, offset = line.bundle.offset, line = line.number, reason = line.reason, "unusable record goes to `dead`");
        self.counts.dead.inc();
        let letter = line.dead_letter(self.bus.topics(), now);
        pair.send(&dead::record(partition.topic, &letter))
    }
}

impl RecordWork for ClickWork {
    fn reset(&mut self) {
        self.search.cancel();
        self.copies.reset();
        self.enriching.forget();
        self.preparing.clear();
        self.held.clear();
    }

    fn assigned(&mut self, assigned: &[Assigned], consumer: &Consumer<Rebalances>) -> Result<(), BusError> {
        self.search.request(Request::Prepare)?;
        let deadline = Instant::now() + PREPARED_WITHIN;
        while let Some(response) = answers::before(deadline, || self.search.response())? {
            match response {
                Response::Mark(id, mark) => self.copies.mark(id, mark),
                Response::Prepared => {
                    self.copies.expire();
                    return Ok(());
                }
                // Partitions that were just assigned are not searched.
                Response::Searched { .. } => {}
            }
        }
        let assigned = partitions(assigned);
        consumer.pause(&assigned)?;
        self.preparing.extend_from_slice(&assigned);
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        !self.preparing.is_empty() || !self.held.is_empty() || self.enriching.is_busy()
    }

    fn resume(&mut self, pair: &mut TransactionPair, consumer: &Consumer<Rebalances>) -> Result<usize, BusError> {
        let mut lines = self.take_enriched(Wait::No, pair)?;
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
