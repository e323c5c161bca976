//! Who calls: keys by their secrets, as the topic `keys` has them, how often
//! each may call, and the note on `key_uses` of when it last did.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderMap;
use bus::{Change, Outgoing, Producer};
use parking_lot::{Mutex, RwLock};
use schemas::{Key, KeyId, Keyring, Scope, Timestamp, Topic, workspace::KeyUse};
use service::{
    headers,
    limit::Limiter,
    problem::{Kind, Problem},
};
use tracing::{debug, error};

/// How often at most it is noted that a key was used.
const NOTED: Duration = Duration::from_secs(60);

/// The keys, and who called with them.
pub(crate) struct Callers {
    keys: RwLock<Keyring>,
    /// Whether all keys are there.
    complete: AtomicBool,
    limiter: Limiter<KeyId>,
    noted: Mutex<HashMap<KeyId, Timestamp>>,
    producer: Producer,
}

impl Callers {
    pub(crate) fn new(producer: Producer, per_second: NonZeroU32) -> Self {
        Self {
            keys: RwLock::default(),
            complete: AtomicBool::new(false),
            limiter: Limiter::new(per_second, per_second),
            noted: Mutex::default(),
            producer,
        }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.read().len()
    }

    /// Takes a change of the topic `keys`.
    pub(crate) fn apply(&self, change: Change<'_>) {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value)),
            Change::Delete { key } => (key, None),
            Change::CaughtUp => {
                self.complete.store(true, Ordering::Release);
                return;
            }
        };
        match value.map(serde_json::from_slice::<Key>) {
            Some(Ok(key)) => self.keys.write().put(key),
            // A key that cannot be read opens nothing: nor what it was before.
            unread => {
                if let Some(Err(reason)) = unread {
                    let key = String::from_utf8_lossy(key);
                    error!(%key, %reason, "a key cannot be used: make another, and delete this one");
                }
                let Some(id) = str::from_utf8(key).ok().and_then(|key| key.parse().ok()) else { return };
                self.keys.write().delete(id);
                self.noted.lock().remove(&id);
            }
        }
    }

    /// The caller whose key is in the headers (RFC 6750), if it may report
    /// conversions.
    pub(crate) fn bearer(&self, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Key>, Problem> {
        let unknown = || Problem::new(Kind::Unauthorized, "This API key is not known here");
        let secret = headers::bearer(headers)?;
        let key = self.find(secret, now)?.ok_or_else(unknown)?;
        if !key.may(Scope::Conversions) {
            let detail = format!("The key {} lacks the scope `conversions`", key.id);
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        self.admit(key, now)
    }

    /// The key whose secret is the token of a postback address.
    pub(crate) fn token(&self, token: &str, now: Timestamp) -> Result<Arc<Key>, Problem> {
        // One answer for all of them, so that nothing is told of a key that can do more.
        let key = self.find(token, now)?.filter(|key| key.scopes == [Scope::Postback]);
        self.admit(key.ok_or_else(|| Problem::new(Kind::NotFound, "There is no such postback address"))?, now)
    }

    fn find(&self, secret: &str, now: Timestamp) -> Result<Option<Arc<Key>>, Problem> {
        let found = self.keys.read().find(secret, now);
        if found.is_none() && !self.complete.load(Ordering::Acquire) {
            return Err(Problem::unavailable("Not all keys are known here yet: try again in a moment"));
        }
        Ok(found)
    }

    fn admit(&self, key: Arc<Key>, now: Timestamp) -> Result<Arc<Key>, Problem> {
        if let Err(wait) = self.limiter.check(&key.id) {
            return Err(Problem::limited(
                format!(
                    "The key {} calls too often: wait, or send several conversions in one request, a line each",
                    key.id
                ),
                wait,
            ));
        }
        self.note(key.id, now);
        Ok(key)
    }

    /// Notes that a key was used, for people to see which keys nobody needs. It
    /// is no loss if it fails.
    fn note(&self, id: KeyId, now: Timestamp) {
        {
            let mut noted = self.noted.lock();
            if noted.get(&id).is_some_and(|last| now.since(*last) < NOTED) {
                return;
            }
            noted.insert(id, now);
        }
        let key = id.to_string();
        // Two fields of plain types: there is nothing to fail.
        let Ok(value) = serde_json::to_vec(&KeyUse { v: 1, last_used_at: now }) else { return };
        let record = Outgoing::keyed(Topic::KeyUses, key.as_bytes(), Some(&value));
        let sent = self.producer.send(&record, |acked| {
            if let Err(error) = acked {
                debug!(%error, "the use of a key is not noted");
            }
        });
        if let Err(error) = sent {
            debug!(%error, "the use of a key is not noted");
        }
    }
}
