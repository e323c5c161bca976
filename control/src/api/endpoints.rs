//! `POST /v1/endpoints/{id}/test`: a sample event for one endpoint.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use schemars::JsonSchema;
use schemas::{Endpoint, EndpointStatus, EventId, EventName, Timestamp, Topic};
use serde::{Deserialize, Serialize};
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        idempotency::{ChangeAnswer, Idempotent},
        request::OptionalJsonBody,
        resource::find,
    },
    caller::Caller,
    kinds::endpoint::sample_event,
    state::draft::{Draft, serialise},
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
    let answer = ChangeAnswer { status: StatusCode::ACCEPTED.as_u16(), etag: None, location: None, body };
    let key = endpoint.id.to_string();
    let change = move |draft: &mut Draft<'_>| {
        draft.produce(Topic::Events, &key, value);
        Ok(answer)
    };
    idempotent.write(&api, change).await
}
