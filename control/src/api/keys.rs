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

use super::{
    Api, Rules,
    request::{Body, OptionalBody, id, if_match},
    resource::{Resource, created, versioned},
};
use crate::{
    auth::Caller,
    draft::Draft,
    key::{KeyPatch, KeyView, NewKey, Rotation, guard, mint_secret},
    problem::Problem,
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

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewKey>,
) -> Result<Response, Problem> {
    let secret = mint_secret();
    let key = new.check(&caller, &secret, Timestamp::now())?;
    let key = api.leader()?.write(move |draft| draft.create(key)).await?;
    Ok(created(&*key, &KeyView::new(&key, None).with_secret(&secret)))
}

/// Replaces a key's secret; the one before opens for a while still.
pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
    OptionalBody(rotation): OptionalBody<Rotation>,
) -> Result<Response, Problem> {
    let (id, expected, leader) = (id::<Key>(&text)?, if_match(&headers)?, api.leader()?);
    let (rotation, secret) = (rotation.unwrap_or_default(), mint_secret());
    let fresh = secret.clone();
    let change = move |draft: &mut Draft<'_>| {
        draft.update::<Key>(&caller.workspace, &id, expected, |key, at| {
            key.guard(&caller)?;
            rotation.apply(key, &fresh, at)
        })
    };
    let key = leader.write(change).await?;
    let view = KeyView::new(&key, leader.uses.last(id)).with_secret(&secret);
    Ok(versioned(StatusCode::OK, &*key, &view))
}
