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
//! parts, and a kill may leave one of them. Records of `events` make rows of two tables:
//! their block is an insert into each, and a kill may leave one of these, too.
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

use bus::Bus;
pub use config::Config;
pub use error::Error;
use service::Process;
use store::Store;
use tokio::{runtime::Handle, sync::oneshot};

use self::{
    metrics::WarehouseMetrics,
    worker::{GROUP, WarehouseWorker, WorkerContext},
};
use crate::rejoin::rejoining;

/// Writes rows until `shutdown`, then finishes the blocks that it has. Blocks that an
/// outage leaves unfinished are settled after the next start.
///
/// # Errors
/// When a configured value is not allowed, or Kafka cannot be read on.
pub async fn run(config: Config, bus: Bus, store: Store, process: Process) -> Result<(), Error> {
    let Process { metrics, health, shutdown } = process;
    config.validate()?;
    let part = health.part("warehouse");
    part.ready();
    let context = WorkerContext {
        config,
        bus,
        store,
        metrics: WarehouseMetrics::new(&metrics),
        part,
        shutdown,
        runtime: Handle::current(),
    };
    let (end_sender, end) = oneshot::channel();
    std::thread::Builder::new().name("warehouse".to_owned()).spawn(move || {
        let WorkerContext { part, shutdown, runtime, .. } = &context;
        // Kafka has everything that a worker knows, so that the next one resumes its work.
        let ended = rejoining(GROUP.name(), part, shutdown, runtime, || {
            WarehouseWorker::new(context.clone()).and_then(WarehouseWorker::run)
        });
        drop(end_sender.send(ended));
    })?;
    end.await.unwrap_or(Err(Error::Panicked))
}
