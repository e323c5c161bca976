//! Whether an endpoint fails, as this process sees it. Changes are reported on the topic
//! `health`, from which the leader of `control` concludes; nothing is concluded here. While
//! an endpoint fails, its report is renewed from time to time, so that the leader knows for
//! how long.

use std::time::Duration;

use schemas::{EndpointId, Timestamp, endpoint_health::EndpointHealth};

/// The failures in a row after which an endpoint counts as failing.
const FAILING: u32 = 5;
/// The least time between two reports of the same state.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// The end of an exchange, as far as it tells of the endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthSign {
    Success,
    Failure,
    /// The endpoint answered 410.
    Gone,
}

/// The health of one endpoint since its last success.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HealthTracker {
    failures: u32,
    failing_since: Option<Timestamp>,
    /// The time of the last report.
    reported_at: Option<Timestamp>,
    /// The time of the last answer 410, if no success has followed it.
    gone_at: Option<Timestamp>,
}

/// A change of an endpoint's health for the log, reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthChange {
    /// The endpoint has failed this often in a row.
    Failing { failures: u32 },
    /// The endpoint answers again, after this many failures.
    Recovered { failures: u32 },
    /// The endpoint wants no more webhooks.
    Gone,
}

/// The consequences of an exchange for the endpoint's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Learned {
    pub change: Option<HealthChange>,
    /// The record for the leader.
    pub report: Option<EndpointHealth>,
}

impl HealthTracker {
    /// Learns how an exchange with `endpoint` ended. `marked_failing` says whether the
    /// leader has marked the endpoint as failing: a success must then be reported, since
    /// another process may have reported the failures.
    pub(super) fn learn(
        &mut self,
        endpoint: EndpointId,
        sign: HealthSign,
        at: Timestamp,
        marked_failing: bool,
    ) -> Learned {
        match sign {
            HealthSign::Success => self.succeeded(endpoint, at, marked_failing),
            HealthSign::Failure => self.failed(endpoint, at, false),
            HealthSign::Gone => self.failed(endpoint, at, true),
        }
    }

    /// Tells whether the endpoint wants no more webhooks.
    pub(super) const fn is_gone(&self) -> bool {
        self.gone_at.is_some()
    }

    fn succeeded(&mut self, endpoint: EndpointId, at: Timestamp, marked_failing: bool) -> Learned {
        let failures = std::mem::take(&mut self.failures);
        self.failing_since = None;
        self.gone_at = None;
        let has_recovered = failures >= FAILING;
        let is_due = self.reported_at.is_none_or(|reported| at.since(reported) >= REPORT_EVERY);
        let must_report = has_recovered || (marked_failing && is_due);
        if !must_report {
            return Learned::default();
        }
        self.reported_at = Some(at);
        let change = has_recovered.then_some(HealthChange::Recovered { failures });
        let report = EndpointHealth { last_success: Some(at), ..nothing(endpoint) };
        Learned { change, report: Some(report) }
    }

    fn failed(&mut self, endpoint: EndpointId, at: Timestamp, says_gone: bool) -> Learned {
        self.failures = self.failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(at);
        let is_newly_gone = says_gone && self.gone_at.is_none();
        if says_gone {
            self.gone_at = Some(at);
        }
        let is_newly_failing = self.failures == FAILING;
        let is_failing = self.failures >= FAILING;
        let is_due = self.reported_at.is_none_or(|reported| at.since(reported) >= REPORT_EVERY);
        if !is_newly_failing && !is_newly_gone && !(is_due && (is_failing || says_gone)) {
            return Learned::default();
        }
        self.reported_at = Some(at);
        let change = if is_newly_gone {
            Some(HealthChange::Gone)
        } else {
            is_newly_failing.then_some(HealthChange::Failing { failures: self.failures })
        };
        let run = is_failing.then_some(since);
        let report = EndpointHealth {
            failing_since: run,
            last_failure: run.map(|_| at),
            gone_at: self.gone_at,
            ..nothing(endpoint)
        };
        Learned { change, report: Some(report) }
    }
}

const fn nothing(endpoint: EndpointId) -> EndpointHealth {
    EndpointHealth { v: 1, endpoint, failing_since: None, last_failure: None, last_success: None, gone_at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: EndpointId = EndpointId::from_bits(1);

    fn at(s: i64) -> Timestamp {
        Timestamp::from_millis(s * 1000)
    }

    fn failing(since: i64, last: i64) -> Option<EndpointHealth> {
        Some(EndpointHealth { failing_since: Some(at(since)), last_failure: Some(at(last)), ..nothing(ENDPOINT) })
    }

    #[test]
    fn an_endpoint_fails_after_five_in_a_row_and_recovers_once() {
        let mut health = HealthTracker::default();
        let mut learn = |sign, s| health.learn(ENDPOINT, sign, at(s), false);
        for s in 0..4 {
            assert_eq!(learn(HealthSign::Failure, s), Learned::default());
        }
        assert_eq!(learn(HealthSign::Success, 4), Learned::default());
        for s in 5..9 {
            assert_eq!(learn(HealthSign::Failure, s), Learned::default());
        }
        let fifth = learn(HealthSign::Failure, 9);
        assert_eq!(fifth, Learned { change: Some(HealthChange::Failing { failures: 5 }), report: failing(5, 9) });
        assert_eq!(learn(HealthSign::Failure, 68), Learned::default());
        assert_eq!(learn(HealthSign::Failure, 69), Learned { change: None, report: failing(5, 69) }, "renewed");
        let recovered = learn(HealthSign::Success, 70);
        assert_eq!(recovered.change, Some(HealthChange::Recovered { failures: 7 }));
        assert_eq!(recovered.report, Some(EndpointHealth { last_success: Some(at(70)), ..nothing(ENDPOINT) }));
        assert_eq!(learn(HealthSign::Success, 71), Learned::default());
    }

    #[test]
    fn a_success_with_an_endpoint_that_is_marked_as_failing_is_reported() {
        let mut health = HealthTracker::default();
        let mut learn = |s, marked| health.learn(ENDPOINT, HealthSign::Success, at(s), marked).report;
        assert_eq!(learn(1, false), None);
        assert!(learn(2, true).is_some());
        assert_eq!(learn(3, true), None, "once a minute");
        assert!(learn(62, true).is_some());
    }

    #[test]
    fn an_endpoint_that_is_gone_is_reported_at_once() {
        let mut health = HealthTracker::default();
        for s in 0..5 {
            health.learn(ENDPOINT, HealthSign::Failure, at(s), false);
        }
        assert!(!health.is_gone());
        let gone = health.learn(ENDPOINT, HealthSign::Gone, at(5), false);
        assert_eq!(gone.change, Some(HealthChange::Gone));
        assert_eq!(gone.report.as_ref().and_then(|report| report.gone_at), Some(at(5)));
        assert!(health.is_gone());
        assert_eq!(health.learn(ENDPOINT, HealthSign::Gone, at(6), false), Learned::default());
        let renewed = health.learn(ENDPOINT, HealthSign::Failure, at(65), false).report;
        assert_eq!(renewed.and_then(|report| report.gone_at), Some(at(6)), "it stays in later reports");
        health.learn(ENDPOINT, HealthSign::Success, at(66), false);
        assert!(!health.is_gone());
    }
}
