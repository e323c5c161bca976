//! The warehouse: writes events and attempts to ClickHouse, each exactly once.
//!
//! One thread owns the consumer. It gathers what it reads into one block of rows
//! per partition (`block.rs`) and inserts the blocks in rounds (`worker.rs`). What
//! happens to a partition's blocks is decided by its `track.rs`, done by `sink.rs`.
//!
//! # Why a row is there exactly once
//!
//! Kafka's offset and ClickHouse's part cannot commit together, so every insert
//! leaves a note first. Two rules:
//!
//! 1. **Record, then insert.** Before a block goes out, its offset range is
//!    committed as the *metadata of the old offset* (`range.rs`), synchronously.
//!    A member that lost the partition cannot commit, so it cannot insert what a
//!    new owner does not know of. The next commit moves the offset, and may
//!    record the next range in the same breath.
//! 2. **Settle by looking.** Whoever finds a range recorded (a restart, a new
//!    owner, or the same process after an answer that never came) reads exactly
//!    those records again, ends queries of that range that still run, and looks
//!    which of its rows are in the table: rows carry topic, partition and
//!    offset, and are compared by offset *and* id. Only those missing are
//!    inserted.
//!
//! Rows, not blocks, are looked for, because a block that touches two months
//! becomes two parts, and a kill may leave one of them.
//!
//! The deduplication token is named after the range and its first row. It is not
//! what makes rows single: ClickHouse's record of tokens and its parts do not
//! commit together, so "already there" can be said of nothing, and forgotten of
//! something. It serves against one case that looking cannot see, an insert that
//! is *still on its way* (an owner that was suspended after it recorded, a
//! request in a socket's buffer). Hence the order: look, insert what is missing
//! under the recorded token, so that the late one is dropped, and look again.
//! What is still missing is inserted under a fresh token, whose number is
//! recorded first like any other range, and that answer is believed: rows whose
//! retention is over vanish at once, and would be looked for in vain for ever.
//!
//! The window of tokens (`non_replicated_deduplication_window`) covers hours of
//! inserts; an owner that is suspended longer than that, between its commit and
//! its insert, is the one case left. Tokens are ClickHouse's per server: replicas
//! behind one address would need their own.
//!
//! # What is waited for
//!
//! A block that ClickHouse refuses for a row is cut in two until the row stands
//! alone, and goes to `dead` with ClickHouse's words; each half is recorded like
//! any other range. Everything else (network, memory, too many parts, a missing
//! table) is waited for with the partitions paused and the consumer polling, so
//! that an outage makes the group lag and nothing else. Records that make no row
//! are on `dead`, acknowledged, before the offset moves past them.

mod block;
mod config;
mod metrics;
mod parse;
mod range;
#[cfg(test)]
mod simulation;
mod sink;
mod track;
mod worker;

use std::time::Duration;

use bus::{Bus, BusError};
pub use config::Config;
use service::{Backoff, ConfigError, Health, Metrics, Part, Shutdown};
use store::Store;
use tokio::{runtime::Handle, sync::oneshot};
use tracing::warn;

use self::{metrics::Counts, worker::Worker};

/// Why the warehouse stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kafka cannot be used any more.
    #[error("warehouse: {0}")]
    Bus(#[from] BusError),
    /// A committed offset carries a note that this program cannot read.
    #[error(
        "warehouse: the offset of {partition} carries the note `{metadata}`, which this program cannot read: was it written \
         by a newer one? Run that, or set the offset anew with `clickhook offsets set`"
    )]
    Note {
        /// The partition.
        partition: String,
        /// The note.
        metadata: String,
    },
    /// The thread could not be started.
    #[error("warehouse: cannot start its thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread is gone without a word.
    #[error("warehouse: its thread panicked; the log says where")]
    Panicked,
}

/// Writes rows until told to stop, then finishes what is under way. What an
/// outage leaves unfinished is settled by the next start.
///
/// # Errors
/// When a configured value is not allowed, or Kafka cannot be used any more.
pub async fn run(
    config: Config,
    bus: Bus,
    store: Store,
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), Error> {
    config.validate()?;
    let part = health.part("warehouse");
    let counts = Counts::new(&metrics);
    let handle = Handle::current();
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("warehouse".to_owned()).spawn(move || {
        let outcome = persist(&shutdown, &part, || {
            Worker::new(
                config.clone(),
                &bus,
                store.clone(),
                counts.clone(),
                part.clone(),
                shutdown.clone(),
                handle.clone(),
            )
            .and_then(Worker::run)
        });
        drop(tell.send(outcome));
    })?;
    told.await.unwrap_or(Err(Error::Panicked))
}

/// Works with one consumer after the other, as long as what ends one may pass.
/// All that a worker knows is in Kafka, so a new one goes on where it was.
fn persist(shutdown: &Shutdown, part: &Part, mut work: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    loop {
        match work() {
            Err(Error::Bus(error)) if error.is_transient() && !shutdown.is_triggered() => {
                warn!(%error, "the warehouse joins its group anew");
                part.not_ready(&error.to_string());
                std::thread::sleep(backoff.next());
            }
            // Told to stop while Kafka is away: what is recorded is settled by
            // the next start, like after a kill.
            Err(Error::Bus(error)) if error.is_transient() => {
                warn!(%error, "stopped while Kafka was away: the next start goes on from what is committed");
                return Ok(());
            }
            outcome => return outcome,
        }
    }
}
