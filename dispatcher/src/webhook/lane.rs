//! A lane: what waits for one endpoint, and how much of it is under way. It is
//! bounded and never waits; what it does not take is somewhere else's to keep.
//! While nothing waits it is two numbers, with no task behind it.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// A lane's bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many may be under way.
    pub in_flight: usize,
    /// How many may wait.
    pub queue: usize,
}

/// The lane of one endpoint.
pub(super) struct Lane<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    under_way: usize,
}

/// What became of what was offered to a lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered<T> {
    /// It can begin at once: whoever offered it sees to that, and to calling
    /// [`Lane::next`] after it until there is none.
    Begin(T),
    /// It waits for one that is under way.
    Waits,
    /// There is no room.
    Full(T),
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { waiting: VecDeque::new(), under_way: 0 }) }
    }
}

impl<T> Lane<T> {
    /// Takes `item` if there is room.
    pub(super) fn offer(&self, item: T, limits: Limits) -> Offered<T> {
        let mut inner = self.inner.lock();
        if inner.under_way < limits.in_flight {
            inner.under_way += 1;
            return Offered::Begin(item);
        }
        if inner.waiting.len() < limits.queue {
            inner.waiting.push_back(item);
            return Offered::Waits;
        }
        Offered::Full(item)
    }

    /// One that was under way is through: what begins in its stead.
    pub(super) fn next(&self) -> Option<T> {
        let mut inner = self.inner.lock();
        let next = inner.waiting.pop_front();
        if next.is_none() {
            inner.under_way -= 1;
            // A burst's memory is given back with the burst.
            inner.waiting.shrink_to(16);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_finds_no_room_is_given_back() {
        let lane = Lane::default();
        let limits = Limits { in_flight: 1, queue: 1 };
        assert_eq!(lane.offer(1, limits), Offered::Begin(1));
        assert_eq!(lane.offer(2, limits), Offered::Waits);
        assert_eq!(lane.offer(3, limits), Offered::Full(3));
        assert_eq!(lane.next(), Some(2));
        assert_eq!(lane.next(), None);
        assert_eq!(lane.offer(4, limits), Offered::Begin(4));
    }

    proptest! {
        #[test]
        fn everything_taken_comes_out_once_and_in_order(offers in prop::collection::vec(any::<bool>(), 0..200)) {
            let lane = Lane::default();
            let limits = Limits { in_flight: 3, queue: 5 };
            let (mut taken, mut begun, mut under_way) = (Vec::new(), Vec::new(), 0);
            for (item, offer) in offers.into_iter().enumerate() {
                if offer {
                    match lane.offer(item, limits) {
                        Offered::Begin(item) => {
                            begun.push(item);
                            taken.push(item);
                            under_way += 1;
                        }
                        Offered::Waits => taken.push(item),
                        Offered::Full(_) => {}
                    }
                } else if under_way > 0 {
                    match lane.next() {
                        Some(item) => begun.push(item),
                        None => under_way -= 1,
                    }
                }
                prop_assert!(under_way <= limits.in_flight);
            }
            while under_way > 0 {
                match lane.next() {
                    Some(item) => begun.push(item),
                    None => under_way -= 1,
                }
            }
            prop_assert_eq!(begun, taken);
        }
    }
}
