//! `POST /v1/keys/{id}/rotate`: a new secret for a key.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use schemas::Key;
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        idempotency::{ChangeAnswer, Idempotent},
        request::{OptionalJsonBody, expected},
        resource::version_answer,
    },
    caller::Caller,
    kinds::{
        key::{Rotation, may_last, mint_secret},
        resource::Resource,
    },
    state::{draft::Draft, entity::parse_id},
};

/// Replaces a key's secret; the previous one stays valid for a while.
pub(crate) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    headers: HeaderMap,
    OptionalJsonBody(rotation): OptionalJsonBody<Rotation>,
) -> Result<Response, Problem> {
    let id = parse_id::<Key>(&text)?;
    let expected = expected(&headers)?;
    let rotation = rotation.unwrap_or_default();
    let secret = mint_secret();
    let uses = Arc::clone(&api.leader()?.uses);
    let change = move |draft: &mut Draft<'_>| {
        let key = draft.update::<Key>(&caller.workspace, &id, &expected, |key, at| {
            key.check_access(&caller)?;
            may_last(key, &caller)?;
            rotation.apply(key, &secret, at)
        })?;
        version_answer(StatusCode::OK, &*key, &key.view(&uses, Some(&secret))).map(ChangeAnswer::with_secret)
    };
    idempotent.write(&api, change).await
}
