//! A simulation: the blocks of several partitions against a ClickHouse that fails in every
//! known way, and owners that die at every step, and of whom each owns other partitions.
//! In the end each row is present once.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Instant,
};

use bus::{Assigned, Commit, Partition};
use parking_lot::Mutex;
use proptest::prelude::*;
use schemas::{Dead, EndpointId, Envelope, EventName, LinkId, Timestamp, Topic, sample};
use store::{Insertion, Span, StoreError, Table};

use super::{
    sink::{self, Sink},
    track::{BlockWork, PartitionTrack},
};

const PARTITIONS: i32 = 3;
const RECORDS: i64 = 12;
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
    /// The rows are inserted, and a view refuses them.
    View,
    /// ClickHouse remembers the token, and is killed before the part is written.
    OnlyToken,
    /// The part is written, and ClickHouse is killed before it remembers the token.
    OnlyPart,
    /// The request is still on its way, and arrives later.
    Late,
}

/// A row, by its table, partition, offset and id.
type StoredRow = (Table, u64, u64, String);

#[derive(Default)]
struct FaultySink {
    faults: Mutex<Vec<InjectedFault>>,
    rows: Mutex<Vec<StoredRow>>,
    tokens: Mutex<HashSet<(Table, String, i64)>>,
    late: Mutex<Vec<Insertion>>,
    dead: Mutex<BTreeSet<(i32, i64)>>,
}

impl FaultySink {
    fn fault(&self) -> InjectedFault {
        self.faults.lock().pop().unwrap_or(InjectedFault::None)
    }

    /// Inserts as ClickHouse does: a part for each month, unless a part with that token
    /// was inserted before.
    fn take(&self, insertion: &Insertion, fault: InjectedFault) {
        let table = insertion.table;
        let mut months: BTreeMap<i64, Vec<StoredRow>> = BTreeMap::new();
        for row in insertion.rows.iter().flat_map(|piece| decode(table, piece)) {
            months.entry(row.millis / MONTH_MS).or_default().push((table, row.partition, row.offset, row.id));
        }
        for (nth, (month, rows)) in months.into_iter().enumerate() {
            if matches!(fault, InjectedFault::Half) && nth > 0 {
                break;
            }
            let token = (table, insertion.token.clone(), month);
            let known = self.tokens.lock().contains(&token);
            if !known && !matches!(fault, InjectedFault::OnlyToken) {
                self.rows.lock().extend(rows);
            }
            if !matches!(fault, InjectedFault::OnlyPart) {
                self.tokens.lock().insert(token);
            }
        }
    }

    fn late_ones_arrive(&self) {
        for insertion in self.late.lock().drain(..) {
            self.take(&insertion, InjectedFault::None);
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
            InjectedFault::Lost => return Err(silence()),
            InjectedFault::Memory => return Err(refusal(241)),
            InjectedFault::View => {
                self.take(&insertion, InjectedFault::None);
                return Err(StoreError::View { view: "v".to_owned(), code: 6, reason: "said so".to_owned() });
            }
            InjectedFault::Late => {
                self.late.lock().push(insertion);
                return Err(silence());
            }
            fault => {
                self.take(&insertion, fault);
                return Err(silence());
            }
        }
        Ok(())
    }

    async fn quiesce(&self, _: &str) -> Result<(), StoreError> {
        if matches!(self.fault(), InjectedFault::Lost) { Err(silence()) } else { Ok(()) }
    }

    async fn present(&self, span: &Span<'_>) -> Result<HashSet<(u64, String)>, StoreError> {
        match self.fault() {
            InjectedFault::Late => self.late_ones_arrive(),
            InjectedFault::Lost => return Err(silence()),
            _ => {}
        }
        let rows = self.rows.lock();
        let inside = rows.iter().filter(|(table, partition, offset, _)| {
            (*table, *partition) == (span.table, u64::from(span.partition)) && (span.first..=span.last).contains(offset)
        });
        Ok(inside.map(|(_, _, offset, id)| (*offset, id.clone())).collect())
    }

    async fn write_dead(&self, dead: &[Dead]) -> Result<(), String> {
        if matches!(self.fault(), InjectedFault::Lost) {
            return Err("cut".to_owned());
        }
        self.dead.lock().extend(dead.iter().map(|dead| (dead.origin.partition, dead.origin.offset)));
        Ok(())
    }
}

