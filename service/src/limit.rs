//! How often one caller may call: so many times a second on average, with a
//! burst above it (GCRA, which the crate `governor` computes).

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

/// How often callers who have been silent are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// Limits each caller for itself. It remembers those who called of late: give it
/// callers of whom there are so many and no more, such as keys that are known.
pub struct Limiter<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    swept: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// One that lets each caller call `per_second` times a second, and `burst`
    /// times at once after a while of silence.
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
    /// When it comes too early: how long to wait.
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
