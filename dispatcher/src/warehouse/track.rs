//! What the warehouse knows of one partition that it owns, and what follows
//! from it: which block comes next, what must be recorded before it goes, and
//! what its outcome means. Decides only; the worker does.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Assigned, Commit, Partition};
use schemas::{Dead, Origin, Timestamp};
use store::{Table, rows::Source};
use tracing::warn;

use super::{
    block::{Block, Open, Row},
    config::Config,
    parse,
    range::{Range, Unreadable},
};

/// What is done next about a block.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Nothing went out under this round's token: insert these rows, and believe
    /// what ClickHouse says.
    Insert(Vec<Row>),
    /// Some or all of it may be there, or on its way: look first.
    Settle,
    /// Its rows are there: bury what made no row.
    Bury,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The rows are there and the dead are buried.
    Done,
    /// The rows are there, but Kafka did not take the dead.
    Unburied,
    /// ClickHouse said that the rows are there, and these are not.
    Absent(Vec<Row>),
    /// ClickHouse refuses a row of it, in these words.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

#[derive(Debug)]
struct Piece {
    block: Arc<Block>,
    range: Range,
    step: Step,
}

/// What the worker does about a block.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) partition: Partition,
    pub(super) table: Table,
    pub(super) topic: Arc<str>,
    pub(super) block: Arc<Block>,
    pub(super) range: Range,
    pub(super) step: Step,
}

/// One partition that is ours.
#[derive(Debug)]
pub(super) struct Track {
    partition: Partition,
    table: Table,
    topic: Arc<str>,
    /// Everything below this offset is stored.
    done: i64,
    /// The offset that Kafka has.
    committed: i64,
    /// The range that Kafka has with it.
    recorded: Option<Range>,
    /// A range that an earlier owner recorded, until its records are read again.
    unsettled: Option<Range>,
    open: Open,
    opened: Instant,
    pieces: VecDeque<Piece>,
}

impl Track {
    /// A partition that has just become ours.
    pub(super) fn new(assigned: &Assigned, table: Table, topic: &str, now: Instant) -> Result<Self, Unreadable> {
        let recorded = Range::decode(&assigned.metadata)?;
        // A range below the offset is history.
        let unsettled = recorded.clone().filter(|range| range.last >= assigned.offset);
        Ok(Self {
            partition: assigned.partition,
            table,
            topic: topic.into(),
            done: assigned.offset,
            committed: assigned.offset,
            recorded,
            unsettled,
            open: Open::default(),
            opened: now,
            pieces: VecDeque::new(),
        })
    }

    /// Everything below this offset is stored.
    pub(super) const fn done(&self) -> i64 {
        self.done
    }

