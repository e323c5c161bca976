//! The steps that the [`PartitionTrack`](super::track::PartitionTrack)s decide, carried
//! out for all partitions together: only here are rows sent to ClickHouse and dead
//! letters to Kafka.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bus::{Bus, Outgoing, Partition, Producer};
use futures_util::future::join_all;
use schemas::{Dead, Topic};
use store::{Insertion, Span, Store, StoreError, Table};
use tracing::{debug, info, warn};

use super::{
    block::BlockRow,
    track::{BlockOutcome, BlockWork, Step},
};

/// The destination of rows and dead letters. Tests have one that fails on purpose.
pub(super) trait Sink {
    /// Inserts a block.
    fn insert(&self, insertion: Insertion) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Ends the queries whose ids begin with `prefix`.
    fn quiesce(&self, prefix: &str) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Returns the rows that are present in a range.
    fn present(&self, span: &Span<'_>) -> impl Future<Output = Result<HashSet<(u64, String)>, StoreError>> + Send;
    /// Writes dead letters.
    fn write_dead(&self, dead: &[Dead]) -> impl Future<Output = Result<(), String>> + Send;
}

/// ClickHouse for rows, and the topic `dead`.
pub(super) struct ClickHouseSink {
    store: Store,
    bus: Bus,
    /// The producer of dead letters, made for the first one: most installations never
    /// write one, and an idle producer's thread is not free.
    producer: OnceLock<Producer>,
}

/// The time that Kafka has to acknowledge a dead letter.
const DEAD_PATIENCE: Duration = Duration::from_secs(30);

impl ClickHouseSink {
    pub(super) const fn new(store: Store, bus: Bus) -> Self {
        Self { store, bus, producer: OnceLock::new() }
    }

    fn producer(&self) -> Result<&Producer, String> {
        if let Some(producer) = self.producer.get() {
            return Ok(producer);
        }
        let producer = self
            .bus
            .producer("warehouse", Duration::from_millis(5), DEAD_PATIENCE)
            .map_err(|error| error.to_string())?;
        Ok(self.producer.get_or_init(|| producer))
    }
}

impl Sink for ClickHouseSink {
    async fn insert(&self, insertion: Insertion) -> Result<(), StoreError> {
        self.store.insert(insertion).await
    }

    async fn quiesce(&self, prefix: &str) -> Result<(), StoreError> {
        self.store.quiesce(prefix).await
    }

    async fn present(&self, span: &Span<'_>) -> Result<HashSet<(u64, String)>, StoreError> {
        self.store.present(span).await
    }

    async fn write_dead(&self, dead: &[Dead]) -> Result<(), String> {
        let producer = self.producer()?;
        let acks = join_all(dead.iter().map(|dead| write_one(producer, dead.clone())));
        acks.await.into_iter().collect()
    }
}

/// Writes a dead letter, cut where it is too large for Kafka.
async fn write_one(producer: &Producer, mut dead: Dead) -> Result<(), String> {
    loop {
        let value = serde_json::to_vec(&dead).map_err(|error| error.to_string())?;
        let out = Outgoing::keyed(Topic::Dead, dead.origin.topic.as_bytes(), Some(&value));
        match producer.produce(&out).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_too_large() => {
                warn!(topic = dead.origin.topic, offset = dead.origin.offset, "dead letter too large for Kafka: cut");
                dead = dead.smaller().ok_or_else(|| error.to_string())?;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The engine that a block waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WaitCause {
    /// ClickHouse, for rows of this table.
    Table(Table),
    /// Kafka, for notes and dead letters.
    Kafka,
}

impl fmt::Display for WaitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => f.write_str(table.name()),
            Self::Kafka => f.write_str("Kafka"),
        }
    }
}

/// The reason why a cause has to be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WaitFailure {
    /// The error, for people.
    pub(super) why: String,
    /// Whether a view has refused the block, whose rows may be in the table nevertheless.
    pub(super) of_view: bool,
}

impl From<&StoreError> for WaitFailure {
    fn from(error: &StoreError) -> Self {
        Self { why: error.to_string(), of_view: matches!(error, StoreError::View { .. }) }
    }
}

/// The result of a round.
#[derive(Debug, Default)]
pub(super) struct RoundResult {
    /// The outcome of each block's step, in the order of the works.
    pub(super) outcomes: Vec<BlockOutcome>,
    /// The numbers of rows that were inserted, by their tables.
    pub(super) inserted: BTreeMap<Table, usize>,
    /// The causes that must pass before the next try.
    pub(super) failures: BTreeMap<WaitCause, WaitFailure>,
}

