//! `/v1/keys`: keys, their secrets shown once, and their rotation.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use schemas::{Key, Scope, Timestamp};
use serde::Serialize;
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        once::Once,
        request::{Body, OptionalBody, id, if_match},
        resource::{Resource, created, versioned},
    },
    caller::Caller,
    draft::Draft,
    key::{KeyPatch, KeyView, NewKey, Rotation, guard, may_last, mint_secret},
    rules::Rules,
    writer::Leader,
};

impl Resource for Key {
    const PATH: &'static str = "/v1/keys";
    const SCOPE: Scope = Scope::Admin;

    type Patch = KeyPatch;

    fn guard(&self, caller: &Caller) -> Result<(), Problem> {
        guard(self, caller)
    }

    fn patched(&self, patch: KeyPatch, caller: &Caller, _: &Rules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, caller, at)
    }

    fn view<'a>(&'a self, leader: &Leader) -> impl Serialize + 'a {
        KeyView::new(self, leader.uses.last(self.id))
    }
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Body(new): Body<NewKey>,
) -> Result<Response, Problem> {
    let secret = mint_secret();
    let key = new.check(&caller, &secret, Timestamp::now())?;
    let change = move |draft: &mut Draft<'_>| {
        let key = draft.create(key)?;
        created(&*key, &KeyView::new(&key, None).with_secret(&secret))
    };
    once.write(&api, change).await
}

/// Replaces a key's secret; the one before opens for a while still.
pub(crate) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Path(text): Path<String>,
    headers: HeaderMap,
    OptionalBody(rotation): OptionalBody<Rotation>,
) -> Result<Response, Problem> {
    let (id, expected) = (id::<Key>(&text)?, if_match(&headers)?);
    let (rotation, secret, used) = (rotation.unwrap_or_default(), mint_secret(), api.leader()?.uses.last(id));
    let change = move |draft: &mut Draft<'_>| {
        let key = draft.update::<Key>(&caller.workspace, &id, expected, |key, at| {
            key.guard(&caller)?;
            may_last(key, &caller)?;
            rotation.apply(key, &secret, at)
        })?;
        versioned(StatusCode::OK, &*key, &KeyView::new(&key, used).with_secret(&secret))
    };
    once.write(&api, change).await
}
