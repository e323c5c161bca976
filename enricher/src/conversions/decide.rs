//! The decision on reports whose clicks were asked for: each is told, waits, or is a
//! repeat.

use std::time::Instant;

use bus::{BusError, Outgoing, TransactionPair};
use schemas::{
    ClickId, ConversionId, Envelope, Event, RawConversion, Timestamp, Topic, WorkspaceId,
    conversion::{Attributed, CustomerClicks, OrderState, customer_key},
};
use serde::Serialize;
use store::StoredClick;
use tracing::warn;

use super::{
    converted,
    held::{HeldReport, ReadReport, TRACEPARENT},
    late::LateConversion,
    lookup::{ClickAnswer, FoundClicks},
    metrics::CountedOutcome,
    work::{AskedReports, ConversionWork},
};
use crate::{
    config::CustomerClick,
    dead::{self, UnusableReport},
};

/// The most statuses that an order may have.
const STATUSES: usize = 64;

impl ConversionWork {
    /// Returns the click that a report belongs to, as far as its report, its order or its
    /// customer say.
    pub(super) fn click_of(&self, raw: &RawConversion) -> Option<ClickId> {
        raw.click_id.or_else(|| self.states.order(&raw.order_key())?.click_id).or_else(|| {
            let customer = self.states.customer(&customer_key(&raw.workspace, raw.customer_id.as_deref()?))?;
            Some(match self.rules.customer_click {
                CustomerClick::First => customer.first,
                CustomerClick::Last => customer.last,
            })
        })
    }

    /// Decides on the reports whose clicks were asked for. Returns their number.
    pub(super) fn decide_asked(&mut self, pair: &mut TransactionPair) -> Result<usize, BusError> {
        let Some(answer) = self.lookup.answer()? else { return Ok(0) };
        match self.asked.take() {
            None => Ok(0),
            Some(AskedReports::Reports(batch)) => {
                let count = batch.len();
                for held in batch {
                    self.decide(held, &answer.clicks, pair)?;
                }
                Ok(count)
            }
            Some(AskedReports::Late(batch)) => {
                for late in &batch {
                    self.decide_late(late, &answer, pair)?;
                }
                Ok(batch.len())
            }
        }
    }

    fn decide(&mut self, held: HeldReport, found: &FoundClicks, pair: &mut TransactionPair) -> Result<(), BusError> {
        let raw = &held.report.raw;
        let status = raw.status.as_deref();
        let order = self.states.order(&raw.order_key());
        let known = order.and_then(|order| order.status(status)).map(|known| known.outcome);
        let expected = held.has_waited().then_some(Attributed::Waiting);
        if known != expected {
            self.counts.repeats.inc();
            self.ledger.done(held.ticket);
            return Ok(());
        }
        if known.is_none() && order.is_some_and(|order| order.statuses.len() >= STATUSES) {
            let reason = format!("its order has {STATUSES} statuses, and this one would be one more");
            let (partition, offset) = (held.report.partition, held.report.offset);
            let text = String::from_utf8_lossy(&json(raw)?).into_owned();
            self.bury(UnusableReport { partition, offset, text: &text, reason }, pair)?;
            self.ledger.done(held.ticket);
            return Ok(());
        }
        let now = Instant::now();
        let counts = |click: &&StoredClick| self.counts_for(raw.workspace.as_str(), raw.timestamp, click);
        let click = self.click_of(raw).and_then(|id| found.get(&id)).filter(counts);
        match click {
            Some(click) => self.tell(held, Some(click), pair),
            None if held.is_over(now) => self.tell(held, None, pair),
            None if held.has_waited() => {
                self.wait(held, now);
                Ok(())
            }
            None => {
                self.note(&held.report, None, Attributed::Waiting, pair)?;
                self.forward(&held.report, Topic::ConversionsWaiting, pair)?;
                self.counts.count(CountedOutcome::Waiting);
                self.ledger.done(held.ticket);
                Ok(())
            }
        }
    }

    /// Whether a conversion of a workspace at a time may belong to a click.
    fn counts_for(&self, workspace: &str, at: Timestamp, click: &StoredClick) -> bool {
        click.workspace == workspace && at.since(click.click.timestamp) <= self.rules.window
    }

    /// Produces the event of a report.
    fn tell(
        &mut self,
        held: HeldReport,
        click: Option<&StoredClick>,
        pair: &mut TransactionPair,
    ) -> Result<(), BusError> {
        let raw = &held.report.raw;
        let (outcome, counted) = match click {
            Some(_) => (Attributed::Attributed, CountedOutcome::Attributed),
            None => (Attributed::Unattributed, CountedOutcome::Unattributed),
        };
        let conversion = self.note(&held.report, click.map(|click| click.click.id), outcome, pair)?;
        let event = converted::converted(raw, conversion, click);
        send_event(conversion, &event, held.report.traceparent.as_deref(), pair)?;
        if let (Some(click), Some(customer), Some(_)) = (click, &raw.customer_id, raw.click_id) {
            self.tie(&customer_key(&raw.workspace, customer), click.click.id, pair)?;
        }
        self.counts.count(counted);
        if !held.has_waited() {
            self.counts.report_seconds.observe(Timestamp::now().since(raw.received_at).as_secs_f64());
        }
        self.ledger.done(held.ticket);
        Ok(())
    }

