//! `POST /v1/domains/{id}/verify`: the proof of a domain.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use schemas::{Domain, DomainProof, Scope};
use service::problem::Problem;
use tracing::warn;

use crate::{
    api::{
        context::Api,
        idempotency::Idempotent,
        request::OptionalJsonBody,
        resource::{find, version_answer},
    },
    caller::{Caller, missing_scope},
    kinds::domain::{DomainKey, Evidence, Verification, check_takeover, proof_name, prove, proven},
    state::{collection::EntityCollection, draft::Draft, entity::Expected},
};

/// Proves a domain by its TXT record, or by the word of an operator.
pub(crate) async fn verify(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    OptionalJsonBody(verification): OptionalJsonBody<Verification>,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let domain = find::<Domain>(&leader, &caller, &text)?;
    let proof = if verification.unwrap_or_default().vouch { DomainProof::Vouched } else { DomainProof::Dns };
    if proof == DomainProof::Vouched && !caller.key.may(Scope::Operator) {
        return Err(missing_scope(Scope::Operator));
    }
    let owner = leader.read(|state| state.domains.owner(&DomainKey::Name(domain.name.clone())));
    let is_owned_elsewhere = owner.is_some_and(|owner| owner != domain.id);
    // An operator's word needs no record, but that of the workspace that has the name may stand against it.
    let found = if proof == DomainProof::Dns || is_owned_elsewhere {
        let name = proof_name(&domain);
        api.dns.texts(&name).await.map_err(|error| {
            warn!(name, %error, "DNS lookup for the proof of a domain failed");
            Problem::unavailable(format!("DNS does not answer for {name}: try again in a moment"))
        })?
    } else {
        Vec::new()
    };
    if proof == DomainProof::Dns {
        prove(&domain, &found)?;
    }
    let id = domain.id;
    let change = move |draft: &mut Draft<'_>| {
        check_takeover(draft, &domain, Evidence { proof, found: &found })?;
        let prove = |domain: &Domain, at| Ok(proven(domain, proof, at));
        let domain = draft.update::<Domain>(&caller.workspace, &id, &Expected::Anything, prove)?;
        version_answer(StatusCode::OK, &*domain, &*domain)
    };
    // The leader may be another term's by now: it is asked for again.
    idempotent.write(&api, change).await
}
