//! A simulation: a partition's blocks against a ClickHouse that fails in every known
//! way, and owners that die at every step. In the end each row is present once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Instant,
};

use bus::{Assigned, Commit, Partition};
use proptest::prelude::*;
use schemas::{Dead, EndpointId, Envelope, EventName, LinkId, Timestamp, Topic, sample};
use store::{Insertion, Span, StoreError, Table};

use super::{
    config::Config,
    sink::{self, Sink},
    track::PartitionTrack,
};

const PARTITION: Partition = Partition { topic: Topic::Events, index: 3 };
const RECORDS: i64 = 14;
const MONTH_MS: i64 = 31 * 24 * 3_600_000;

/// A fault that is injected, or none.
#[derive(Clone, Copy, Debug)]
enum InjectedFault {
    None,
    /// The owner dies.
    Crash,
    /// The request never arrives.
    Lost,
    /// The rows are inserted, and the answer is lost.
    Mute,
    /// One of two parts is inserted, and the answer is lost.
    Half,
    /// ClickHouse has no memory left.
    Memory,
    /// ClickHouse remembers the token, and is killed before the part is written.
    OnlyToken,
    /// The part is written, and ClickHouse is killed before it remembers the token.
    OnlyPart,
    /// The request is still on its way, and arrives later.
    Late,
}

struct FaultySink {
    faults: RefCell<Vec<InjectedFault>>,
    rows: RefCell<Vec<(Table, u64, String)>>,
    tokens: RefCell<HashSet<(Table, String, i64)>>,
    late: RefCell<Vec<Insertion>>,
    dead: RefCell<BTreeSet<i64>>,
}

impl FaultySink {
    fn fault(&self) -> InjectedFault {
        self.faults.borrow_mut().pop().unwrap_or(InjectedFault::None)
    }

    /// Inserts as ClickHouse does: a part for each month, unless a part with that token
    /// was inserted before.
    fn take(&self, insertion: &Insertion, fault: InjectedFault) -> Result<(), StoreError> {
        let table = insertion.table;
        let mut months: BTreeMap<i64, Vec<(Table, u64, String)>> = BTreeMap::new();
        for row in decode(table, &insertion.rows) {
            if is_poison(row.offset.cast_signed()) {
                return Err(refusal(469));
            }
            months.entry(row.millis / MONTH_MS).or_default().push((table, row.offset, row.id));
        }
        for (nth, (month, rows)) in months.into_iter().enumerate() {
            if matches!(fault, InjectedFault::Half) && nth > 0 {
                break;
            }
            let token = (table, insertion.token.clone(), month);
            let known = self.tokens.borrow().contains(&token);
            if !known && !matches!(fault, InjectedFault::OnlyToken) {
                self.rows.borrow_mut().extend(rows);
            }
            if !matches!(fault, InjectedFault::OnlyPart) {
                self.tokens.borrow_mut().insert(token);
            }
        }
        Ok(())
    }

    fn late_ones_arrive(&self) {
        for insertion in self.late.borrow_mut().drain(..) {
            // No reader waits for the answer.
            let _ = self.take(&insertion, InjectedFault::None);
        }
    }
}

fn refusal(code: u32) -> StoreError {
    StoreError::Refused { code, reason: "said so".to_owned() }
}

fn silence() -> StoreError {
    StoreError::Unreachable { url: String::new(), reason: "cut".to_owned() }
}

impl Sink for FaultySink {
    async fn insert(&self, insertion: Insertion) -> Result<(), StoreError> {
        match self.fault() {
            InjectedFault::None | InjectedFault::Crash => self.take(&insertion, InjectedFault::None),
            InjectedFault::Lost => Err(silence()),
            InjectedFault::Memory => Err(refusal(241)),
            InjectedFault::Late => {
                self.late.borrow_mut().push(insertion);
                Err(silence())
            }
            fault => {
                let refused = self.take(&insertion, fault).is_err();
                Err(if refused { refusal(241) } else { silence() })
            }
        }
    }

    async fn quiesce(&self, _: &str) -> Result<(), StoreError> {
        if matches!(self.fault(), InjectedFault::Lost) { Err(silence()) } else { Ok(()) }
    }

    async fn present(&self, span: &Span<'_>) -> Result<HashSet<(u64, String)>, StoreError> {
        if matches!(self.fault(), InjectedFault::Late) {
            self.late_ones_arrive();
        }
        let rows = self.rows.borrow();
        let inside =
            rows.iter().filter(|(table, offset, _)| *table == span.table && (span.first..=span.last).contains(offset));
        Ok(inside.map(|(_, offset, id)| (*offset, id.clone())).collect())
    }

    async fn write_dead(&self, dead: &[Dead]) -> Result<(), String> {
        if matches!(self.fault(), InjectedFault::Lost) {
            return Err("cut".to_owned());
        }
        self.dead.borrow_mut().extend(dead.iter().map(|dead| dead.origin.offset));
        Ok(())
    }
}

struct Decoded {
    id: String,
    millis: i64,
    offset: u64,
}

/// Decodes rows as `store::rows` writes them.
fn decode(table: Table, mut bytes: &[u8]) -> Vec<Decoded> {
    // The columns: a text, a list or map of texts, or a number of so many bytes.
    let columns = match table {
        Table::Conversions => "tt8tttttt*tttttttttt8t8ttt18:ttttttttt28",
        _ => "tt8tttt28",
    };
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        for column in columns.chars() {
            match column {
                't' => texts.push(text(&mut bytes)),
                '*' => (0..length(&mut bytes)).for_each(|_| drop(text(&mut bytes))),
                ':' => (0..2 * length(&mut bytes)).for_each(|_| drop(text(&mut bytes))),
                width => numbers.push(number(&mut bytes, width.to_digit(10).unwrap() as usize)),
            }
        }
        let offset = *numbers.last().unwrap();
        rows.push(Decoded { id: texts.swap_remove(0), millis: numbers[0].cast_signed(), offset });
    }
    rows
}

