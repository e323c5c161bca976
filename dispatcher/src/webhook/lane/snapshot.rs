//! The state of a lane at one moment, for metrics.

use super::{Lane, Waiting, breaker::Breaker};

/// The state of a lane at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneSnapshot {
    /// The deliveries that wait for a slot.
    pub waiting: usize,
    /// The exchanges that run.
    pub in_flight: usize,
    pub breaker: BreakerState,
}

/// The state of a breaker, without its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BreakerState {
    /// No exchange has failed since the last success.
    Closed,
    /// Some have, and deliveries begin nevertheless.
    Failing,
    /// Only probes begin.
    Open,
}

impl<T: Waiting> Lane<T> {
    /// Returns the lane's state.
    pub(crate) fn snapshot(&self) -> LaneSnapshot {
        let state = self.state.lock();
        let breaker = match state.breaker {
            Breaker::Closed => BreakerState::Closed,
            Breaker::Failing { .. } => BreakerState::Failing,
            Breaker::Open { .. } => BreakerState::Open,
        };
        LaneSnapshot { waiting: state.queue.len(), in_flight: state.in_flight, breaker }
    }
}
