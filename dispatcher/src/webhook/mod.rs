//! Webhooks: events become signed requests to the endpoints that ask for them.
//!
//! Three consumers, each on a thread of its own, read `clicks` and `events`
//! (`events.rs`) and the delay topics (`delay.rs`). A record is matched with its
//! endpoints (`endpoints.rs`) and becomes deliveries (`delivery.rs`). A delivery is
//! admitted (`deliver.rs`) to its endpoint's lane, which says when it may begin
//! or, where the endpoint wants batches, with which others (`lane/`, `worker.rs`). An attempt
//! (`attempt.rs`) is one exchange over HTTP (`exchange/`), to an address that is allowed
//! (`guard.rs`), with a body (`request.rs`) in the endpoint's format (`formats/`) that is signed
//! under each of its secrets (`signers.rs`, `sign.rs`).
//! `outcome.rs` decides what follows from the exchange, `retry.rs` when, and `outbox.rs`
//! writes it to
//! Kafka. Offsets are committed by `readers.rs` once every claim below them is
//! complete (`claims.rs`).

mod attempt;
mod backpressure;
mod claims;
mod config;
mod delay;
mod deliver;
mod delivery;
mod endpoints;
mod error;
mod events;
mod exchange;
mod formats;
pub mod guard;
mod health;
mod lane;
mod metrics;
mod named_failures;
mod outbox;
mod outcome;
mod partition_choice;
mod readers;
mod request;
mod retry;
mod sampling;
pub mod sign;
mod signers;
mod subscribers;
pub mod verify;
mod worker;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Bus, Change, Isolation};
use schemas::{ConsumerGroup, Topic};
use service::{Process, vault::Vault};
use tracing::info;

pub use config::Config;
pub use error::Error;

use self::{
    backpressure::Backpressure,
    delay::DelayReader,
    deliver::Deliverer,
    endpoints::Endpoints,
    events::EventReader,
    lane::{LanePool, LaneSettings},
    metrics::WebhookMetrics,
    outbox::WebhookOutbox,
    readers::{GroupSubscription, Readers},
    sampling::{OwnedDelays, sample},
};

/// The time that Kafka has to take the last records when the process stops.
const FLUSH: Duration = Duration::from_secs(5);

/// Delivers webhooks until `shutdown`, then drains: deliveries in flight have
/// `drain_ms` to finish, and Kafka has the offsets and records when this returns.
///
/// # Errors
/// When the configuration is not valid, or Kafka cannot be read on.
pub async fn run(config: Config, bus: Bus, vault: Arc<Vault>, process: Process) -> Result<(), Error> {
    let Process { metrics, health, shutdown } = process;
    config.validate()?;
    let part = health.part("webhook");
    part.not_ready("reading endpoints");
    let metrics = WebhookMetrics::new(&metrics);
    let endpoints =
        Arc::new(Endpoints::new(vault, LaneSettings::from_config(&config), LanePool::new(config.max_waiting_bytes)));
    let followed = Arc::clone(&endpoints);
    let known = metrics.endpoints.clone();
    let table = bus.table("webhook", Topic::Endpoints, None, move |change: Change<'_>| {
        followed.apply(change);
        known.set(i64::try_from(followed.len()).unwrap_or(i64::MAX));
    })?;
    // An event that is read before its endpoints are known would match none.
    tokio::select! {
        () = table.caught_up() => {}
        () = shutdown.wait() => return Ok(()),
    }
    let drain = Duration::from_millis(config.drain_ms);
    let outbox = Arc::new(WebhookOutbox::new(&bus, config.retry_timing(), metrics.clone())?);
    let (pool, delays) = (Arc::clone(&endpoints.pool), OwnedDelays::default());
    let mut readers = Readers::new(bus.clone(), health, metrics.outstanding.clone(), pool, delays.clone());
    let deliverer = Arc::new(Deliverer::new(config, endpoints, outbox, metrics.clone())?);
    sample(&deliverer, metrics, &bus, delays);
    let events = Arc::clone(&deliverer);
    let events =
        move |claims| EventReader { claims, deliverer: Arc::clone(&events), backpressure: Backpressure::default() };
    let delay = Arc::clone(&deliverer);
    let delay =
        move |claims| DelayReader { claims, deliverer: Arc::clone(&delay), paused_heads: HashMap::new(), told: None };
    // Clicks are delivered before the enricher's transaction is committed: should the
    // transaction abort, the same event follows, with the same id.
    let isolation = Isolation::Uncommitted;
    readers.start(GroupSubscription { group: ConsumerGroup::WebhookClicks, isolation }, events.clone())?;
    readers.start(GroupSubscription { group: ConsumerGroup::WebhookDelay, isolation }, delay)?;
    let isolation = Isolation::Committed;
    readers.start(GroupSubscription { group: ConsumerGroup::WebhookEvents, isolation }, events)?;
    part.ready();
    info!(endpoints = deliverer.endpoints.len(), "webhook delivery started");

    let ended = tokio::select! {
        () = shutdown.wait() => Ok(()),
        error = readers.failed() => Err(error),
    };
    part.not_ready("draining");
    readers.stop().await;
    deliverer.drain(drain).await;
    // The offsets of deliveries are complete when the log has their attempts.
    let logging = Arc::clone(&deliverer);
    let _ = tokio::task::spawn_blocking(move || logging.outbox.flush_log(FLUSH)).await;
    let ended = ended.and(readers.leave().await);
    let flushed = tokio::task::spawn_blocking(move || {
        drop(table);
        deliverer.outbox.flush(FLUSH)
    });
    let left = flushed.await.unwrap_or_default();
    info!(unflushed = left, "webhook delivery stopped");
    ended
}