/// Rows of a work that are to be inserted.
type WorkRows<'a> = (&'a BlockWork, Arc<[BlockRow]>);

/// Carries out a step of each block. Rows of all partitions are one insert for each table;
/// a block that must be looked up is looked up by its own range. `scope` makes query ids
/// unique among installations that share a ClickHouse.
pub(super) async fn round<S: Sink + Sync>(sink: &S, scope: &str, works: &[BlockWork]) -> RoundResult {
    let mut fresh: Vec<WorkRows<'_>> = Vec::new();
    let mut recorded: BTreeMap<Option<u64>, Vec<&BlockWork>> = BTreeMap::new();
    for work in works {
        match &work.step {
            Step::Insert(rows) => fresh.push((work, Arc::clone(rows))),
            Step::Settle => recorded.entry(work.range.insert).or_default().push(work),
            Step::WriteDead => {}
        }
    }
    let settles = recorded.into_iter().map(|(insert, works)| settle(sink, scope, insert, works));
    let (stored, settled) = tokio::join!(insert(sink, scope, &fresh), join_all(settles));
    let mut result = RoundResult::default();
    let mut unsettled: BTreeMap<(Partition, i64), BlockOutcome> = BTreeMap::new();
    result.note(&stored);
    for settled in settled {
        result.note(&settled.stored);
        unsettled.extend(settled.open);
    }
    for work in works {
        let outcome = match unsettled.remove(&(work.partition, work.block.first)) {
            Some(outcome) => outcome,
            None if matches!(work.step, Step::Insert(_)) && stored.lacks(work) => BlockOutcome::Unknown,
            None => write_dead(sink, work, &mut result.failures).await,
        };
        result.outcomes.push(outcome);
    }
    result
}

impl RoundResult {
    fn note(&mut self, stored: &TableInserts) {
        for (table, outcome) in &stored.0 {
            match outcome {
                Ok(rows) => *self.inserted.entry(*table).or_default() += rows,
                Err(failure) => drop(self.failures.insert(WaitCause::Table(*table), failure.clone())),
            }
        }
    }
}

async fn write_dead<S: Sink>(
    sink: &S,
    work: &BlockWork,
    failures: &mut BTreeMap<WaitCause, WaitFailure>,
) -> BlockOutcome {
    if work.block.dead.is_empty() {
        return BlockOutcome::Done;
    }
    match sink.write_dead(&work.block.dead).await {
        Ok(()) => BlockOutcome::Done,
        Err(why) => {
            failures.insert(WaitCause::Kafka, WaitFailure { why, of_view: false });
            BlockOutcome::DeadUnwritten
        }
    }
}

/// The outcomes of the inserts of a round: the numbers of rows, or the failures.
#[derive(Debug, Default)]
struct TableInserts(BTreeMap<Table, Result<usize, WaitFailure>>);

impl TableInserts {
    /// Reports whether rows of a work are in an insert that failed.
    fn lacks(&self, work: &BlockWork) -> bool {
        work.block.tables.iter().any(|table| matches!(self.0.get(table), Some(Err(_))))
    }
}

/// Inserts rows of several partitions, all of whose ranges are recorded under one number.
async fn insert<S: Sink + Sync>(sink: &S, scope: &str, works: &[WorkRows<'_>]) -> TableInserts {
    let tables: BTreeSet<Table> = works.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.table)).collect();
    // Side by side, so that two tables take no longer than one; and each to its end, since an
    // insert that is given up may still arrive.
    let inserts = tables.into_iter().map(|table| async move {
        let number = works.iter().find_map(|(work, _)| work.range.insert).unwrap_or_default();
        let insertion = Insertion {
            table,
            rows: works.iter().flat_map(|(work, rows)| work.block.encoded(of_table(rows, table))).collect(),
            // Each table has its own tokens.
            token: format!("{number:016x}"),
            query_id: format!("{}{:016x}", query_prefix(scope, number), rand::random::<u64>()),
        };
        let count = works.iter().map(|(_, rows)| of_table(rows, table).count()).sum();
        let outcome = sink.insert(insertion).await;
        (table, outcome.map(|()| count).map_err(|error| WaitFailure::from(&error)))
    });
    TableInserts(join_all(inserts).await.into_iter().collect())
}

fn of_table(rows: &[BlockRow], table: Table) -> impl Iterator<Item = &BlockRow> {
    rows.iter().filter(move |row| row.table == table)
}

