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
//! complete (`claims.rs`). Partitions go to other members by `handover.rs`.

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
mod handover;
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

/// Delivers webhooks until `shutdown`, then drains: Kafka has the offsets and records when this
/// returns. The only process gives deliveries in flight `drain_ms` to end. Where there are
/// others, it hands its partitions over to them at once.
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
    let delays = OwnedDelays::default();
    let deliverer = Arc::new(Deliverer::new(config, endpoints, outbox, metrics.clone())?);
    let mut readers = Readers::new(bus.clone(), health, Arc::clone(&deliverer), delays.clone());
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
    // Where other processes deliver, too, no webhook waits for an endpoint that is slow.
    if deliverer.endpoints.pool.share.is_whole() {
        deliverer.drain(drain).await;
    }
    let ended = ended.and(readers.leave().await);
    let flushed = tokio::task::spawn_blocking(move || {
        drop(table);
        deliverer.outbox.flush(FLUSH)
    });
    let left = flushed.await.unwrap_or_default();
    info!(unflushed = left, "webhook delivery stopped");
    ended
}
