//! What every kind of thing answers alike: reading one, listing them, patching
//! and deleting one. Creating differs, and stands with its kind.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{Scope, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        once::Answer,
        request::{Body, Page, id, if_match},
    },
    caller::Caller,
    draft::Draft,
    kept::{Kept, not_found},
    rules::Rules,
    writer::Leader,
};

/// A kind of thing that callers read, list, patch and delete.
pub(crate) trait Resource: Kept {
    /// Where it is: `/v1/links`.
    const PATH: &'static str;
    /// What a key must be allowed to do.
    const SCOPE: Scope;
    /// How lists of it are ordered: by ids, the last first, which grow with time
    /// unless callers choose them.
    const ORDER: &'static str = "newest first";

    /// What a caller may want changed: a merge patch (RFC 7396).
    type Patch: DeserializeOwned + Send;

    /// Whether the caller may change or delete it.
    fn guard(&self, _caller: &Caller) -> Result<(), Problem> {
        Ok(())
    }

    /// The thing with the patch applied, checked; if that changes anything, its
    /// revision is the next one.
    fn patched(&self, patch: Self::Patch, caller: &Caller, rules: &Rules, at: Timestamp) -> Result<Self, Problem>;

    /// The thing as callers see it.
    fn view<'a>(&'a self, leader: &Leader) -> impl Serialize + 'a;
}

pub(crate) async fn read<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let found = find::<T>(&leader, &caller, &text)?;
    Ok(versioned(StatusCode::OK, &*found, &found.view(&leader))?.into_response())
}

pub(crate) async fn list<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    page: Page<T>,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let (found, more) = leader.read(|state| state.page::<T>(&caller.workspace, page.before.as_ref(), page.limit));
    let next = found.last().filter(|_| more).map(|last| last.id().to_string());
    let data = found.iter().map(|found| found.view(&leader)).collect();
    Ok(Json(Listed { data, next }).into_response())
}

pub(crate) async fn update<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Body(patch): Body<T::Patch>,
) -> Result<Response, Problem> {
    let (id, expected, rules) = (id::<T>(&text)?, if_match(&headers)?, Arc::clone(&api.rules));
    let leader = api.leader()?;
    let change = move |draft: &mut Draft<'_>| {
        draft.update::<T>(&caller.workspace, &id, expected, |found, at| {
            found.guard(&caller)?;
            found.patched(patch, &caller, &rules, at)
        })
    };
    let changed = leader.write(change).await?;
    Ok(versioned(StatusCode::OK, &*changed, &changed.view(&leader))?.into_response())
}

pub(crate) async fn delete<T: Resource>(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (id, expected) = (id::<T>(&text)?, if_match(&headers)?);
    let change =
        move |draft: &mut Draft<'_>| draft.delete::<T>(&caller.workspace, &id, expected, |found| found.guard(&caller));
    api.leader()?.write(change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The one that a path names, if the caller may see it.
pub(super) fn find<T: Kept>(leader: &Leader, caller: &Caller, text: &str) -> Result<Arc<T>, Problem> {
    let id = id::<T>(text)?;
    leader.read(|state| state.get::<T>(&caller.workspace, &id)).ok_or_else(|| not_found::<T>(text))
}

/// A version of something, with the ETag that a change can be made to depend on.
pub(super) fn versioned<T: Kept>(status: StatusCode, found: &T, body: &impl Serialize) -> Result<Answer, Problem> {
    let body = serde_json::to_string(body)
        .map_err(|error| Problem::unavailable(format!("It cannot be written down: {error}")))?;
    Ok(Answer { status: status.as_u16(), etag: Some(format!("\"{}\"", found.revision())), location: None, body })
}

/// The answer to a creation: where the new thing is.
pub(super) fn created<T: Resource>(new: &T, body: &impl Serialize) -> Result<Answer, Problem> {
    let location = Some(format!("{}/{}", T::PATH, new.id()));
    Ok(Answer { location, ..versioned(StatusCode::CREATED, new, body)? })
}

/// A page of a list; `next` is there while there is more.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ListOf{T}")]
pub(crate) struct Listed<T> {
    /// What was found.
    pub(super) data: Vec<T>,
    /// The cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}
