//! The proofs of domains, which the leader looks at again: every day those that stand, every hour those that are missing.
//! A domain whose TXT record stays away for some days is no longer verified, and one that nobody proves within a month is
//! deleted. An answer that DNS cannot give counts for nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use schemas::{Domain, DomainId, DomainProof, Timestamp};
use service::problem::Problem;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::{
    dns::Dns,
    kinds::domain::{is_abandoned, looked_at_again, proof_name},
    leading::{leadership::Leadership, writer::ActiveLeader},
    state::{audit::Author, draft::Draft, entity::Expected},
};

/// The interval at which some domains are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// The domains that are looked at, or deleted, in an interval.
const AT_ONCE: usize = 20;
/// The time after which a proof that stands is looked at again.
const DAILY: Duration = Duration::from_secs(24 * 3600);
/// The time after which a proof that is missing is looked at again.
const HOURLY: Duration = Duration::from_secs(3600);

/// Looks at proofs again while this instance leads. Never returns.
pub(crate) async fn check_proofs(leadership: Arc<Leadership>, dns: Dns, grace: Duration) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The moments at which domains were last looked at. A new leader begins with all of them, some at a time.
    let mut looked_at = HashMap::new();
    let mut term = None;
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else { continue };
        if term.replace(leadership.term()) != Some(leadership.term()) {
            looked_at.clear();
        }
        let (due, abandoned) = leader.read(|state| {
            let now = Instant::now();
            let due = state.domains.iter().filter(|domain| is_due(domain, &looked_at, now));
            let abandoned = state.domains.iter().filter(|domain| is_abandoned(domain, Timestamp::now()));
            let not_kept = abandoned.filter(|domain| !looked_at.contains_key(&domain.id));
            (due.take(AT_ONCE).cloned().collect::<Vec<_>>(), not_kept.take(AT_ONCE).cloned().collect::<Vec<_>>())
        });
        for domain in due.iter().chain(&abandoned) {
            looked_at.insert(domain.id, Instant::now());
        }
        let found = join_all(due.into_iter().map(|domain| look_up(&dns, domain))).await;
        let found: Vec<_> = found.into_iter().flatten().collect();
        let judged = if found.is_empty() { Ok(()) } else { judge(&leader, found, grace).await };
        let deleted = if abandoned.is_empty() { Ok(()) } else { delete(&leader, abandoned).await };
        if let Err(problem) = judged.and(deleted) {
            warn!(reason = problem.detail, "proofs of domains not written: retrying");
            looked_at.clear();
        }
    }
}

/// Tells whether the TXT record of a proven domain is to be looked at.
fn is_due(domain: &Domain, looked_at: &HashMap<DomainId, Instant>, now: Instant) -> bool {
    let after = if domain.proof_missing_since.is_some() { HOURLY } else { DAILY };
    let rested = looked_at.get(&domain.id).is_none_or(|at| now.saturating_duration_since(*at) >= after);
    domain.verified_at.is_some() && domain.proof != Some(DomainProof::Vouched) && rested
}

/// Looks up the TXT records of a domain; returns nothing where DNS does not answer.
async fn look_up(dns: &Dns, domain: Arc<Domain>) -> Option<(Arc<Domain>, Vec<String>)> {
    match dns.texts(&proof_name(&domain)).await {
        Ok(found) => Some((domain, found)),
        Err(error) => {
            debug!(domain = domain.name, %error, "the proof of a domain could not be looked at");
            None
        }
    }
}

/// Writes what follows from the TXT records that were found.
async fn judge(leader: &ActiveLeader, found: Vec<(Arc<Domain>, Vec<String>)>, grace: Duration) -> Result<(), Problem> {
    let change = move |draft: &mut Draft<'_>| {
        for (domain, found) in found {
            let judge = |domain: &Domain, at| Ok(looked_at_again(domain, &found, grace, at));
            // A domain that was deleted since is no obstacle to the others.
            let Ok(new) = draft.update(&domain.workspace, &domain.id, &Expected::Anything, judge) else { continue };
            if new.revision != domain.revision {
                let (verified, missing) = (new.verified_at.is_some(), new.proof_missing_since.is_some());
                info!(domain = new.name, verified, missing, "the proof of a domain changed");
            }
        }
        Ok(())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await
}

/// Deletes domains that nobody has proven. One with links stays.
async fn delete(leader: &ActiveLeader, abandoned: Vec<Arc<Domain>>) -> Result<(), Problem> {
    let change = move |draft: &mut Draft<'_>| {
        for domain in abandoned {
            let still = |domain: &Domain| {
                let is_proven = !is_abandoned(domain, Timestamp::now());
                if is_proven { Err(Problem::unavailable("The domain was proven since")) } else { Ok(()) }
            };
            match draft.delete(&domain.workspace, &domain.id, &Expected::Anything, still) {
                Ok(()) => info!(domain = domain.name, "a domain that was never proven was deleted"),
                Err(problem) => debug!(domain = domain.name, reason = problem.detail, "an unproven domain stays"),
            }
        }
        Ok(())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await
}
