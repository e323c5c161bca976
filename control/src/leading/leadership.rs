//! The leadership as this instance knows it: this instance leads, or another does, or no leader is known. Which instance
//! serves a request, and whether this one is ready, follows from it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::uri::Authority;
use parking_lot::RwLock;
use schemas::leader;
use service::Part;

use crate::leading::writer::ActiveLeader;

/// The time for which a leader answers after its last poll of the election. Another instance is elected after a session of
/// 6 s without a poll, so a leader that slept longer than the lease may have been replaced.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// The instance that serves a request.
pub(crate) enum ServingInstance {
    /// This instance, which leads.
    This,
    /// The leader at this address.
    Other(Authority),
    /// No leader is known.
    Unknown,
}

/// The part that this instance has in the election.
enum Phase {
    /// The instance cannot serve, for this reason.
    Unavailable(String),
    /// The instance waits to be elected, and forwards requests.
    StandingBy,
    /// The instance was told to stop.
    Draining,
}

struct LeadershipState {
    /// The number of the term. Stepping down increases it, so that a term that was lost while it began does not begin.
    term: u64,
    /// The leader, if it is this instance.
    leader: Option<Arc<ActiveLeader>>,
    /// The moment of the last poll of the election.
    lease_renewed_at: Instant,
    /// The leader according to the topic, which may be this instance, and out of date.
    known_leader: Option<Authority>,
    phase: Phase,
}

/// The leadership, shared by the election, the forwarding and the handlers.
pub(crate) struct Leadership {
    state: RwLock<LeadershipState>,
    own_address: Authority,
    part: Part,
}

impl Leadership {
    /// Creates the leadership of an instance that others reach at `own_address`, and that shows in `part` whether it is
    /// ready.
    pub(crate) fn new(own_address: Authority, part: Part) -> Self {
        let phase = Phase::Unavailable("starting".to_owned());
        let state =
            LeadershipState { term: 0, leader: None, lease_renewed_at: Instant::now(), known_leader: None, phase };
        Self { state: RwLock::new(state), own_address, part }
    }

    /// Returns the leader, if it is this instance and its lease is valid.
    pub(crate) fn leader(&self) -> Option<Arc<ActiveLeader>> {
        let state = self.state.read();
        state.leader.clone().filter(|_| state.lease_renewed_at.elapsed() < LEASE)
    }

    /// Returns the instance that serves requests now.
    pub(crate) fn serving_instance(&self) -> ServingInstance {
        let state = self.state.read();
        if state.leader.is_some() && state.lease_renewed_at.elapsed() < LEASE {
            return ServingInstance::This;
        }
        self.other(&state).map_or(ServingInstance::Unknown, ServingInstance::Other)
    }

    /// Returns the record that names this instance as the leader.
    pub(crate) fn leader_record(&self, since: schemas::Timestamp) -> leader::Leader {
        leader::Leader { v: 1, address: self.own_address.to_string(), since }
    }

    /// Returns the number of the term.
    pub(crate) fn term(&self) -> u64 {
        self.state.read().term
    }

    /// Leads from now on, unless the term was lost in the meantime; returns whether it leads.
    pub(crate) fn become_leader(&self, term: u64, leader: Arc<ActiveLeader>) -> bool {
        let mut state = self.state.write();
        let current = state.term == term;
        if current {
            state.leader = Some(leader);
            self.show(&state);
        }
        current
    }

    /// Stops leading.
    pub(crate) fn step_down(&self) {
        let mut state = self.state.write();
        state.term += 1;
        state.leader = None;
        self.show(&state);
    }

    /// Renews the lease after a poll of the election.
    pub(crate) fn renew_lease(&self) {
        self.state.write().lease_renewed_at = Instant::now();
    }

    /// Sets the leader that the topic names.
    pub(crate) fn set_known_leader(&self, known_leader: Option<Authority>) {
        let mut state = self.state.write();
        state.known_leader = known_leader;
        self.show(&state);
    }

    /// Waits to be elected from now on.
    pub(crate) fn stand_by(&self) {
        self.enter(Phase::StandingBy);
    }

    /// Cannot serve from now on, for this reason.
    pub(crate) fn set_unavailable(&self, reason: String) {
        self.enter(Phase::Unavailable(reason));
    }

    /// Drains from now on: the instance is never ready again.
    pub(crate) fn drain(&self) {
        self.enter(Phase::Draining);
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.state.write();
        if !matches!(state.phase, Phase::Draining) {
            state.phase = phase;
            self.show(&state);
        }
    }

    /// Returns the leader, if it is another instance. The topic may still name this one, which no longer leads.
    fn other(&self, state: &LeadershipState) -> Option<Authority> {
        state.known_leader.clone().filter(|known| *known != self.own_address)
    }

    /// Shows whether the instance is ready.
    fn show(&self, state: &LeadershipState) {
        match &state.phase {
            Phase::Draining => self.part.not_ready("draining"),
            _ if state.leader.is_some() => self.part.ready(),
            Phase::StandingBy if self.other(state).is_some() => self.part.ready(),
            Phase::StandingBy => self.part.not_ready("standby: no leader is known"),
            Phase::Unavailable(reason) => self.part.not_ready(reason),
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
        // A record of its own earlier term names no other leader.
        leadership.set_known_leader(Some(at("a:1")));
        assert!(!health.is_ready() && matches!(leadership.serving_instance(), ServingInstance::Unknown));
        leadership.set_known_leader(Some(at("b:1")));
        assert!(health.is_ready());
        assert!(matches!(leadership.serving_instance(), ServingInstance::Other(place) if place == at("b:1")));
    }

    #[test]
    fn a_term_that_was_lost_is_not_begun() {
        let health = Health::default();
        let leadership = Leadership::new(at("a:1"), health.part("control"));
        let (term, (leader, _jobs)) = (leadership.term(), ActiveLeader::new(State::default(), Arc::default()));
        leadership.step_down();
        assert!(!leadership.become_leader(term, Arc::clone(&leader)));
        assert!(leadership.become_leader(leadership.term(), leader));
        assert!(
            health.is_ready()
                && matches!(leadership.serving_instance(), ServingInstance::This)
                && leadership.leader().is_some()
        );
        leadership.drain();
        leadership.stand_by();
        assert!(!health.is_ready());
    }

    #[test]
    fn a_leader_that_slept_does_not_answer_until_it_has_polled() {
        let leadership = Leadership::new(at("a:1"), Health::default().part("control"));
        let (leader, _jobs) = ActiveLeader::new(State::default(), Arc::default());
        leadership.become_leader(0, leader);
        let Some(slept) = Instant::now().checked_sub(LEASE) else { return };
        leadership.state.write().lease_renewed_at = slept;
        assert!(leadership.leader().is_none() && matches!(leadership.serving_instance(), ServingInstance::Unknown));
        leadership.renew_lease();
        assert!(leadership.leader().is_some());
    }
}