    /// Whether a block waits for the worker.
    pub(super) fn is_pending(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Takes the record at `offset`.
    pub(super) fn take(&mut self, offset: i64, value: Option<&[u8]>, now: Instant) {
        if self.unsettled.as_ref().is_some_and(|range| offset > range.last) {
            // Its last record is gone from the log: what is left is what there is.
            self.close();
        }
        if self.open.is_empty() {
            self.opened = now;
        }
        self.open.pass(offset);
        let (table, topic) = (self.table, Arc::clone(&self.topic));
        let index = self.partition.index;
        let record = value.unwrap_or_default();
        let pushed = self.open.push(offset, record, |block| {
            let source = Source {
                topic: &topic,
                // Kafka's own bounds: neither is negative, and no topic has 65536 partitions.
                partition: u16::try_from(index).unwrap_or(u16::MAX),
                offset: offset.cast_unsigned(),
            };
            parse::row(table, value, source, block)
        });
        if let Err(reason) = pushed {
            self.open.bury(Dead {
                v: 1,
                reason: format!("not a row of {}: {reason}", table.name()),
                at: Timestamp::now(),
                origin: Origin { topic: topic.to_string(), partition: index, offset, line: None, bundle: None },
                payload: Some(String::from_utf8_lossy(record).into_owned()),
                delivery: None,
            });
        }
        if self.unsettled.as_ref().is_some_and(|range| offset == range.last) {
            self.close();
        }
    }

    /// Closes the open block if it is full or its first record has waited long
    /// enough, and no other block waits.
    pub(super) fn close_due(&mut self, config: &Config, now: Instant) {
        if self.due(config).is_some_and(|due| due <= now) {
            self.close();
        }
    }

    /// When the open block will be due.
    pub(super) fn due(&self, config: &Config) -> Option<Instant> {
        if self.open.is_empty() || self.unsettled.is_some() || self.is_pending() {
            return None;
        }
        Some(self.opened + if self.is_full(config) { Duration::ZERO } else { config.max_wait() })
    }

    /// Whether the open block should take no more.
    pub(super) const fn is_full(&self, config: &Config) -> bool {
        self.open.rows() >= config.max_rows || self.open.bytes() >= config.max_bytes
    }

    /// Closes the open block, unless it is to be what an earlier owner recorded
    /// and is not yet all of it.
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
                        "a recorded range makes another number of rows now: what is missing is inserted"
                    );
                }
                (range, Step::Settle)
            }
            None => fresh(&block),
        };
        self.pieces.push_back(Piece { block: Arc::new(block), range, step });
    }

    /// What must be recorded before the next block goes out.
    pub(super) fn to_record(&self) -> Option<Commit> {
        let piece = self.pieces.front()?;
        if self.recorded.as_ref() == Some(&piece.range)
            || piece.block.rows.is_empty()
            || matches!(piece.step, Step::Bury)
        {
            return None;
        }
        Some(Commit { partition: self.partition, offset: self.done, metadata: Some(piece.range.encode()) })
    }

    /// Kafka has what was to be recorded.
    pub(super) fn recorded(&mut self) {
        self.committed = self.done;
        self.recorded = self.pieces.front().map(|piece| piece.range.clone());
    }

    /// The offset to commit when nothing comes next. While a recorded range may
    /// be on its way its note must stay, whatever round or half of it is next.
    pub(super) fn to_commit(&self) -> Option<Commit> {
        let noted = self.recorded.as_ref().is_some_and(|range| range.last >= self.done);
        let under_way = self.unsettled.is_some() || (noted && self.is_pending());
        if under_way || (self.done == self.committed && self.recorded.is_none()) {
            return None;
        }
        Some(Commit { partition: self.partition, offset: self.done, metadata: Some(String::new()) })
    }

    /// Kafka has what was to be committed.
    pub(super) fn committed(&mut self) {
        self.committed = self.done;
        self.recorded = None;
    }

    /// What to do about the next block.
    pub(super) fn work(&self) -> Option<Work> {
        let piece = self.pieces.front()?;
        Some(Work {
            partition: self.partition,
            table: self.table,
            topic: Arc::clone(&self.topic),
            block: Arc::clone(&piece.block),
            range: piece.range.clone(),
            step: piece.step.clone(),
        })
    }

    /// Draws the conclusion from what came of it.
    pub(super) fn conclude(&mut self, outcome: Outcome, at: Timestamp) {
        let Some(mut piece) = self.pieces.pop_front() else { return };
        match outcome {
            Outcome::Done => {
                self.done = piece.block.last + 1;
                return;
            }
            Outcome::Unburied => piece.step = Step::Bury,
            Outcome::Absent(missing) => {
                piece.range.round += 1;
                piece.step = Step::Insert(missing);
            }
            Outcome::Unknown => {
                if !matches!(piece.step, Step::Bury) {
                    piece.step = Step::Settle;
                }
            }
            Outcome::Refused(reason) => return self.bisect(piece, &reason, at),
        }
        self.pieces.push_front(piece);
    }

    fn bisect(&mut self, piece: Piece, reason: &str, at: Timestamp) {
        // Where rows of the whole may be there already, so may rows of a half.
        let doubtful = !matches!(piece.step, Step::Insert(_)) || piece.range.round > 0;
        match Arc::unwrap_or_clone(piece.block).halves() {
            (left, Some(right)) => {
                for half in [right, left] {
                    let (range, step) = fresh(&half);
                    let step = if doubtful { Step::Settle } else { step };
                    self.pieces.push_front(Piece { block: Arc::new(half), range, step });
                }
            }
            (mut block, None) => {
                block.give_up(&self.topic, self.partition.index, reason, at);
                self.pieces.push_front(Piece { block: Arc::new(block), range: piece.range, step: Step::Bury });
            }
        }
    }
}

fn fresh(block: &Block) -> (Range, Step) {
    let range = Range { first: block.first, last: block.last, rows: block.rows.len(), round: 0 };
    (range, Step::Insert(block.rows.clone()))
}
