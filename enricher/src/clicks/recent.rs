//! A bounded cache of values that were read before, for one thread. Values that come again
//! stay, and ever new ones cost no more than being read.
//!
//! The cache has two generations. What is found in the old one moves to the young one;
//! when the young one is full it becomes the old one, and the old one is forgotten.

use std::{collections::HashMap, hash::Hash, sync::Arc};

type Generation<K, V> = HashMap<Box<K>, Arc<V>, foldhash::fast::RandomState>;

/// The values that a thread has read before, by the bytes or text that they were read from.
pub(super) struct RecentCache<K: ?Sized, V> {
    young: Generation<K, V>,
    old: Generation<K, V>,
    /// The most values of a generation.
    generation: usize,
}

impl<K: ?Sized + Eq + Hash, V> RecentCache<K, V> {
    /// Returns an empty cache, whose two generations have at most `generation` values each.
    pub(super) fn new(generation: usize) -> Self {
        Self { young: Generation::default(), old: Generation::default(), generation }
    }

    /// Returns the value of a key, if the cache still has it.
    pub(super) fn get(&mut self, key: &K) -> Option<Arc<V>> {
        if let Some(value) = self.young.get(key) {
            return Some(Arc::clone(value));
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, Arc::clone(&value));
        Some(value)
    }

    /// Keeps a value.
    pub(super) fn put(&mut self, key: Box<K>, value: Arc<V>) {
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// The number of values.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
