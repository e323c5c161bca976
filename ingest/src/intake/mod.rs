//! The intake of conversions: an HTTP server beside the redirector, on a thread
//! of its own so that it never slows a redirect, and with a Kafka client of its
//! own so that neither fills the other's queue.
//!
//! `batch.rs`, `conversion.rs`, `postback.rs` and `money.rs` read what is
//! reported, `callers.rs` knows who may report it, `outbox.rs` records it, and
//! `api.rs` answers, never with 202 before Kafka has it.

mod api;
mod batch;
mod callers;
mod conversion;
mod metrics;
mod outbox;
mod postback;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use bus::{Bus, Change, Table};
use schemas::Topic;
use service::{
    Health, Metrics, Part, Shutdown,
    serve::{self, Limits},
};
use tokio::{net::TcpListener, runtime, sync::oneshot};
use tracing::info;

use self::{api::IntakeState, callers::Callers, metrics::IntakeMetrics, outbox::ConversionOutbox};
use crate::{Config, Error};

/// How long Kafka may collect conversions before it is sent them: many callers
/// at once share a batch, and one alone hardly waits.
const LINGER: Duration = Duration::from_millis(1);
/// The size of the producer's queue, in kilobytes.
const QUEUE_KBYTES: u32 = 64 << 10;

/// An intake that has started.
pub(crate) struct RunningIntake {
    /// The address on which the intake listens.
    pub(crate) address: SocketAddr,
    /// Resolves when the intake has drained, or with the error that ended it.
    pub(crate) done: oneshot::Receiver<io::Result<()>>,
}

/// Starts the intake; it is ready (`keys` of `health`) once it knows all keys,
/// from Kafka or from its snapshot of a former run, and drains when told to `close`.
pub(crate) fn start(
    config: &Config,
    bus: &Bus,
    registry: &Metrics,
    health: &Health,
    close: Shutdown,
) -> Result<RunningIntake, Error> {
    let address = config.intake_listen;
    let refused = |source| Error::Intake { address, source };
    let listener = StdListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;

    let metrics = IntakeMetrics::new(registry);
    let patience = Duration::from_millis(config.intake_ack_timeout_ms);
    let producer = bus.bounded_producer("intake", LINGER, patience, QUEUE_KBYTES)?;
    let callers =
        Arc::new(Callers::new(producer.clone(), config.intake_rate_per_s, config.intake_workspace_rate_per_s));
    let part = health.part("keys");
    let tables = follow(bus, &config.data_dir, &callers, metrics.clone(), part)?;
    let limits = Limits {
        connections: config.intake_max_connections,
        header_timeout: Duration::from_millis(config.header_timeout_ms),
        keep_alive: Duration::from_millis(config.keep_alive_ms),
        drain: Duration::from_millis(config.drain_timeout_ms),
    };
    let open = metrics.connections.clone();
    let outbox = ConversionOutbox::new(bus.clone(), producer, patience, metrics.ack_seconds.clone());
    let routes = api::routes(Arc::new(IntakeState { callers, outbox, currency: config.postback_currency()?, metrics }));

    let (tell, done) = oneshot::channel();
    thread::Builder::new()
        .name("intake".to_owned())
        .spawn(move || {
            let served = runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener)?;
                    serve::serve(listener, routes, limits, open, close).await;
                    io::Result::Ok(())
                })
            });
            for table in tables {
                table.close();
            }
            // Nobody may be waiting any more.
            let _ = tell.send(served);
        })
        .map_err(Error::Thread)?;
    info!(%address, "the intake of conversions listens");
    Ok(RunningIntake { address, done })
}

/// Follows the topics `workspaces` and `keys`.
fn follow(
    bus: &Bus,
    dir: &Path,
    callers: &Arc<Callers>,
    metrics: IntakeMetrics,
    part: Part,
) -> Result<[Table; 2], Error> {
    let known = Arc::clone(callers);
    let workspaces = bus.table("intake", Topic::Workspaces, Some(dir), move |change| known.apply_workspace(change))?;
    let callers = Arc::clone(callers);
    let keys = bus.table("intake", Topic::Keys, Some(dir), move |change| {
        callers.apply(change);
        metrics.keys.set(i64::try_from(callers.len()).unwrap_or(i64::MAX));
        if change == Change::CaughtUp {
            info!(keys = callers.len(), "the intake knows all keys");
            part.ready();
        }
    })?;
    Ok([workspaces, keys])
}
