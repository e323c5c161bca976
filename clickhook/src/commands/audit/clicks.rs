//! The book of clicks: each line of `clicks.raw` is a click on `clicks`, a dead letter, a
//! second copy of another line, or waits for the enricher. Pure: records are noted as they
//! are read, and counted at the end.

use std::collections::{HashMap, HashSet};

use schemas::{ClickClass, ClickId, DeadOrigin, Timestamp};
use serde::{Deserialize, Serialize};

use super::places::{IdSlice, RecordPlace, RecordProgress};

/// The lines of `clicks.raw` by what has become of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ClickCounts {
    /// The lines of visits that count as clicks, and lines that cannot be read.
    pub(super) captured: u64,
    /// Clicks on `clicks`.
    pub(super) recorded: u64,
    /// Lines that the enricher has not read.
    pub(super) waiting: u64,
    pub(super) dead: u64,
    /// Lines with the id of an earlier line.
    pub(super) second_copies: u64,
    /// Lines that the enricher has read, and that are neither on `clicks` nor on `dead`.
    pub(super) missing: u64,
    /// Records on `clicks` with the id of an earlier record: never a difference that is
    /// right.
    pub(super) doubled: u64,
    /// Lines of visits that do not count: prefetches, expired links and orphans.
    pub(super) not_counted: u64,
}

impl ClickCounts {
    pub(super) const fn is_balanced(&self) -> bool {
        self.missing == 0 && self.doubled == 0
    }

    fn add(&mut self, other: &Self) {
        self.captured += other.captured;
        self.recorded += other.recorded;
        self.waiting += other.waiting;
        self.dead += other.dead;
        self.second_copies += other.second_copies;
        self.missing += other.missing;
        self.doubled += other.doubled;
        self.not_counted += other.not_counted;
    }
}

/// A line that was read, and that is nowhere, or a click that was recorded twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ClickDifference {
    /// The click's id, where the line can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) click: Option<ClickId>,
    pub(super) place: RecordPlace,
    pub(super) line: u32,
    /// The number of records on `clicks` with this id.
    pub(super) records: u32,
}

/// The part of a line that the audit needs.
#[derive(Deserialize)]
struct LineHead {
    id: ClickId,
    class: ClickClass,
}

struct ClickTrace {
    /// The place and number of the first line.
    place: RecordPlace,
    line: u32,
    lines: u32,
    /// Whether the enricher has read one of the lines.
    is_read: bool,
    is_dead: bool,
}

/// The clicks of one slice. Dead letters and clicks are noted first, and lines then.
pub(super) struct ClickBook {
    slice: IdSlice,
    /// Visits before this time are left out: their lines may be older than the log.
    since: Timestamp,
    /// The lines that are on `dead`: partition, offset, and line; without a line it is the
    /// whole bundle.
    dead: HashSet<(i32, i64, Option<u32>)>,
    records: HashMap<ClickId, u32>,
    traces: HashMap<ClickId, ClickTrace>,
    counted: CountedClicks,
}

/// The result of an audit of clicks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CountedClicks {
    pub(super) counts: ClickCounts,
    /// The differences, the first [`LISTED`](Self::LISTED) of them.
    pub(super) differences: Vec<ClickDifference>,
}

impl CountedClicks {
    /// The number of differences that are listed.
    pub(super) const LISTED: usize = 1000;

    pub(super) fn add(&mut self, other: Self) {
        self.counts.add(&other.counts);
        self.differences.extend(other.differences);
        self.differences.truncate(Self::LISTED);
    }

    fn differs(&mut self, difference: ClickDifference) {
        if self.differences.len() < Self::LISTED {
            self.differences.push(difference);
        }
    }
}

impl ClickBook {
    pub(super) fn new(slice: IdSlice, since: Timestamp) -> Self {
        Self {
            slice,
            since,
            dead: HashSet::new(),
            records: HashMap::new(),
            traces: HashMap::new(),
            counted: CountedClicks::default(),
        }
    }

    /// Returns the number of facts that are held in memory.
    pub(super) fn noted(&self) -> usize {
        self.dead.len() + self.records.len() + self.traces.len()
    }

    /// Notes a dead letter of a line, or of a whole bundle.
    pub(super) fn dead(&mut self, origin: &DeadOrigin) {
        self.dead.insert((origin.partition, origin.offset, origin.line));
    }

    /// Notes a record of a click on `clicks`.
    pub(super) fn recorded(&mut self, click: ClickId) {
        if self.slice.contains(click.bits()) && click.timestamp() >= self.since {
            *self.records.entry(click).or_default() += 1;
        }
    }

    /// Notes the lines of a bundle.
    pub(super) fn bundle(&mut self, place: RecordPlace, value: &[u8], progress: RecordProgress) {
        let lines = value.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (number, line) in (0..).zip(lines) {
            let (index, offset) = (place.partition.index, place.offset);
            let is_dead = [Some(number), None].into_iter().any(|line| self.dead.contains(&(index, offset, line)));
            match serde_json::from_slice::<LineHead>(line) {
                Ok(head) => self.line(&head, place, number, is_dead, progress),
                Err(_) if self.slice.is_first() => self.unreadable(place, number, is_dead, progress),
                Err(_) => {}
            }
        }
    }

