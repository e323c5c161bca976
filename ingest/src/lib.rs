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
pub use config::{ClientAddress, Config, Durability, WhenFull, WhenPrefetched};
pub use recording::spool::SpoolError;
use service::{ConfigError, Part, Process, Shutdown};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    edge::{networks::NetworkConnections, serve::EdgeState},
    metrics::IngestMetrics,
    recording::{core::CoreHandle, recorder::Recorder, spool::Spool, spooler::Spooler},
    redirect::Redirects,
    table::{
        domains::{Domains, DomainsWriter},
        links::LinksWriter,
    },
    visit::limits::VisitLimits,
};

/// How long the end of the process waits for Kafka.
const PATIENCE: Duration = Duration::from_secs(10);

/// The interval at which the replay of a spool looks whether it has ended.
const REPLAY_POLL: Duration = Duration::from_millis(50);

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
        /// The system's error.
        source: io::Error,
    },
    /// The address of the intake cannot be listened on.
    #[error(
        "the intake of conversions cannot listen on {address}: {source}. Free the address, or set `ingest.intake_listen` to another"
    )]
    Intake {
        /// The address.
        address: SocketAddr,
        /// The system's error.
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
pub struct RunningRedirector {
    address: SocketAddr,
    intake: SocketAddr,
    drained: JoinHandle<Result<(), Error>>,
}

impl RunningRedirector {
    /// The address that it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address at which conversions are reported.
    #[must_use]
    pub const fn intake_addr(&self) -> SocketAddr {
        self.intake
    }

    /// Waits until the redirector was told to stop, its connections have ended, and
    /// Kafka has acknowledged every click.
    ///
    /// # Errors
    /// When the redirector ended without being told to.
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
pub async fn start(config: Config, bus: Bus, process: Process) -> Result<RunningRedirector, Error> {
    let Process { metrics: registry, health, shutdown } = process;
    config.validate()?;
    let part = health.part("links");
    let clicks = health.part("clicks");
    let metrics = IngestMetrics::new(&registry);
    let address = config.listen;
    let listen_error = |source| Error::Listen { address, source };
    edge::serve::refuse_taken(address).map_err(listen_error)?;
    // A spool that is large is read before anyone can connect.
    let (recording, handles) = {
        let bus = bus.clone();
        let config = config.clone();
        let metrics = metrics.clone();
        let opened = spawn_blocking(move || Recording::open(&bus, &config, &metrics, clicks, config.cores())).await;
        opened.map_err(|error| Error::Thread(io::Error::other(error)))??
    };
    let listeners = edge::serve::listen(address, config.cores()).map_err(listen_error)?;
    let address = listeners.first().map_or(Ok(address), TcpListener::local_addr).map_err(listen_error)?;
    let domains = Domains::answering_at(&config.own_host);
    let writer = LinksWriter::new(domains.clone(), (&config).into());
    let links = writer.links();
    let tables = [
        DomainsWriter::new(domains.clone(), (&config).into()).follow(&bus, &config.data_dir, metrics.clone())?,
        writer.follow(&bus, &config.data_dir, metrics.clone())?,
    ];
    let state = EdgeState {
        connections: Arc::new(Semaphore::new(config.max_connections)),
        networks: Arc::new(NetworkConnections::new(&config)),
        redirects: Arc::new(Redirects {
            limits: VisitLimits::new(&config, metrics.clone()),
            config: Arc::new(config),
            links,
            domains,
            complete: AtomicBool::new(false),
            metrics,
        }),
        close: Shutdown::new(),
    };
    let intake = intake::start(&state.redirects.config, &bus, &registry, &health, state.close.clone())?;
    let mut cores = JoinSet::new();
    for (index, (listener, handle)) in listeners.into_iter().zip(handles).enumerate() {
        let done = edge::serve::start(index, listener, handle, state.clone()).map_err(Error::Thread)?;
        cores.spawn(async { done.await.unwrap_or_else(|_| Err(io::Error::other("it panicked"))) });
    }
    info!(%address, threads = cores.len(), "redirector listens");
    cores.spawn(async { intake.done.await.unwrap_or_else(|_| Err(io::Error::other("it panicked"))) });
    let drained = tokio::spawn(supervise(state, tables, cores, recording, part, shutdown));
    Ok(RunningRedirector { address, intake: intake.address, drained })
}

/// The recorder of the process's clicks, and the thread of its spool.
struct Recording {
    recorder: Arc<Recorder>,
    spooler: Option<thread::JoinHandle<()>>,
    drain_spool: Duration,
}

impl Recording {
    fn open(
        bus: &Bus,
        config: &Config,
        metrics: &IngestMetrics,
        readiness: Part,
        cores: usize,
    ) -> Result<(Self, Vec<CoreHandle>), Error> {
        if config.durability != Durability::Spooled {
            let (recorder, messages) = Recorder::new(bus, config, metrics.clone(), None, readiness, cores)?;
            let handles = CoreHandle::all(&recorder, messages);
            return Ok((Self { recorder, spooler: None, drain_spool: Duration::ZERO }, handles));
        }
        let spool = Spool::open(&config.data_dir)?;
        let (sender, commands) = mpsc::channel();
        let (recorder, messages) = Recorder::new(bus, config, metrics.clone(), Some(sender.clone()), readiness, cores)?;
        let handles = CoreHandle::all(&recorder, messages);
        let spooler = Spooler::new(spool, config.spool_max_bytes, metrics.clone(), Arc::clone(&recorder), sender)?;
        let spooler = spooler.start(commands).map_err(Error::Thread)?;
        let drain_spool = Duration::from_millis(config.drain_spool_ms);
        Ok((Self { recorder, spooler: Some(spooler), drain_spool }, handles))
    }

    /// Waits until Kafka or the disk has every click; returns how many bundles Kafka
    /// does not have. Blocks.
    fn close(self) -> usize {
        let left = self.recorder.close(PATIENCE, self.drain_spool);
        if let Some(spooler) = self.spooler {
            // Fails only after a panic, which has been logged.
            let _ = spooler.join();
        }
        left
    }
}

/// Reports when the redirector is ready, and stops it in order: readiness first, then
/// the listeners, then the connections, then the recorder.
async fn supervise(
    state: EdgeState,
    tables: [Table; 2],
    mut cores: JoinSet<io::Result<()>>,
    recording: Recording,
    part: Part,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let stopped = async {
        tokio::select! {
            () = caught_up(&tables) => {
                state.redirects.complete.store(true, Ordering::Relaxed);
                part.ready();
                tokio::select! {
                    () = show_snapshots(&tables, &state.redirects.metrics) => shutdown.wait().await,
                    () = shutdown.wait() => {}
                }
            }
            () = shutdown.wait() => {}
        }
    };
    let mut outcome = Ok(());
    tokio::select! {
        () = stopped => {}
        Some(ended) = cores.join_next() => {
            let why = ended.unwrap_or_else(|error| Err(io::Error::other(error))).err();
            outcome = Err(Error::Thread(why.unwrap_or_else(|| io::Error::other("it ended by itself"))));
        }
    }
    part.not_ready("draining");
    sleep(Duration::from_millis(state.redirects.config.drain_delay_ms)).await;
    state.close.trigger();
    while cores.join_next().await.is_some() {}
    let drained = spawn_blocking(move || {
        drop(tables);
        recording.close()
    });
    match drained.await {
        Ok(0) => info!("redirector drained"),
        left => warn!(?left, "redirector stops with bundles that Kafka has not acknowledged"),
    }
    outcome
}

/// The result of [`replay_spool`], in bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayedSpool {
    /// The bundles that Kafka has now.
    pub replayed: u64,
    /// The bundles that are still on the disk.
    pub left: u64,
}

/// Hands Kafka the spool in `config.data_dir`, which a redirector that will not come back
/// has left. Ends when only bundles are left that Kafka refuses for their size, or when
/// `process` is told to stop; while Kafka does not answer, this waits.
///
/// # Errors
/// When another process has the spool open, the disk refuses, or a client or thread cannot
/// be made.
pub async fn replay_spool(config: Config, bus: Bus, process: Process) -> Result<ReplayedSpool, Error> {
    let Process { metrics, health, shutdown } = process;
    let metrics = IngestMetrics::new(&metrics);
    let config = Config { durability: Durability::Spooled, drain_spool_ms: 0, ..config };
    let clicks = health.part("clicks");
    let opened = {
        let metrics = metrics.clone();
        spawn_blocking(move || Recording::open(&bus, &config, &metrics, clicks, 1)).await
    };
    // The core has no visits: its messages are not read.
    let (recording, _core) = opened.map_err(|error| Error::Thread(io::Error::other(error)))??;
    let replayed = async {
        while metrics.spool_has_replays() {
            sleep(REPLAY_POLL).await;
        }
    };
    tokio::select! {
        () = replayed => {}
        () = shutdown.wait() => {}
    }
    let closed = spawn_blocking(move || recording.close()).await;
    closed.map_err(|error| Error::Thread(io::Error::other(error)))?;
    let left = u64::try_from(metrics.spool_bundles.get()).unwrap_or_default();
    Ok(ReplayedSpool { replayed: metrics.replayed_bundles.get(), left })
}

async fn caught_up(tables: &[Table]) {
    for table in tables {
        table.caught_up().await;
    }
}

/// Shows in metrics where links are known from, and whether the next start needs Kafka.
async fn show_snapshots(tables: &[Table], metrics: &IngestMetrics) {
    let read = async {
        metrics
            .links_from_snapshot
            .set(i64::from(tables.iter().any(|table| table.progress() == TableProgress::Snapshot)));
        for table in tables {
            table.up_to_date().await;
        }
        metrics.links_from_snapshot.set(0);
    };
    let kept = async {
        for table in tables {
            table.snapshot_written().await;
        }
        metrics.links_snapshot.set(1);
    };
    tokio::join!(read, kept);
}
