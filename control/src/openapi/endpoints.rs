//! The actions on endpoints.

use schemas::{EndpointId, ReplayId};
use serde_json::json;
use service::problem::Kind;

use crate::{
    api::{
        attempts::{AttemptQuery, AttemptView},
        endpoints::{SampleRequest, SentSample},
        request::PageQuery,
        resource::Listed,
    },
    kinds::{
        endpoint::{EndpointView, SecretRotation},
        replay::{NewReplay, Recovery, ReplayView},
    },
    openapi::{
        document::Document,
        operation::{Header, Operation},
    },
};

pub(super) fn describe(document: &mut Document) {
    actions(document);
    replays(document);
}

fn actions(document: &mut Document) {
    Operation::new(document, "post", "/v1/endpoints/{id}/test", "testEndpoint", "Send a sample event to an endpoint")
        .tag("Endpoints")
        .describe(
            "Makes a real, signed delivery of a sample to this endpoint alone, in the endpoint's format. The event type is \
             the requested one, or `webhook.test`.",
        )
        .path::<EndpointId>("id")
        .idempotent()
        .optional_body::<SampleRequest>(&json!({"event": "link.clicked"}))
        .answers::<SentSample>(202, "The event, which will be delivered", &[])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    let summary = "Replace an endpoint's signing secret";
    Operation::new(document, "post", "/v1/endpoints/{id}/rotate-secret", "rotateEndpointSecret", summary)
        .tag("Endpoints")
        .describe(
            "For `overlap_s` seconds the previous secret signs beside the new one: `webhook-signature` then has a signature \
             of each, and `X-Webhook-Signature` is that of the oldest secret that signs.",
        )
        .path::<EndpointId>("id")
        .if_match()
        .idempotent()
        .optional_body::<SecretRotation>(&json!({"overlap_s": 3600}))
        .answers::<EndpointView<'static>>(200, "The endpoint with its new secret, which is shown only once", &[Header::ETag])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    for (action, id, summary, words, answer) in [
        (
            "pause",
            "pauseEndpoint",
            "Pause an endpoint",
            "Deliveries are held, for 14 days at most, until the endpoint is resumed.",
            "The paused endpoint",
        ),
        (
            "resume",
            "resumeEndpoint",
            "Deliver to a paused or disabled endpoint again",
            "What was held while the endpoint was paused is delivered within 30 minutes.",
            "The active endpoint",
        ),
    ] {
        Operation::new(document, "post", &format!("/v1/endpoints/{{id}}/{action}"), id, summary)
            .tag("Endpoints")
            .describe(words)
            .path::<EndpointId>("id")
            .if_match()
            .idempotent()
            .answers::<EndpointView<'static>>(200, answer, &[Header::ETag])
            .refuses(&[Kind::NotFound, Kind::Conflict])
            .done();
    }
    let summary = "List the attempts to deliver to an endpoint, the last first";
    Operation::new(document, "get", "/v1/endpoints/{id}/attempts", "listAttempts", summary)
        .tag("Endpoints")
        .describe(
            "Every attempt and every skipped delivery, with an entry for each event, as long as ClickHouse keeps the table \
             `deliveries`. ClickHouse knows an attempt about a second after its end.",
        )
        .path::<EndpointId>("id")
        .query::<AttemptQuery>()
        .answers::<Listed<AttemptView>>(200, "A page of attempts", &[])
        .refuses(&[Kind::NotFound, Kind::Invalid])
        .done();
}

fn replays(document: &mut Document) {
    let words = "The replay, which goes on in the background";
    Operation::new(document, "post", "/v1/endpoints/{id}/replay", "replayEvents", "Deliver events once more")
        .tag("Endpoints")
        .describe(
            "Events of a time (`since`, `until`) that the endpoint asks for; with `outcomes` those with such a last outcome; \
             or the events of `event_ids`. Events are found while Kafka keeps them: 14 days, and dead ones 90 days. They are \
             delivered with their ids and in the endpoint's present format, and begin again with the first attempt. An \
             endpoint has one replay at a time.",
        )
        .path::<EndpointId>("id")
        .idempotent()
        .body::<NewReplay>(&json!({"since": "2026-02-05T14:00:00Z", "until": "2026-02-05T15:00:00Z"}))
        .answers::<ReplayView<'static>>(202, words, &[Header::ETag, Header::Location])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    let summary = "Deliver everything that failed or was skipped once more";
    Operation::new(document, "post", "/v1/endpoints/{id}/recover", "recoverEvents", summary)
        .tag("Endpoints")
        .describe("A replay of the events since a time whose last outcome is `dead` or `skipped`.")
        .path::<EndpointId>("id")
        .idempotent()
        .body::<Recovery>(&json!({"since": "2026-02-05T14:00:00Z"}))
        .answers::<ReplayView<'static>>(202, words, &[Header::ETag, Header::Location])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    let path = "/v1/endpoints/{id}/replays";
    Operation::new(document, "get", path, "listReplays", "List the replays of an endpoint, newest first")
        .tag("Endpoints")
        .path::<EndpointId>("id")
        .query::<PageQuery>()
        .answers::<Listed<ReplayView<'static>>>(200, "A page of replays", &[])
        .refuses(&[Kind::NotFound, Kind::Invalid])
        .done();
    let path = "/v1/endpoints/{id}/replays/{replay}";
    Operation::new(document, "get", path, "readReplay", "Read how far a replay is")
        .tag("Endpoints")
        .path::<EndpointId>("id")
        .path::<ReplayId>("replay")
        .answers::<ReplayView<'static>>(200, "The replay", &[Header::ETag])
        .refuses(&[Kind::NotFound])
        .done();
    Operation::new(document, "delete", path, "deleteReplay", "End a replay, or forget a finished one")
        .tag("Endpoints")
        .describe("What was handed over before is delivered.")
        .path::<EndpointId>("id")
        .path::<ReplayId>("replay")
        .answers_nothing(204, "The replay is deleted")
        .refuses(&[Kind::NotFound])
        .done();
}
