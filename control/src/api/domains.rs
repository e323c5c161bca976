//! `/v1/domains`, and how one is proven.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use schemas::{Domain, Scope, Timestamp};
use serde::Serialize;
use service::problem::Problem;
use tracing::warn;

use crate::{
    api::{
        context::Api,
        once::Once,
        request::{Body, OptionalBody},
        resource::{Resource, created, find, versioned},
    },
    caller::{Caller, missing_scope},
    domain::{DomainPatch, NewDomain, Verification, proof_at, prove, proven},
    draft::Draft,
    rules::Rules,
    writer::Leader,
};

impl Resource for Domain {
    const PATH: &'static str = "/v1/domains";
    const SCOPE: Scope = Scope::Admin;

    type Patch = DomainPatch;

    fn patched(&self, patch: DomainPatch, _: &Caller, rules: &Rules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, &rules.links.schemes, at)
    }

    fn view<'a>(&'a self, _: &Leader) -> impl Serialize + 'a {
        self
    }
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Body(new): Body<NewDomain>,
) -> Result<Response, Problem> {
    let domain = new.check(&caller.workspace, &api.rules.links.schemes, Timestamp::now())?;
    let change = move |draft: &mut Draft<'_>| {
        let domain = draft.create(domain)?;
        created(&*domain, &*domain)
    };
    once.write(&api, change).await
}

/// Asks DNS whether the domain is the caller's, or takes an operator's word.
pub(crate) async fn verify(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Path(text): Path<String>,
    OptionalBody(verification): OptionalBody<Verification>,
) -> Result<Response, Problem> {
    let domain = find::<Domain>(&*api.leader()?, &caller, &text)?;
    if verification.unwrap_or_default().vouch {
        if !caller.key.may(Scope::Operator) {
            return Err(missing_scope(Scope::Operator));
        }
    } else {
        let name = proof_at(&domain);
        let found = api.dns.texts(&name).await.map_err(|error| {
            warn!(name, %error, "DNS does not say whether a domain is proven");
            Problem::unavailable(format!("DNS does not answer for {name}: try again in a moment"))
        })?;
        prove(&domain, &found)?;
    }
    let id = domain.id;
    let change = move |draft: &mut Draft<'_>| {
        let domain = draft.update::<Domain>(&caller.workspace, &id, None, |domain, at| Ok(proven(domain, at)))?;
        versioned(StatusCode::OK, &*domain, &*domain)
    };
    // A leader of a later term may have it by now.
    once.write(&api, change).await
}