fn length(bytes: &mut &[u8]) -> usize {
    let mut length = 0;
    let mut shift = 0;
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return length;
        }
    }
}

fn text(bytes: &mut &[u8]) -> String {
    let length = length(bytes);
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    String::from_utf8(text.to_vec()).unwrap()
}

fn number(bytes: &mut &[u8], width: usize) -> u64 {
    let (number, rest) = bytes.split_at(width);
    *bytes = rest;
    number.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

const fn is_poison(offset: i64) -> bool {
    offset == 5 || offset == 9
}

/// Returns the record at an offset. Offsets 2 and 12 make no rows: one cannot be read,
/// one is a test. Offset 7 is a transaction's marker, which no reader sees.
fn record(offset: i64) -> Option<Vec<u8>> {
    let at = Timestamp::from_millis(offset % 2 * MONTH_MS + offset);
    // Rows of two tables alternate.
    let name = if offset % 4 < 2 { EventName::LinkConverted } else { EventName::LinkCreated };
    let mut event = sample::event(name, at);
    event.link.as_mut().unwrap().id = LinkId::from_bits(offset as u128);
    let endpoint = (offset == 12).then(|| EndpointId::from_bits(1));
    match offset {
        7 => None,
        2 => Some(b"{".to_vec()),
        _ => {
            Some(serde_json::to_vec(&Envelope { v: 1, workspace: "w".into(), ip_key: None, endpoint, event }).unwrap())
        }
    }
}

/// Runs owners one after the other until everything is stored.
fn run(faults: Vec<InjectedFault>, max_rows: usize) -> FaultySink {
    let sink = FaultySink {
        faults: RefCell::new(faults),
        rows: RefCell::default(),
        tokens: RefCell::default(),
        late: RefCell::default(),
        dead: RefCell::default(),
    };
    let config = Config { max_rows, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut kafka = (0, String::new());
    while kafka.0 < RECORDS {
        own(&sink, &config, &runtime, &mut kafka);
    }
    sink.late_ones_arrive();
    sink
}

/// Runs one owner until everything is stored or a fault ends it.
fn own(sink: &FaultySink, config: &Config, runtime: &tokio::runtime::Runtime, kafka: &mut (i64, String)) {
    let commit = |kafka: &mut (i64, String), commit: Commit| {
        assert!(commit.offset >= kafka.0, "an offset went back");
        *kafka = (commit.offset, commit.metadata.unwrap());
    };
    let now = Instant::now();
    let assigned = Assigned { partition: PARTITION, offset: kafka.0, metadata: kafka.1.clone() };
    let mut track = PartitionTrack::new(&assigned, "t.events", now).unwrap();
    let mut position = kafka.0;
    loop {
        while position < RECORDS && !track.is_pending() {
            if let Some(record) = record(position) {
                track.take(position, Some(&record), now);
            }
            position += 1;
            track.close_due(config, now);
        }
        track.close_early();
        let Some(work) = track.work() else {
            if let Some(last) = track.to_commit() {
                commit(kafka, last);
                track.committed();
            }
            assert_eq!(track.done(), RECORDS);
            return;
        };
        if let Some(note) = track.to_record() {
            if matches!(sink.fault(), InjectedFault::Crash) {
                return;
            }
            commit(kafka, note);
            track.recorded();
        }
        let concluded = runtime.block_on(sink::attempt(sink, "db", &work));
        if matches!(sink.fault(), InjectedFault::Crash) {
            return;
        }
        track.conclude(concluded.outcome, Timestamp::from_millis(0));
        // A rebalance commits finished work.
        if matches!(sink.fault(), InjectedFault::Crash) {
            if let Some(given) = track.to_commit() {
                commit(kafka, given);
            }
            return;
        }
    }
}

fn check(sink: &FaultySink) -> Result<(), TestCaseError> {
    let mut offsets: Vec<u64> = sink.rows.borrow().iter().map(|(_, offset, _)| *offset).collect();
    offsets.sort_unstable();
    prop_assert_eq!(offsets, [0, 1, 3, 4, 6, 8, 10, 11, 13]);
    prop_assert_eq!(&*sink.dead.borrow(), &BTreeSet::from([2, 5, 9]));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn kills_of_either_side_leave_every_row_once(
        faults in prop::collection::vec(prop::sample::select(vec![
            InjectedFault::None, InjectedFault::None, InjectedFault::Crash, InjectedFault::Lost, InjectedFault::Mute, InjectedFault::Half, InjectedFault::Memory, InjectedFault::OnlyToken, InjectedFault::OnlyPart,
        ]), 0..60),
        max_rows in 1_usize..12,
    ) {
        check(&run(faults, max_rows))?;
    }

    #[test]
    fn an_insert_that_arrives_late_is_dropped(
        faults in prop::collection::vec(prop::sample::select(vec![
            InjectedFault::None, InjectedFault::None, InjectedFault::Crash, InjectedFault::Lost, InjectedFault::Mute, InjectedFault::Half, InjectedFault::OnlyToken, InjectedFault::Late, InjectedFault::Late,
        ]), 0..60),
        max_rows in 1_usize..12,
    ) {
        check(&run(faults, max_rows))?;
    }
}
