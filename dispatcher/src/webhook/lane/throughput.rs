//! How quickly an endpoint works off what waits for it: a mean over the last
//! seconds. A pause counts for the time that it takes, and exchanges that end
//! together, as timeouts do, do not look quick.

use std::time::Duration;

/// A mean of the time between finished items, in which the past fades.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Throughput {
    /// The number of finished items, those of long ago counting less.
    finished: f64,
    /// The time that they took, counted likewise.
    seconds: f64,
}

impl Throughput {
    /// The time constant with which the past fades, in seconds.
    const FADE: f64 = 5.0;

    /// Counts finished items, `since` after the ones before.
    pub(super) fn finished(&mut self, items: usize, since: Duration) {
        *self = self.faded(since.as_secs_f64());
        self.finished += items as f64;
    }

    /// Returns the seconds that each item takes if none has finished for `silence`,
    /// or none if nothing is known.
    pub(super) fn seconds_per_item(self, silence: Duration) -> Option<f64> {
        let now = self.faded(silence.as_secs_f64());
        (now.finished > 1e-3).then(|| now.seconds / now.finished)
    }

    fn faded(self, seconds: f64) -> Self {
        let kept = (-seconds / Self::FADE).exp();
        Self { finished: self.finished * kept, seconds: self.seconds * kept + seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_pause_is_no_pace_and_neither_are_timeouts_that_end_together() {
        let each = |throughput: Throughput| throughput.seconds_per_item(Duration::ZERO).unwrap();
        let mut throughput = Throughput::default();
        assert!(throughput.seconds_per_item(Duration::ZERO).is_none());
        for _ in 0..5000 {
            throughput.finished(1, MS);
        }
        assert!((0.0009..0.0011).contains(&each(throughput)), "{throughput:?}");
        throughput.finished(1, 3000 * MS);
        assert!(each(throughput) < 0.003, "{throughput:?}");

        let mut throughput = Throughput::default();
        for _ in 0..3 {
            throughput.finished(1, 5000 * MS);
            for _ in 1..32 {
                throughput.finished(1, Duration::ZERO);
            }
        }
        assert!((0.1..0.2).contains(&each(throughput)), "{throughput:?}");
    }
}