struct Decoded {
    id: String,
    millis: i64,
    partition: u64,
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
        let [.., partition, offset] = numbers[..] else { panic!("the columns are other ones") };
        rows.push(Decoded { id: texts.swap_remove(0), millis: numbers[0].cast_signed(), partition, offset });
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

/// Returns the record at an offset. Offsets 2 and 10 make no rows: one cannot be read,
/// one is a test. Offset 7 is a transaction's marker, which no reader sees.
fn record(offset: i64) -> Option<Vec<u8>> {
    let at = Timestamp::from_millis(offset % 2 * MONTH_MS + offset);
    // Rows of two tables alternate.
    let name = if offset % 4 < 2 { EventName::LinkConverted } else { EventName::LinkCreated };
    let mut event = sample::event(name, at);
    event.link.as_mut().unwrap().id = LinkId::from_bits(offset as u128);
    let endpoint = (offset == 10).then(|| EndpointId::from_bits(1));
    match offset {
        7 => None,
        2 => Some(b"{".to_vec()),
        _ => {
            Some(serde_json::to_vec(&Envelope { v: 1, workspace: "w".into(), ip_key: None, endpoint, event }).unwrap())
        }
    }
}

/// The committed offset of each partition, with its note.
type Committed = Vec<(i64, String)>;

/// Runs owners one after the other until everything is stored. Each owns the partitions of
/// the next of `shares`, as bits, and every partition when there is no more.
fn run(faults: Vec<InjectedFault>, shares: Vec<u8>, max_rows: usize) -> FaultySink {
    let sink = FaultySink { faults: Mutex::new(faults), ..FaultySink::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut kafka: Committed = vec![(0, String::new()); PARTITIONS as usize];
    let mut shares = shares.into_iter();
    while kafka.iter().any(|(offset, _)| *offset < RECORDS) {
        let share = shares.next().unwrap_or(u8::MAX);
        own(&sink, max_rows, share, &runtime, &mut kafka);
    }
    sink.late_ones_arrive();
    sink
}

/// Runs one owner until everything is stored, or a fault ends it.
fn own(sink: &FaultySink, max_rows: usize, share: u8, runtime: &tokio::runtime::Runtime, kafka: &mut Committed) {
    let commit = |kafka: &mut Committed, commit: Commit| {
        let committed = &mut kafka[commit.partition.index as usize];
        assert!(commit.offset >= committed.0, "an offset went back");
        *committed = (commit.offset, commit.metadata.unwrap());
    };
    let now = Instant::now();
    let mut tracks: Vec<(i64, PartitionTrack)> = (0..PARTITIONS)
        .filter(|index| share >> index & 1 == 1)
        .map(|index| {
            let (offset, metadata) = kafka[index as usize].clone();
            let assigned = Assigned { partition: Partition { topic: Topic::Events, index }, offset, metadata };
            (offset, PartitionTrack::new(&assigned, 1, "t.events", now).unwrap())
        })
        .collect();
    loop {
        for (position, track) in &mut tracks {
            while *position < RECORDS && !track.is_pending() {
                if let Some(record) = record(*position) {
                    track.take(*position, Some(&record), now);
                }
                *position += 1;
                if track.open_size().0 >= max_rows {
                    break;
                }
            }
            track.close_open();
        }
        let insert = rand::random();
        tracks.iter_mut().for_each(|(_, track)| track.number(insert));
        let works: Vec<BlockWork> = tracks.iter().filter_map(|(_, track)| track.work()).collect();
        if works.is_empty() {
            for (_, track) in &mut tracks {
                if let Some(last) = track.to_commit() {
                    commit(kafka, last);
                    track.committed();
                }
                assert_eq!(track.done(), RECORDS);
            }
            return;
        }
        for (_, track) in &mut tracks {
            if let Some(note) = track.to_record() {
                if matches!(sink.fault(), InjectedFault::Crash) {
                    return;
                }
                commit(kafka, note);
                track.recorded();
            }
        }
        let mut outcomes = runtime.block_on(sink::round(sink, "db", &works)).outcomes.into_iter();
        if matches!(sink.fault(), InjectedFault::Crash) {
            return;
        }
        for (_, track) in tracks.iter_mut().filter(|(_, track)| track.is_pending()) {
            track.conclude(outcomes.next().unwrap());
        }
        // A rebalance commits finished work.
        if matches!(sink.fault(), InjectedFault::Crash) {
            for given in tracks.iter().filter_map(|(_, track)| track.to_commit()) {
                commit(kafka, given);
            }
            return;
        }
    }
}

fn check(sink: &FaultySink) -> Result<(), TestCaseError> {
    let mut rows: Vec<(u64, u64)> = sink.rows.lock().iter().map(|row| (row.1, row.2)).collect();
    rows.sort_unstable();
    let every =
        (0..PARTITIONS as u64).flat_map(|partition| [0, 1, 3, 4, 5, 6, 8, 9, 11].map(|offset| (partition, offset)));
    prop_assert_eq!(rows, Vec::from_iter(every));
    prop_assert_eq!(&*sink.dead.lock(), &BTreeSet::from_iter((0..PARTITIONS).map(|partition| (partition, 2))));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn kills_of_either_side_leave_every_row_once(
        faults in prop::collection::vec(prop::sample::select(vec![
            InjectedFault::None, InjectedFault::None, InjectedFault::Crash, InjectedFault::Lost, InjectedFault::Mute, InjectedFault::Half, InjectedFault::Memory, InjectedFault::View, InjectedFault::OnlyToken, InjectedFault::OnlyPart,
        ]), 0..60),
        shares in prop::collection::vec(1_u8..8, 0..8),
        max_rows in 1_usize..12,
    ) {
        check(&run(faults, shares, max_rows))?;
    }

    #[test]
    fn an_insert_that_arrives_late_is_dropped(
        faults in prop::collection::vec(prop::sample::select(vec![
            InjectedFault::None, InjectedFault::None, InjectedFault::Crash, InjectedFault::Lost, InjectedFault::Mute, InjectedFault::Half, InjectedFault::OnlyToken, InjectedFault::Late, InjectedFault::Late,
        ]), 0..60),
        shares in prop::collection::vec(1_u8..8, 0..8),
        max_rows in 1_usize..12,
    ) {
        check(&run(faults, shares, max_rows))?;
    }
}
