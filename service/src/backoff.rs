//! Retry delays that grow, with jitter so that processes do not retry at once.

use std::time::Duration;

/// Delays that double from `min` to `max`, each ±10 %.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `min` to `max`.
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// Returns the next delay.
    #[allow(clippy::should_implement_trait, reason = "an endless sequence that is never iterated over")]
    pub fn next(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        delay.mul_f64(rand::random_range(0.9..1.1))
    }

    /// Starts again from `min`, after a success.
    pub const fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        for expected in [100.0, 200.0, 300.0, 300.0] {
            let delay = backoff.next().as_secs_f64() * 1000.0;
            assert!((expected * 0.9..=expected * 1.1).contains(&delay), "{delay}");
        }
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(111));
    }
}