    fn line(&mut self, head: &LineHead, place: RecordPlace, line: u32, is_dead: bool, progress: RecordProgress) {
        if !self.slice.contains(head.id.bits()) || head.id.timestamp() < self.since {
            return;
        }
        let counts = &mut self.counted.counts;
        if !head.class.counts() {
            counts.not_counted += 1;
            return;
        }
        counts.captured += 1;
        let is_read = progress == RecordProgress::Done;
        let trace = self.traces.entry(head.id).or_insert(ClickTrace { place, line, lines: 0, is_read, is_dead });
        trace.lines += 1;
        trace.is_read |= is_read;
        trace.is_dead |= is_dead;
        if trace.lines > 1 {
            counts.second_copies += 1;
        }
    }

    fn unreadable(&mut self, place: RecordPlace, line: u32, is_dead: bool, progress: RecordProgress) {
        let counts = &mut self.counted.counts;
        counts.captured += 1;
        match progress {
            _ if is_dead => counts.dead += 1,
            RecordProgress::Open => counts.waiting += 1,
            RecordProgress::Done => {
                counts.missing += 1;
                self.counted.differs(ClickDifference { click: None, place, line, records: 0 });
            }
        }
    }

    pub(super) fn finish(mut self) -> CountedClicks {
        for (click, trace) in &self.traces {
            let records = self.records.get(click).copied().unwrap_or_default();
            let counts = &mut self.counted.counts;
            counts.doubled += u64::from(records.saturating_sub(1));
            match records {
                1.. => counts.recorded += 1,
                0 if trace.is_dead => counts.dead += 1,
                0 if !trace.is_read => counts.waiting += 1,
                0 => counts.missing += 1,
            }
            let is_missing = records == 0 && !trace.is_dead && trace.is_read;
            if is_missing || records > 1 {
                let ClickTrace { place, line, .. } = *trace;
                self.counted.differs(ClickDifference { click: Some(*click), place, line, records });
            }
        }
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use bus::Partition;
    use schemas::Topic;

    use super::*;

    const SINCE: Timestamp = Timestamp::from_millis(1_770_301_425_120);

    fn id(number: u64) -> ClickId {
        ClickId::new(SINCE, 7, number)
    }

    fn place(offset: i64) -> RecordPlace {
        RecordPlace { partition: Partition { topic: Topic::ClicksRaw, index: 1 }, offset }
    }

    fn bundle(lines: &[(ClickId, &str)]) -> Vec<u8> {
        let lines = lines.iter().map(|(id, class)| format!("{{\"v\":1,\"id\":\"{id}\",\"class\":\"{class}\"}}\n"));
        lines.collect::<String>().into_bytes()
    }

    fn origin(offset: i64, line: Option<u32>) -> DeadOrigin {
        DeadOrigin { line, ..DeadOrigin::record(String::new(), 1, offset) }
    }

    fn count(slice: IdSlice, fill: impl Fn(&mut ClickBook)) -> CountedClicks {
        let mut book = ClickBook::new(slice, SINCE);
        fill(&mut book);
        book.finish()
    }

    #[test]
    fn every_line_is_a_click_dead_a_second_copy_or_waits() {
        let fill = |book: &mut ClickBook| {
            book.dead(&origin(0, Some(2)));
            book.dead(&origin(0, Some(3)));
            book.dead(&origin(2, None));
            book.recorded(id(1));
            book.recorded(id(2));
            let lines = [(id(1), "click"), (id(9), "orphan"), (id(3), "qr")];
            let mut value = bundle(&lines);
            value.extend_from_slice(b"no json\n");
            book.bundle(place(0), &value, RecordProgress::Done);
            // A second copy, of which one line was not in the first.
            book.bundle(place(1), &bundle(&[(id(1), "click"), (id(2), "click")]), RecordProgress::Done);
            book.bundle(place(2), &bundle(&[(id(4), "click"), (id(5), "click")]), RecordProgress::Done);
            book.bundle(place(3), &bundle(&[(id(6), "click")]), RecordProgress::Open);
        };
        let expected = ClickCounts {
            captured: 8,
            recorded: 2,
            waiting: 1,
            dead: 4,
            second_copies: 1,
            not_counted: 1,
            ..ClickCounts::default()
        };
        assert_eq!(count(IdSlice::ALL, fill), CountedClicks { counts: expected, differences: Vec::new() });
        let mut sum = CountedClicks::default();
        for slice in IdSlice::halves() {
            sum.add(count(slice, fill));
        }
        assert_eq!(sum.counts, expected, "slices add up");
        assert!(expected.is_balanced());
    }

    #[test]
    fn what_is_lost_or_doubled_is_named() {
        let counted = count(IdSlice::ALL, |book| {
            book.recorded(id(2));
            book.recorded(id(2));
            book.bundle(place(4), &bundle(&[(id(1), "click"), (id(2), "click")]), RecordProgress::Done);
            book.bundle(place(5), b"no json\n", RecordProgress::Done);
        });
        assert_eq!((counted.counts.missing, counted.counts.doubled, counted.counts.captured), (2, 1, 3));
        assert!(!counted.counts.is_balanced());
        let differs = |click, offset, line, records| {
            counted.differences.contains(&ClickDifference { click, place: place(offset), line, records })
        };
        assert!(differs(Some(id(1)), 4, 0, 0));
        assert!(differs(Some(id(2)), 4, 1, 2));
        assert!(differs(None, 5, 0, 0));
    }

    #[test]
    fn visits_before_the_beginning_are_left_out() {
        let early = ClickId::new(Timestamp::from_millis(SINCE.as_millis() - 1), 7, 1);
        let counted = count(IdSlice::ALL, |book| {
            book.recorded(early);
            book.bundle(place(0), &bundle(&[(early, "click")]), RecordProgress::Done);
        });
        assert_eq!(counted, CountedClicks::default());
    }
}
