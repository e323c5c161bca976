//! The rate limit of a caller: a number of calls a second on average, with a burst
//! above it (GCRA, which the crate `governor` computes).

use std::{
    hash::Hash,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use parking_lot::Mutex;

/// The interval at which callers without recent calls are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// Limits each caller on its own. It remembers every recent caller, so use it for a
/// bounded set of callers, such as known keys.
pub struct Limiter<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    swept: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// Returns a limiter that allows each caller `per_second` calls a second, and
    /// `burst` calls at once after a pause.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let clock = DefaultClock::default();
        Self {
            limiter: RateLimiter::hashmap_with_clock(quota, clock.clone()),
            clock,
            swept: Mutex::new(Instant::now()),
        }
    }

    /// Counts a call of `caller`.
    ///
    /// # Errors
    /// When the call comes too early; the error is the time to wait.
    pub fn check(&self, caller: &K) -> Result<(), Duration> {
        if let Some(mut swept) = self.swept.try_lock()
            && swept.elapsed() >= SWEEP
        {
            *swept = Instant::now();
            self.limiter.retain_recent();
        }
        self.limiter.check_key(caller).map_err(|early| early.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_a_burst_of_their_own() {
        let limiter = Limiter::new(NonZeroU32::MIN, NonZeroU32::new(3).unwrap());
        for _ in 0..3 {
            assert_eq!(limiter.check(&"a"), Ok(()));
        }
        let wait = limiter.check(&"a").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(limiter.check(&"b"), Ok(()));
    }
}
