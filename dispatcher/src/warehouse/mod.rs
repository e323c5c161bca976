//! The warehouse: writes events and attempts to ClickHouse, each exactly once.
//!
//! One thread owns the consumer. It collects records into one block of rows per
//! partition (`block.rs`) and inserts the blocks in rounds (`worker.rs`): one insert a
//! table, with the rows of all partitions, so that the number of parts does not grow with
//! the number of partitions. The steps of a partition's blocks are decided by `track.rs`
//! and carried out by `sink.rs`.
//!
//! # Why each row is present exactly once
//!
//! Kafka's offset and ClickHouse's part cannot be committed together, so every insert
//! is recorded first. There are two rules:
//!
//! 1. **Record, then insert.** Before a block is inserted, its offset range and the
//!    number of the insert, drawn at random, are committed as the *metadata of the old
//!    offset* (`range.rs`), synchronously, and for each partition whose rows the insert
//!    holds. A member that lost the partitions cannot commit, so it cannot insert rows
//!    that the new owner does not know of. The next commit moves the offset, and may
//!    record the next range at the same time.
//! 2. **Settle by looking.** A process that finds a recorded range (after a restart,
//!    as a new owner, after an error or an answer that never came) reads exactly those
//!    records again, ends queries of that insert that still run, and looks which of the
//!    range's rows are in the table. Rows carry topic, partition and offset, and are
//!    compared by offset *and* id. Only the missing rows are inserted.
//!
//! Each partition is settled by its own range, whoever settles the others. Rows are looked
//! up, not blocks, because a block that touches two months becomes two parts, and a kill
//! may leave one of them. Records of `events` make rows of two tables: their block is an
//! insert into each, and a kill may leave one of these, too.
//!
//! The insert's number is its deduplication token. It is not the reason why rows are
//! single: ClickHouse does not commit its record of tokens and its parts together, so it
//! may report a missing part as present, and forget the token of a part that is present.
//! The token serves for one case that looking cannot see: an insert that *still arrives*
//! (its owner was suspended after it recorded the ranges, or the request is in a socket's
//! buffer). Hence the order: look, insert the missing rows of the range under the recorded
//! token, so that ClickHouse drops the late insert, and look again. Rows that are missing
//! then, because another partition's owner has used the token up before, are inserted
//! under a fresh token, which is recorded first like any other. That answer is believed,
//! because rows whose retention is over vanish at once, and would be missing for ever.
//!
//! A member whose insert was dropped for that reason hears no error. It does not move the
//! offsets of any of its partitions: a group that gives one of them to another member has
//! revoked all of them (`bus` refuses other protocols), so its commit fails, or it settles
//! them itself as their next owner.
//!
//! The window of tokens (`non_replicated_deduplication_window`) is 250,000 inserts: more
//! than four hours of 16 members that insert once a second. An owner that is suspended for
//! longer, between its commit and its insert, is the one case that is left.
//!
//! With replicas (`clickhouse.cluster`), looking is right only if the replica that is asked
//! knows of every acknowledged insert. So an insert is acknowledged when a majority has it
//! and all before it, and a replica that lacks one refuses to be asked, which is waited out
//! like any other error. Replicas share their tokens in Keeper. Running inserts are looked
//! for on all replicas: on one that does not answer, none is believed to have ended. Several
//! servers behind one address that are no cluster are not supported.
//!
//! # Errors
//!
//! No error of ClickHouse is taken for a row's fault, because a row is checked before it is
//! sent (ADR 30). After an error the blocks of that table are settled, with their
//! partitions paused and the consumer polling, so that the group lags and nothing is lost;
//! rows of other tables go on (`troubles.rs`). A view may fail although its table has the
//! rows: then they are found, and the process is not ready and names the view. Records
//! that make no row are on `dead`, acknowledged, before the offset moves past them.

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
mod troubles;
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
