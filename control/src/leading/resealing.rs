//! The replacement of the installation's key. The leader seals again, under the key that
//! seals now, the secrets of endpoints that are sealed under another key, and header values
//! that an earlier version left in clear. Nothing that callers see changes: an endpoint keeps
//! its revision. Kept answers are left alone; they are deleted after a day.

use std::{sync::Arc, time::Duration};

use schemas::{Endpoint, SealedSecret, endpoint::HeaderText};
use service::{
    problem::Problem,
    vault::{Vault, VaultError},
};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    leading::{leadership::Leadership, writer::ActiveLeader},
    metrics::ControlMetrics,
    state::{audit::Author, draft::Draft, entity::Expected},
};

/// The interval at which endpoints are looked through.
const INTERVAL: Duration = Duration::from_secs(5);
/// The endpoints that one transaction changes at most.
const AT_ONCE: usize = 100;

/// Seals old secrets again while this instance leads. Never returns.
pub(crate) async fn reseal_endpoints(leadership: Arc<Leadership>, vault: Arc<Vault>, metrics: ControlMetrics) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut warned = false;
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else {
            metrics.outdated_secrets.set(0);
            continue;
        };
        let outdated: Vec<Arc<Endpoint>> = leader.read(|state| {
            state.endpoints.iter().filter(|endpoint| is_outdated(endpoint, &vault)).map(Arc::clone).collect()
        });
        metrics.outdated_secrets.set(i64::try_from(outdated.len()).unwrap_or(i64::MAX));
        let (resealable, unreadable): (Vec<_>, Vec<_>) =
            outdated.into_iter().partition(|endpoint| resealed(endpoint, &vault).is_ok());
        if let Some(endpoint) = unreadable.first()
            && !warned
            && let Err(error) = resealed(endpoint, &vault)
        {
            warned = true;
            warn!(endpoints = unreadable.len(), endpoint = %endpoint.id, %error, "secrets not sealed again: their endpoints get no webhooks");
        }
        for endpoints in resealable.chunks(AT_ONCE) {
            if let Err(problem) = write(&leader, endpoints.to_vec(), Arc::clone(&vault)).await {
                warn!(reason = problem.detail, "secrets not sealed again under the new installation key: retrying");
                break;
            }
            info!(endpoints = endpoints.len(), "secrets sealed again under the new installation key");
        }
    }
}

async fn write(leader: &ActiveLeader, endpoints: Vec<Arc<Endpoint>>, vault: Arc<Vault>) -> Result<(), Problem> {
    let change = move |draft: &mut Draft<'_>| {
        for endpoint in endpoints {
            // An endpoint that has changed since is sealed as it is now.
            let reseal = |endpoint: &Endpoint, _| {
                resealed(endpoint, &vault).map_err(|error| Problem::unavailable(error.to_string()))
            };
            // One that was deleted since is no obstacle to the others.
            let _ = draft.update(&endpoint.workspace, &endpoint.id, &Expected::Anything, reseal);
        }
        Ok(())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await
}

fn is_outdated(endpoint: &Endpoint, vault: &Vault) -> bool {
    let header_is_current = |text: &HeaderText| match text {
        HeaderText::Sealed(sealed) => vault.is_current(sealed),
        HeaderText::Clear(_) => false,
    };
    let mut secrets = endpoint.retiring_secrets.iter().map(|retiring| &retiring.secret).chain([&endpoint.secret]);
    !secrets.all(|secret| vault.is_current(secret)) || !endpoint.headers.values().all(header_is_current)
}

/// Returns the endpoint with its secrets sealed under the key that seals now.
fn resealed(endpoint: &Endpoint, vault: &Vault) -> Result<Endpoint, VaultError> {
    let reseal = |context: &str, sealed: &SealedSecret| -> Result<SealedSecret, VaultError> {
        Ok(if vault.is_current(sealed) { sealed.clone() } else { vault.seal(context, &vault.open(context, sealed)?) })
    };
    let mut new = endpoint.clone();
    new.secret = reseal(&endpoint.id.to_string(), &endpoint.secret)?;
    for retiring in &mut new.retiring_secrets {
        retiring.secret = reseal(&endpoint.id.to_string(), &retiring.secret)?;
    }
    for (name, text) in &mut new.headers {
        let context = Endpoint::header_context(endpoint.id, name);
        *text = HeaderText::Sealed(match text {
            HeaderText::Sealed(sealed) => reseal(&context, sealed)?,
            HeaderText::Clear(value) => vault.seal(&context, value.as_bytes()),
        });
    }
    Ok(new)
}
