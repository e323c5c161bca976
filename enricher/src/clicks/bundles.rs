//! The bundles that were read. A bundle can be in `clicks.raw` twice: a redirector
//! that was killed finds it on its disk and produces it again, although Kafka may
//! have it, or receives it from a queue later. Either copy may come first; the
//! second is dropped.
//!
//! The bundles of the last horizon are remembered. An older bundle (its id contains
//! the time when it was made) was replayed, and the partition is read again from
//! that time on.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use schemas::Timestamp;
use uuid::Uuid;

/// The greatest difference between two machines' clocks, in milliseconds.
const SKEW_MS: i64 = 60_000;

/// The bundles that were read within the horizon.
pub(crate) struct Bundles {
    horizon: Duration,
    /// When each bundle was noted last.
    known: HashMap<u128, Instant>,
    noted: VecDeque<(Instant, u128)>,
    looked_back: HashMap<i32, LookedBack>,
}

/// The state of a partition whose bundles since `since` are known, for a horizon
/// from `at` on.
struct LookedBack {
    since: i64,
    at: Instant,
}

impl Bundles {
    pub(crate) fn new(horizon: Duration) -> Self {
        Self { horizon, known: HashMap::new(), noted: VecDeque::new(), looked_back: HashMap::new() }
    }

    fn horizon_before(&self, now: Timestamp) -> i64 {
        now.as_millis() - i64::try_from(self.horizon.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the time from which a newly assigned partition must be read.
    pub(crate) fn begin(&mut self, partition: i32, now: Timestamp) -> Timestamp {
        let since = self.horizon_before(now) - SKEW_MS;
        self.looked_back.insert(partition, LookedBack { since, at: Instant::now() });
        Timestamp::from_millis(since)
    }

    /// Returns the time from which the partition must be read again before `id` can
    /// be judged, if it must.
    pub(crate) fn unknown_before(&mut self, partition: i32, id: Uuid, now: Timestamp) -> Option<Timestamp> {
        let (seconds, nanos) = id.get_timestamp()?.to_unix();
        let made = i64::try_from(seconds).ok()? * 1000 + i64::from(nanos / 1_000_000) - SKEW_MS;
        let recent = self.horizon_before(now);
        let known = self.looked_back.get(&partition);
        let since = known.filter(|known| known.at.elapsed() <= self.horizon).map_or(recent, |known| known.since);
        (made < since).then(|| {
            self.looked_back.insert(partition, LookedBack { since: made, at: Instant::now() });
            Timestamp::from_millis(made)
        })
    }

    /// Notes a bundle. Returns whether it is the first copy.
    pub(crate) fn note(&mut self, id: Uuid) -> bool {
        let id = id.as_u128();
        let now = Instant::now();
        while let Some((noted, old)) = self.noted.pop_front_if(|(noted, _)| now.duration_since(*noted) > self.horizon) {
            if self.known.get(&old) == Some(&noted) {
                self.known.remove(&old);
            }
        }
        self.noted.push_back((now, id));
        self.known.insert(id, now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use uuid::{NoContext, Timestamp as Made};

    use super::*;

    fn made(at: Timestamp) -> Uuid {
        let millis = u64::try_from(at.as_millis()).unwrap();
        Uuid::new_v7(Made::from_unix(NoContext, millis / 1000, 0))
    }

    #[test]
    fn the_second_copy_is_told_from_the_first() {
        let mut bundles = Bundles::new(Duration::from_secs(600));
        let now = Timestamp::now();
        let (a, b) = (made(now), made(now));
        assert!(bundles.note(a) && bundles.note(b));
        assert!(!bundles.note(a) && !bundles.note(b));
    }

    #[test]
    fn a_bundle_older_than_what_is_known_asks_for_a_look_back_once() {
        let mut bundles = Bundles::new(Duration::from_secs(600));
        let now = Timestamp::from_millis(1_800_000_000_000);
        let ago = |seconds: i64| Timestamp::from_millis(now.as_millis() - seconds * 1000);
        bundles.begin(0, now);
        assert_eq!(bundles.unknown_before(0, made(now), now), None);
        assert_eq!(bundles.unknown_before(0, made(ago(500)), now), None);
        let since = bundles.unknown_before(0, made(ago(3600)), now).unwrap();
        assert_eq!(since, ago(3660));
        assert_eq!(bundles.unknown_before(0, made(ago(3600)), now), None);
        assert_eq!(bundles.unknown_before(0, made(ago(3000)), now), None);
    }
}
