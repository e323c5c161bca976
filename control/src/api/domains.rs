//! `POST /v1/domains/{id}/verify`: the proof of a domain.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use schemas::{Domain, Scope};
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
    kinds::domain::{Verification, proof_name, prove, proven},
    state::draft::Draft,
};

/// Proves a domain by its TXT record, or by the word of an operator.
pub(crate) async fn verify(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    OptionalJsonBody(verification): OptionalJsonBody<Verification>,
) -> Result<Response, Problem> {
    let domain = find::<Domain>(&*api.leader()?, &caller, &text)?;
    if verification.unwrap_or_default().vouch {
        if !caller.key.may(Scope::Operator) {
            return Err(missing_scope(Scope::Operator));
        }
    } else {
        let name = proof_name(&domain);
        let found = api.dns.texts(&name).await.map_err(|error| {
            warn!(name, %error, "DNS lookup for the proof of a domain failed");
            Problem::unavailable(format!("DNS does not answer for {name}: try again in a moment"))
        })?;
        prove(&domain, &found)?;
    }
    let id = domain.id;
    let change = move |draft: &mut Draft<'_>| {
        let domain = draft.update::<Domain>(&caller.workspace, &id, None, |domain, at| Ok(proven(domain, at)))?;
        version_answer(StatusCode::OK, &*domain, &*domain)
    };
    // The leader may be another term's by now: it is asked for again.
    idempotent.write(&api, change).await
}
