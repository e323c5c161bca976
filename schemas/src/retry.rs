//! When a delivery is tried again: the schedule of retries, and the tiers of delay
//! topics on which deliveries wait. A tier is one topic, and all its records wait for
//! about the same time, so that no record holds up others behind it for long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The delays before the retries of a delivery whose endpoint has no schedule of its
/// own, in seconds: 1 min, 5 min, 30 min, 2 h and 24 h (docs/CONTRACTS.md §4).
pub const STANDARD_RETRIES: [u64; 5] = [60, 300, 1_800, 7_200, 86_400];

/// A topic of deliveries that wait for one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DelayTier {
    /// Deliveries that wait for 5 s or less.
    Seconds5,
    /// Deliveries that wait for a minute.
    Minute1,
    /// Deliveries that wait for 5 min.
    Minutes5,
    /// Deliveries that wait for 30 min.
    Minutes30,
    /// Deliveries that wait for 2 h.
    Hours2,
    /// Deliveries that wait for a day.
    Hours24,
}

impl DelayTier {
    /// Every tier, the shortest first.
    pub const ALL: [Self; 6] =
        [Self::Seconds5, Self::Minute1, Self::Minutes5, Self::Minutes30, Self::Hours2, Self::Hours24];
    /// The tier of the longest delay.
    pub const LONGEST: Self = Self::Hours24;

    /// Returns the time for which its records wait.
    #[must_use]
    pub const fn delay(self) -> Duration {
        Duration::from_secs(match self {
            Self::Seconds5 => 5,
            Self::Minute1 => 60,
            Self::Minutes5 => 300,
            Self::Minutes30 => 1_800,
            Self::Hours2 => 7_200,
            Self::Hours24 => 86_400,
        })
    }

    /// Returns the name of its topic behind the prefix.
    #[must_use]
    pub const fn topic(self) -> &'static str {
        match self {
            Self::Seconds5 => "delay.5s",
            Self::Minute1 => "delay.1m",
            Self::Minutes5 => "delay.5m",
            Self::Minutes30 => "delay.30m",
            Self::Hours2 => "delay.2h",
            Self::Hours24 => "delay.24h",
        }
    }
}

/// The number of retries that an endpoint's deliveries have. As JSON, the list of their
/// delays in seconds: a beginning of [`STANDARD_RETRIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
pub struct RetrySchedule {
    retries: usize,
}

/// The error of a list of delays that is not a beginning of the standard schedule.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a beginning of {STANDARD_RETRIES:?}: give the delays in seconds of the first retries, or [] for none"
)]
pub struct RetryScheduleError(Vec<u64>);

impl RetrySchedule {
    /// Returns the schedule of the first `retries` retries, of which there are at most
    /// as many as the standard schedule has.
    #[must_use]
    pub fn first(retries: usize) -> Self {
        Self { retries: retries.min(STANDARD_RETRIES.len()) }
    }

    /// Returns the number of attempts that a delivery has, the first one included.
    #[must_use]
    pub fn attempts(self) -> u32 {
        // At most 6.
        self.retries as u32 + 1
    }

    /// Returns the delay that follows failed attempt number `attempt` (from 1), or none
    /// if that attempt was the last.
    #[must_use]
    pub fn delay_after(self, attempt: u32) -> Option<Duration> {
        let retry = usize::try_from(attempt.saturating_sub(1)).ok()?;
        STANDARD_RETRIES[..self.retries].get(retry).copied().map(Duration::from_secs)
    }

    /// Tells whether this is the whole standard schedule.
    #[must_use]
    pub fn is_standard(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for RetrySchedule {
    fn default() -> Self {
        Self { retries: STANDARD_RETRIES.len() }
    }
}

impl TryFrom<Vec<u64>> for RetrySchedule {
    type Error = RetryScheduleError;

    fn try_from(delays: Vec<u64>) -> Result<Self, RetryScheduleError> {
        if STANDARD_RETRIES.starts_with(&delays) {
            return Ok(Self { retries: delays.len() });
        }
        Err(RetryScheduleError(delays.into_iter().take(STANDARD_RETRIES.len() + 1).collect()))
    }
}

impl From<RetrySchedule> for Vec<u64> {
    fn from(schedule: RetrySchedule) -> Self {
        STANDARD_RETRIES[..schedule.retries].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_retry_of_the_standard_schedule_has_its_tier() {
        let schedule = RetrySchedule::default();
        let tiers = DelayTier::ALL[1..].iter().map(|tier| Some(tier.delay()));
        for (attempt, delay) in (1..).zip(tiers) {
            assert_eq!(schedule.delay_after(attempt), delay);
        }
        assert_eq!(schedule.attempts(), 6);
        assert_eq!(schedule.delay_after(6), None);
        assert_eq!(schedule.delay_after(u32::MAX), None);
    }

    #[test]
    fn a_schedule_is_a_beginning_of_the_standard_one() {
        let parse = |text: &str| serde_json::from_str::<RetrySchedule>(text);
        assert_eq!(parse("[60,300]").unwrap(), RetrySchedule::first(2));
        assert_eq!(parse("[]").unwrap().delay_after(1), None);
        assert_eq!(parse("[]").unwrap().attempts(), 1);
        assert_eq!(serde_json::to_string(&RetrySchedule::first(9)).unwrap(), "[60,300,1800,7200,86400]");
        for wrong in ["[300]", "[60,60]", "[60,300,1800,7200,86400,86400]", "60", "[-60]", "[60.0]", "null"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let error = parse("[300]").unwrap_err().to_string();
        assert!(error.contains("[300] is not a beginning of [60, 300, 1800, 7200, 86400]"), "{error}");
    }
}
