//! `/v1/endpoints`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bus::Outgoing;
use schemas::{Endpoint, EndpointId, Envelope, EventId, EventName, Timestamp, Topic, sample};
use serde::{Deserialize, Serialize};
use service::secret;

use super::{
    Api, Listed, created,
    request::{Body, OptionalBody, Page, id, if_match},
    versioned,
};
use crate::{
    auth::Caller,
    endpoint::{EndpointPatch, EndpointView, NewEndpoint},
    problem::Problem,
    state::not_found,
};

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewEndpoint>,
) -> Result<Response, Problem> {
    let (id, secret) = (EndpointId::mint(), secret::mint());
    let sealed = api.vault.seal(&id.to_string(), secret.expose().as_bytes());
    let endpoint = new.check(id, &caller.workspace, sealed, api.allowed, Timestamp::now())?;
    let endpoint = api.leader()?.write(move |draft| draft.create_endpoint(endpoint)).await?;
    let view = EndpointView::new(&endpoint).with_secret(secret.expose());
    Ok(created(&format!("/v1/endpoints/{id}"), endpoint.revision, &view))
}

pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let endpoint = find(&api, &caller, &text)?;
    Ok(versioned(StatusCode::OK, endpoint.revision, &EndpointView::new(&endpoint)))
}

pub(super) async fn update(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Body(patch): Body<EndpointPatch>,
) -> Result<Response, Problem> {
    let (id, expected, allowed) = (id::<Endpoint>(&text)?, if_match(&headers)?, api.allowed);
    let change = move |draft: &mut crate::draft::Draft<'_>| {
        draft.update_endpoint(&caller.workspace, id, expected, |endpoint, at| patch.apply(endpoint, allowed, at))
    };
    let endpoint = api.leader()?.write(change).await?;
    Ok(versioned(StatusCode::OK, endpoint.revision, &EndpointView::new(&endpoint)))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (id, expected) = (id::<Endpoint>(&text)?, if_match(&headers)?);
    api.leader()?.write(move |draft| draft.delete_endpoint(&caller.workspace, id, expected)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    page: Page<Endpoint>,
) -> Result<Response, Problem> {
    let (endpoints, more) = api.leader()?.read(|state| state.page(&caller.workspace, page.before, page.limit));
    let next = endpoints.last().filter(|_| more).map(|endpoint: &Arc<Endpoint>| endpoint.id.to_string());
    let data: Vec<EndpointView<'_>> = endpoints.iter().map(|endpoint| EndpointView::new(endpoint)).collect();
    Ok(Json(Listed { data, next }).into_response())
}

/// Which sample is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Test {
    event: Option<EventName>,
}

#[derive(Serialize)]
struct Sent {
    id: EventId,
    event: EventName,
}

/// Sends a sample the way of every event, to this endpoint alone.
pub(super) async fn test(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    OptionalBody(wanted): OptionalBody<Test>,
) -> Result<Response, Problem> {
    let endpoint = find(&api, &caller, &text)?;
    let name = wanted.and_then(|test| test.event).unwrap_or(EventName::WebhookTest);
    let at = Timestamp::now();
    let mut event = sample::event(name, at);
    // A test of its own each time: a receiver that tells duplicates by id must
    // not drop the second.
    event.id = EventId::of(caller.workspace.as_str(), name, &text, &EndpointId::mint().to_string(), at);
    let id = event.id;
    let envelope = Envelope {
        v: 1,
        workspace: caller.workspace.as_str().into(),
        ip_key: None,
        endpoint: Some(endpoint.id),
        event,
    };
    let value = serde_json::to_vec(&envelope)
        .map_err(|error| Problem::unavailable(format!("The sample cannot be written down: {error}")))?;
    let key = endpoint.id.to_string();
    let record = Outgoing::keyed(Topic::Events, key.as_bytes(), Some(&value));
    api.producer.produce(&record).await.map_err(|error| Problem::unavailable(error.to_string()))?;
    Ok((StatusCode::ACCEPTED, Json(Sent { id, event: name })).into_response())
}

fn find(api: &Api, caller: &Caller, text: &str) -> Result<Arc<Endpoint>, Problem> {
    let id = id::<Endpoint>(text)?;
    let endpoint = api.leader()?.read(|state| state.get::<Endpoint>(&caller.workspace, id));
    endpoint.ok_or_else(|| not_found::<Endpoint>(text))
}