/// The result of settling the blocks of one insert.
#[derive(Debug, Default)]
struct SettledBlocks {
    stored: TableInserts,
    /// The outcomes of blocks whose rows are not all present, by partition and first offset.
    open: BTreeMap<(Partition, i64), BlockOutcome>,
}

impl SettledBlocks {
    /// Notes that rows of a work in a table may be absent, because ClickHouse has failed.
    fn unknown(&mut self, work: &BlockWork, table: Table, error: &StoreError) {
        self.stored.0.insert(table, Err(error.into()));
        self.open.insert((work.partition, work.block.first), BlockOutcome::Unknown);
    }

    /// Looks which rows are missing, and returns them.
    async fn look<'w, S: Sink + Sync>(&mut self, sink: &S, works: &[&'w BlockWork]) -> Vec<WorkRows<'w>> {
        let spans = works.iter().flat_map(|work| work.block.tables.iter().map(|table| (*work, *table)));
        let looks = spans.map(|(work, table)| async move { (work, table, sink.present(&span(work, table)).await) });
        let mut present: BTreeMap<(Partition, i64), HashSet<(u64, String)>> = BTreeMap::new();
        for (work, table, found) in join_all(looks).await {
            match found {
                Ok(rows) => present.entry((work.partition, work.block.first)).or_default().extend(rows),
                Err(error) => self.unknown(work, table, &error),
            }
        }
        let known = works.iter().filter(|work| !self.open.contains_key(&(work.partition, work.block.first)));
        let missing = known.map(|work| (*work, work.block.missing(&present[&(work.partition, work.block.first)])));
        missing.filter(|(_, rows)| !rows.is_empty()).collect()
    }
}

/// Returns the rows of a work in a table, to look for.
fn span(work: &BlockWork, table: Table) -> Span<'_> {
    Span {
        table,
        topic: &work.topic,
        partition: u16::try_from(work.partition.index).unwrap_or(u16::MAX),
        first: work.block.first.min(work.range.first).cast_unsigned(),
        last: work.block.last.max(work.range.last).cast_unsigned(),
        rows: of_table(&work.block.rows, table).map(|row| (work.block.id(row), row.at)).collect(),
    }
}

/// Looks which rows of an insert are present and inserts the others under the same token,
/// so that ClickHouse drops an insert of an earlier owner that arrives later. A block
/// whose rows are missing nevertheless gets another number.
async fn settle<S: Sink + Sync>(sink: &S, scope: &str, number: Option<u64>, works: Vec<&BlockWork>) -> SettledBlocks {
    let mut settled = SettledBlocks::default();
    let works: Vec<&BlockWork> = works.into_iter().filter(|work| !work.block.rows.is_empty()).collect();
    let prefixes: BTreeSet<String> = works
        .iter()
        .map(|work| match number {
            Some(number) => query_prefix(scope, number),
            None => format!("{scope}/{}/{}/{}/", work.topic, work.partition.index, work.range),
        })
        .collect();
    for prefix in &prefixes {
        if let Err(error) = sink.quiesce(prefix).await {
            for work in &works {
                work.block.tables.iter().for_each(|table| settled.unknown(work, *table, &error));
            }
            return settled;
        }
    }
    let missing = settled.look(sink, &works).await;
    if missing.is_empty() {
        debug!(blocks = works.len(), "recorded ranges looked up: nothing to insert");
        return settled;
    }
    if number.is_some() {
        let inserts = insert(sink, scope, &missing).await;
        for (work, _) in missing.iter().filter(|(work, _)| inserts.lacks(work)) {
            settled.open.insert((work.partition, work.block.first), BlockOutcome::Unknown);
        }
        for (table, outcome) in inserts.0 {
            // A question of this table that has failed remains its failure.
            settled.stored.0.entry(table).or_insert(outcome);
        }
    }
    let open = |work: &BlockWork| settled.open.contains_key(&(work.partition, work.block.first));
    let inserted: Vec<&BlockWork> = missing.iter().map(|(work, _)| *work).filter(|work| !open(work)).collect();
    let absent = settled.look(sink, &inserted).await;
    info!(
        rows = missing.iter().map(|(_, rows)| rows.len()).sum::<usize>(),
        absent = absent.iter().map(|(_, rows)| rows.len()).sum::<usize>(),
        "missing rows of recorded ranges inserted: rows that are absent nevertheless get another token"
    );
    for (work, rows) in absent {
        settled.open.insert((work.partition, work.block.first), BlockOutcome::Absent(rows));
    }
    settled
}

/// Returns the prefix of the ids of an insert's queries.
fn query_prefix(scope: &str, insert: u64) -> String {
    format!("{scope}/{insert:016x}/")
}
