//! The state of one owned partition, and the decisions that follow from it: which
//! block comes next, what must be recorded before its insert, and what its outcome
//! means. The worker carries the decisions out.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Assigned, Commit, Partition};
use schemas::{Dead, DeadOrigin, Timestamp};
use store::rows::Source;
use tracing::warn;

use super::{
    block::{Block, BlockRow, OpenBlock},
    config::Config,
    parse,
    range::{OffsetRange, UnreadableNote},
};

/// The next step of a block.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Insert these rows, and believe ClickHouse's answer: no insert was sent under
    /// this try's token before.
    Insert(Vec<BlockRow>),
    /// Look which rows are present, and insert the others: an earlier insert may have
    /// arrived in part or may still arrive.
    Settle,
    /// Write the dead letters: the rows are present.
    WriteDead,
}

/// The outcome of a step.
#[derive(Debug)]
pub(super) enum BlockOutcome {
    /// The rows are present, and the dead letters are written.
    Done,
    /// The rows are present, but Kafka did not take the dead letters.
    DeadUnwritten,
    /// ClickHouse reported the rows as present, but these are not.
    Absent(Vec<BlockRow>),
    /// ClickHouse refuses a row of the block, with this error.
    Refused(String),
    /// It is not known whether the rows are present.
    Unknown,
}

/// A closed block that waits for its next step.
#[derive(Debug)]
struct PendingBlock {
    block: Arc<Block>,
    range: OffsetRange,
    step: Step,
}

/// A block's next step, with everything that the worker needs for it.
#[derive(Clone, Debug)]
pub(super) struct BlockWork {
    pub(super) partition: Partition,
    pub(super) topic: Arc<str>,
    pub(super) block: Arc<Block>,
    pub(super) range: OffsetRange,
    pub(super) step: Step,
}

/// The state of an owned partition.
#[derive(Debug)]
pub(super) struct PartitionTrack {
    partition: Partition,
    topic: Arc<str>,
    /// The offset below which everything is stored.
    done: i64,
    /// The committed offset.
    committed: i64,
    /// The range that is recorded with the committed offset.
    recorded: Option<OffsetRange>,
    /// A range that an earlier owner recorded, until its records are read again.
    unsettled: Option<OffsetRange>,
    open: OpenBlock,
    opened: Instant,
    pending: VecDeque<PendingBlock>,
}

impl PartitionTrack {
    /// Makes the state of a partition that was just assigned.
    pub(super) fn new(assigned: &Assigned, topic: &str, now: Instant) -> Result<Self, UnreadableNote> {
        let recorded = OffsetRange::decode(&assigned.metadata)?;
        // A range below the committed offset is finished.
        let unsettled = recorded.clone().filter(|range| range.last >= assigned.offset);
        Ok(Self {
            partition: assigned.partition,
            topic: topic.into(),
            done: assigned.offset,
            committed: assigned.offset,
            recorded,
            unsettled,
            open: OpenBlock::default(),
            opened: now,
            pending: VecDeque::new(),
        })
    }

    /// Returns the offset below which everything is stored.
    pub(super) const fn done(&self) -> i64 {
        self.done
    }

    /// Reports whether a block waits for the worker.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Adds the record at `offset` to the open block.
    pub(super) fn take(&mut self, offset: i64, value: Option<&[u8]>, now: Instant) {
        if self.unsettled.as_ref().is_some_and(|range| offset > range.last) {
            // The range's last record is gone from the log: the block ends without it.
            self.close();
        }
        if self.open.is_empty() {
            self.opened = now;
        }
        self.open.pass(offset);
        let Partition { topic: kind, index } = self.partition;
        let topic = Arc::clone(&self.topic);
        let record = value.unwrap_or_default();
        let pushed = self.open.push(offset, record, |block| {
            let source = Source {
                topic: &topic,
                // Kafka's own bounds: neither number is negative, and no topic has 65536
                // partitions.
                partition: u16::try_from(index).unwrap_or(u16::MAX),
                offset: offset.cast_unsigned(),
            };
            parse::row(kind, value, source, block)
        });
        if let Err(reason) = pushed {
            let reason = format!("not a row of a table: {reason}");
            let origin = DeadOrigin::record(topic.to_string(), index, offset);
            let payload = String::from_utf8_lossy(record);
            self.open.add_dead(Dead::of_record(reason, Timestamp::now(), origin, &payload));
        }
        if self.unsettled.as_ref().is_some_and(|range| offset == range.last) {
            self.close();
        }
    }

    /// Closes the open block if it is full or its first record has waited long
    /// enough, and no other block is pending.
    pub(super) fn close_due(&mut self, config: &Config, now: Instant) {
        if self.due(config).is_some_and(|due| due <= now) {
            self.close();
        }
    }

    /// Returns the time at which the open block is closed.
    pub(super) fn due(&self, config: &Config) -> Option<Instant> {
        if self.open.is_empty() || self.unsettled.is_some() || self.is_pending() {
            return None;
        }
        Some(self.opened + if self.is_full(config) { Duration::ZERO } else { config.max_wait() })
    }

    /// Reports whether the open block should take no more records.
    pub(super) const fn is_full(&self, config: &Config) -> bool {
        self.open.rows() >= config.max_rows || self.open.bytes() >= config.max_bytes
    }

