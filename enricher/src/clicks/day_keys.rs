//! The day's key: one random record a UTC day on `daykeys`, the same for every
//! replica because the first record of a day wins, and forgotten after 48 h.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus::{Bus, BusError, Change, Outgoing, Producer, Table};
use parking_lot::{Condvar, Mutex};
use schemas::{Timestamp, Topic};
use serde::{Deserialize, Serialize};

use super::address::DayKey;

/// How many days back a key is kept: today's, and yesterday's for what is late.
const KEPT_DAYS: i64 = 1;
/// How long a day's key is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Record {
    v: u8,
    /// 64 hexadecimal digits.
    key: String,
}

#[derive(Default)]
struct Known {
    keys: Mutex<BTreeMap<i64, DayKey>>,
    came: Condvar,
}

/// The keys of the days that are not over yet.
pub(crate) struct Daykeys {
    known: Arc<Known>,
    producer: Producer,
    table: Table,
}

impl Daykeys {
    /// Follows the installation's keys.
    pub(crate) fn follow(bus: &Bus) -> Result<Self, BusError> {
        let known = Arc::new(Known::default());
        let producer = bus.producer("enricher.daykeys", Duration::ZERO, PATIENCE)?;
        let told = Arc::clone(&known);
        let table = bus.table("enricher", Topic::Daykeys, None, move |change| {
            if let Change::Put { key, value } = change
                && let Some((day, key)) = parse(key, value)
            {
                // The first of a day is the one: every replica reads them in
                // the same order.
                told.keys.lock().entry(day).or_insert(key);
                told.came.notify_all();
            }
        })?;
        Ok(Self { known, producer, table })
    }

    /// Waits until the keys that there are have been read.
    pub(crate) async fn caught_up(&self) {
        self.table.caught_up().await;
    }

    /// The key of the day of `at`: none for a day that is over, whose key is
    /// gone, or has not come. Blocks for a day's first click.
    pub(crate) fn of(&self, at: Timestamp, now: Timestamp) -> Option<DayKey> {
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
        let _ = self.known.came.wait_while_for(&mut keys, |keys| !keys.contains_key(&day), PATIENCE);
        keys.get(&day).copied()
    }

    fn propose(&self, day: i64) {
        let record = Record { v: 1, key: hex::encode(rand::random::<DayKey>()) };
        let Ok(value) = serde_json::to_vec(&record) else { return };
        let key = day.to_string();
        let out = Outgoing { partition: Some(0), ..Outgoing::keyed(Topic::Daykeys, key.as_bytes(), Some(&value)) };
        // One that is lost leaves the day without sessions until the next click asks.
        let _ = self.producer.send(&out, |acked| {
            if let Err(error) = acked {
                tracing::warn!(%error, "the day's key is not stored: visits of the day have no session for now");
            }
        });
    }
}

fn parse(key: &[u8], value: &[u8]) -> Option<(i64, DayKey)> {
    let day = str::from_utf8(key).ok()?.parse().ok()?;
    let record: Record = serde_json::from_slice(value).ok()?;
    Some((day, hex::decode(record.key).ok()?.try_into().ok()?))
}
