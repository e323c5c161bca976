//! Who leads, as far as this instance knows: itself, another, or nobody. From it
//! follow where a request is served and whether the instance is ready.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::uri::Authority;
use parking_lot::RwLock;
use schemas::leader;
use service::Part;

use crate::writer::Leader;

/// How long after its last look at the election a leader still answers. Another
/// is elected once a session of 6 s has passed in silence, so that whoever slept
/// longer than this may have been replaced.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// Where a request is served.
pub(crate) enum Place {
    /// By this instance, which leads.
    Here,
    /// By the leader, which is there.
    There(Authority),
    /// Nobody is known to lead.
    Nowhere,
}

/// What this instance does in the election.
enum Phase {
    /// It cannot serve, because of this.
    Waiting(String),
    /// It waits to be elected, and forwards meanwhile.
    StandingBy,
    /// It was told to stop.
    Draining,
}

struct Held {
    /// Counts what was won and lost, so that a term that was lost while it
    /// began is not begun.
    term: u64,
    leader: Option<Arc<Leader>>,
    /// When the election was last looked at.
    looked: Instant,
    /// The leader by the topic, which may be this instance, and out of date.
    known: Option<Authority>,
    phase: Phase,
}

/// Whether this instance leads, and with what; or who does.
pub(crate) struct Leadership {
    held: RwLock<Held>,
    own: Authority,
    part: Part,
}

impl Leadership {
    /// Of an instance that others reach at `own` and that shows in `part`
    /// whether it is ready.
    pub(crate) fn new(own: Authority, part: Part) -> Self {
        let phase = Phase::Waiting("starting".to_owned());
        let held = Held { term: 0, leader: None, looked: Instant::now(), known: None, phase };
        Self { held: RwLock::new(held), own, part }
    }

    /// The leader, if it is this instance, and was a moment ago.
    pub(crate) fn leader(&self) -> Option<Arc<Leader>> {
        let held = self.held.read();
        held.leader.clone().filter(|_| held.looked.elapsed() < LEASE)
    }

    /// Where requests are served now.
    pub(crate) fn place(&self) -> Place {
        let held = self.held.read();
        if held.leader.is_some() && held.looked.elapsed() < LEASE {
            return Place::Here;
        }
        self.other(&held).map_or(Place::Nowhere, Place::There)
    }

    /// The record of the leader, for the topic.
    pub(crate) fn record(&self, since: schemas::Timestamp) -> leader::Leader {
        leader::Leader { v: 1, address: self.own.to_string(), since }
    }

    pub(crate) fn term(&self) -> u64 {
        self.held.read().term
    }

    /// Leads from now on, unless the term was lost in the meantime.
    pub(crate) fn take(&self, term: u64, leader: Arc<Leader>) -> bool {
        let mut held = self.held.write();
        let current = held.term == term;
        if current {
            held.leader = Some(leader);
            self.show(&held);
        }
        current
    }

    /// Leads no longer.
    pub(crate) fn lose(&self) {
        let mut held = self.held.write();
        held.term += 1;
        held.leader = None;
        self.show(&held);
    }

    /// The election was looked at.
    pub(crate) fn look(&self) {
        self.held.write().looked = Instant::now();
    }

    /// The topic says that the leader is there.
    pub(crate) fn learn(&self, known: Option<Authority>) {
        let mut held = self.held.write();
        held.known = known;
        self.show(&held);
    }

    /// It waits to be elected.
    pub(crate) fn stand_by(&self) {
        self.enter(Phase::StandingBy);
    }

    /// It cannot serve because of `why`.
    pub(crate) fn wait(&self, why: String) {
        self.enter(Phase::Waiting(why));
    }

    /// It was told to stop: it never is ready again.
    pub(crate) fn drain(&self) {
        self.enter(Phase::Draining);
    }

    fn enter(&self, phase: Phase) {
        let mut held = self.held.write();
        if !matches!(held.phase, Phase::Draining) {
            held.phase = phase;
            self.show(&held);
        }
    }

    /// Another that leads. An instance that the topic still names, but that leads
    /// no longer, is nobody.
    fn other(&self, held: &Held) -> Option<Authority> {
        held.known.clone().filter(|known| *known != self.own)
    }

    fn show(&self, held: &Held) {
        match &held.phase {
            Phase::Draining => self.part.not_ready("draining"),
            _ if held.leader.is_some() => self.part.ready(),
            Phase::StandingBy if self.other(held).is_some() => self.part.ready(),
            Phase::StandingBy => self.part.not_ready("standby: nobody is known to lead"),
            Phase::Waiting(why) => self.part.not_ready(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use service::Health;

    use super::*;
    use crate::state::State;

    fn at(text: &str) -> Authority {
        text.parse().unwrap()
    }

    #[test]
    fn a_standby_is_ready_when_it_knows_another_that_leads() {
        let health = Health::default();
        let leadership = Leadership::new(at("a:1"), health.part("control"));
        leadership.stand_by();
        assert!(!health.is_ready());
        // What it wrote itself in an earlier term leads nowhere.
        leadership.learn(Some(at("a:1")));
        assert!(!health.is_ready() && matches!(leadership.place(), Place::Nowhere));
        leadership.learn(Some(at("b:1")));
        assert!(health.is_ready());
        assert!(matches!(leadership.place(), Place::There(place) if place == at("b:1")));
    }

    #[test]
    fn a_term_that_was_lost_is_not_begun() {
        let health = Health::default();
        let leadership = Leadership::new(at("a:1"), health.part("control"));
        let (term, (leader, _jobs)) = (leadership.term(), Leader::new(State::default(), Arc::default()));
        leadership.lose();
        assert!(!leadership.take(term, Arc::clone(&leader)));
        assert!(leadership.take(leadership.term(), leader));
        assert!(health.is_ready() && matches!(leadership.place(), Place::Here) && leadership.leader().is_some());
        leadership.drain();
        leadership.stand_by();
        assert!(!health.is_ready());
    }

    #[test]
    fn who_has_slept_leads_nothing_until_it_has_looked() {
        let leadership = Leadership::new(at("a:1"), Health::default().part("control"));
        let (leader, _jobs) = Leader::new(State::default(), Arc::default());
        leadership.take(0, leader);
        let Some(slept) = Instant::now().checked_sub(LEASE) else { return };
        leadership.held.write().looked = slept;
        assert!(leadership.leader().is_none() && matches!(leadership.place(), Place::Nowhere));
        leadership.look();
        assert!(leadership.leader().is_some());
    }
}
