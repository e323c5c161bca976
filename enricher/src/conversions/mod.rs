//! The work on reported conversions: each finds its click, or waits for it, and becomes
//! the event `link.converted`.
//!
//! Reports are collected while one question to ClickHouse is under way (`lookup.rs`), so
//! that many share the next. `states.rs` knows what was reported before, and
//! `state_reader.rs` reads it. A report whose click is not found is written to
//! `conversions.waiting` once and asked for again from memory (`held.rs`); its offset is
//! held back until then. Event (`converted.rs`), state and offsets are one transaction.

mod converted;
mod held;
mod lookup;
mod state_reader;
mod states;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    time::{Duration, Instant},
};

use bus::{Bus, BusError, Consumer, Ledger, Outgoing, Partition, Record, TransactionPair};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use schemas::{
    ClickId, Dead, DeadOrigin, RawConversion, Timestamp, Topic,
    conversion::{Attributed, CustomerClicks, OrderState, customer_key},
};
use serde::Serialize;
use service::{Metrics, Part};
use store::{Store, StoredClick};
use tracing::warn;

use self::{
    held::HeldReport,
    lookup::{ClickLookup, FoundClicks},
    state_reader::{StateReader, StateRecord},
    states::States,
};
use crate::{
    config::CustomerClick,
    member::{Rebalances, RecordWork},
};

/// The most reports that are decided at once.
const BATCH: usize = 400;
/// The most reports that wait for ClickHouse before `conversions.raw` is paused.
const QUEUED: usize = 5_000;
/// The most reports that wait for their click in memory before `conversions.waiting` is
/// paused.
const WAITING: usize = 200_000;
/// The most statuses that an order may have.
const STATUSES: usize = 64;

/// The metrics of the work on conversions.
pub(crate) struct ConversionMetrics {
    outcomes: Family<OutcomeLabels, Counter>,
    repeats: Counter,
    dead: Counter,
    waiting: Gauge,
    lookups: Counter,
    report_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl ConversionMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            outcomes: metrics
                .family_counter("clickhook_enricher_conversions", "Reports of conversions, by their outcome"),
            repeats: metrics.counter("clickhook_enricher_conversions_repeats", "Repeated reports that were dropped"),
            dead: metrics.counter("clickhook_enricher_conversions_dead", "Reports that could not be used"),
            waiting: metrics.gauge("clickhook_enricher_conversions_waiting", "Reports that wait for their click"),
            lookups: metrics.counter("clickhook_enricher_conversions_lookups", "Questions to ClickHouse for clicks"),
            report_seconds: metrics.histogram(
                "clickhook_enricher_conversions_report_seconds",
                "Time from the report of a conversion to its event, where its click is known at once",
                [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 60.0, 600.0],
            ),
        }
    }
}

/// The settings of the work on conversions.
#[derive(Clone, Copy)]
pub(crate) struct ConversionRules {
    /// How long a report waits for its click.
    pub(crate) hold: Duration,
    /// How old a click may be.
    pub(crate) window: Duration,
    /// The click of a customer that counts.
    pub(crate) customer_click: CustomerClick,
}

/// The work on conversions.
pub(crate) struct ConversionWork {
    bus: Bus,
    rules: ConversionRules,
    counts: ConversionMetrics,
    states: States,
    reader: StateReader,
    lookup: ClickLookup,
    ledger: Ledger,
    /// Of each partition that the ledger tracks, the offset that was added to a transaction
    /// last, or from which it is read.
    committed: HashMap<Partition, i64>,
    /// The assigned partitions.
    owned: Vec<Partition>,
    /// Topics that are paused because too much is held of them.
    full: BTreeSet<Topic>,
    /// Whether partitions are paused until the states have been read.
    is_preparing: bool,
    /// Reports whose click is to be looked for.
    queued: VecDeque<HeldReport>,
    /// Reports whose click ClickHouse is asked for.
    asked: Option<Vec<HeldReport>>,
    /// Reports that wait for their next lookup, by its time and a running number.
    waiting: BTreeMap<(Instant, u64), HeldReport>,
    running_number: u64,
}

