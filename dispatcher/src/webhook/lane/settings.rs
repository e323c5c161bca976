//! The limits of a lane.

use std::time::Duration;

use schemas::{BatchLimits, DelayTier, Endpoint};

use crate::webhook::{config::Config, retry::RetryTiming};

/// The limits of one endpoint's lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneSettings {
    /// Exchanges that may be in flight at once, over all processes together.
    pub(crate) max_in_flight: usize,
    /// The delays of the tiers, on which deliveries wait that found no room.
    pub(crate) timing: RetryTiming,
    /// The least time between the beginnings of two exchanges, over all processes together; zero
    /// for no limit.
    pub(crate) min_interval: Duration,
    /// The limits of a batch; none where each delivery goes alone.
    pub(crate) batch: Option<BatchLimits>,
    /// The bytes that the endpoint's format adds to an event at most.
    pub(crate) format_bytes: usize,
}

impl LaneSettings {
    /// Returns the settings of an endpoint without limits of its own.
    pub(crate) fn from_config(config: &Config) -> Self {
        Self {
            max_in_flight: config.max_in_flight,
            timing: config.retry_timing(),
            min_interval: Duration::ZERO,
            batch: None,
            format_bytes: 0,
        }
    }

    /// Returns the longest time until a delivery that found no room is offered again.
    pub(super) fn max_retry_after(&self) -> Duration {
        self.timing.delay(DelayTier::LONGEST)
    }

    /// Returns the settings of `endpoint`, whose limits are not above these, and whose format adds
    /// `format_bytes` to an event.
    pub(crate) fn of(self, endpoint: &Endpoint, format_bytes: usize) -> Self {
        let own = endpoint.max_in_flight.and_then(|own| usize::try_from(own).ok());
        Self {
            max_in_flight: own.map_or(self.max_in_flight, |own| own.min(self.max_in_flight)),
            min_interval: endpoint.rate_limit.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1)),
            batch: endpoint.batch,
            format_bytes,
            ..self
        }
    }
}
