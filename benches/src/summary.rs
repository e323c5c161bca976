//! Latencies in a few numbers.

use std::time::Duration;

use serde::Serialize;

/// How long something took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latency {
    /// The summary of `all`; zeros of none.
    pub(crate) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        // The smallest that at least this share is not above (nearest rank).
        let rank = |share: f64| {
            let rank = (share * all.len() as f64).ceil() as usize;
            all.get(rank.saturating_sub(1)).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
        };
        Self { p50_ms: rank(0.5), p90_ms: rank(0.9), p99_ms: rank(0.99), p999_ms: rank(0.999), max_ms: rank(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let summary = Latency::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((summary.p50_ms, summary.p99_ms, summary.max_ms), (100.0, 198.0, 200.0));
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