    /// Notes a report in the state of its order. Returns the id of the conversion.
    fn note(
        &mut self,
        report: &ReadReport,
        click: Option<ClickId>,
        outcome: Attributed,
        pair: &mut TransactionPair,
    ) -> Result<ConversionId, BusError> {
        let ReadReport { raw, traceparent, .. } = report;
        let key = raw.order_key();
        let mut order = self.states.order(&key).cloned().unwrap_or_else(|| OrderState {
            v: 1,
            conversion: raw.id,
            click_id: None,
            shard: None,
            traceparent: None,
            statuses: Vec::new(),
        });
        order.click_id = click.or(order.click_id).or(raw.click_id);
        order.shard = Some(raw.shard());
        let trace = traceparent.as_deref().filter(|_| outcome == Attributed::Unattributed);
        order.traceparent = trace.map(str::to_owned);
        order.note(raw.status.as_deref(), raw.timestamp, outcome, Timestamp::now());
        let conversion = order.conversion;
        self.set_order(key, order, pair)?;
        Ok(conversion)
    }

    fn set_order(&mut self, key: String, order: OrderState, pair: &mut TransactionPair) -> Result<(), BusError> {
        pair.send(&state_record(&key, &json(&order)?))?;
        self.late.note(&key, order.missing_click(), Timestamp::now());
        self.states.set_order(key, order);
        Ok(())
    }

    /// Tells a conversion with the click that it was told without, if the click is found.
    fn decide_late(
        &mut self,
        late: &LateConversion,
        answer: &ClickAnswer,
        pair: &mut TransactionPair,
    ) -> Result<(), BusError> {
        // A report of the order may have come since, and is waiting for the click itself.
        let Some(order) = self.states.order(&late.key) else { return Ok(()) };
        let Some(missing) = order.missing_click() else { return Ok(()) };
        let found = answer.clicks.get(&late.click).zip(answer.conversions.get(&late.conversion));
        let found = found.filter(|(click, known)| self.counts_for(&known.workspace, known.timestamp, click));
        let (Some((click, known)), Some((partition, offset))) = (found, self.decides_on(missing.shard)) else {
            self.late.put_back(&late.key, missing, Timestamp::now());
            return Ok(());
        };
        let mut order = order.clone();
        let trace = order.traceparent.take();
        order.note_late_click();
        self.set_order(late.key.to_string(), order, pair)?;
        send_event(late.conversion, &converted::attributed_late(known, click), trace.as_deref(), pair)?;
        if let Some(customer) = &known.facts.customer_id {
            self.tie(&customer_key(&WorkspaceId::new(&known.workspace), customer), late.click, pair)?;
        }
        self.counts.count(CountedOutcome::Late);
        // With an offset, Kafka refuses the transaction of a member that has lost the partition.
        pair.read_up_to(partition, offset)
    }

    /// Ties a click to a customer.
    fn tie(&mut self, key: &str, click: ClickId, pair: &mut TransactionPair) -> Result<(), BusError> {
        let known = self.states.customer(key);
        let clicks = known.map_or(CustomerClicks::of(click), |known| known.merged(CustomerClicks::of(click)));
        if known == Some(clicks) {
            return Ok(());
        }
        pair.send(&state_record(key, &json(&clicks)?))?;
        self.states.set_customer(key.to_owned(), clicks);
        Ok(())
    }

    /// Produces a report to a topic, in the partition of its shard.
    pub(super) fn forward(
        &self,
        report: &ReadReport,
        topic: Topic,
        pair: &mut TransactionPair,
    ) -> Result<(), BusError> {
        let (key, value) = (report.raw.key(), json(&report.raw)?);
        let trace = report.traceparent.as_deref().map(trace_header);
        pair.send(&Outgoing {
            topic,
            partition: Some(self.bus.partition_of_shard(topic, report.raw.shard())),
            key: Some(key.as_bytes()),
            value: Some(&value),
            headers: trace.as_slice(),
        })
    }

    /// Produces a report that cannot be used to `dead`.
    pub(super) fn bury(&self, report: UnusableReport<'_>, pair: &mut TransactionPair) -> Result<(), BusError> {
        let (topic, reason) = (report.partition.topic, report.reason.as_str());
        warn!(partition = %report.partition, offset = report.offset, reason, "unusable report goes to `dead`");
        self.counts.dead.inc();
        let letter = report.dead_letter(self.bus.topics(), Timestamp::now());
        pair.send(&dead::record(topic, &letter))
    }

    pub(super) fn wait(&mut self, held: HeldReport, now: Instant) {
        self.running_number += 1;
        self.waiting.insert((held.next_lookup(now), self.running_number), held);
    }
}

fn send_event(
    conversion: ConversionId,
    event: &Envelope<'_, Event<'_>>,
    traceparent: Option<&str>,
    pair: &mut TransactionPair,
) -> Result<(), BusError> {
    let (key, value) = (conversion.to_string(), json(event)?);
    let trace = traceparent.map(trace_header);
    pair.send(&Outgoing { headers: trace.as_slice(), ..Outgoing::keyed(Topic::Events, key.as_bytes(), Some(&value)) })
}

const fn trace_header(traceparent: &str) -> (&str, &[u8]) {
    (TRACEPARENT, traceparent.as_bytes())
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
