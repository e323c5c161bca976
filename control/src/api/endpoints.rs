//! `/v1/endpoints`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use schemars::JsonSchema;
use schemas::{Endpoint, EndpointId, Envelope, EventId, EventName, Scope, Timestamp, Topic, sample};
use serde::{Deserialize, Serialize};
use service::{problem::Problem, secret};

use crate::{
    api::{
        context::Api,
        once::{Answer, Once},
        request::{Body, OptionalBody},
        resource::{Resource, created, find},
    },
    caller::Caller,
    draft::Draft,
    endpoint::{EndpointPatch, EndpointView, NewEndpoint},
    rules::Rules,
    writer::Leader,
};

impl Resource for Endpoint {
    const PATH: &'static str = "/v1/endpoints";
    const SCOPE: Scope = Scope::Endpoints;

    type Patch = EndpointPatch;

    fn patched(&self, patch: EndpointPatch, _: &Caller, rules: &Rules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, rules.endpoints, at)
    }

    fn view<'a>(&'a self, _: &Leader) -> impl Serialize + 'a {
        EndpointView::new(self)
    }
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Body(new): Body<NewEndpoint>,
) -> Result<Response, Problem> {
    let (id, secret) = (EndpointId::mint(), secret::mint());
    let sealed = api.vault.seal(&id.to_string(), secret.expose().as_bytes());
    let endpoint = new.check(id, &caller.workspace, sealed, api.rules.endpoints, Timestamp::now())?;
    let change = move |draft: &mut Draft<'_>| {
        let endpoint = draft.create(endpoint)?;
        created(&*endpoint, &EndpointView::new(&endpoint).with_secret(secret.expose()))
    };
    once.write(&api, change).await
}

/// Which sample is wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    /// Of which event type; `webhook.test` unless told otherwise.
    event: Option<EventName>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Sent {
    /// The event's id.
    id: EventId,
    /// Its type.
    event: EventName,
}

/// Sends a sample the way of every event, to this endpoint alone.
pub(crate) async fn test(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Path(text): Path<String>,
    OptionalBody(wanted): OptionalBody<Test>,
) -> Result<Response, Problem> {
    let endpoint = find::<Endpoint>(&*api.leader()?, &caller, &text)?;
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
    let unwritten = |error| Problem::unavailable(format!("The sample cannot be written down: {error}"));
    let value = serde_json::to_vec(&envelope).map_err(unwritten)?;
    let body = serde_json::to_string(&Sent { id, event: name }).map_err(unwritten)?;
    let answer = Answer { status: StatusCode::ACCEPTED.as_u16(), etag: None, location: None, body };
    let change = move |draft: &mut Draft<'_>| {
        draft.tell(Topic::Events, &endpoint.id.to_string(), value);
        Ok(answer)
    };
    once.write(&api, change).await
}
