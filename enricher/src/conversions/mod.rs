//! The work on reported conversions: each finds its click, or waits for it, and becomes
//! the event `link.converted`.
//!
//! Reports are collected while one question to ClickHouse is under way (`lookup.rs`), so
//! that many share the next (`asking.rs`). `states.rs` knows what was reported before, and
//! `state_reader.rs` reads it. A report whose click is not found is written to
//! `conversions.waiting` once and asked for again from memory (`held.rs`); its offset is
//! held back until then. Event (`converted.rs`), state and offsets are one transaction
//! (`decide.rs`). A click that shows up after the hold is looked for by `late.rs`.

mod asking;
mod converted;
mod decide;
mod held;
mod late;
mod lookup;
mod metrics;
mod state_reader;
mod states;
mod work;

use std::time::Instant;

use bus::{Assigned, BusError, Consumer, Ledger, Partition, Record, TransactionPair};
use schemas::{Timestamp, Topic};

use self::{
    held::{HeldReport, ReadReport},
    state_reader::StateRecord,
    work::AskedReports,
};
pub(crate) use self::{
    metrics::ConversionMetrics,
    work::{ConversionRules, ConversionWork},
};
use crate::{
    answers,
    dead::UnusableReport,
    member::{PREPARED_WITHIN, Rebalances, RecordWork, partitions},
};

/// The most reports that wait for ClickHouse before `conversions.raw` is paused.
const QUEUED: usize = 5_000;
/// The most reports that wait for their click in memory before `conversions.waiting` is
/// paused.
const WAITING: usize = 200_000;

/// Whether the states that newly assigned partitions need have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preparation {
    GoesOn,
    Done,
}

impl ConversionWork {
    /// Applies a record of the states.
    fn apply(&mut self, record: StateRecord) -> Preparation {
        match record {
            StateRecord::Change { key, value } => {
                self.states.apply(&key, value.as_deref());
                self.note_late(&key, Timestamp::now());
                Preparation::GoesOn
            }
            StateRecord::Prepared { .. } => {
                self.is_preparing = false;
                self.full.clear();
                Preparation::Done
            }
        }
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
                self.committed.keys().copied().filter(|partition| partition.topic == topic).collect();
            if held >= most && self.full.insert(topic) {
                consumer.pause(&partitions)?;
            } else if held <= most / 2 && self.full.remove(&topic) {
                consumer.resume(&partitions)?;
            }
        }
        Ok(())
    }
}

impl RecordWork for ConversionWork {
    fn reset(&mut self) {
        self.lookup.cancel();
        self.reader.cancel();
        let now = Timestamp::now();
        if let Some(AskedReports::Late(batch)) = self.asked.take() {
            batch.iter().for_each(|late| self.late.retry(&late.key, now));
        }
        for key in self.states.reset() {
            self.note_late(&key, now);
        }
        self.ledger = Ledger::default();
        self.committed.clear();
        self.full.clear();
        self.is_preparing = false;
        self.queued.clear();
        self.waiting.clear();
        self.counts.waiting.set(0);
    }

    fn assigned(&mut self, assigned: &[Assigned], consumer: &Consumer<Rebalances>) -> Result<(), BusError> {
        for Assigned { partition, offset, .. } in assigned {
            self.ledger.assign(*partition, *offset);
            self.committed.insert(*partition, *offset);
        }
        self.is_preparing = true;
        self.reader.prepare()?;
        let deadline = Instant::now() + PREPARED_WITHIN;
        while let Some(record) = answers::before(deadline, || self.reader.next())? {
            if self.apply(record) == Preparation::Done {
                return Ok(());
            }
        }
        consumer.pause(&partitions(assigned))
    }

    fn is_waiting(&self) -> bool {
        self.is_preparing || self.asked.is_some() || !self.queued.is_empty()
    }

    fn resume(&mut self, pair: &mut TransactionPair, consumer: &Consumer<Rebalances>) -> Result<usize, BusError> {
        while let Some(record) = self.reader.next()? {
            if self.apply(record) == Preparation::Done {
                let owned: Vec<Partition> = self.committed.keys().copied().collect();
                consumer.resume(&owned)?;
            }
        }
        let count = self.decide_asked(pair)?;
        self.commit_advanced(pair)?;
        self.ask()?;
        self.limit(consumer)?;
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.counts.waiting.set(gauge(self.waiting.len()));
        self.counts.awaited.set(gauge(self.late.len()));
        Ok(count)
    }

    fn process(
        &mut self,
        record: &Record<'_>,
        pair: &mut TransactionPair,
        _: &Consumer<Rebalances>,
    ) -> Result<usize, BusError> {
        let (partition, offset) = (record.partition(), record.offset());
        match ReadReport::read(record) {
            Err(reason) => {
                let text = String::from_utf8_lossy(record.value().unwrap_or_default());
                self.bury(UnusableReport { partition, offset, text: &text, reason }, pair)?;
            }
            // Its partition was another one before the topic was widened.
            Ok(report) if self.bus.partition_of_shard(partition.topic, report.raw.shard()) != partition.index => {
                self.forward(&report, partition.topic, pair)?;
            }
            Ok(report) => {
                if let Some(ticket) = self.ledger.track(partition, offset, 1).pop() {
                    let held = HeldReport::new(report, ticket, self.rules.hold);
                    if held.has_waited() {
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
