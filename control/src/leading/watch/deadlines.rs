//! Links whose deadlines have passed. The links in memory have their deadlines in order, so that a round looks only at
//! those that have passed since the last one.

use schemas::{
    Link, LinkId, Timestamp,
    fired::{FiredFact, FiredSubject},
};
use service::problem::Problem;

use crate::{
    leading::{
        watch::telling::{Finding, FindingReport, tell},
        writer::ActiveLeader,
    },
    metrics::ControlMetrics,
    state::{State, collection::EntityCollection},
};

/// The deadlines that are looked at in one step.
const AT_ONCE: usize = 1000;
/// The steps of a round.
const STEPS: usize = 5;

/// Tells of the deadlines that have passed since the watch has begun.
pub(super) async fn tell_passed(
    leader: &ActiveLeader,
    watching_since: Timestamp,
    now: Timestamp,
    metrics: &ControlMetrics,
) -> Result<(), Problem> {
    for _ in 0..STEPS {
        let (passed, findings) = leader.read(|state| {
            let passed = state.links.passed_deadlines(now, AT_ONCE);
            let findings: Vec<Finding> =
                passed.iter().filter_map(|(at, id)| finding(state, watching_since, *at, *id)).collect();
            (passed, findings)
        });
        if passed.is_empty() {
            return Ok(());
        }
        tell(leader, findings, metrics).await?;
        leader.forget_deadlines(&passed);
    }
    Ok(())
}

/// Returns the finding that a deadline has passed; nothing where it was told, or is from before the watch or the link.
fn finding(state: &State, watching_since: Timestamp, deadline: Timestamp, id: LinkId) -> Option<Finding> {
    if deadline < watching_since || state.fired.expired(id) == Some(deadline) {
        return None;
    }
    let link: std::sync::Arc<Link> = state.links.get(&id)?;
    let is_real = link.expires_at == Some(deadline) && deadline >= link.created_at;
    is_real.then(|| Finding {
        workspace: link.workspace.clone(),
        subject: FiredSubject::Link(id),
        fact: FiredFact::Expired(deadline),
        report: FindingReport::Expired,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schemas::{fired::FiredRecord, sample::plain_link};

    use super::*;
    use crate::state::fired::FiredChange;

    #[test]
    fn a_deadline_is_told_once_and_not_from_before_the_watch_or_the_link() {
        let at = Timestamp::from_millis;
        let id = LinkId::from_bits(1);
        let mut state = State::default();
        let link = Link { expires_at: Some(at(50)), created_at: at(20), ..plain_link(id, "s", "https://a.example/") };
        state.links.insert(Arc::new(link));
        assert!(finding(&state, at(10), at(50), id).is_some());
        assert!(finding(&state, at(51), at(50), id).is_none(), "before the watch");
        assert!(finding(&state, at(10), at(40), id).is_none(), "the link has another deadline");
        assert!(finding(&state, at(10), at(50), LinkId::from_bits(2)).is_none(), "no such link");
        let subject = FiredSubject::Link(id);
        let record = FiredRecord { v: 1, subject, fact: FiredFact::Expired(at(50)), event: None, at: at(51) };
        state.fired.apply(vec![FiredChange::Told(record)]);
        assert!(finding(&state, at(10), at(50), id).is_none(), "it was told");
        let early = Link { expires_at: Some(at(15)), created_at: at(20), ..plain_link(id, "s", "https://a.example/") };
        state.links.insert(Arc::new(early));
        assert!(finding(&state, at(10), at(15), id).is_none(), "it has passed before the link was created");
    }
}
