//! The open connections of a core, and which of them is closed to make room for another:
//! the one that has waited longest for its next request.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    task::{Context, Waker},
};

use tokio::time::Instant;

use crate::edge::networks::network_of;

/// The number of idle connections that are looked for at a time: a core may have
/// thousands, and looks at each of them.
const AT_ONCE: usize = 64;

/// The state of a connection that others see.
pub(crate) struct ConnectionSlot {
    /// The place among the connections of the core.
    at: Cell<usize>,
    network: IpAddr,
    /// The time since which no request is under way.
    idle_since: Cell<Option<Instant>>,
    evicted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl ConnectionSlot {
    /// Notes that the connection waits for its next request since `since`.
    pub(crate) fn rests(&self, since: Instant) {
        self.idle_since.set(Some(since));
    }

    /// Notes that a request is under way.
    pub(crate) fn works(&self) {
        self.idle_since.set(None);
    }

    /// Whether the connection is to be closed instead of waiting. Otherwise the task of
    /// `context` is woken when it is.
    pub(crate) fn poll_evicted(&self, context: &Context<'_>) -> bool {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        self.evicted.get()
    }

    fn evict(&self) {
        self.evicted.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get().filter(|_| !self.evicted.get())
    }
}

/// The outcome of the search for a connection to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// An idle connection is being closed.
    Evicted,
    /// No connection is idle.
    NoneIdle,
}

/// The connections of a core.
#[derive(Default)]
pub(crate) struct ConnectionSlots {
    slots: RefCell<Vec<Rc<ConnectionSlot>>>,
    /// Connections that were idle for longest when they were looked for, the longest last.
    oldest: RefCell<Vec<(Rc<ConnectionSlot>, Instant)>>,
}

impl ConnectionSlots {
    /// Adds a connection. It is removed with [`ConnectionSlots::remove`].
    pub(crate) fn add(&self, peer: IpAddr) -> Rc<ConnectionSlot> {
        let mut slots = self.slots.borrow_mut();
        let slot = Rc::new(ConnectionSlot {
            at: Cell::new(slots.len()),
            network: network_of(peer),
            idle_since: Cell::new(None),
            evicted: Cell::new(false),
            waker: RefCell::new(None),
        });
        slots.push(Rc::clone(&slot));
        slot
    }

    /// Removes a connection that has ended.
    pub(crate) fn remove(&self, slot: &ConnectionSlot) {
        let mut slots = self.slots.borrow_mut();
        let at = slot.at.get();
        slots.swap_remove(at);
        if let Some(moved) = slots.get(at) {
            moved.at.set(at);
        }
    }

    /// Closes the connection that is idle for longest.
    pub(crate) fn evict(&self) -> Eviction {
        let mut oldest = self.oldest.borrow_mut();
        loop {
            while let Some((slot, since)) = oldest.pop() {
                // It may have had a request, or have ended, in the meantime.
                if slot.idle_since() == Some(since) && Rc::strong_count(&slot) > 1 {
                    slot.evict();
                    return Eviction::Evicted;
                }
            }
            let slots = self.slots.borrow();
            let idle = slots.iter().filter_map(|slot| Some((Rc::clone(slot), slot.idle_since()?)));
            oldest.extend(idle);
            if oldest.is_empty() {
                return Eviction::NoneIdle;
            }
            if oldest.len() > AT_ONCE {
                oldest.select_nth_unstable_by_key(AT_ONCE, |(_, since)| *since);
                oldest.truncate(AT_ONCE);
            }
            oldest.sort_unstable_by_key(|(_, since)| std::cmp::Reverse(*since));
        }
    }

    /// Closes the connection of an address's network that is idle for longest.
    pub(crate) fn evict_of(&self, peer: IpAddr) -> Eviction {
        let network = network_of(peer);
        let slots = self.slots.borrow();
        let idle = slots.iter().filter(|slot| slot.network == network);
        let longest = idle.filter_map(|slot| Some((slot, slot.idle_since()?))).min_by_key(|(_, since)| *since);
        match longest {
            Some((slot, _)) => {
                slot.evict();
                Eviction::Evicted
            }
            None => Eviction::NoneIdle,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{task::Waker, time::Duration};

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, last, 1])
    }

    fn is_evicted(slot: &ConnectionSlot) -> bool {
        slot.poll_evicted(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_longest_idle_connection_makes_room() {
        let (slots, begin) = (ConnectionSlots::default(), Instant::now());
        let all: Vec<_> = (0..200_u8).map(|n| slots.add(ip(n % 2))).collect();
        assert_eq!(slots.evict(), Eviction::NoneIdle);
        // The later they were made, the longer they are idle.
        for (n, slot) in all.iter().enumerate() {
            slot.rests(begin - Duration::from_millis(n as u64));
        }
        all[199].works();
        assert_eq!(slots.evict(), Eviction::Evicted);
        assert!(is_evicted(&all[198]) && !is_evicted(&all[199]) && !is_evicted(&all[197]));
        // One that has had a request since is passed over, as is one that has ended.
        all[197].rests(begin);
        all[196].works();
        slots.remove(&all[196]);
        slots.evict();
        assert!(is_evicted(&all[195]) && !is_evicted(&all[196]) && !is_evicted(&all[194]));
        assert_eq!(slots.evict_of(ip(1)), Eviction::Evicted);
        assert!(is_evicted(&all[193]), "the longest idle one of its network");
        for _ in 0..200 {
            slots.evict();
        }
        assert_eq!(slots.evict(), Eviction::NoneIdle);
        assert!(!is_evicted(&all[199]), "a request is under way");
    }
}
