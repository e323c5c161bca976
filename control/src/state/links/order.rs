//! The slots of links in the order of the links' ids, through which lists page. Ids grow with time, so almost every new
//! link comes after the last one, and the chunks before the last are full: four bytes a link, where a tree would take
//! forty.

/// The most slots that a chunk holds.
const CHUNK: usize = 512;

/// Slots in ascending order of a key, which the caller looks up.
#[derive(Debug, Default)]
pub(crate) struct SlotOrder {
    /// The chunks, none of them empty.
    chunks: Vec<Vec<u32>>,
    len: usize,
}

impl SlotOrder {
    /// Makes an order of slots that are sorted already.
    pub(crate) fn from_sorted(slots: impl IntoIterator<Item = u32>) -> Self {
        let mut order = Self::default();
        for slot in slots {
            match order.chunks.last_mut() {
                Some(last) if last.len() < CHUNK => last.push(slot),
                _ => order.chunks.push(vec![slot]),
            }
            order.len += 1;
        }
        order
    }

    /// Inserts a slot with the key `key`, which must be new.
    pub(crate) fn insert<K: Ord>(&mut self, slot: u32, key: &K, key_of: impl Fn(u32) -> K) {
        self.len += 1;
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

    /// Removes the slot with the key `key`.
    pub(crate) fn remove<K: Ord>(&mut self, key: &K, key_of: impl Fn(u32) -> K) {
        let Some(at) = self.chunk_of(key, &key_of) else { return };
        let chunk = &mut self.chunks[at];
        let place = chunk.partition_point(|other| key_of(*other) < *key);
        if chunk.get(place).is_some_and(|slot| key_of(*slot) == *key) {
            chunk.remove(place);
            self.len -= 1;
            if chunk.is_empty() {
                self.chunks.remove(at);
            }
        }
    }

    /// Returns the number of slots.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Iterates backwards over the slots whose keys are below `before`, or over all.
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

    /// Iterates forwards over the slots whose keys are not below `from`.
    pub(crate) fn forwards<'o, K: Ord, F: Fn(u32) -> K>(
        &'o self,
        from: &K,
        key_of: F,
    ) -> impl Iterator<Item = u32> + use<'o, K, F> {
        let at = self.chunk_of(from, &key_of).unwrap_or(self.chunks.len());
        let place = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(|slot| key_of(*slot) < *from));
        self.chunks.iter().skip(at).flatten().skip(place).copied()
    }

    /// Returns the first chunk whose last key is not below `key`.
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
            let (mut order, mut set) = (SlotOrder::default(), BTreeSet::new());
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
            prop_assert_eq!(order.len(), set.len());
            let all: Vec<u32> = order.backwards(None, |slot| slot).collect();
            prop_assert_eq!(all, set.iter().rev().copied().collect::<Vec<_>>());
            let below: Vec<u32> = order.backwards(Some(&before), |slot| slot).collect();
            prop_assert_eq!(below, set.range(..before).rev().copied().collect::<Vec<_>>());
            let above: Vec<u32> = order.forwards(&before, |slot| slot).collect();
            prop_assert_eq!(&above, &set.range(before..).copied().collect::<Vec<_>>());
            let rebuilt = SlotOrder::from_sorted(set.iter().copied());
            prop_assert_eq!(rebuilt.forwards(&0, |slot| slot).collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_comes_in_order_fills_its_chunks() {
        let mut order = SlotOrder::default();
        for slot in 0..10 * CHUNK as u32 {
            order.insert(slot, &slot, |slot| slot);
        }
        assert!(order.chunks.iter().all(|chunk| chunk.len() == CHUNK));
    }
}
