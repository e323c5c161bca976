//! Slots of links in the order of their ids: what lists page through. Ids grow
//! with time, so almost every link comes behind the last one, and a chunk that
//! is left behind is full: four bytes a link, where a tree would take forty.

/// How many slots a chunk holds at most.
const CHUNK: usize = 512;

/// Slots, ascending by a key that is looked up.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// None is empty.
    chunks: Vec<Vec<u32>>,
}

impl Order {
    /// Puts a slot, whose key is `key` and not there yet, in its place.
    pub(crate) fn insert<K: Ord>(&mut self, slot: u32, key: &K, key_of: impl Fn(u32) -> K) {
        let Some(last) = self.chunks.len().checked_sub(1) else {
            self.chunks.push(vec![slot]);
            return;
        };
        let at = self.chunk_of(key, &key_of).unwrap_or(last);
        let chunk = &mut self.chunks[at];
        let place = chunk.partition_point(|other| key_of(*other) < *key);
        if chunk.len() < CHUNK {
            chunk.insert(place, slot);
        } else if at == last && place == CHUNK {
            self.chunks.push(vec![slot]);
        } else {
            let mut behind = chunk.split_off(CHUNK / 2);
            if place <= CHUNK / 2 {
                chunk.insert(place, slot);
            } else {
                behind.insert(place - CHUNK / 2, slot);
            }
            self.chunks.insert(at + 1, behind);
        }
    }

    /// Takes the slot whose key is `key` out.
    pub(crate) fn remove<K: Ord>(&mut self, key: &K, key_of: impl Fn(u32) -> K) {
        let Some(at) = self.chunk_of(key, &key_of) else { return };
        let chunk = &mut self.chunks[at];
        let place = chunk.partition_point(|other| key_of(*other) < *key);
        if chunk.get(place).is_some_and(|slot| key_of(*slot) == *key) {
            chunk.remove(place);
            if chunk.is_empty() {
                self.chunks.remove(at);
            }
        }
    }

    /// The slots whose keys are below `before`, or all, the last first.
    pub(crate) fn backwards<K: Ord>(&self, before: Option<&K>, key_of: impl Fn(u32) -> K) -> impl Iterator<Item = u32> {
        let (chunks, rest): (usize, &[u32]) = match before {
            None => (self.chunks.len(), &[]),
            Some(before) => match self.chunk_of(before, &key_of) {
                None => (self.chunks.len(), &[]),
                Some(at) => {
                    let place = self.chunks[at].partition_point(|slot| key_of(*slot) < *before);
                    (at, &self.chunks[at][..place])
                }
            },
        };
        rest.iter().rev().chain(self.chunks[..chunks].iter().rev().flat_map(|chunk| chunk.iter().rev())).copied()
    }

    /// The first chunk whose last key is not below `key`.
    fn chunk_of<K: Ord>(&self, key: &K, key_of: &impl Fn(u32) -> K) -> Option<usize> {
        let is_below = |chunk: &Vec<u32>| chunk.last().is_some_and(|last| key_of(*last) < *key);
        let at = self.chunks.partition_point(is_below);
        (at < self.chunks.len()).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_as_a_set_is(ops in prop::collection::vec((0_u32..3000, 0_u8..4), 0..4000), before in 0_u32..3000) {
            let (mut order, mut set) = (Order::default(), BTreeSet::new());
            for (slot, op) in ops {
                if op > 0 {
                    if set.insert(slot) {
                        order.insert(slot, &slot, |slot| slot);
                    }
                } else {
                    set.remove(&slot);
                    order.remove(&slot, |slot| slot);
                }
            }
            let all: Vec<u32> = order.backwards(None, |slot| slot).collect();
            prop_assert_eq!(all, set.iter().rev().copied().collect::<Vec<_>>());
            let below: Vec<u32> = order.backwards(Some(&before), |slot| slot).collect();
            prop_assert_eq!(below, set.range(..before).rev().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_comes_in_order_fills_its_chunks() {
        let mut order = Order::default();
        for slot in 0..10 * CHUNK as u32 {
            order.insert(slot, &slot, |slot| slot);
        }
        assert!(order.chunks.iter().all(|chunk| chunk.len() == CHUNK));
    }
}
