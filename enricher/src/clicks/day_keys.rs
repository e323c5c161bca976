//! The day's key: a random record for each UTC day on `daykeys`. The first record
//! of a day wins, so every enricher uses the same key. It is deleted after 48 h.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus::{Bus, BusError, Change, Outgoing, Producer, Table};
use parking_lot::{Condvar, Mutex};
use schemas::{Timestamp, Topic};
use serde::{Deserialize, Serialize};

use super::address::DayKey;

/// The number of past days whose keys are kept: yesterday's serves late clicks.
const KEPT_DAYS: i64 = 1;
/// How long a day's key is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

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

    /// Returns the key for the day of `at`, or `None` if the day is over and its key
    /// deleted, or the key did not arrive. Blocks for a day's first click.
    pub(crate) fn key_for(&self, at: Timestamp, now: Timestamp) -> Option<DayKey> {
        let (day, today) = (at.utc_day(), now.utc_day());
        if !(today - KEPT_DAYS..=today + 1).contains(&day) {
            return None;
        }
        let mut keys = self.known.keys.lock();
        if let Some(key) = keys.get(&day) {
            return Some(*key);
        }
        if day < today {
            return None;
        }
        keys.retain(|day, _| *day >= today - KEPT_DAYS);
        drop(keys);
        self.propose(day);
        let mut keys = self.known.keys.lock();
        let _ = self.known.added.wait_while_for(&mut keys, |keys| !keys.contains_key(&day), PATIENCE);
        keys.get(&day).copied()
    }

    fn propose(&self, day: i64) {
        let record = DayKeyRecord { v: 1, key: hex::encode(rand::random::<DayKey>()) };
        let Ok(value) = serde_json::to_vec(&record) else { return };
        let key = day.to_string();
        let out = Outgoing { partition: Some(0), ..Outgoing::keyed(Topic::Daykeys, key.as_bytes(), Some(&value)) };
        // After a failure the day has no sessions until the next click proposes.
        let _ = self.producer.send(&out, |acked| {
            if let Err(error) = acked {
                tracing::warn!(%error, "day key not stored: clicks of the day have no session for now");
            }
        });
    }
}

fn parse(key: &[u8], value: &[u8]) -> Option<(i64, DayKey)> {
    let day = str::from_utf8(key).ok()?.parse().ok()?;
    let record: DayKeyRecord = serde_json::from_slice(value).ok()?;
    Some((day, hex::decode(record.key).ok()?.try_into().ok()?))
}
