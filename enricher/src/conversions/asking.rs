//! The next question to ClickHouse. Reports that have just come go before those that wait
//! for their click, and late clicks are asked for now and then: a hundred thousand of
//! either must not hold up a new report.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bus::{BusError, Partition, PartitionFollower};
use schemas::{Timestamp, Topic};
use store::Store;

use super::{
    late::LateConversion,
    lookup::ClickQuestion,
    work::{AskedReports, ConversionWork},
};

/// The most reports that are decided at once.
const BATCH: usize = 400;
/// The most clicks of new reports in a question while others wait for theirs.
const NEW_BESIDE_WAITING: usize = Store::CLICKS_AT_ONCE * 3 / 4;
/// How often late clicks are asked for at most.
const LATE_EVERY: Duration = Duration::from_secs(1);
/// The most conversions whose click is found to be looked for by another member, or no
/// more, before the member's thread goes on with its work.
const LATE_SKIPPED: usize = 5_000;

impl ConversionWork {
    /// Asks for the clicks of the next reports, if no question is open.
    pub(super) fn ask(&mut self) -> Result<(), BusError> {
        if self.asked.is_some() || self.is_preparing {
            return Ok(());
        }
        if self.late_asked.is_none_or(|asked| asked.elapsed() >= LATE_EVERY) && self.ask_late()? {
            self.late_asked = Some(Instant::now());
            return Ok(());
        }
        let now = Instant::now();
        let mut ids = BTreeSet::new();
        let mut batch = Vec::new();
        let is_due = |entry: &(Instant, u64)| entry.0 <= now;
        let others_wait = self.waiting.first_key_value().is_some_and(|(key, _)| is_due(key));
        let most = if others_wait { NEW_BESIDE_WAITING } else { Store::CLICKS_AT_ONCE };
        while batch.len() < BATCH && ids.len() < most {
            let Some(held) = self.queued.pop_front() else { break };
            ids.extend(self.click_of(&held.report.raw));
            batch.push(held);
        }
        while batch.len() < BATCH && ids.len() < Store::CLICKS_AT_ONCE {
            let Some(entry) = self.waiting.first_entry().filter(|entry| is_due(entry.key())) else { break };
            let held = entry.remove();
            ids.extend(self.click_of(&held.report.raw));
            batch.push(held);
        }
        if !batch.is_empty() {
            self.lookup.ask(ClickQuestion { clicks: ids.into_iter().collect(), conversions: Vec::new() })?;
            self.asked = Some(AskedReports::Reports(batch));
        }
        Ok(())
    }

    /// Asks for the late clicks that are due. Returns whether there are any.
    fn ask_late(&mut self) -> Result<bool, BusError> {
        if self.committed.is_empty() || !self.agrees_on_owners() {
            return Ok(false);
        }
        let now = Timestamp::now();
        let mut question = ClickQuestion::default();
        let mut batch = Vec::new();
        let mut skipped = 0;
        while batch.len() < Store::CLICKS_AT_ONCE && skipped < LATE_SKIPPED {
            let Some(key) = self.late.take_due(now) else { break };
            let Some(order) = self.states.order(&key) else { continue };
            let Some(missing) = order.missing_click() else { continue };
            if self.decides_on(missing.shard).is_none() {
                self.late.put_back(&key, missing, now);
                skipped += 1;
                continue;
            }
            question.clicks.push(missing.click);
            question.conversions.push((missing.click, order.conversion));
            batch.push(LateConversion { key, conversion: order.conversion, click: missing.click });
        }
        if batch.is_empty() {
            return Ok(false);
        }
        question.clicks.sort_unstable();
        question.clicks.dedup();
        self.lookup.ask(question)?;
        self.asked = Some(AskedReports::Late(batch));
        Ok(true)
    }

    /// Whether all members see the same number of partitions, by which an order has one
    /// owner. Reports need not ask: each is read by one member.
    fn agrees_on_owners(&mut self) -> bool {
        let partitions = self.bus.partitions(Topic::ConversionsRaw);
        if std::mem::replace(&mut self.partitions, partitions) != partitions {
            self.widened = Some(Instant::now());
        }
        self.widened.is_none_or(|widened| widened.elapsed() > PartitionFollower::USED_WITHIN)
    }

    /// Returns the partition by whose reports this member decides on the orders of a shard,
    /// if it does, with its committed offset.
    pub(super) fn decides_on(&self, shard: u16) -> Option<(Partition, i64)> {
        let topic = Topic::ConversionsRaw;
        let partition = Partition { topic, index: self.bus.partition_of_shard(topic, shard) };
        self.committed.get(&partition).map(|offset| (partition, *offset))
    }
}
