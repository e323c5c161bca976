//! A map from text to text that a customer filled in. Receivers often verify a
//! body that they parsed and wrote again in JavaScript, where keys that look
//! like array indexes come first in ascending order (ECMA-262, `OrdinaryOwnPropertyKeys`).
//! Keys are written in that order, so that such a body keeps its bytes.

use std::{cmp::Ordering, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A key in the order in which JavaScript enumerates it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct UserKey(String);

impl UserKey {
    /// The array index that the key is, if it is one: 0 to 2^32 - 2, canonical.
    fn index(&self) -> Option<u32> {
        let index = self.0.parse::<u32>().ok()?;
        (index != u32::MAX && index.to_string() == self.0).then_some(index)
    }
}

impl Ord for UserKey {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.index(), other.index()) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.0.cmp(&other.0),
        }
    }
}

impl PartialOrd for UserKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Text to text, in an order that survives `JSON.stringify(JSON.parse(…))`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct UserMap(BTreeMap<UserKey, String>);

impl UserMap {
    /// Returns whether the map is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.0.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for UserMap {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (UserKey(key.into()), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_indexes_come_first_in_ascending_order() {
        let keys = ["b", "10", "9", "01", "4294967295", "4294967294", "a", "-1"];
        let map: UserMap = keys.into_iter().map(|key| (key, "")).collect();
        let order: Vec<_> = map.iter().map(|(key, _)| key).collect();
        assert_eq!(order, ["9", "10", "4294967294", "-1", "01", "4294967295", "a", "b"]);
    }
}
