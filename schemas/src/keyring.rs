//! All keys of the installation, found by the secret that a caller shows. Only
//! hashes are kept, so that nothing here is worth stealing. Each process that follows the
//! topic `keys` can check callers without a request to another process.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::{Key, KeyId, Timestamp};

/// Returns the SHA-256 of a secret in hexadecimal, the only form in which it is kept.
#[must_use]
pub fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

/// The keys, by id and by the hash of their secrets.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: HashMap<KeyId, Arc<Key>>,
    /// Two keys may have one secret, since the installation's own is chosen by
    /// people: then neither hides the other for good.
    by_hash: BTreeSet<(String, KeyId)>,
}

impl Keyring {
    /// Adds a key, or its next version.
    pub fn put(&mut self, key: Key) {
        self.delete(key.id);
        for hash in hashes(&key) {
            self.by_hash.insert((hash.to_owned(), key.id));
        }
        self.keys.insert(key.id, Arc::new(key));
    }

    /// Removes a key.
    pub fn delete(&mut self, id: KeyId) {
        let Some(key) = self.keys.remove(&id) else { return };
        for hash in hashes(&key) {
            self.by_hash.remove(&(hash.to_owned(), id));
        }
    }

    /// The key that `secret` opens at `at`, expired ones and replaced secrets left out.
    #[must_use]
    pub fn find(&self, secret: &str, at: Timestamp) -> Option<Arc<Key>> {
        // The caller's text is hashed before it is compared, so the duration of the
        // comparison tells nothing about a secret.
        let from = (hash(secret), KeyId::from_bits(0));
        self.by_hash
            .range(&from..)
            .take_while(|(hash, _)| *hash == from.0)
            .filter_map(|(hash, id)| self.keys.get(id).filter(|key| key.opens(hash, at)))
            .next()
            .map(Arc::clone)
    }

    /// The key with that id, whether it opens anything or not.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Arc<Key>> {
        self.keys.get(&id)
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// The hashes that a key may be found by: its secret's, and the one before.
fn hashes(key: &Key) -> impl Iterator<Item = &str> {
    std::iter::once(key.hash.as_str()).chain(key.previous.as_ref().map(|previous| previous.hash.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scope, WorkspaceId, workspace::PreviousSecret};

    const LONG: i64 = 1_000_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn key(id: u128, secret: &str) -> Key {
        Key {
            id: KeyId::from_bits(id),
            workspace: WorkspaceId::default(),
            name: "crm".to_owned(),
            scopes: vec![Scope::Conversions],
            hash: hash(secret),
            hint: "chk_".to_owned(),
            origins: Vec::new(),
            previous: None,
            expires_at: None,
            created_at: at(0),
            updated_at: at(0),
            revision: 1,
        }
    }

    fn found(ring: &Keyring, secret: &str, ms: i64) -> Option<u128> {
        ring.find(secret, at(ms)).map(|key| key.id.bits())
    }

    #[test]
    fn a_key_is_found_by_its_secret_alone() {
        let mut ring = Keyring::default();
        ring.put(key(1, "chk_a"));
        ring.put(key(2, "chk_b"));
        assert_eq!((found(&ring, "chk_a", 1), found(&ring, "chk_b", 1)), (Some(1), Some(2)));
        for stranger in ["", "chk_", "chk_A", "chk_a ", &hash("chk_a")] {
            assert_eq!(found(&ring, stranger, 1), None, "{stranger:?}");
        }
        ring.delete(KeyId::from_bits(1));
        assert_eq!((found(&ring, "chk_a", 1), found(&ring, "chk_b", 1), ring.len()), (None, Some(2), 1));
    }

    #[test]
    fn after_a_rotation_both_secrets_open_for_a_while() {
        let mut ring = Keyring::default();
        ring.put(key(1, "old"));
        let previous = PreviousSecret { hash: hash("old"), expires_at: at(1_000) };
        ring.put(Key { previous: Some(previous), ..key(1, "new") });
        assert_eq!((found(&ring, "new", 999), found(&ring, "old", 999)), (Some(1), Some(1)));
        assert_eq!((found(&ring, "new", LONG), found(&ring, "old", 1_000)), (Some(1), None));
        // The next version forgets it, also within its time.
        ring.put(key(1, "newer"));
        assert_eq!((found(&ring, "new", 1), found(&ring, "old", 1), ring.by_hash.len()), (None, None, 1));
    }

    #[test]
    fn an_expired_key_opens_nothing_and_hides_none() {
        let mut ring = Keyring::default();
        ring.put(Key { expires_at: Some(at(1_000)), ..key(1, "same") });
        ring.put(key(2, "same"));
        assert_eq!((found(&ring, "same", 999), found(&ring, "same", 1_000)), (Some(1), Some(2)));
        ring.delete(KeyId::from_bits(2));
        assert_eq!((found(&ring, "same", 999), found(&ring, "same", 1_000)), (Some(1), None));
        assert!(ring.get(KeyId::from_bits(1)).is_some(), "it can still be looked at");
    }
}
