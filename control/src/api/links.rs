//! `/v1/links`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use schemas::{Link, Timestamp};

use super::{
    Api, Listed, created,
    request::{Body, Page, id, if_match},
    versioned,
};
use crate::{
    auth::Caller,
    link::{LinkPatch, NewLink},
    problem::Problem,
    state::not_found,
};

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewLink>,
) -> Result<Response, Problem> {
    let link = new.check(&caller.workspace, Timestamp::now())?;
    let link = api.leader()?.write(move |draft| draft.create_link(link)).await?;
    Ok(created(&format!("/v1/links/{}", link.id), link.revision, &*link))
}

pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let id = id::<Link>(&text)?;
    let link = api.leader()?.read(|state| state.get::<Link>(&caller.workspace, id));
    let link = link.ok_or_else(|| not_found::<Link>(&text))?;
    Ok(versioned(StatusCode::OK, link.revision, &*link))
}

pub(super) async fn update(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Body(patch): Body<LinkPatch>,
) -> Result<Response, Problem> {
    let (id, expected) = (id::<Link>(&text)?, if_match(&headers)?);
    let change = move |draft: &mut crate::draft::Draft<'_>| {
        draft.update_link(&caller.workspace, id, expected, |link, base, at| patch.apply(link, base, at))
    };
    let link = api.leader()?.write(change).await?;
    Ok(versioned(StatusCode::OK, link.revision, &*link))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (id, expected) = (id::<Link>(&text)?, if_match(&headers)?);
    api.leader()?.write(move |draft| draft.delete_link(&caller.workspace, id, expected)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    page: Page<Link>,
) -> Result<Response, Problem> {
    let (links, more) = api.leader()?.read(|state| state.page(&caller.workspace, page.before, page.limit));
    let next = links.last().filter(|_| more).map(|link: &Arc<Link>| link.id.to_string());
    let data: Vec<&Link> = links.iter().map(|link| &**link).collect();
    Ok(Json(Listed { data, next }).into_response())
}
