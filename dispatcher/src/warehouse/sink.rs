//! Doing what a [`Track`](super::track::Track) decided: the only place where
//! rows leave for ClickHouse and the dead for Kafka.

use std::{collections::HashSet, sync::OnceLock, time::Duration};

use bus::{Bus, Outgoing, Producer};
use futures_util::future::join_all;
use schemas::{Dead, Topic};
use store::{Fault, Insertion, Span, Store, StoreError};
use tracing::{debug, info, warn};

use super::{
    block::Row,
    track::{Outcome, Step, Work},
};

/// Where rows go. ClickHouse, or in tests something that breaks when told to.
pub(super) trait Sink {
    /// Puts a block in.
    async fn insert(&self, insertion: Insertion) -> Result<(), StoreError>;
    /// Ends what runs under ids that begin so.
    async fn quiesce(&self, prefix: &str) -> Result<(), StoreError>;
    /// The rows of a stretch.
    async fn present(&self, span: &Span<'_>) -> Result<HashSet<(u64, String)>, StoreError>;
    /// Keeps what made no row.
    async fn bury(&self, dead: &[Dead]) -> Result<(), String>;
}

/// ClickHouse, and Kafka's `dead`.
pub(super) struct Engines {
    store: Store,
    bus: Bus,
    /// Made when the first entry is written: most warehouses never write one,
    /// and an idle producer's thread is not free.
    producer: OnceLock<Producer>,
}

/// How long Kafka may take to acknowledge an entry on `dead`.
const BURY: Duration = Duration::from_secs(30);

impl Engines {
    pub(super) const fn new(store: Store, bus: Bus) -> Self {
        Self { store, bus, producer: OnceLock::new() }
    }

    fn producer(&self) -> Result<&Producer, String> {
        if let Some(producer) = self.producer.get() {
            return Ok(producer);
        }
        let producer =
            self.bus.producer("warehouse", Duration::from_millis(5), BURY).map_err(|error| error.to_string())?;
        Ok(self.producer.get_or_init(|| producer))
    }
}

impl Sink for Engines {
    async fn insert(&self, insertion: Insertion) -> Result<(), StoreError> {
        self.store.insert(insertion).await
    }

    async fn quiesce(&self, prefix: &str) -> Result<(), StoreError> {
        self.store.quiesce(prefix).await
    }

    async fn present(&self, span: &Span<'_>) -> Result<HashSet<(u64, String)>, StoreError> {
        self.store.present(span).await
    }

    async fn bury(&self, dead: &[Dead]) -> Result<(), String> {
        let producer = self.producer()?;
        let acks = join_all(dead.iter().map(async |dead| {
            let value = serde_json::to_vec(dead).map_err(|error| error.to_string())?;
            let out = Outgoing::keyed(Topic::Dead, dead.origin.topic.as_bytes(), Some(&value));
            producer.produce(&out).await.map(drop).map_err(|error| error.to_string())
        }));
        acks.await.into_iter().collect()
    }
}

/// What came of a piece of work, and how many rows were sent for it.
#[derive(Debug)]
pub(super) struct Concluded {
    pub(super) outcome: Outcome,
    pub(super) sent: usize,
    /// Why nobody knows, for people.
    pub(super) error: Option<String>,
}

/// Does what is to be done about a block. `scope` makes its query ids unique
/// among installations that share a ClickHouse.
pub(super) async fn attempt<S: Sink>(sink: &S, scope: &str, work: &Work) -> Concluded {
    let mut sent = 0;
    let stored = match &work.step {
        Step::Bury => Ok(None),
        Step::Insert(rows) => insert(sink, scope, work, rows, &mut sent).await.map(|()| None),
        Step::Settle => settle(sink, scope, work, &mut sent).await,
    };
    let (outcome, error) = match stored {
        Ok(Some(missing)) => (Outcome::Absent(missing), None),
        Ok(None) if work.block.dead.is_empty() => (Outcome::Done, None),
        Ok(None) => match sink.bury(&work.block.dead).await {
            Ok(()) => (Outcome::Done, None),
            Err(error) => (Outcome::Unburied, Some(error)),
        },
        Err(error) if error.fault() == Fault::Row => (Outcome::Refused(error.to_string()), None),
        Err(error) => (Outcome::Unknown, Some(error.to_string())),
    };
    Concluded { outcome, sent, error }
}

async fn insert<S: Sink>(sink: &S, scope: &str, work: &Work, rows: &[Row], sent: &mut usize) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sink.insert(Insertion {
        table: work.table,
        rows: work.block.encoded(rows.iter()),
        token: token(work),
        query_id: format!("{}{:016x}", query_prefix(scope, work), rand::random::<u64>()),
    })
    .await?;
    *sent += rows.len();
    Ok(())
}

/// Looks what is there and inserts what is not, under the same token: an insert
/// of an earlier owner that is still on its way is then dropped by ClickHouse.
/// Gives back what is missing nevertheless.
async fn settle<S: Sink>(sink: &S, scope: &str, work: &Work, sent: &mut usize) -> Result<Option<Vec<Row>>, StoreError> {
    if work.block.rows.is_empty() {
        return Ok(None);
    }
    sink.quiesce(&query_prefix(scope, work)).await?;
    let missing = look(sink, work).await?;
    if missing.is_empty() {
        debug!(partition = %work.partition, range = %work.range, "a recorded range was there");
        return Ok(None);
    }
    insert(sink, scope, work, &missing, sent).await?;
    let missing = look(sink, work).await?;
    if missing.is_empty() {
        info!(partition = %work.partition, range = %work.range, rows = work.block.rows.len(), "a recorded range was not there: inserted");
        return Ok(None);
    }
    warn!(
        partition = %work.partition, range = %work.range, missing = missing.len(),
        "ClickHouse says that rows are there which are not: they are inserted under a fresh token"
    );
    *sent = 0;
    Ok(Some(missing))
}

async fn look<S: Sink>(sink: &S, work: &Work) -> Result<Vec<Row>, StoreError> {
    let (since, until) = work.block.times();
    let (first, last) = (work.block.first.min(work.range.first), work.block.last.max(work.range.last));
    let span = Span {
        table: work.table,
        topic: &work.topic,
        partition: u16::try_from(work.partition.index).unwrap_or(u16::MAX),
        first: first.cast_unsigned(),
        last: last.cast_unsigned(),
        since,
        until,
    };
    Ok(work.block.missing(&sink.present(&span).await?))
}

/// By what ClickHouse knows the block: the same for whoever reads the same
/// records, another for a topic that was made anew under the same name.
fn token(work: &Work) -> String {
    let id = work.block.rows.first().map(|row| work.block.id(row)).unwrap_or_default();
    format!("{}/{}/{}/{id}/{}", work.topic, work.partition.index, work.range, work.range.round)
}

fn query_prefix(scope: &str, work: &Work) -> String {
    format!("{scope}/{}/{}/{}/", work.topic, work.partition.index, work.range)
}