    /// Closes the open block before it is due, unless it must become the range that an
    /// earlier owner recorded.
    pub(super) fn close_early(&mut self) {
        if self.unsettled.is_none() {
            self.close();
        }
    }

    fn close(&mut self) {
        let recorded = self.unsettled.take();
        let Some(block) = self.open.close() else { return };
        let (range, step) = match recorded {
            Some(range) => {
                if range.rows != block.rows.len() {
                    warn!(
                        partition = %self.partition, %range, recorded = range.rows, found = block.rows.len(),
                        "recorded range makes another number of rows now: the missing rows are inserted"
                    );
                }
                (range, Step::Settle)
            }
            None => fresh(&block),
        };
        self.pending.push_back(PendingBlock { block: Arc::new(block), range, step });
    }

    /// Returns the commit that must be recorded before the next block is inserted.
    pub(super) fn to_record(&self) -> Option<Commit> {
        let pending = self.pending.front()?;
        if self.recorded.as_ref() == Some(&pending.range)
            || pending.block.rows.is_empty()
            || matches!(pending.step, Step::WriteDead)
        {
            return None;
        }
        Some(Commit { partition: self.partition, offset: self.done, metadata: Some(pending.range.encode()) })
    }

    /// Notes that the commit of [`Self::to_record`] is with Kafka.
    pub(super) fn recorded(&mut self) {
        self.committed = self.done;
        self.recorded = self.pending.front().map(|pending| pending.range.clone());
    }

    /// Returns the commit that is due when no block is pending. While an insert of a
    /// recorded range may still arrive, its note must stay.
    pub(super) fn to_commit(&self) -> Option<Commit> {
        let noted = self.recorded.as_ref().is_some_and(|range| range.last >= self.done);
        let in_progress = self.unsettled.is_some() || (noted && self.is_pending());
        if in_progress || (self.done == self.committed && self.recorded.is_none()) {
            return None;
        }
        Some(Commit { partition: self.partition, offset: self.done, metadata: Some(String::new()) })
    }

    /// Notes that the commit of [`Self::to_commit`] is with Kafka.
    pub(super) fn committed(&mut self) {
        self.committed = self.done;
        self.recorded = None;
    }

    /// Returns the next step of the first pending block.
    pub(super) fn work(&self) -> Option<BlockWork> {
        let pending = self.pending.front()?;
        Some(BlockWork {
            partition: self.partition,
            topic: Arc::clone(&self.topic),
            block: Arc::clone(&pending.block),
            range: pending.range.clone(),
            step: pending.step.clone(),
        })
    }

    /// Applies the outcome of a step to the first pending block.
    pub(super) fn conclude(&mut self, outcome: BlockOutcome, at: Timestamp) {
        let Some(mut pending) = self.pending.pop_front() else { return };
        match outcome {
            BlockOutcome::Done => {
                self.done = pending.block.last + 1;
                return;
            }
            BlockOutcome::DeadUnwritten => pending.step = Step::WriteDead,
            BlockOutcome::Absent(missing) => {
                pending.range.round += 1;
                pending.step = Step::Insert(missing);
            }
            BlockOutcome::Unknown => {
                if !matches!(pending.step, Step::WriteDead) {
                    pending.step = Step::Settle;
                }
            }
            BlockOutcome::Refused(reason) => return self.bisect(pending, &reason, at),
        }
        self.pending.push_front(pending);
    }

    fn bisect(&mut self, pending: PendingBlock, reason: &str, at: Timestamp) {
        // Of two tables, one may have taken its rows before the other refused. Then the ranges
        // of the parts reach to the end of the whole, so that a later owner looks for all
        // rows of the whole that may be present.
        let reaches_on = pending.block.tables().len() > 1 || pending.range.last > pending.block.last;
        // Where rows of the whole block may be present, rows of a half may be, too.
        let may_be_present = reaches_on || !matches!(pending.step, Step::Insert(_)) || pending.range.round > 0;
        match Arc::unwrap_or_clone(pending.block).halves() {
            (left, Some(right)) => {
                let rest = OffsetRange {
                    first: right.first,
                    last: pending.range.last,
                    rows: pending.range.rows.saturating_sub(left.rows.len()),
                    round: 0,
                };
                for (half, reaching) in [(right, rest), (left, pending.range)] {
                    let (range, step) = fresh(&half);
                    let range = if reaches_on { reaching } else { range };
                    let step = if may_be_present { Step::Settle } else { step };
                    self.pending.push_front(PendingBlock { block: Arc::new(half), range, step });
                }
            }
            (mut block, None) => {
                block.dead_letter_rows(&self.topic, self.partition.index, reason, at);
                self.pending.push_front(PendingBlock {
                    block: Arc::new(block),
                    range: pending.range,
                    step: Step::WriteDead,
                });
            }
        }
    }
}

/// Returns the range and the first step of a block that was never sent.
fn fresh(block: &Block) -> (OffsetRange, Step) {
    let range = OffsetRange { first: block.first, last: block.last, rows: block.rows.len(), round: 0 };
    (range, Step::Insert(block.rows.clone()))
}
