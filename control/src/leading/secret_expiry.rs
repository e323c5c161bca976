//! The end of replaced secrets. The leader removes the secrets of endpoints that no longer sign, so that a secret that
//! leaked is nowhere any more. Dispatchers look at the time themselves and do not wait for this.

use std::{sync::Arc, time::Duration};

use schemas::{Endpoint, Timestamp};
use service::problem::Problem;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    kinds::endpoint::without_expired_secrets,
    leading::{leadership::Leadership, writer::ActiveLeader},
    state::{audit::Author, draft::Draft, entity::Expected},
};

/// The interval at which endpoints are looked through.
const INTERVAL: Duration = Duration::from_secs(5);
/// The endpoints that one transaction changes at most.
const AT_ONCE: usize = 100;

/// Removes expired secrets while this instance leads. Never returns.
pub(crate) async fn remove_expired_secrets(leadership: Arc<Leadership>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else { continue };
        let now = Timestamp::now();
        let has_expired =
            |endpoint: &Endpoint| endpoint.retiring_secrets.iter().any(|retiring| retiring.expires_at <= now);
        let expired: Vec<Arc<Endpoint>> = leader.read(|state| {
            state.endpoints.iter().filter(|endpoint| has_expired(endpoint)).take(AT_ONCE).map(Arc::clone).collect()
        });
        if expired.is_empty() {
            continue;
        }
        match write(&leader, expired).await {
            Ok(endpoints) => info!(endpoints, "replaced secrets of endpoints have expired, and are removed"),
            Err(problem) => warn!(reason = problem.detail, "expired secrets not removed: retrying"),
        }
    }
}

async fn write(leader: &ActiveLeader, endpoints: Vec<Arc<Endpoint>>) -> Result<usize, Problem> {
    let change = move |draft: &mut Draft<'_>| {
        let remove = |endpoint: &Endpoint, at| Ok(without_expired_secrets(endpoint, at));
        // An endpoint that was deleted since is no obstacle to the others.
        let removed = endpoints
            .iter()
            .filter(|found| draft.update(&found.workspace, &found.id, &Expected::Anything, remove).is_ok());
        Ok(removed.count())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await
}
