//! The steps that a [`PartitionTrack`](super::track::PartitionTrack) decides, carried
//! out: only here are rows sent to ClickHouse and dead letters to Kafka.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::OnceLock,
    time::Duration,
};

use bus::{Bus, Outgoing, Producer};
use futures_util::future::{join_all, try_join_all};
use schemas::{Dead, Topic};
use store::{Fault, Insertion, Span, Store, StoreError, Table};
use tracing::{debug, info, warn};

use super::{
    block::BlockRow,
    track::{BlockOutcome, BlockWork, Step},
};

/// The destination of rows and dead letters. Tests have one that fails on purpose.
pub(super) trait Sink {
    /// Inserts a block.
    async fn insert(&self, insertion: Insertion) -> Result<(), StoreError>;
    /// Ends the queries whose ids begin with `prefix`.
    async fn quiesce(&self, prefix: &str) -> Result<(), StoreError>;
    /// Returns the rows that are present in a range.
    async fn present(&self, span: &Span<'_>) -> Result<HashSet<(u64, String)>, StoreError>;
    /// Writes dead letters.
    async fn write_dead(&self, dead: &[Dead]) -> Result<(), String>;
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

/// The result of a block's step.
#[derive(Debug)]
pub(super) struct WorkResult {
    pub(super) outcome: BlockOutcome,
    /// The numbers of rows that were inserted, by their tables.
    pub(super) sent: BTreeMap<Table, usize>,
    /// The error that must pass before the next try.
    pub(super) error: Option<String>,
}

/// Carries out a block's step. `scope` makes query ids unique among installations
/// that share a ClickHouse.
pub(super) async fn attempt<S: Sink>(sink: &S, scope: &str, work: &BlockWork) -> WorkResult {
    let mut sent = BTreeMap::new();
    let stored = match &work.step {
        Step::WriteDead => Ok(None),
        Step::Insert(rows) => insert(sink, scope, work, rows, &mut sent).await.map(|()| None),
        Step::Settle => settle(sink, scope, work, &mut sent).await,
    };
    let (outcome, error) = match stored {
        Ok(Some(missing)) => (BlockOutcome::Absent(missing), None),
        Ok(None) if work.block.dead.is_empty() => (BlockOutcome::Done, None),
        Ok(None) => match sink.write_dead(&work.block.dead).await {
            Ok(()) => (BlockOutcome::Done, None),
            Err(error) => (BlockOutcome::DeadUnwritten, Some(error)),
        },
        Err(error) if error.fault() == Fault::Row => (BlockOutcome::Refused(error.to_string()), None),
        Err(error) => (BlockOutcome::Unknown, Some(error.to_string())),
    };
    WorkResult { outcome, sent, error }
}

async fn insert<S: Sink>(
    sink: &S,
    scope: &str,
    work: &BlockWork,
    rows: &[BlockRow],
    sent: &mut BTreeMap<Table, usize>,
) -> Result<(), StoreError> {
    let tables: BTreeSet<Table> = rows.iter().map(|row| row.table).collect();
    // Side by side, so that two tables take no longer than one; and each to its end, since an
    // insert that is given up may still arrive.
    let inserts = tables.into_iter().map(async |table| {
        let of_table = rows.iter().filter(|row| row.table == table);
        let insertion = Insertion {
            table,
            rows: work.block.encoded(of_table.clone()),
            // Each table has its own tokens.
            token: token(work),
            query_id: format!("{}{:016x}", query_prefix(scope, work), rand::random::<u64>()),
        };
        (table, of_table.count(), sink.insert(insertion).await)
    });
    let mut refused = None;
    for (table, count, outcome) in join_all(inserts).await {
        match outcome {
            Ok(()) => drop(sent.insert(table, count)),
            Err(error) if error.fault() == Fault::Row => refused = Some(error),
            // Whether these rows are present is settled before a refusal is believed.
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Looks which rows are present and inserts the others under the same token, so that
/// ClickHouse drops an insert of an earlier owner that arrives later. Returns the rows
/// that are missing nevertheless.
async fn settle<S: Sink>(
    sink: &S,
    scope: &str,
    work: &BlockWork,
    sent: &mut BTreeMap<Table, usize>,
) -> Result<Option<Vec<BlockRow>>, StoreError> {
    if work.block.rows.is_empty() {
        return Ok(None);
    }
    sink.quiesce(&query_prefix(scope, work)).await?;
    let missing = look(sink, work).await?;
    if missing.is_empty() {
        debug!(partition = %work.partition, range = %work.range, "recorded range is present");
        return Ok(None);
    }
    insert(sink, scope, work, &missing, sent).await?;
    let missing = look(sink, work).await?;
    if missing.is_empty() {
        info!(partition = %work.partition, range = %work.range, rows = work.block.rows.len(), "recorded range was missing and is inserted");
        return Ok(None);
    }
    warn!(
        partition = %work.partition, range = %work.range, missing = missing.len(),
        "ClickHouse reports rows as present which are missing: retried under a fresh token"
    );
    sent.clear();
    Ok(Some(missing))
}

async fn look<S: Sink>(sink: &S, work: &BlockWork) -> Result<Vec<BlockRow>, StoreError> {
    let (since, until) = work.block.times();
    let first = work.block.first.min(work.range.first);
    let last = work.block.last.max(work.range.last);
    let looks = work.block.tables().into_iter().map(async |table| {
        let span = Span {
            table,
            topic: &work.topic,
            partition: u16::try_from(work.partition.index).unwrap_or(u16::MAX),
            first: first.cast_unsigned(),
            last: last.cast_unsigned(),
            since,
            until,
        };
        sink.present(&span).await
    });
    let present: HashSet<(u64, String)> = try_join_all(looks).await?.into_iter().flatten().collect();
    Ok(work.block.missing(&present))
}

/// Returns the deduplication token of a block: the same for every reader of the same
/// records, and another for a topic that was deleted and created again.
fn token(work: &BlockWork) -> String {
    let id = work.block.rows.first().map(|row| work.block.id(row)).unwrap_or_default();
    format!("{}/{}/{}/{id}/{}", work.topic, work.partition.index, work.range, work.range.round)
}

fn query_prefix(scope: &str, work: &BlockWork) -> String {
    format!("{scope}/{}/{}/{}/", work.topic, work.partition.index, work.range)
}
