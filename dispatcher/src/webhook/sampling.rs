//! Metrics that are looked at from time to time, and not counted: the states of all lanes,
//! the memory and sockets that are in use, and the deliveries on the delay topics.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bus::{Bus, LogReader, Partition};
use parking_lot::Mutex;
use schemas::{DelayTier, Topic};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::debug;

use super::{
    deliver::Deliverer,
    lane::{BreakerState, LaneSnapshot},
    metrics::WebhookMetrics,
};

/// The time between two looks at the lanes.
const LANES_EVERY: Duration = Duration::from_secs(1);
/// The time between two looks at the ends of the delay topics.
const TIERS_EVERY: Duration = Duration::from_secs(10);

/// The offsets below which the deliveries on delay topics are done, of the partitions that
/// this process owns. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct OwnedDelays(Arc<Mutex<HashMap<Partition, i64>>>);

impl OwnedDelays {
    /// Notes the partitions that are owned now.
    pub(super) fn set(&self, offsets: impl Iterator<Item = (Partition, i64)>) {
        let mut owned = self.0.lock();
        owned.clear();
        owned.extend(offsets.filter(|(partition, _)| matches!(partition.topic, Topic::Delay(_))));
    }
}

/// The lanes of all endpoints, by their states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LaneStates {
    idle: i64,
    delivering: i64,
    waiting: i64,
    closed: i64,
    failing: i64,
    open: i64,
    waiting_deliveries: i64,
}

impl LaneStates {
    fn count(&mut self, LaneSnapshot { waiting, in_flight, breaker }: LaneSnapshot) {
        let state = match (waiting, in_flight) {
            (0, 0) => &mut self.idle,
            (0, _) => &mut self.delivering,
            _ => &mut self.waiting,
        };
        *state += 1;
        let breaker = match breaker {
            BreakerState::Closed => &mut self.closed,
            BreakerState::Failing => &mut self.failing,
            BreakerState::Open => &mut self.open,
        };
        *breaker += 1;
        self.waiting_deliveries += integer(waiting);
    }
}

/// Sets the metrics from time to time, until the deliverer is gone.
pub(super) fn sample(deliverer: &Arc<Deliverer>, metrics: WebhookMetrics, bus: &Bus, owned: OwnedDelays) {
    tokio::spawn(sample_lanes(Arc::downgrade(deliverer), metrics.clone()));
    match bus.log_reader("webhook.tiers") {
        Ok(reader) => drop(tokio::spawn(sample_tiers(Arc::downgrade(deliverer), metrics, reader, owned))),
        Err(error) => debug!(%error, "no client for the depth of delay topics"),
    }
}

async fn sample_lanes(deliverer: Weak<Deliverer>, metrics: WebhookMetrics) {
    while let Some(deliverer) = deliverer.upgrade() {
        let mut states = LaneStates::default();
        deliverer.endpoints.for_each(|recipient| states.count(recipient.lane.snapshot()));
        let LaneStates { idle, delivering, waiting, closed, failing, open, waiting_deliveries } = states;
        metrics.set_lanes([("idle", idle), ("delivering", delivering), ("waiting", waiting)]);
        metrics.set_breakers([("closed", closed), ("failing", failing), ("open", open)]);
        metrics.waiting.set(waiting_deliveries);
        let pool = &deliverer.endpoints.pool;
        metrics.waiting_bytes.set(integer(pool.used_bytes()));
        metrics.waiting_max_bytes.set(integer(deliverer.config.max_waiting_bytes));
        metrics.reading_paused.set(i64::from(deliverer.is_backlogged()));
        let in_use = deliverer.in_use();
        metrics.running_exchanges.set(integer(in_use.exchanges));
        metrics.open_connections.set(integer(in_use.connections));
        drop(deliverer);
        sleep(LANES_EVERY).await;
    }
}

async fn sample_tiers(
    deliverer: Weak<Deliverer>,
    metrics: WebhookMetrics,
    mut reader: LogReader,
    OwnedDelays(owned): OwnedDelays,
) {
    while deliverer.strong_count() > 0 {
        let offsets = owned.lock().clone();
        let looked = spawn_blocking(move || {
            let depths = depths(&reader, &offsets);
            (reader, depths)
        });
        let Ok((returned, depths)) = looked.await else { return };
        reader = returned;
        for (tier, depth) in depths {
            metrics.set_tier_depth(tier, depth);
        }
        sleep(TIERS_EVERY).await;
    }
}

/// Returns the number of records on each tier that are not done. A partition whose end
/// Kafka does not tell is left out.
fn depths(reader: &LogReader, offsets: &HashMap<Partition, i64>) -> HashMap<DelayTier, i64> {
    let mut depths: HashMap<DelayTier, i64> = DelayTier::ALL.into_iter().map(|tier| (tier, 0)).collect();
    for (partition, offset) in offsets {
        let Topic::Delay(tier) = partition.topic else { continue };
        match reader.range(*partition) {
            Ok(log) => *depths.entry(tier).or_default() += (log.end - offset.max(&log.start)).max(0),
            Err(error) => debug!(%error, %partition, "end of a delay topic not known"),
        }
    }
    depths
}

fn integer(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_one_state_and_one_breaker() {
        let mut states = LaneStates::default();
        for (waiting, in_flight, breaker) in [
            (0, 0, BreakerState::Closed),
            (0, 2, BreakerState::Failing),
            (3, 2, BreakerState::Open),
            (4, 0, BreakerState::Open),
        ] {
            states.count(LaneSnapshot { waiting, in_flight, breaker });
        }
        let expected =
            LaneStates { idle: 1, delivering: 1, waiting: 2, closed: 1, failing: 1, open: 2, waiting_deliveries: 7 };
        assert_eq!(states, expected);
    }
}
