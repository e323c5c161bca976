//! The warehouse: writes events and attempts to ClickHouse, each exactly once.
//!
//! One thread owns the consumer. It collects records into one block of rows per
//! partition (`block.rs`) and inserts the blocks in rounds (`worker.rs`). The steps of
//! a partition's blocks are decided by `track.rs` and carried out by `sink.rs`.
//!
//! # Why each row is present exactly once
//!
//! Kafka's offset and ClickHouse's part cannot be committed together, so every insert
//! is recorded first. There are two rules:
//!
//! 1. **Record, then insert.** Before a block is inserted, its offset range is
//!    committed as the *metadata of the old offset* (`range.rs`), synchronously. A
//!    member that lost the partition cannot commit, so it cannot insert rows that the
//!    new owner does not know of. The next commit moves the offset, and may record the
//!    next range at the same time.
//! 2. **Settle by looking.** A process that finds a recorded range (after a restart,
//!    as a new owner, or after an answer that never came) reads exactly those records
//!    again, ends queries of that range that still run, and looks which of its rows
//!    are in the table. Rows carry topic, partition and offset, and are compared by
//!    offset *and* id. Only the missing rows are inserted.
//!
//! Rows are looked up, not blocks, because a block that touches two months becomes two
//! parts, and a kill may leave one of them.
//!
//! The deduplication token is made of the range and its first row. It is not the
//! reason why rows are single: ClickHouse does not commit its record of tokens and its
//! parts together, so it may report a missing part as present, and forget the token of
//! a part that is present. The token serves for one case that looking cannot see: an
//! insert that *still arrives* (its owner was suspended after it recorded the range,
//! or the request is in a socket's buffer). Hence the order: look, insert the missing
//! rows under the recorded token, so that the late insert is dropped, and look again.
//! Rows that are missing then are inserted under a fresh token, whose number is
//! recorded first like any other range. That answer is believed, because rows whose
//! retention is over vanish at once, and would be missing for ever.
//!
//! The window of tokens (`non_replicated_deduplication_window`) covers hours of
//! inserts. An owner that is suspended for longer, between its commit and its insert,
//! is the one case that is left. Each ClickHouse server has its own tokens, so several
//! servers behind one address are not supported.
//!
//! # Retries and dead letters
//!
//! A block that ClickHouse refuses because of a row is split in two until the row is
//! alone, and goes to `dead` with ClickHouse's error. Each half is recorded like any
//! other range. After any other error (network, memory, too many parts, a missing
//! table) the insert is retried with the partitions paused and the consumer polling,
//! so that the group lags and nothing is lost. Records that make no row are on `dead`,
//! acknowledged, before the offset moves past them.

mod block;
mod config;
mod error;
mod metrics;
mod parse;
mod range;
#[cfg(test)]
mod simulation;
mod sink;
mod track;
mod worker;

use std::time::Duration;

use bus::Bus;
pub use config::Config;
pub use error::Error;
use service::{Backoff, Part, Process, Shutdown};
use store::Store;
use tokio::{runtime::Handle, sync::oneshot};
use tracing::warn;

use self::{metrics::WarehouseMetrics, worker::Worker};

/// Writes rows until `shutdown`, then finishes the blocks that it has. Blocks that an
/// outage leaves unfinished are settled after the next start.
///
/// # Errors
/// When a configured value is not allowed, or Kafka cannot be read on.
pub async fn run(config: Config, bus: Bus, store: Store, process: Process) -> Result<(), Error> {
    let Process { metrics, health, shutdown } = process;
    config.validate()?;
    let part = health.part("warehouse");
    let counts = WarehouseMetrics::new(&metrics);
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
