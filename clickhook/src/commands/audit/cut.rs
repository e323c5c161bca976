//! The cut through Kafka's logs that an audit counts up to. The committed offsets of the
//! groups are read first, and the logs are read to their ends afterwards. So each record
//! that is done by the offsets has left its traces below the ends, since a group commits
//! no offset before Kafka has what the record led to.

use std::{collections::HashMap, ops::Range, time::Duration};

use anyhow::Context;
use bus::{Bus, GroupProgress, LogReader, Partition, Record};
use indicatif::ProgressBar;
use schemas::{ConsumerGroup, Timestamp, Topic};

use super::places::{RecordPlace, RecordProgress};

/// The difference between the clocks of brokers and redirectors that is allowed for: what
/// follows from a record is looked for from this much before its time on.
const CLOCKS: Duration = Duration::from_secs(300);
/// The topics that the enricher writes in transactions.
const TRANSACTIONAL: [Topic; 3] = [Topic::Clicks, Topic::Events, Topic::Dead];

/// The offsets of the groups at one moment, and the logs that are read to their ends after
/// that.
pub(super) struct LogCut {
    bus: Bus,
    reader: LogReader,
    bar: ProgressBar,
    /// The moment at which the offsets were read.
    pub(super) at: Timestamp,
    done: HashMap<Partition, GroupProgress>,
    /// The progress of the warehouse, which reads topics that webhooks read, too.
    warehouse: HashMap<Partition, GroupProgress>,
    /// The logs, from their first records to their ends.
    logs: HashMap<Partition, Range<i64>>,
}

/// The first record of a log that is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum LogStart {
    /// The first one that is not older, with [`CLOCKS`] allowed for.
    Before(Timestamp),
    /// The first one that is not older.
    At(Timestamp),
    /// The first one that its group has not done.
    Undone,
}

impl LogCut {
    /// Reads the offsets, and the ends of the logs. Blocks.
    pub(super) fn take(bus: &Bus, bar: ProgressBar) -> anyhow::Result<Self> {
        let progress = |groups: &[ConsumerGroup]| -> anyhow::Result<HashMap<Partition, GroupProgress>> {
            let mut all = HashMap::new();
            for group in groups {
                let of_group = bus.group_progress(*group);
                let of_group = of_group.with_context(|| format!("read the offsets of group {}", group.name()))?;
                all.extend(of_group.into_iter().map(|progress| (progress.partition, progress)));
            }
            Ok(all)
        };
        let groups = [
            ConsumerGroup::Enricher,
            ConsumerGroup::WebhookClicks,
            ConsumerGroup::WebhookEvents,
            ConsumerGroup::WebhookDelay,
        ];
        let done = progress(&groups)?;
        let warehouse = progress(&[ConsumerGroup::Warehouse])?;
        let at = Timestamp::now();
        // A transaction whose offsets were read may not be visible in every topic yet.
        bus.wait_for_open_transactions("audit", &TRANSACTIONAL).context("wait for open transactions")?;
        let reader = bus.log_reader("audit")?;
        let mut logs = HashMap::new();
        let delays = ConsumerGroup::WebhookDelay.topics().iter().copied();
        let topics = [Topic::ClicksRaw, Topic::Clicks, Topic::Events, Topic::Attempts, Topic::Dead];
        for topic in topics.into_iter().chain(delays) {
            for index in 0..i32::from(bus.partitions(topic)) {
                let partition = Partition { topic, index };
                logs.insert(partition, reader.range(partition)?);
            }
        }
        Ok(Self { bus: bus.clone(), reader, bar, at, done, warehouse, logs })
    }

    /// Returns the time of the oldest record that every partition of `topics` still has, or
    /// none if Kafka has not deleted anything from them.
    pub(super) fn kept_since(&self, topics: &[Topic]) -> anyhow::Result<Option<Timestamp>> {
        let mut kept = None;
        for partition in self.partitions(topics) {
            let log = self.log(partition);
            if log.start == 0 {
                continue;
            }
            let visit = |record: &Record<'_>| {
                kept = kept.max(record.timestamp());
                false
            };
            self.reader.read(partition, log, || false, visit)?;
        }
        Ok(kept)
    }

    /// Returns the offset from which a log is read.
    pub(super) fn start(&self, partition: Partition, from: LogStart) -> anyhow::Result<i64> {
        let log = self.log(partition);
        let start = match from {
            LogStart::Undone => self.done.get(&partition).and_then(|progress| progress.offset).unwrap_or(log.start),
            LogStart::At(at) => self.reader.offset_at(partition, at)?,
            LogStart::Before(at) => {
                let allowed = i64::try_from(CLOCKS.as_millis()).unwrap_or(i64::MAX);
                self.reader.offset_at(partition, Timestamp::from_millis(at.as_millis().saturating_sub(allowed)))?
            }
        };
        Ok(start.clamp(log.start, log.end))
    }

    /// Calls `visit` with the records of `topics`, until it returns false. Returns whether
    /// all were read.
    pub(super) fn read(
        &self,
        topics: &[Topic],
        from: LogStart,
        mut visit: impl FnMut(&Record<'_>) -> bool,
    ) -> anyhow::Result<bool> {
        let mut goes_on = true;
        for partition in self.partitions(topics) {
            let offsets = self.start(partition, from)?..self.log(partition).end;
            let mut visited = 0;
            let read = self.reader.read(
                partition,
                offsets,
                || false,
                |record| {
                    visited += 1;
                    goes_on = visit(record);
                    goes_on
                },
            );
            read.with_context(|| format!("read {partition}"))?;
            self.bar.inc(visited);
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether the group that works on a record has done it.
    pub(super) fn progress(&self, place: RecordPlace) -> RecordProgress {
        match self.done.get(&place.partition) {
            Some(progress) if progress.is_done(place.offset) => RecordProgress::Done,
            _ => RecordProgress::Open,
        }
    }

    /// Returns the offset below which the rows of a partition are in ClickHouse.
    pub(super) fn stored_below(&self, partition: Partition) -> i64 {
        self.warehouse.get(&partition).and_then(|progress| progress.offset).unwrap_or(0)
    }

    /// Returns the topic with a full name.
    pub(super) fn topic(&self, name: &str) -> Option<Topic> {
        self.bus.topics().parse(name)
    }

    /// Returns the partitions of `topics`.
    pub(super) fn partitions(&self, topics: &[Topic]) -> Vec<Partition> {
        let of_topic = |topic: &Topic| {
            let topic = *topic;
            (0..i32::from(self.bus.partitions(topic))).map(move |index| Partition { topic, index })
        };
        topics.iter().flat_map(of_topic).collect()
    }

    fn log(&self, partition: Partition) -> Range<i64> {
        self.logs.get(&partition).cloned().unwrap_or(0..0)
    }
}

/// Returns the place of a record.
pub(super) fn place(record: &Record<'_>) -> RecordPlace {
    RecordPlace { partition: record.partition(), offset: record.offset() }
}
