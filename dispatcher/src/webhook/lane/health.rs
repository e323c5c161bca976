//! Whether an endpoint fails again and again, told from the verdicts on its
//! exchanges. Nothing is decided by it yet: operators read it in the log.

use crate::webhook::outcome::Verdict;

/// The failures in a row after which an endpoint counts as failing.
const FAILING: u32 = 5;

/// The failures of an endpoint since its last success.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HealthTracker {
    failures: u32,
}

/// A change of an endpoint's health, reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthChange {
    /// The endpoint has failed this often in a row.
    Failing { failures: u32 },
    /// The endpoint answers again, after this many failures.
    Recovered { failures: u32 },
}

impl HealthTracker {
    pub(super) fn learn(&mut self, verdict: &Verdict) -> Option<HealthChange> {
        if *verdict == Verdict::Delivered {
            let failures = std::mem::take(&mut self.failures);
            return (failures >= FAILING).then_some(HealthChange::Recovered { failures });
        }
        self.failures = self.failures.saturating_add(1);
        (self.failures == FAILING).then_some(HealthChange::Failing { failures: self.failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_fails_after_five_in_a_row_and_recovers_once() {
        let mut health = HealthTracker::default();
        let failed = Verdict::Dead { why: String::new() };
        for _ in 0..4 {
            assert_eq!(health.learn(&failed), None);
        }
        assert_eq!(health.learn(&Verdict::Delivered), None);
        for _ in 0..4 {
            assert_eq!(health.learn(&failed), None);
        }
        assert_eq!(health.learn(&failed), Some(HealthChange::Failing { failures: 5 }));
        assert_eq!(health.learn(&failed), None);
        assert_eq!(health.learn(&Verdict::Delivered), Some(HealthChange::Recovered { failures: 6 }));
        assert_eq!(health.learn(&Verdict::Delivered), None);
    }
}
