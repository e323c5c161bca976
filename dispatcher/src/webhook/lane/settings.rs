//! The limits of a lane.

use std::time::Duration;

use schemas::{BatchLimits, DelayTier};

use crate::webhook::config::Config;

/// The limits of one endpoint's lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneSettings {
    /// Exchanges that may be in flight at once, over all processes together.
    pub(crate) max_in_flight: usize,
    /// The longest time until a delivery that found no room is offered again.
    pub(crate) max_retry_after: Duration,
    /// The least time between the beginnings of two exchanges; zero for no limit.
    pub(crate) min_interval: Duration,
    /// The limits of a batch; none where each delivery goes alone.
    pub(crate) batch: Option<BatchLimits>,
}

impl LaneSettings {
    /// Returns the settings of an endpoint without limits of its own.
    pub(crate) fn from_config(config: &Config) -> Self {
        Self {
            max_in_flight: config.max_in_flight,
            max_retry_after: config.retry_timing().delay(DelayTier::LONGEST),
            min_interval: Duration::ZERO,
            batch: None,
        }
    }
}