impl ConversionWork {
    pub(crate) fn new(
        bus: Bus,
        store: Store,
        rules: ConversionRules,
        counts: ConversionMetrics,
        clickhouse: Part,
    ) -> io::Result<Self> {
        Ok(Self {
            rules,
            states: States::default(),
            reader: StateReader::start(bus.clone())?,
            lookup: ClickLookup::start(store, counts.lookups.clone(), clickhouse)?,
            counts,
            bus,
            ledger: Ledger::default(),
            committed: HashMap::new(),
            owned: Vec::new(),
            full: BTreeSet::new(),
            is_preparing: false,
            queued: VecDeque::new(),
            asked: None,
            waiting: BTreeMap::new(),
            running_number: 0,
        })
    }

    /// Returns the click that a report belongs to, as far as its report, its order or its
    /// customer say.
    fn click_of(&self, raw: &RawConversion) -> Option<ClickId> {
        raw.click_id.or_else(|| self.states.order(&raw.order_key())?.click_id).or_else(|| {
            let customer = self.states.customer(&customer_key(&raw.workspace, raw.customer_id.as_deref()?))?;
            Some(match self.rules.customer_click {
                CustomerClick::First => customer.first,
                CustomerClick::Last => customer.last,
            })
        })
    }

    /// Asks for the clicks of the next reports, if no question is open.
    fn ask(&mut self) -> Result<(), BusError> {
        if self.asked.is_some() || self.is_preparing {
            return Ok(());
        }
        let now = Instant::now();
        while self.queued.len() < QUEUED
            && let Some(entry) = self.waiting.first_entry()
            && entry.key().0 <= now
        {
            self.queued.push_back(entry.remove());
        }
        let mut ids = BTreeSet::new();
        let mut batch = Vec::new();
        while batch.len() < BATCH && ids.len() < Store::CLICKS_AT_ONCE {
            let Some(held) = self.queued.pop_front() else { break };
            ids.extend(self.click_of(&held.raw));
            batch.push(held);
        }
        if !batch.is_empty() {
            self.lookup.ask(ids.into_iter().collect())?;
            self.asked = Some(batch);
        }
        Ok(())
    }

    /// Decides on the reports whose clicks were asked for. Returns their number.
    fn decide_asked(&mut self, pair: &mut TransactionPair) -> Result<usize, BusError> {
        let Some(found) = self.lookup.answer()? else { return Ok(0) };
        let batch = self.asked.take().unwrap_or_default();
        let count = batch.len();
        for held in batch {
            self.decide(held, &found, pair)?;
        }
        Ok(count)
    }

    fn decide(&mut self, held: HeldReport, found: &FoundClicks, pair: &mut TransactionPair) -> Result<(), BusError> {
        let raw = &held.raw;
        let status = raw.status.as_deref();
        let order = self.states.order(&raw.order_key());
        let known = order.and_then(|order| order.status(status)).map(|known| known.outcome);
        let expected = (held.topic == Topic::ConversionsWaiting).then_some(Attributed::Waiting);
        if known != expected {
            self.counts.repeats.inc();
            self.ledger.done(held.ticket);
            return Ok(());
        }
        if known.is_none() && order.is_some_and(|order| order.statuses.len() >= STATUSES) {
            self.counts.dead.inc();
            warn!(conversion = %raw.id, "a report is dropped: its order has too many statuses");
            self.ledger.done(held.ticket);
            return Ok(());
        }
        let now = Instant::now();
        let click = self.click_of(raw).and_then(|id| found.get(&id)).filter(|click| self.counts_for(raw, click));
        match click {
            Some(click) => self.tell(held, Some(click), pair),
            None if held.is_over(now) => self.tell(held, None, pair),
            None if held.topic == Topic::ConversionsWaiting => {
                self.wait(held, now);
                Ok(())
            }
            None => {
                self.note(raw, None, Attributed::Waiting, pair)?;
                self.forward(raw, Topic::ConversionsWaiting, pair)?;
                self.count(Attributed::Waiting);
                self.ledger.done(held.ticket);
                Ok(())
            }
        }
    }

    /// Whether a report may belong to a click.
    fn counts_for(&self, raw: &RawConversion, click: &StoredClick) -> bool {
        let is_ours = click.workspace == raw.workspace.as_str();
        is_ours && raw.timestamp.since(click.click.timestamp) <= self.rules.window
    }

