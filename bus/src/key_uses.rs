//! When keys to the API were last used. Everyone who is called writes it down on
//! `key_uses`, at most once a minute a key; who shows it follows what is written.

use std::{collections::HashMap, str, time::Duration};

use parking_lot::Mutex;
use schemas::{KeyId, Timestamp, Topic, workspace::KeyUse};
use tracing::debug;

use crate::{Change, Outgoing, Producer};

/// How long a use is not told again.
const QUIET: Duration = Duration::from_secs(60);

/// When keys were last used: an entry a key that exists or has existed.
#[derive(Debug, Default)]
pub struct KeyUses {
    last: Mutex<HashMap<KeyId, Timestamp>>,
}

impl KeyUses {
    /// When the key was last used, to the minute.
    #[must_use]
    pub fn last(&self, key: KeyId) -> Option<Timestamp> {
        self.last.lock().get(&key).copied()
    }

    /// Notes a use, and answers whether it is to be told.
    fn note(&self, key: KeyId, at: Timestamp) -> bool {
        let mut last = self.last.lock();
        let told = last.get(&key).is_some_and(|last| at.since(*last) < QUIET);
        if !told {
            last.insert(key, at);
        }
        !told
    }

    /// Notes a use, and tells it if it is time to. Nobody waits for that.
    pub fn used(&self, key: KeyId, at: Timestamp, producer: &Producer) {
        if !self.note(key, at) {
            return;
        }
        let Ok(value) = serde_json::to_vec(&KeyUse { v: 1, last_used_at: at }) else { return };
        let id = key.to_string();
        let record = Outgoing::keyed(Topic::KeyUses, id.as_bytes(), Some(&value));
        let told = producer.send(&record, move |told| {
            if let Err(error) = told {
                debug!(%key, %error, "a key's use was not written down");
            }
        });
        if let Err(error) = told {
            debug!(%key, %error, "a key's use was not written down");
        }
    }

    /// Forgets a key that is gone.
    pub fn forget(&self, key: KeyId) {
        self.last.lock().remove(&key);
    }

    /// Applies a record. One that cannot be read is passed over: nothing depends
    /// on it.
    pub fn read(&self, change: &Change<'_>) {
        let id = |key: &[u8]| str::from_utf8(key).ok()?.parse::<KeyId>().ok();
        match change {
            Change::Put { key, value } => {
                let Some((id, used)) = id(key).zip(serde_json::from_slice::<KeyUse>(value).ok()) else { return };
                let mut last = self.last.lock();
                let known = last.entry(id).or_insert(used.last_used_at);
                // Two who are called may write in another order.
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
    fn a_use_is_told_once_a_minute() {
        let uses = KeyUses::default();
        for (s, told) in [(100, true), (101, false), (159, false), (160, true), (161, false)] {
            assert_eq!(uses.note(KEY, at(s)), told, "{s}");
        }
        assert_eq!(uses.last(KEY), Some(at(160)));
        assert!(uses.note(KeyId::from_bits(8), at(161)));
    }

    #[test]
    fn what_others_tell_counts_as_the_later_of_both() {
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
