//! Webhooks: events become signed requests to the endpoints that ask for them.
//!
//! Three consumers, each on a thread of its own, read `clicks` and `events`
//! (`events.rs`) and the delay topic (`delay.rs`). A record is matched
//! (`endpoints.rs`) and becomes deliveries, which go through their endpoint's lane
//! (`lane.rs`) into an exchange (`client.rs`, allowed by `guard.rs`), signed by
//! `sign.rs`. What an exchange means is decided in `outcome.rs`; what it leaves
//! behind is written by `outbox.rs`; and offsets are committed by `follow.rs` when
//! `claims.rs` says that all of it is done.

mod claims;
mod client;
mod config;
mod delay;
mod deliver;
mod endpoints;
mod events;
mod follow;
pub mod guard;
mod lane;
mod metrics;
mod outbox;
mod outcome;
pub mod sign;
pub mod verify;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Bus, BusError, Change, Isolation};
use schemas::Topic;
use service::{ConfigError, Health, Metrics, Shutdown, vault::Vault};
use tracing::info;

pub use config::Config;

use self::{
    delay::Delay, deliver::Deliverer, endpoints::Endpoints, events::Events, follow::Readers, metrics::Numbers,
    outbox::Outbox,
};

/// Why webhooks are no longer delivered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has a value that is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kafka cannot be read on without losing records, or the client is beyond repair.
    #[error("webhooks: {0}")]
    Bus(#[from] BusError),
    /// The TLS library lacks what it was built with.
    #[error("webhooks: cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A thread could not be started.
    #[error("webhooks: cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A thread ended in a panic, which the log has.
    #[error("webhooks: a thread ended in a panic: please report it with the log's last lines")]
    Panic,
}

/// How long Kafka may take for the last records when told to stop.
const FLUSH: Duration = Duration::from_secs(5);

/// Delivers webhooks until `shutdown`, then drains: what is under way has
/// `drain_ms` to finish, and offsets and records are with Kafka when this returns.
///
/// # Errors
/// When the configuration is not valid, or Kafka cannot be read on.
pub async fn run(
    config: Config,
    bus: Bus,
    vault: Arc<Vault>,
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), Error> {
    config.validate()?;
    let part = health.part("webhook");
    part.not_ready("reading endpoints");
    let endpoints = Arc::new(Endpoints::new(vault));
    let numbers = Numbers::new(&metrics);
    let (followed, known) = (Arc::clone(&endpoints), numbers.endpoints.clone());
    let table = bus.table("webhook", Topic::Endpoints, None, move |change: Change<'_>| {
        followed.apply(change);
        known.set(i64::try_from(followed.len()).unwrap_or(i64::MAX));
    })?;
    // An event that were read before its endpoints would match none of them.
    tokio::select! {
        () = table.caught_up() => {}
        () = shutdown.wait() => return Ok(()),
    }
    let drain = Duration::from_millis(config.drain_ms);
    let deliverer = Arc::new(Deliverer::new(config, endpoints, Outbox::new(&bus)?, numbers)?);
    let mut readers = Readers::new(bus, deliverer.numbers.outstanding.clone());
    let events = |claims| Events { claims, deliverer: Arc::clone(&deliverer), resting: false };
    // A click is told of before the transaction that it was enriched in is
    // committed: should that abort, the same event follows, with the same id.
    readers.start("webhook.clicks", Topic::Clicks, Isolation::Uncommitted, events)?;
    readers.start("webhook.events", Topic::Events, Isolation::Committed, events)?;
    let delay = |claims| Delay { claims, deliverer: Arc::clone(&deliverer), heads: HashMap::new() };
    readers.start("webhook.delay", Topic::Delay, Isolation::Uncommitted, delay)?;
    part.ready();
    info!(endpoints = deliverer.endpoints.len(), "webhooks are delivered");

    let ended = tokio::select! {
        () = shutdown.wait() => Ok(()),
        error = readers.failed() => Err(error),
    };
    part.not_ready("draining");
    readers.stop().await;
    deliverer.drain(drain).await;
    let ended = ended.and(readers.leave().await);
    let flushed = tokio::task::spawn_blocking(move || {
        drop(table);
        deliverer.outbox.drain(FLUSH)
    });
    let left = flushed.await.unwrap_or_default();
    info!(unflushed = left, "webhooks are no longer delivered");
    ended
}
