//! The control plane: the API for links, endpoints and the other kinds of entities, and the one leader that writes them.
//!
//! `routes.rs` lists the routes, `api/` has their handlers, and `openapi/` describes them. `kinds/` has the fields and
//! rules of each kind; `state/` has the committed entities, and the drafts of changes. `leading/` elects the leader,
//! commits the changes in its writer, and forwards requests to it.

mod api;
mod caller;
mod check;
mod config;
mod dns;
#[doc(hidden)]
pub mod fuzz;
mod kinds;
mod leading;
mod metrics;
mod openapi;
mod rate;
mod routes;
mod rules;
mod state;

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
    api::{context::Api, import_slots::ImportSlots, stats::slots::StatsSlots},
    leading::{
        election::Candidate,
        endpoint_health::{HealthReports, judge_endpoints},
        exhaustion::mark_exhausted_links,
        forward::{Forwarder, follow_leader},
        leadership::Leadership,
        proofs::check_proofs,
        renames::write_names_to_links,
        replaying::run_replays,
        resealing::reseal_endpoints,
        secret_expiry::remove_expired_secrets,
        watch::watch,
    },
    metrics::ControlMetrics,
    rate::RequestRates,
    rules::{ApiRules, DraftRules, EndpointRules, LinkRules},
};
pub use config::Config;
pub use dns::{Dns, DnsError};
pub use leading::watch::WatchConfig;

/// The limits of the connections to the API.
const LIMITS: serve::Limits = serve::Limits {
    connections: 1000,
    header_timeout: Duration::from_secs(30),
    keep_alive: Duration::from_secs(75),
    drain: Duration::from_secs(10),
};
/// The longest time until Kafka acknowledges the uses of keys.
const PRODUCE_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why the API did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The API cannot listen on the address.
    #[error("the API cannot listen on {address}: {source}. Free the address, or set `control.listen` to another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// A Kafka client could not be created.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A thread could not be started, or stopped.
    #[error("a thread of the API failed: {0}")]
    Thread(io::Error),
}

/// The configuration and the clients of an API.
pub struct Setup {
    /// The configuration.
    pub config: Config,
    /// The Kafka cluster with the topics.
    pub bus: Bus,
    /// The vault that seals the secrets of endpoints.
    pub vault: Arc<Vault>,
    /// The store that statistics are read from.
    pub store: Store,
    /// The DNS that the proofs of domains are read from.
    pub dns: Dns,
    /// The process that the API runs in. `control` is a part of its health.
    pub process: Process,
}

/// An API that has started.
pub struct Running {
    address: SocketAddr,
    drained: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Returns the address that the API listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the API was told to stop and has drained.
    ///
    /// # Errors
    /// When the API stopped without being told to.
    pub async fn wait(self) -> Result<(), Error> {
        self.drained.await.unwrap_or_else(|error| Err(Error::Thread(io::Error::other(error))))
    }
}

