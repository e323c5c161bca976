//! The handlers that are the same for every kind: create, read, list, change and delete.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::Timestamp;
use serde::Serialize;
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        idempotency::{ChangeAnswer, Idempotent, Secrecy},
        request::{JsonBody, PageRequest, expected, is_known},
    },
    caller::Caller,
    kinds::resource::{CreateContext, Created, Resource},
    leading::writer::ActiveLeader,
    rules::ApiRules,
    state::{
        HasCollection,
        draft::Draft,
        entity::{Entity, Expected, VersionTag, not_found, parse_id},
    },
};

/// Creates an entity. The answer shows its secret, if it has one.
pub(crate) async fn create<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    JsonBody(new): JsonBody<T::New>,
) -> Result<Response, Problem> {
    let context = CreateContext { caller: &caller, rules: &api.rules, vault: &api.vault, at: Timestamp::now() };
    let Created { entity, secret } = T::create(new, &context)?;
    let uses = Arc::clone(&api.leader()?.uses);
    let change = move |draft: &mut Draft<'_>| {
        let created = draft.create(entity)?;
        let secret = secret.as_ref().map(|secret| secret.as_str());
        let answer = created_answer(&*created, &created.view(&uses, secret))?;
        Ok(if secret.is_some() { answer.with_secret() } else { answer })
    };
    idempotent.write(&api, change).await
}

/// Reads an entity.
pub(crate) async fn read<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let found = find::<T>(&leader, &caller, &text)?;
    if is_known(&headers, &*found) {
        let etag = format!("\"{}\"", VersionTag::of(&*found));
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok(version_answer(StatusCode::OK, &*found, &found.view(&leader.uses, None))?.into_response())
}

/// Lists the entities of the caller's workspace.
pub(crate) async fn list<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    page: PageRequest<T>,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let (found, more) = leader.read(|state| state.page::<T>(&caller.workspace, page.before.as_ref(), page.limit));
    let next = found.last().filter(|_| more).map(|last| last.id().to_string());
    let data = found.iter().map(|found| found.view(&leader.uses, None)).collect();
    Ok(Json(Listed { data, next }).into_response())
}

/// Changes an entity.
pub(crate) async fn update<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
    JsonBody(patch): JsonBody<T::Patch>,
) -> Result<Response, Problem> {
    let id = parse_id::<T>(&text)?;
    let expected = expected(&headers)?;
    let rules = Arc::clone(&api.rules);
    let leader = api.leader()?;
    let author = caller.author();
    let change = move |draft: &mut Draft<'_>| patched::<T>(draft, &caller, &id, &expected, patch, &rules);
    let changed = leader.write(author, change).await?;
    Ok(version_answer(StatusCode::OK, &*changed, &changed.view(&leader.uses, None))?.into_response())
}

/// Applies a patch of the caller's in a draft.
pub(super) fn patched<T: Resource>(
    draft: &mut Draft<'_>,
    caller: &Caller,
    id: &T::Id,
    expected: &Expected,
    patch: T::Patch,
    rules: &ApiRules,
) -> Result<Arc<T>, Problem> {
    draft.update::<T>(&caller.workspace, id, expected, |found, at| {
        found.check_access(caller)?;
        found.patched(patch, caller, rules, at)
    })
}

/// Deletes an entity.
pub(crate) async fn delete<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let id = parse_id::<T>(&text)?;
    let expected = expected(&headers)?;
    let author = caller.author();
    let change = move |draft: &mut Draft<'_>| {
        draft.delete::<T>(&caller.workspace, &id, &expected, |found| found.check_access(&caller))
    };
    api.leader()?.write(author, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the entity that a path names, if the caller may see it.
pub(super) fn find<T: HasCollection>(leader: &ActiveLeader, caller: &Caller, text: &str) -> Result<Arc<T>, Problem> {
    let id = parse_id::<T>(text)?;
    leader.read(|state| state.get::<T>(&caller.workspace, &id)).ok_or_else(|| not_found::<T>(text))
}

/// Returns the answer that shows a version of an entity, with the ETag for `If-Match`.
pub(super) fn version_answer<T: Entity>(
    status: StatusCode,
    entity: &T,
    view: &impl Serialize,
) -> Result<ChangeAnswer, Problem> {
    let body = serde_json::to_string(view)
        .map_err(|error| Problem::unavailable(format!("The answer cannot be written: {error}")))?;
    let etag = Some(format!("\"{}\"", VersionTag::of(entity)));
    Ok(ChangeAnswer { status: status.as_u16(), etag, location: None, body, secrecy: Secrecy::Open })
}

/// Returns the answer to a creation, with the path of the new entity.
pub(super) fn created_answer<T: Resource>(entity: &T, view: &impl Serialize) -> Result<ChangeAnswer, Problem> {
    let location = Some(format!("{}/{}", T::PATH, entity.id()));
    Ok(ChangeAnswer { location, ..version_answer(StatusCode::CREATED, entity, view)? })
}

/// A page of a list; `next` is there while there is more.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ListOf{T}")]
pub(crate) struct Listed<T> {
    /// The entries of this page.
    pub(super) data: Vec<T>,
    /// The cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}
