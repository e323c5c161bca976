//! The last use of each API key. Every service that callers authenticate with
//! records uses on the topic `key_uses`, at most one record per key and minute; the
//! control plane follows the topic to show them.

use std::{collections::HashMap, str, time::Duration};

use parking_lot::Mutex;
use schemas::{KeyId, Timestamp, Topic, workspace::KeyUse};
use tracing::debug;

use crate::{Change, Outgoing, Producer};

/// How long no further use of a key is recorded.
const QUIET: Duration = Duration::from_secs(60);

/// The last use of each key.
#[derive(Debug, Default)]
pub struct KeyUses {
    last: Mutex<HashMap<KeyId, Timestamp>>,
}

impl KeyUses {
    /// Returns the last use of a key, to the minute.
    #[must_use]
    pub fn last(&self, key: KeyId) -> Option<Timestamp> {
        self.last.lock().get(&key).copied()
    }

    /// Notes a use. Returns whether it is to be recorded.
    fn note(&self, key: KeyId, at: Timestamp) -> bool {
        let mut last = self.last.lock();
        let recent = last.get(&key).is_some_and(|last| at.since(*last) < QUIET);
        if !recent {
            last.insert(key, at);
        }
        !recent
    }

    /// Notes a use, and records it if due, without waiting for Kafka.
    pub fn used(&self, key: KeyId, at: Timestamp, producer: &Producer) {
        if !self.note(key, at) {
            return;
        }
        let Ok(value) = serde_json::to_vec(&KeyUse { v: 1, last_used_at: at }) else { return };
        let id = key.to_string();
        let record = Outgoing::keyed(Topic::KeyUses, id.as_bytes(), Some(&value));
        let sent = producer.send(&record, move |acked| {
            if let Err(error) = acked {
                debug!(%key, %error, "key use not recorded");
            }
        });
        if let Err(error) = sent {
            debug!(%key, %error, "key use not recorded");
        }
    }

    /// Removes a deleted key.
    pub fn forget(&self, key: KeyId) {
        self.last.lock().remove(&key);
    }

    /// Applies a record of the topic. An unreadable record is ignored: nothing
    /// depends on it.
    pub fn read(&self, change: &Change<'_>) {
        let id = |key: &[u8]| str::from_utf8(key).ok()?.parse::<KeyId>().ok();
        match change {
            Change::Put { key, value } => {
                let Some((id, used)) = id(key).zip(serde_json::from_slice::<KeyUse>(value).ok()) else { return };
                let mut last = self.last.lock();
                let known = last.entry(id).or_insert(used.last_used_at);
                // Two services may write in another order than they were called.
                *known = (*known).max(used.last_used_at);
            }
            Change::Delete { key } => {
                if let Some(id) = id(key) {
                    self.forget(id);
                }
            }
            Change::Coming { .. } | Change::CaughtUp => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyId = KeyId::from_bits(7);

    fn at(s: i64) -> Timestamp {
        Timestamp::from_millis(s * 1000)
    }

    #[test]
    fn a_use_is_recorded_once_a_minute() {
        let uses = KeyUses::default();
        for (s, recorded) in [(100, true), (101, false), (159, false), (160, true), (161, false)] {
            assert_eq!(uses.note(KEY, at(s)), recorded, "{s}");
        }
        assert_eq!(uses.last(KEY), Some(at(160)));
        assert!(uses.note(KeyId::from_bits(8), at(161)));
    }

    #[test]
    fn the_later_of_two_recorded_uses_counts() {
        let uses = KeyUses::default();
        let id = KEY.to_string();
        let put = |s: i64| {
            let value = serde_json::to_vec(&KeyUse { v: 1, last_used_at: at(s) }).unwrap();
            uses.read(&Change::Put { key: id.as_bytes(), value: &value });
        };
        put(100);
        put(90);
        assert_eq!(uses.last(KEY), Some(at(100)));
        assert!(!uses.note(KEY, at(101)));
        uses.read(&Change::Put { key: b"?", value: b"?" });
        uses.read(&Change::Delete { key: id.as_bytes() });
        assert_eq!(uses.last(KEY), None);
    }
}