/// Starts the API. It is ready (`control` of `health`) while this instance leads, or knows the leader, to which it then
/// forwards.
///
/// # Errors
/// When the configuration is wrong, the address is taken, or a client or thread cannot be created.
pub async fn start(setup: Setup) -> Result<Running, Error> {
    let Setup { config, bus, vault, store, dns, process } = setup;
    let Process { metrics, health, shutdown } = process;
    config.validate_for_serving()?;
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
    let metrics = ControlMetrics::new(&metrics);
    let leadership = Arc::new(Leadership::new(config.own_address(address)?, health.part("control")));
    let forwarder = Forwarder::new(config.intake(), metrics.clone());
    let known_leader = follow_leader(&bus, Arc::clone(&leadership))?;
    // The candidate stops after the API has drained, so that the last changes are committed.
    let step_down = Shutdown::new();
    let link_rules = Arc::new(LinkRules {
        short_url_base: config.short_url_base.as_str().into(),
        schemes: config.app_schemes.clone(),
        slug_chars: usize::from(config.slug_chars),
    });
    let candidate = Candidate {
        bus: bus.clone(),
        leadership: Arc::clone(&leadership),
        rules: Arc::new(DraftRules { links: Arc::clone(&link_rules), quotas: config.quotas() }),
        admin_hash: keyring::hash(&config.admin_key).into(),
        metrics: metrics.clone(),
        shutdown: step_down.clone(),
    };
    let exhaustion = mark_exhausted_links(Arc::clone(&leadership), store.clone(), metrics.clone());
    let watching = watch(Arc::clone(&leadership), store.clone(), config.watch.clone(), metrics.clone());
    let reports = HealthReports::default();
    let followed_reports = reports.follow(&bus)?;
    let patience = Duration::from_secs(config.disable_failing_after_s);
    let health = judge_endpoints(Arc::clone(&leadership), reports, patience);
    let proofs = check_proofs(Arc::clone(&leadership), dns.clone(), Duration::from_secs(config.domain_grace_s));
    let renames = write_names_to_links(Arc::clone(&leadership));
    let resealing = reseal_endpoints(Arc::clone(&leadership), Arc::clone(&vault), metrics.clone());
    let secret_expiry = remove_expired_secrets(Arc::clone(&leadership));
    let replays = run_replays(Arc::clone(&leadership), bus.clone(), store.clone());
    let producer = bus.producer("control", Duration::ZERO, PRODUCE_TIMEOUT)?;
    let api = Api {
        leadership: Arc::clone(&leadership),
        forwarder,
        producer,
        vault: Arc::clone(&vault),
        store,
        dns,
        rules: Arc::new(ApiRules {
            endpoints: EndpointRules { allow_http: config.allow_http, allow_private: config.allow_private },
            links: link_rules,
            quotas: config.quotas(),
            vault: Arc::clone(&vault),
        }),
        rates: RequestRates::new(config.key_rate()),
        metrics,
        import_slots: ImportSlots::default(),
        stats_slots: StatsSlots::default(),
    };
    let stood_down = Shutdown::new();
    let election_ended = stood_down.clone();
    thread::Builder::new()
        .name("election".to_owned())
        .spawn(move || {
            candidate.run();
            election_ended.trigger();
        })
        .map_err(Error::Thread)?;
    info!(%address, "the API listens");
    let drained = tokio::spawn(async move {
        let exhaustion = tokio::spawn(exhaustion);
        let watching = tokio::spawn(watching);
        let health = tokio::spawn(health);
        let proofs = tokio::spawn(proofs);
        let renames = tokio::spawn(renames);
        let resealing = tokio::spawn(resealing);
        let secret_expiry = tokio::spawn(secret_expiry);
        let replays = tokio::spawn(replays);
        let api = Arc::new(api);
        let routes = routes::routes(Arc::clone(&api));
        let open = api.metrics.connections.clone();
        let mut serving = tokio::spawn(serve::serve(listener, routes, LIMITS, open, shutdown.clone()));
        let outcome = tokio::select! {
            // A signal to stop ends the serving too, so it is looked at first.
            biased;
            () = shutdown.wait() => {
                leadership.drain();
                let _ = (&mut serving).await;
                Ok(())
            }
            ended = &mut serving => {
                let ended = ended.map_err(io::Error::other);
                Err(Error::Thread(ended.err().unwrap_or_else(|| io::Error::other("the server ended by itself"))))
            }
            () = stood_down.wait() => Err(Error::Thread(io::Error::other("the election ended by itself"))),
        };
        exhaustion.abort();
        watching.abort();
        health.abort();
        proofs.abort();
        renames.abort();
        resealing.abort();
        secret_expiry.abort();
        replays.abort();
        step_down.trigger();
        stood_down.wait().await;
        let producer = api.producer.clone();
        let _ = spawn_blocking(move || producer.drain(PRODUCE_TIMEOUT)).await;
        drop(known_leader);
        drop(followed_reports);
        info!("the API has drained");
        outcome
    });
    Ok(Running { address, drained })
}
