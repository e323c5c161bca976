//! The redirector: answers short links, and records every click in Kafka before
//! it does.
//!
//! `http/` reads a request's head and writes an answer, `visit/` reads the visit,
//! `table/` holds links and domains in memory, `redirect.rs` decides, `recording/`
//! records the click, and `edge/` serves connections, a thread for each core.
//! `intake/` is another server beside them, which takes conversions.

mod config;
mod edge;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod intake;
mod metrics;
mod money;
#[doc(hidden)]
pub mod probe;
mod recording;
mod redirect;
mod renewed_producer;
mod table;
mod visit;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bus::{Bus, BusError, Table, TableProgress};
pub use config::{Config, Durability};
pub use recording::spool::SpoolError;
use service::{ConfigError, Part, Process, Shutdown};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    edge::serve::EdgeState,
    metrics::IngestMetrics,
    recording::core::Seat,
    recording::recorder::Recorder,
    recording::spool::Spool,
    recording::spooler::Keeper,
    redirect::Redirects,
    table::domains::{Domains, DomainsWriter},
    table::links::LinksWriter,
    visit::limits::VisitLimits,
};

/// How long Kafka is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the redirector did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("the redirector cannot listen on {address}: {source}. Free the address, or set `ingest.listen` to another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The address of the intake cannot be listened on.
    #[error(
        "the intake of conversions cannot listen on {address}: {source}. Free the address, or set `ingest.intake_listen` to another"
    )]
    Intake {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A client of Kafka could not be made.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A thread could not be started, or went down.
    #[error("a thread of the redirector failed: {0}")]
    Thread(io::Error),
}

/// A redirector that has started.
pub struct Running {
    address: SocketAddr,
    intake: SocketAddr,
    drained: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where conversions are reported.
    #[must_use]
    pub const fn intake_addr(&self) -> SocketAddr {
        self.intake
    }

    /// Waits until it was told to stop, its connections are done, and Kafka has
    /// acknowledged every click.
    ///
    /// # Errors
    /// When it went down without being told to.
    pub async fn wait(self) -> Result<(), Error> {
        self.drained.await.unwrap_or_else(|error| Err(Error::Thread(io::Error::other(error))))
    }
}

/// Starts the redirector on threads of its own. It is ready (`links` of
/// `health`) once it knows all links and domains, from Kafka or from its snapshots of
/// a former run; until then it answers 503 for those that it does not know.
///
/// # Errors
/// When the configuration is wrong, the address is taken, or a client or thread
/// cannot be made.
#[allow(clippy::needless_pass_by_value, reason = "the roles start alike")]
pub async fn start(config: Config, bus: Bus, process: Process) -> Result<Running, Error> {
    let Process { metrics, health, shutdown } = process;
    config.validate()?;
    let part = health.part("links");
    let counts = IngestMetrics::new(&metrics);
    let address = config.listen;
    let listen_error = |source| Error::Listen { address, source };
    edge::serve::refuse_taken(address).map_err(listen_error)?;
    // A spool that is large is read before anyone can connect.
    let (clicks, seats) = {
        let (bus, config, counts) = (bus.clone(), config.clone(), counts.clone());
        let opened = spawn_blocking(move || Clicks::open(&bus, &config, &counts, config.cores())).await;
        opened.map_err(|error| Error::Thread(io::Error::other(error)))??
    };
    let listeners = edge::serve::listen(address, config.cores()).map_err(listen_error)?;
    let address = listeners.first().map_or(Ok(address), TcpListener::local_addr).map_err(listen_error)?;
    let domains = Domains::default();
    let writer = LinksWriter::new(domains.clone(), config.rules());
    let links = writer.links();
    let tables = [
        DomainsWriter::new(domains.clone(), config.rules()).follow(&bus, &config.data_dir, counts.clone())?,
        writer.follow(&bus, &config.data_dir, counts.clone())?,
    ];
    let shared = EdgeState {
        connections: Arc::new(Semaphore::new(config.max_connections)),
        redirects: Arc::new(Redirects {
            limits: VisitLimits::new(&config, counts.clone()),
            config: Arc::new(config),
            links,
            domains,
            complete: AtomicBool::new(false),
            counts,
        }),
        close: Shutdown::new(),
    };
    let intake = intake::start(&shared.redirects.config, &bus, &metrics, &health, shared.close.clone())?;
    let mut cores = JoinSet::new();
    for (index, (listener, seat)) in listeners.into_iter().zip(seats).enumerate() {
        let done = edge::serve::start(index, listener, seat, shared.clone()).map_err(Error::Thread)?;
        cores.spawn(async { done.await.unwrap_or_else(|_| Err(io::Error::other("it panicked"))) });
    }
    info!(%address, threads = cores.len(), "the redirector listens");
    cores.spawn(async { intake.done.await.unwrap_or_else(|_| Err(io::Error::other("it panicked"))) });
    let drained = tokio::spawn(supervise(shared, tables, cores, clicks, part, shutdown));
    Ok(Running { address, intake: intake.address, drained })
}