    /// Produces the event of a report.
    fn tell(
        &mut self,
        held: HeldReport,
        click: Option<&StoredClick>,
        pair: &mut TransactionPair,
    ) -> Result<(), BusError> {
        let raw = &held.raw;
        let outcome = if click.is_some() { Attributed::Attributed } else { Attributed::Unattributed };
        let conversion = self.note(raw, click.map(|click| click.click.id), outcome, pair)?;
        let event = converted::converted(raw, conversion, click);
        let value = json(&event)?;
        pair.send(&Outgoing::keyed(Topic::Events, conversion.to_string().as_bytes(), Some(&value)))?;
        if let (Some(click), Some(customer), Some(_)) = (click, &raw.customer_id, raw.click_id) {
            self.tie(&customer_key(&raw.workspace, customer), click.click.id, pair)?;
        }
        self.count(outcome);
        if held.topic == Topic::ConversionsRaw {
            self.counts.report_seconds.observe(Timestamp::now().since(raw.received_at).as_secs_f64());
        }
        self.ledger.done(held.ticket);
        Ok(())
    }

    /// Notes a report in the state of its order. Returns the id of the conversion.
    fn note(
        &mut self,
        raw: &RawConversion,
        click: Option<ClickId>,
        outcome: Attributed,
        pair: &mut TransactionPair,
    ) -> Result<schemas::ConversionId, BusError> {
        let key = raw.order_key();
        let mut order = self.states.order(&key).cloned().unwrap_or_else(|| OrderState {
            v: 1,
            conversion: raw.id,
            click_id: None,
            statuses: Vec::new(),
        });
        order.click_id = click.or(order.click_id).or(raw.click_id);
        order.note(raw.status.as_deref(), raw.timestamp, outcome);
        let conversion = order.conversion;
        let value = json(&order)?;
        pair.send(&state_record(&key, &value))?;
        self.states.set_order(key, order);
        Ok(conversion)
    }

    /// Ties a click to a customer.
    fn tie(&mut self, key: &str, click: ClickId, pair: &mut TransactionPair) -> Result<(), BusError> {
        let known = self.states.customer(key);
        let clicks = known.map_or(CustomerClicks::of(click), |known| known.merged(CustomerClicks::of(click)));
        if known == Some(clicks) {
            return Ok(());
        }
        let value = json(&clicks)?;
        pair.send(&state_record(key, &value))?;
        self.states.set_customer(key.to_owned(), clicks);
        Ok(())
    }

    /// Produces a report to a topic, in the partition of its shard.
    fn forward(&self, raw: &RawConversion, topic: Topic, pair: &mut TransactionPair) -> Result<(), BusError> {
        let value = json(raw)?;
        let partition = Some(self.bus.partition_of_shard(topic, raw.shard()));
        pair.send(&Outgoing { partition, ..Outgoing::keyed(topic, raw.key().as_bytes(), Some(&value)) })
    }

    fn wait(&mut self, held: HeldReport, now: Instant) {
        self.running_number += 1;
        self.waiting.insert((held.next_lookup(now).at(), self.running_number), held);
    }

