//! The bundles that wait for Kafka's acknowledgement, and where each stands.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::recording::recorder::{Bundle, Number};

/// Where a bundle that Kafka has not acknowledged stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It waits for the acknowledgement alone.
    Waiting,
    /// The keeper has it, to put it on disk; those who wait are not told yet.
    Spooling,
    /// Those who wait have been told.
    Settled,
}

pub(crate) struct Flight {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) stand: Stand,
}

/// What waits for Kafka's acknowledgement.
#[derive(Default)]
pub(crate) struct Flights {
    /// Oldest first.
    pub(crate) all: BTreeMap<Number, Flight>,
    /// Those that stand [`Stand::Waiting`], oldest first, and some that no longer
    /// do: in an outage of hours nobody looks through all the others for them.
    waiting: VecDeque<Number>,
    /// The same of those that stand [`Stand::Spooling`].
    spooling: VecDeque<Number>,
}

impl Flights {
    pub(crate) fn insert(&mut self, bundle: Arc<Bundle>, stand: Stand) {
        match stand {
            Stand::Waiting => self.waiting.push_back(bundle.number),
            Stand::Spooling => self.spooling.push_back(bundle.number),
            Stand::Settled => {}
        }
        self.all.insert(bundle.number, Flight { bundle, stand });
    }

    /// The oldest that waited for the acknowledgement alone now waits for the disk.
    pub(crate) fn spool_first(&mut self) {
        if let Some(number) = self.waiting.pop_front()
            && let Some(flight) = self.all.get_mut(&number)
        {
            flight.stand = Stand::Spooling;
            self.spooling.push_back(number);
        }
    }

    /// The oldest that waits for the acknowledgement alone.
    pub(crate) fn first_waiting(&mut self) -> Option<&mut Flight> {
        first(&mut self.all, &mut self.waiting, Stand::Waiting)
    }

    /// The oldest that waits for the disk as well.
    pub(crate) fn first_spooling(&mut self) -> Option<&mut Flight> {
        first(&mut self.all, &mut self.spooling, Stand::Spooling)
    }
}

/// The first of `queue` that stands so; those before it are dropped there.
fn first<'f>(
    all: &'f mut BTreeMap<Number, Flight>,
    queue: &mut VecDeque<Number>,
    stand: Stand,
) -> Option<&'f mut Flight> {
    let stands = |number: &Number| all.get(number).is_some_and(|flight| flight.stand == stand);
    while queue.pop_front_if(|number| !stands(number)).is_some() {}
    all.get_mut(queue.front()?)
}
