//! The circuit breaker of one endpoint. After a run of failures it opens: deliveries
//! wait on a delay topic without costing an attempt, and one at a time is let through
//! to probe the endpoint. The first success closes it. It is local to the process.

use std::time::{Duration, Instant};

/// The failures in a row that open the breaker.
const OPENS_AFTER: u32 = 10;
/// The shortest and the longest time between two probes.
const PROBE_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The breaker's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Breaker {
    /// Deliveries begin, and none has failed since the last success.
    #[default]
    Closed,
    /// Deliveries begin, and this many have failed since the last success.
    Failing { failures: u32 },
    /// Deliveries do not begin, probes excepted.
    Open { since: Instant, probe_at: Instant, pause: Duration },
}

/// The breaker's answer to a delivery that asks to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// The delivery may begin, or wait for its turn.
    Free,
    /// The delivery begins as a probe.
    Probe,
    /// The delivery is to be offered again later: the endpoint has failed for this time, or will
    /// have when it is probed.
    Blocked { failing_for: Duration },
}

impl Breaker {
    /// Learns that an exchange succeeded.
    pub(super) fn succeeded(&mut self) {
        *self = Self::Closed;
    }

    /// Learns that an exchange failed.
    pub(super) fn failed(&mut self, now: Instant) {
        let open = |since, pause| Self::Open { since, probe_at: now + pause, pause };
        *self = match *self {
            Self::Closed => Self::Failing { failures: 1 },
            Self::Failing { failures } if failures + 1 < OPENS_AFTER => Self::Failing { failures: failures + 1 },
            Self::Failing { .. } => open(now, PROBE_PAUSE.0),
            Self::Open { since, probe_at, pause } if now >= probe_at => open(since, (2 * pause).min(PROBE_PAUSE.1)),
            // An exchange that began before the breaker opened.
            still @ Self::Open { .. } => still,
        };
    }

    /// Decides about a delivery while `in_flight` exchanges with the endpoint run.
    pub(super) fn passage(self, in_flight: usize, now: Instant) -> Passage {
        let Self::Open { since, probe_at, .. } = self else { return Passage::Free };
        if now >= probe_at && in_flight == 0 {
            return Passage::Probe;
        }
        let until_probe = probe_at.saturating_duration_since(now);
        Passage::Blocked { failing_for: now.saturating_duration_since(since).max(until_probe) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..OPENS_AFTER {
            assert_eq!(breaker.passage(3, now), Passage::Free);
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn a_run_of_failures_opens_it_and_a_success_ends_the_run() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 1..OPENS_AFTER {
                breaker.failed(now);
            }
            assert_eq!(breaker.passage(0, now), Passage::Free);
            breaker.succeeded();
        }
        assert_eq!(open(now).passage(0, now), Passage::Blocked { failing_for: 5 * SECOND });
    }

    #[test]
    fn one_probe_at_a_time_closes_it_or_lengthens_the_pause() {
        let start = Instant::now();
        let mut breaker = open(start);
        let now = start + 5 * SECOND;
        assert_eq!(breaker.passage(1, now), Passage::Blocked { failing_for: 5 * SECOND }, "one is in flight");
        assert_eq!(breaker.passage(0, now), Passage::Probe);
        breaker.failed(now);
        assert_eq!(breaker.passage(0, now + 9 * SECOND), Passage::Blocked { failing_for: 14 * SECOND });
        assert_eq!(breaker.passage(0, now + 10 * SECOND), Passage::Probe);
        breaker.succeeded();
        assert_eq!(breaker.passage(7, now), Passage::Free);
    }

    #[test]
    fn what_ends_after_it_opened_is_no_probe() {
        let now = Instant::now();
        let mut breaker = open(now);
        let before = breaker;
        breaker.failed(now + SECOND);
        assert_eq!(breaker, before);
    }

    #[test]
    fn probes_become_rare_and_never_cease() {
        let start = Instant::now();
        let mut breaker = open(start);
        let mut now = start;
        for _ in 0..200 {
            now += PROBE_PAUSE.1;
            assert_eq!(breaker.passage(0, now), Passage::Probe);
            breaker.failed(now);
        }
        assert_eq!(breaker.passage(0, now), Passage::Blocked { failing_for: 200 * PROBE_PAUSE.1 });
    }
}
