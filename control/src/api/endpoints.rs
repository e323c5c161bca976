//! The actions on an endpoint: a sample event, a new secret, a pause and its end.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use schemars::JsonSchema;
use schemas::{Endpoint, EndpointStatus, EventId, EventName, Timestamp, Topic};
use serde::{Deserialize, Serialize};
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        idempotency::{ChangeAnswer, Idempotent, Secrecy},
        request::{OptionalJsonBody, expected},
        resource::{find, patched, version_answer},
    },
    caller::Caller,
    kinds::{
        endpoint::{EndpointPatch, RequestedStatus, SecretRotation, sample_event},
        resource::Resource,
    },
    state::{
        draft::{Draft, serialise},
        entity::parse_id,
    },
};

/// The sample to be sent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Test")]
pub(crate) struct SampleRequest {
    /// The type of the event; `webhook.test` by default.
    event: Option<EventName>,
}

/// The event that was sent.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sent")]
pub(crate) struct SentSample {
    /// The id of the event.
    id: EventId,
    /// The type of the event.
    event: EventName,
}

/// Refuses an endpoint that gets no deliveries.
fn check_active(endpoint: &Endpoint) -> Result<(), Problem> {
    let state = match endpoint.status {
        EndpointStatus::Active => return Ok(()),
        EndpointStatus::Paused => "paused",
        EndpointStatus::Disabled => "disabled",
    };
    let detail = format!("The endpoint is {state}, so nothing is sent to it: set its `status` to `active` first");
    Err(Problem::conflict("status", detail))
}

/// Sends a sample the way of every event, to this endpoint alone.
pub(crate) async fn test(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    OptionalJsonBody(sample): OptionalJsonBody<SampleRequest>,
) -> Result<Response, Problem> {
    let endpoint = find::<Endpoint>(&*api.leader()?, &caller, &text)?;
    check_active(&endpoint)?;
    let name = sample.and_then(|sample| sample.event).unwrap_or(EventName::WebhookTest);
    let envelope = sample_event(&endpoint, name, Timestamp::now());
    let value = serialise(&envelope)?;
    let sent = SentSample { id: envelope.event.id, event: name };
    let body = serde_json::to_string(&sent)
        .map_err(|error| Problem::unavailable(format!("The answer cannot be written: {error}")))?;
    let answer = ChangeAnswer {
        status: StatusCode::ACCEPTED.as_u16(),
        etag: None,
        location: None,
        body,
        secrecy: Secrecy::Open,
    };
    let key = endpoint.id.to_string();
    let change = move |draft: &mut Draft<'_>| {
        draft.produce(Topic::Events, &key, value);
        Ok(answer)
    };
    idempotent.write(&api, change).await
}

/// Replaces an endpoint's secret; the previous one signs as well for a while.
pub(crate) async fn rotate_secret(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    headers: HeaderMap,
    OptionalJsonBody(rotation): OptionalJsonBody<SecretRotation>,
) -> Result<Response, Problem> {
    let id = parse_id::<Endpoint>(&text)?;
    let expected = expected(&headers)?;
    let rotation = rotation.unwrap_or_default();
    let secret = rotation.new_secret();
    let vault = Arc::clone(&api.vault);
    let uses = Arc::clone(&api.leader()?.uses);
    let change = move |draft: &mut Draft<'_>| {
        let endpoint = draft.update::<Endpoint>(&caller.workspace, &id, &expected, |endpoint, at| {
            endpoint.check_access(&caller)?;
            rotation.apply(endpoint, &secret, &vault, at)
        })?;
        let answer = version_answer(StatusCode::OK, &*endpoint, &endpoint.view(&uses, Some(secret.expose())))?;
        Ok(answer.with_secret())
    };
    idempotent.write(&api, change).await
}

/// Stops deliveries to an endpoint: they are held.
pub(crate) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    set_status(&api, caller, idempotent, &text, &headers, RequestedStatus::Paused).await
}

/// Delivers to a paused or disabled endpoint again.
pub(crate) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    set_status(&api, caller, idempotent, &text, &headers, RequestedStatus::Active).await
}

async fn set_status(
    api: &Api,
    caller: Caller,
    idempotent: Idempotent,
    id: &str,
    headers: &HeaderMap,
    status: RequestedStatus,
) -> Result<Response, Problem> {
    let id = parse_id::<Endpoint>(id)?;
    let expected = expected(headers)?;
    let rules = Arc::clone(&api.rules);
    let uses = Arc::clone(&api.leader()?.uses);
    let change = move |draft: &mut Draft<'_>| {
        let endpoint = patched::<Endpoint>(draft, &caller, &id, &expected, EndpointPatch::status(status), &rules)?;
        version_answer(StatusCode::OK, &*endpoint, &endpoint.view(&uses, None))
    };
    idempotent.write(api, change).await
}
