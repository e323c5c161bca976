//! The day's key: a random record for each UTC day on `daykeys`. The first record
//! of a day wins, so every enricher uses the same key. It is deleted after 48 h.
//!
//! Keys are proposed in the background, tomorrow's an hour before midnight. No
//! click waits for a key: without one it has no session.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, BusError, Change, Outgoing, Producer, Table};
use parking_lot::{Condvar, Mutex};
use schemas::{Timestamp, Topic};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::address::{DayKey, DayKeyBytes};

/// The number of past days whose keys are kept: yesterday's serves late clicks.
const KEPT_DAYS: i64 = 1;
/// How long an enricher waits for the day's key after partitions were assigned.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is checked whether a key must be proposed.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long before midnight tomorrow's key is proposed.
const AHEAD: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
struct DayKeyRecord {
    v: u8,
    /// 64 hexadecimal digits.
    key: String,
}

#[derive(Default)]
struct KnownKeys {
    keys: Mutex<BTreeMap<i64, DayKey>>,
    added: Condvar,
}

/// The keys of the days that are not over yet, and yesterday's.
pub(crate) struct DayKeys {
    known: Arc<KnownKeys>,
    producer: Producer,
    table: Table,
}

impl DayKeys {
    /// Follows the topic of the installation's keys.
    pub(crate) fn follow(bus: &Bus) -> Result<Self, BusError> {
        let known = Arc::new(KnownKeys::default());
        let producer = bus.producer("enricher.daykeys", Duration::ZERO, PATIENCE)?;
        let applied = Arc::clone(&known);
        let table = bus.table("enricher", Topic::Daykeys, None, move |change| {
            if let Change::Put { key, value } = change
                && let Some((day, key)) = parse(key, value)
            {
                // The first record of a day wins: every enricher reads them in the
                // same order.
                applied.keys.lock().entry(day).or_insert(key);
                applied.added.notify_all();
            }
        })?;
        Ok(Self { known, producer, table })
    }

    /// Waits until the existing keys have been read.
    pub(crate) async fn caught_up(&self) {
        self.table.caught_up().await;
    }

    /// Proposes keys when they are due, until the task is aborted.
    pub(crate) async fn propose_forever(self: Arc<Self>) {
        loop {
            let now = Timestamp::now();
            let due: Vec<i64> = {
                let mut keys = self.known.keys.lock();
                keys.retain(|day, _| *day >= now.utc_day() - KEPT_DAYS);
                due_days(now).into_iter().filter(|day| !keys.contains_key(day)).collect()
            };
            for day in due {
                self.propose(day);
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    /// Waits a while for today's key, unless `stopped` returns true.
    pub(super) fn wait_for_today(&self, stopped: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let today = Timestamp::now().utc_day();
        let mut keys = self.known.keys.lock();
        while !keys.contains_key(&today) && !stopped() {
            if Instant::now() >= deadline {
                warn!("no day key within {PATIENCE:?}: clicks have no session until there is one");
                return;
            }
            self.known.added.wait_for(&mut keys, Duration::from_millis(100));
        }
    }

    /// Returns the key for the day of `at`, or `None` if the day is over and its key
    /// deleted, or no key is known.
    pub(crate) fn key_for(&self, at: Timestamp, now: Timestamp) -> Option<DayKey> {
        let day = at.utc_day();
        if day < now.utc_day() - KEPT_DAYS {
            return None;
        }
        self.known.keys.lock().get(&day).cloned()
    }

    fn propose(&self, day: i64) {
        let record = DayKeyRecord { v: 1, key: hex::encode(rand::random::<DayKeyBytes>()) };
        let Ok(value) = serde_json::to_vec(&record) else { return };
        let key = day.to_string();
        let out = Outgoing { partition: Some(0), ..Outgoing::keyed(Topic::Daykeys, key.as_bytes(), Some(&value)) };
        let failed = |error: BusError| warn!(%error, "day key not stored: retrying");
        let sent = self.producer.send(&out, move |acked| {
            if let Err(error) = acked {
                failed(error);
            }
        });
        if let Err(error) = sent {
            failed(error);
        }
    }
}

/// Returns the days whose keys must exist at `now`.
fn due_days(now: Timestamp) -> Vec<i64> {
    let today = now.utc_day();
    let soon = now.plus(AHEAD).utc_day();
    if soon == today { vec![today] } else { vec![today, soon] }
}

fn parse(key: &[u8], value: &[u8]) -> Option<(i64, DayKey)> {
    let day = str::from_utf8(key).ok()?.parse().ok()?;
    let record: DayKeyRecord = serde_json::from_slice(value).ok()?;
    let key: DayKeyBytes = hex::decode(record.key).ok()?.try_into().ok()?;
    Some((day, DayKey::new(&key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tomorrows_key_is_due_an_hour_before_midnight() {
        let day = 86_400_000;
        assert_eq!(due_days(Timestamp::from_millis(22 * 3_600_000)), [0]);
        assert_eq!(due_days(Timestamp::from_millis(23 * 3_600_000 + 1)), [0, 1]);
        assert_eq!(due_days(Timestamp::from_millis(day)), [1]);
    }
}
