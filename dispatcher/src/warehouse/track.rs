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
use store::{Table, rows::Source};
use tracing::warn;

use super::{
    block::{Block, BlockRow, OpenBlock},
    parse,
    range::{OffsetRange, UnreadableNote},
};

/// The next step of a block.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Insert these rows under a fresh number, and believe ClickHouse's answer.
    Insert(Arc<[BlockRow]>),
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
    Absent(Arc<[BlockRow]>),
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
    /// The number of the assignment under which the partition was owned.
    pub(super) assignment: u64,
    pub(super) topic: Arc<str>,
    pub(super) block: Arc<Block>,
    pub(super) range: OffsetRange,
    pub(super) step: Step,
}

/// The state of an owned partition.
#[derive(Debug)]
pub(super) struct PartitionTrack {
    partition: Partition,
    assignment: u64,
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
    /// The closed blocks. There are two where a recorded range ended early.
    pending: VecDeque<PendingBlock>,
}

impl PartitionTrack {
    /// Makes the state of a partition that was just assigned.
    pub(super) fn new(assigned: &Assigned, assignment: u64, topic: &str, now: Instant) -> Result<Self, UnreadableNote> {
        let recorded = OffsetRange::decode(&assigned.metadata)?;
        // A range below the committed offset is finished.
        let unsettled = recorded.clone().filter(|range| range.last >= assigned.offset);
        Ok(Self {
            partition: assigned.partition,
            assignment,
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

    /// Reports whether the track is that of the assignment with this number.
    pub(super) const fn is_of(&self, assignment: u64) -> bool {
        self.assignment == assignment
    }

    /// Reports whether a block waits for the worker.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns the tables that the first pending block has rows of.
    pub(super) fn pending_tables(&self) -> &[Table] {
        self.pending.front().map_or(&[], |pending| &pending.block.tables)
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
        let pushed = self.open.push(offset, |rows| {
            let source = Source {
                topic: &topic,
                // Kafka's own bounds: neither number is negative, and no topic has 65536
                // partitions.
                partition: u16::try_from(index).unwrap_or(u16::MAX),
                offset: offset.cast_unsigned(),
            };
            parse::rows(kind, value, source, rows)
        });
        if let Err(reason) = pushed {
            let reason = format!("not a row of a table: {reason}");
            let origin = DeadOrigin::record(topic.to_string(), index, offset);
            let payload = String::from_utf8_lossy(value.unwrap_or_default());
            self.open.add_dead(Dead::of_record(reason, Timestamp::now(), origin, &payload));
        }
        if self.unsettled.as_ref().is_some_and(|range| offset == range.last) {
            self.close();
        }
    }

    /// Returns the time at which the first record of the open block has waited for long
    /// enough. Returns none while another block is pending.
    pub(super) fn due(&self, max_wait: Duration) -> Option<Instant> {
        if self.open.is_empty() || self.unsettled.is_some() || self.is_pending() {
            return None;
        }
        Some(self.opened + max_wait)
    }

    /// Returns the rows and bytes of the open block, unless it must become the range that
    /// an earlier owner recorded.
    pub(super) const fn open_size(&self) -> (usize, usize) {
        if self.unsettled.is_some() { (0, 0) } else { (self.open.rows(), self.open.bytes()) }
    }

    /// Closes the open block, unless it must become the range that an earlier owner
    /// recorded, or another block is pending.
    pub(super) fn close_open(&mut self) {
        if self.unsettled.is_none() && !self.is_pending() {
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

    /// Gives the next insert its number, if the next step is an insert.
    pub(super) fn number(&mut self, insert: u64) {
        if let Some(PendingBlock { block, range, step: Step::Insert(_) }) = self.pending.front_mut()
            && !block.rows.is_empty()
        {
            range.insert = Some(insert);
        }
    }

    /// Returns the commit that must be recorded before the next step.
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
            assignment: self.assignment,
            topic: Arc::clone(&self.topic),
            block: Arc::clone(&pending.block),
            range: pending.range.clone(),
            step: pending.step.clone(),
        })
    }

    /// Applies the outcome of a step to the first pending block.
    pub(super) fn conclude(&mut self, outcome: BlockOutcome) {
        let Some(mut pending) = self.pending.pop_front() else { return };
        match outcome {
            BlockOutcome::Done => {
                self.done = pending.block.last + 1;
                return;
            }
            BlockOutcome::DeadUnwritten => pending.step = Step::WriteDead,
            BlockOutcome::Absent(missing) => pending.step = Step::Insert(missing),
            BlockOutcome::Unknown => {
                if !matches!(pending.step, Step::WriteDead) {
                    pending.step = Step::Settle;
                }
            }
        }
        self.pending.push_front(pending);
    }
}

/// Returns the range and the first step of a block that was never sent.
fn fresh(block: &Block) -> (OffsetRange, Step) {
    let range = OffsetRange { first: block.first, last: block.last, rows: block.rows.len(), insert: None };
    (range, Step::Insert(Arc::clone(&block.rows)))
}
