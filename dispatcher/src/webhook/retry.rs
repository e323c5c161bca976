//! The time of a delivery's next attempt, and the tier on which it waits until then.
//! Nothing here sends, waits or records.
//!
//! A delivery waits on the longest tier that is not longer than its wait. For the rest
//! of its wait it moves to a shorter tier, so a wait of 20 h takes nine hops of 2 h and
//! about a dozen shorter ones.
//! Jitter only lengthens a wait: a shortened one would miss its tier.

use std::time::Duration;

use schemas::{DelayTier, RetrySchedule, Timestamp};

/// The share of a wait that jitter adds at most.
const JITTER: f64 = 0.1;
/// The longest jitter. So the records of a tier are due in about the order in which
/// they stand there.
const LONGEST_JITTER: Duration = Duration::from_secs(60);
/// The longest rest of a delivery whose endpoint keeps failing.
const LONGEST_REST: DelayTier = DelayTier::Hours2;
/// The share of a tier's delay for which a partition of it is paused at least, and the longest
/// such time.
const LEAST_PAUSE: u32 = 20;
const LONGEST_LEAST_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait that an endpoint may ask for with `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The delays of this installation: those of the contract, which tests shorten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryTiming {
    /// Every delay is divided by this number.
    pub speedup: u32,
}

/// The retries of one endpoint's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetryPolicy {
    pub schedule: RetrySchedule,
    pub timing: RetryTiming,
}

impl RetryPolicy {
    /// Returns the time between failed attempt number `attempt` and the next one, or
    /// none if that attempt was the last. `asked` is what the endpoint asked for, and
    /// `random`, from 0 to 1, decides the jitter.
    pub(super) fn delay_after(self, attempt: u32, asked: Option<Duration>, random: f64) -> Option<Duration> {
        let scheduled = self.schedule.delay_after(attempt)? / self.timing.speedup;
        let asked = asked.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        Some(jittered(scheduled.max(asked), random))
    }
}

impl RetryTiming {
    /// Returns the time for which the records of a tier wait.
    pub(super) fn delay(self, tier: DelayTier) -> Duration {
        self.scaled(tier.delay())
    }

    /// Returns a time of the contract as this installation has it.
    pub(super) fn scaled(self, time: Duration) -> Duration {
        time / self.speedup
    }

    /// Returns the tier for a delivery that is due after `wait`: the longest one that is
    /// not longer, or else the shortest one. A part of the wait has passed already when
    /// this is asked, so a tier may be a little longer.
    pub(super) fn tier(self, wait: Duration) -> DelayTier {
        let fitting = DelayTier::ALL.into_iter().rev().find(|tier| self.delay(*tier).mul_f64(0.95) <= wait);
        fitting.unwrap_or(DelayTier::Seconds5)
    }

    /// Returns for how long a delivery rests whose endpoint has failed for `failing_for`: for the
    /// longest delay of a tier that is not longer, at most [`LONGEST_REST`], and from twice the
    /// shortest delay on for the second one. So it is written once a rest, a few times in a day,
    /// and an endpoint that has recovered has everything soon in relation to its outage.
    pub(super) fn rest(self, failing_for: Duration) -> Duration {
        let rested = |tier: &DelayTier| match tier {
            DelayTier::Seconds5 => true,
            DelayTier::Minute1 => failing_for >= 2 * self.delay(DelayTier::Seconds5),
            tier => failing_for >= self.delay(*tier) && *tier <= LONGEST_REST,
        };
        self.delay(DelayTier::ALL.into_iter().rev().find(rested).unwrap_or(DelayTier::Seconds5))
    }

    /// Returns for how long a partition of `tier` is paused at least, once its head is not due.
    /// The records that were fetched behind the head are thrown away with each pause, and fetched
    /// again: many are to be due together when it ends.
    pub(super) fn least_pause(self, tier: DelayTier) -> Duration {
        self.scaled((tier.delay() / LEAST_PAUSE).min(LONGEST_LEAST_PAUSE))
    }

    /// Returns when a record appended to `tier` at `appended` leaves the head of its
    /// partition: when it is due, or when it has waited as long as any record there may.
    pub(super) fn leaves_at(self, tier: DelayTier, due: Timestamp, appended: Timestamp) -> Timestamp {
        due.min(appended.plus(jittered(self.delay(tier), 1.0)))
    }
}

/// Returns `delay` with at most a tenth and at most a minute added, as `random` from 0
/// to 1 decides.
pub(super) fn jittered(delay: Duration, random: f64) -> Duration {
    delay + delay.mul_f64(JITTER * random).min(LONGEST_JITTER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REAL: RetryTiming = RetryTiming { speedup: 1 };
    const SECOND: Duration = Duration::from_secs(1);

    fn policy(retries: usize) -> RetryPolicy {
        RetryPolicy { schedule: RetrySchedule::first(retries), timing: REAL }
    }

    #[test]
    fn retry_after_lengthens_a_wait_within_bounds() {
        let after = |asked: u64| policy(5).delay_after(1, Some(Duration::from_secs(asked)), 0.0).unwrap();
        assert_eq!(after(0), 60 * SECOND, "it never shortens the wait");
        assert_eq!(after(120), 120 * SECOND);
        assert_eq!(after(1_000_000), LONGEST_RETRY_AFTER);
        assert_eq!(after(u64::MAX), LONGEST_RETRY_AFTER);
        assert_eq!(policy(1).delay_after(2, Some(SECOND), 0.0), None, "nor does it add an attempt");
    }

    #[test]
    fn each_retry_waits_on_the_tier_of_its_delay_whatever_the_jitter() {
        for (attempt, tier) in (1..).zip(&DelayTier::ALL[1..]) {
            for random in [0.0, 0.5, 1.0] {
                for speedup in [1, 300] {
                    let timing = RetryTiming { speedup };
                    let policy = RetryPolicy { timing, ..policy(5) };
                    let wait = policy.delay_after(attempt, None, random).unwrap();
                    assert_eq!(timing.tier(wait), *tier);
                    let appended = Timestamp::from_millis(0);
                    let due = appended.plus(wait);
                    assert_eq!(timing.leaves_at(*tier, due, appended), due, "one hop");
                }
            }
        }
    }

    #[test]
    fn what_is_left_waits_on_a_shorter_tier() {
        let tiers = |mut wait: Duration| {
            let mut tiers = Vec::new();
            loop {
                let tier = REAL.tier(wait);
                tiers.push(tier);
                let at = Timestamp::from_millis(0);
                let waited = REAL.leaves_at(tier, at.plus(wait), at).since(at);
                wait = wait.saturating_sub(waited);
                if wait.is_zero() {
                    return tiers;
                }
            }
        };
        assert_eq!(tiers(Duration::ZERO), [DelayTier::Seconds5]);
        assert_eq!(tiers(3 * SECOND), [DelayTier::Seconds5]);
        assert_eq!(tiers(59 * SECOND), [DelayTier::Minute1]);
        assert_eq!(tiers(62 * SECOND), [DelayTier::Minute1]);
        assert_eq!(tiers(70 * SECOND), [DelayTier::Minute1, DelayTier::Seconds5]);
        assert_eq!(tiers(3600 * SECOND).len(), 2);
        assert!(tiers(20 * 3600 * SECOND).len() <= 24);
    }

    #[test]
    fn a_delivery_rests_in_relation_to_the_outage_and_is_written_a_few_times() {
        for (failing_for, rest) in
            [(0, 5), (9, 5), (10, 60), (299, 60), (300, 300), (1_800, 1_800), (7_200, 7_200), (1_000_000, 7_200)]
        {
            assert_eq!(REAL.rest(failing_for * SECOND), rest * SECOND, "{failing_for}");
        }
        let quick = RetryTiming { speedup: 60 };
        assert_eq!(quick.rest(SECOND), SECOND);
        assert_eq!(quick.rest(5 * SECOND), 5 * SECOND);
        // Of an outage of a day, a delivery that comes at its beginning sees this many rests.
        let (mut failing_for, mut writes) = (Duration::ZERO, 0);
        while failing_for < 24 * 3600 * SECOND {
            let rest = REAL.rest(failing_for);
            assert_eq!(REAL.delay(REAL.tier(rest)), rest, "one hop");
            (failing_for, writes) = (failing_for + rest, writes + 1);
        }
        assert!(writes <= 30, "{writes}");
    }

    #[test]
    fn no_record_keeps_the_head_longer_than_its_tier() {
        let at = Timestamp::from_millis;
        let leaves = |due| REAL.leaves_at(DelayTier::Seconds5, at(due), at(1_000));
        assert_eq!(leaves(5_900), at(5_900));
        assert_eq!(leaves(3_600_000), at(6_500));
        assert_eq!(leaves(500), at(500));
    }

    proptest! {
        #[test]
        fn jitter_is_at_most_a_tenth_and_a_minute(ms in 0_u64..100_000_000, random in 0.0..1.0_f64) {
            let delay = Duration::from_millis(ms);
            let jittered = jittered(delay, random);
            prop_assert!(jittered >= delay);
            prop_assert!(jittered <= delay.mul_f64(1.1) + Duration::from_nanos(1));
            prop_assert!(jittered <= delay + LONGEST_JITTER);
        }
    }
}
