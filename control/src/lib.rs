//! The control plane: the API for links and endpoints, and the one leader that
//! writes them.
//!
//! `api/` is HTTP, and `forward.rs` hands on what others serve; `link.rs` and
//! `endpoint.rs` know what may be written; `kept/` says what each kind is to
//! `state.rs` and `draft.rs`, which decide what becomes of a change; `writer.rs`
//! commits it, and `leader.rs` says who may.

mod answers;
mod api;
mod caller;
mod campaign;
mod check;
mod config;
mod dns;
mod domain;
mod draft;
mod endpoint;
mod exhaustion;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod import;
mod installation;
mod kept;
mod key;
mod leader;
mod leadership;
mod link;
mod metrics;
mod ndjson;
mod openapi;
mod qr;
mod routes;
mod rules;
mod slug;
mod state;
mod upsert;
mod workspace;
mod writer;

use std::{io, net::SocketAddr, sync::Arc, thread, time::Duration};

use bus::{Bus, BusError};
use schemas::keyring;
use service::{ConfigError, Process, Shutdown, serve, vault::Vault};
use store::Store;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
};
use tracing::info;

use crate::{
    api::{context::Api, import_slots::ImportSlots},
    forward::Forwarder,
    leader::Candidate,
    leadership::Leadership,
    metrics::Counts,
    rules::{EndpointRules, LinkRules, Rules},
};
pub use config::Config;
pub use dns::{Dns, DnsError};

/// What callers of the API cannot exceed.
const LIMITS: serve::Limits =
    serve::Limits { connections: 1000, header_timeout: Duration::from_secs(30), drain: Duration::from_secs(10) };
/// How long Kafka is given to take a test event.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the API did not start, or went down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("the API cannot listen on {address}: {source}. Free the address, or set `control.listen` to another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A client of Kafka could not be made.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A thread could not be started, or went down.
    #[error("a thread of the API failed: {0}")]
    Thread(io::Error),
}

/// What the API is made of.
pub struct Setup {
    /// How it is set up.
    pub config: Config,
    /// Where its topics are.
    pub bus: Bus,
    /// What seals the secrets of endpoints.
    pub vault: Arc<Vault>,
    /// What the statistics are read from.
    pub store: Store,
    /// What says whether a domain is proven.
    pub dns: Dns,
    /// The process that it runs in.
    pub process: Process,
}

/// An API that has started.
pub struct Running {
    address: SocketAddr,
    drained: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it was told to stop and has drained.
    ///
    /// # Errors
    /// When it went down without being told to.
    pub async fn wait(self) -> Result<(), Error> {
        self.drained.await.unwrap_or_else(|error| Err(Error::Thread(io::Error::other(error))))
    }
}

/// Starts the API. It is ready (`control` of `health`) while this instance
/// leads, or knows who does: one that stands by forwards to the leader.
///
/// # Errors
/// When the configuration is wrong, the address is taken, or a client or thread
/// cannot be made.
pub async fn start(setup: Setup) -> Result<Running, Error> {
    let Setup { config, bus, vault, store, dns, process } = setup;
    let Process { metrics, health, shutdown } = process;
    config.validate_for_serving()?;
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
    let counts = Counts::new(&metrics);
    let leadership = Arc::new(Leadership::new(config.own(address)?, health.part("control")));
    let forwarder = Forwarder::new(config.intake(), counts.clone());
    let whereabouts = forward::follow(&bus, Arc::clone(&leadership))?;
    // Told after the API has drained, so that changes under way are committed.
    let step_down = Shutdown::new();
    let link_rules = Arc::new(LinkRules {
        short_url_base: config.short_url_base.as_str().into(),
        schemes: config.app_schemes.clone(),
        slug_chars: usize::from(config.slug_chars),
    });
    let candidate = Candidate {
        bus: bus.clone(),
        leadership: Arc::clone(&leadership),
        link_rules: Arc::clone(&link_rules),
        admin_hash: keyring::hash(&config.admin_key).into(),
        counts: counts.clone(),
        shutdown: step_down.clone(),
    };
    let exhaustion = exhaustion::watch(Arc::clone(&leadership), store.clone(), counts.clone());
    let producer = bus.producer("control", Duration::ZERO, PATIENCE)?;
    let api = Api {
        leadership: Arc::clone(&leadership),
        forwarder,
        producer,
        vault,
        store,
        dns,
        rules: Arc::new(Rules {
            endpoints: EndpointRules { allow_http: config.allow_http, allow_private: config.allow_private },
            links: link_rules,
        }),
        limiter: config.limiter(),
        counts,
        import_slots: ImportSlots::default(),
    };
    let stood_down = Shutdown::new();
    let tell = stood_down.clone();
    thread::Builder::new()
        .name("election".to_owned())
        .spawn(move || {
            candidate.run();
            tell.trigger();
        })
        .map_err(Error::Thread)?;
    info!(%address, "the API listens");
    let drained = tokio::spawn(async move {
        let exhaustion = tokio::spawn(exhaustion);
        let api = Arc::new(api);
        let (routes, open) = (routes::routes(Arc::clone(&api)), api.counts.connections.clone());
        let mut serving = tokio::spawn(serve::serve(listener, routes, LIMITS, open, shutdown.clone()));
        let outcome = tokio::select! {
            // Told to stop, serving ends too: the order says which was first.
            biased;
            () = shutdown.wait() => {
                leadership.drain();
                let _ = (&mut serving).await;
                Ok(())
            }
            ended = &mut serving => {
                let ended = ended.map_err(io::Error::other);
                Err(Error::Thread(ended.err().unwrap_or_else(|| io::Error::other("it ended by itself"))))
            }
            () = stood_down.wait() => Err(Error::Thread(io::Error::other("the election ended by itself"))),
        };
        exhaustion.abort();
        step_down.trigger();
        stood_down.wait().await;
        let producer = api.producer.clone();
        let _ = spawn_blocking(move || producer.drain(PATIENCE)).await;
        drop(whereabouts);
        info!("the API has drained");
        outcome
    });
    Ok(Running { address, drained })
}