    fn count(&self, outcome: Attributed) {
        let outcome = match outcome {
            Attributed::Waiting => "waiting",
            Attributed::Unattributed => "unattributed",
            Attributed::Attributed => "attributed",
        };
        self.counts.outcomes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Adds the offsets that may be committed to the open transaction.
    fn commit_advanced(&mut self, pair: &mut TransactionPair) -> Result<(), BusError> {
        for (partition, offset) in self.ledger.next_offsets() {
            if self.committed.insert(partition, offset) != Some(offset) {
                pair.read_up_to(partition, offset)?;
            }
        }
        Ok(())
    }

    /// Pauses a topic of which too much is held, and resumes it when half is done.
    fn limit(&mut self, consumer: &Consumer<Rebalances>) -> Result<(), BusError> {
        if self.is_preparing {
            return Ok(());
        }
        for (topic, held, most) in [
            (Topic::ConversionsRaw, self.queued.len(), QUEUED),
            (Topic::ConversionsWaiting, self.waiting.len(), WAITING),
        ] {
            let partitions: Vec<Partition> =
                self.owned.iter().copied().filter(|partition| partition.topic == topic).collect();
            if held >= most && self.full.insert(topic) {
                consumer.pause(&partitions)?;
            } else if held <= most / 2 && self.full.remove(&topic) {
                consumer.resume(&partitions)?;
            }
        }
        Ok(())
    }

    fn bury(&self, record: &Record<'_>, reason: String, pair: &mut TransactionPair) -> Result<(), BusError> {
        let partition = record.partition();
        warn!(%partition, offset = record.offset(), reason, "unusable report goes to `dead`");
        self.counts.dead.inc();
        let origin = DeadOrigin::record(self.bus.topics().name(partition.topic), partition.index, record.offset());
        let payload = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
        let dead = Dead::of_record(reason, Timestamp::now(), origin, &payload);
        let value = json(&dead)?;
        pair.send(&Outgoing::keyed(Topic::Dead, partition.topic.suffix().as_bytes(), Some(&value)))
    }
}

/// Returns a record of the topic `conversions`.
const fn state_record<'a>(key: &'a str, value: &'a [u8]) -> Outgoing<'a> {
    Outgoing {
        topic: Topic::Conversions,
        partition: Some(0),
        key: Some(key.as_bytes()),
        value: Some(value),
        headers: &[],
    }
}

/// Returns a value as JSON. No value of the types here fails.
fn json(value: &impl Serialize) -> Result<Vec<u8>, BusError> {
    serde_json::to_vec(value).map_err(|_| BusError::Gone { what: "write a conversion as JSON" })
}

/// Reads the report of a record.
fn read(record: &Record<'_>) -> Result<RawConversion, String> {
    let value = record.value().ok_or("the record is empty")?;
    let raw: RawConversion =
        serde_json::from_slice(value).map_err(|error| format!("the record cannot be read: {error}"))?;
    if raw.v == 1 { Ok(raw) } else { Err(format!("the record's format is version {}, only 1 is known", raw.v)) }
}

impl RecordWork for ConversionWork {
    fn reset(&mut self) {
        self.lookup.cancel();
        self.reader.cancel();
        self.states.reset();
        self.ledger = Ledger::default();
        self.committed.clear();
        self.owned.clear();
        self.full.clear();
        self.is_preparing = false;
        self.queued.clear();
        self.asked = None;
        self.waiting.clear();
        self.counts.waiting.set(0);
    }

    fn assigned(&mut self, partitions: &[Partition], consumer: &Consumer<Rebalances>) -> Result<(), BusError> {
        consumer.pause(partitions)?;
        self.owned.extend_from_slice(partitions);
        self.is_preparing = true;
        self.reader.prepare()
    }

    fn is_waiting(&self) -> bool {
        self.is_preparing || self.asked.is_some() || !self.queued.is_empty()
    }

    fn resume(&mut self, pair: &mut TransactionPair, consumer: &Consumer<Rebalances>) -> Result<usize, BusError> {
        while let Some(record) = self.reader.next()? {
            match record {
                StateRecord::Change { key, value } => self.states.apply(key, value.as_deref()),
                StateRecord::Prepared { .. } => {
                    self.is_preparing = false;
                    consumer.resume(&self.owned)?;
                    self.full.clear();
                }
            }
        }
        let count = self.decide_asked(pair)?;
        self.commit_advanced(pair)?;
        self.ask()?;
        self.limit(consumer)?;
        self.counts.waiting.set(i64::try_from(self.waiting.len()).unwrap_or(i64::MAX));
        Ok(count)
    }

    fn process(
        &mut self,
        record: &Record<'_>,
        pair: &mut TransactionPair,
        _: &Consumer<Rebalances>,
    ) -> Result<usize, BusError> {
        let (partition, offset) = (record.partition(), record.offset());
        self.committed.entry(partition).or_insert_with(|| {
            self.ledger.assign(partition, offset);
            offset
        });
        match read(record) {
            Err(reason) => self.bury(record, reason, pair)?,
            // Its partition was another one before the topic was widened.
            Ok(raw) if self.bus.partition_of_shard(partition.topic, raw.shard()) != partition.index => {
                self.forward(&raw, partition.topic, pair)?;
            }
            Ok(raw) => {
                if let Some(ticket) = self.ledger.track(partition, offset, 1).pop() {
                    let held = HeldReport::new(raw, partition.topic, ticket, self.rules.hold);
                    if partition.topic == Topic::ConversionsWaiting {
                        self.wait(held, Instant::now());
                    } else {
                        self.queued.push_back(held);
                    }
                }
                return Ok(1);
            }
        }
        self.ledger.track(partition, offset, 0);
        self.commit_advanced(pair)?;
        Ok(1)
    }
}
