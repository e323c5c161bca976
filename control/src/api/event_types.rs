//! `GET /v1/event-types`: the catalogue of events.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{Event, EventName, Timestamp, sample};
use serde::Serialize;

use crate::api::resource::Listed;

/// The moment of the samples, which is always the same.
const SAMPLE_AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

/// A type of events.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EventType {
    /// The name of the type.
    name: EventName,
    /// One sentence for people.
    description: &'static str,
    /// A sample of the body that endpoints receive.
    sample: Event<'static>,
}

/// Lists the types of events.
pub(crate) async fn list() -> Response {
    let data = EventName::ALL
        .iter()
        .map(|name| EventType { name: *name, description: name.description(), sample: sample::event(*name, SAMPLE_AT) })
        .collect();
    Json(Listed { data, next: None }).into_response()
}