/// What records the process's clicks.
struct Clicks {
    recorder: Arc<Recorder>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Clicks {
    fn open(bus: &Bus, config: &Config, counts: &IngestMetrics, cores: usize) -> Result<(Self, Vec<Seat>), Error> {
        if config.durability != Durability::Spooled {
            let (recorder, seats) = Recorder::new(bus, config, counts.clone(), None, cores)?;
            return Ok((Self { recorder, keeper: None }, seats));
        }
        let spool = Spool::open(&config.data_dir)?;
        let (orders, taken) = mpsc::channel();
        let (recorder, seats) = Recorder::new(bus, config, counts.clone(), Some(orders.clone()), cores)?;
        let keeper = Keeper::new(spool, config.spool_max_bytes, counts.clone(), Arc::clone(&recorder), orders)?;
        let keeper = keeper.start(taken).map_err(Error::Thread)?;
        Ok((Self { recorder, keeper: Some(keeper) }, seats))
    }

    /// Waits until Kafka has every click, or the disk. Blocks.
    fn close(self) -> usize {
        let left = self.recorder.close(PATIENCE);
        if let Some(keeper) = self.keeper {
            // Only a panic, which has been logged, ends it otherwise.
            let _ = keeper.join();
        }
        left
    }
}

/// Says when the redirector is ready, and stops it in order: readiness first,
/// then the listeners, then the connections, then the recorder.
async fn supervise(
    shared: EdgeState,
    tables: [Table; 2],
    mut cores: JoinSet<io::Result<()>>,
    clicks: Clicks,
    part: Part,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let told = async {
        tokio::select! {
            () = caught_up(&tables) => {
                shared.redirects.complete.store(true, Ordering::Relaxed);
                part.ready();
                tokio::select! {
                    () = show_snapshots(&tables, &shared.redirects.counts) => shutdown.wait().await,
                    () = shutdown.wait() => {}
                }
            }
            () = shutdown.wait() => {}
        }
    };
    let mut outcome = Ok(());
    tokio::select! {
        () = told => {}
        Some(ended) = cores.join_next() => {
            let why = ended.unwrap_or_else(|error| Err(io::Error::other(error))).err();
            outcome = Err(Error::Thread(why.unwrap_or_else(|| io::Error::other("it ended by itself"))));
        }
    }
    part.not_ready("draining");
    sleep(Duration::from_millis(shared.redirects.config.drain_delay_ms)).await;
    shared.close.trigger();
    while cores.join_next().await.is_some() {}
    let drained = spawn_blocking(move || {
        drop(tables);
        clicks.close()
    });
    match drained.await {
        Ok(0) => info!("the redirector has drained"),
        left => warn!(?left, "the redirector stops with bundles that Kafka has not acknowledged"),
    }
    outcome
}

async fn caught_up(tables: &[Table]) {
    for table in tables {
        table.caught_up().await;
    }
}

/// Shows from where links are known, and whether the next start needs Kafka.
async fn show_snapshots(tables: &[Table], counts: &IngestMetrics) {
    let read = async {
        counts
            .links_from_snapshot
            .set(i64::from(tables.iter().any(|table| table.progress() == TableProgress::Snapshot)));
        for table in tables {
            table.up_to_date().await;
        }
        counts.links_from_snapshot.set(0);
    };
    let kept = async {
        for table in tables {
            table.snapshot_written().await;
        }
        counts.links_snapshot.set(1);
    };
    tokio::join!(read, kept);
}
