//! `/v1/event-types`: the catalogue of events.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{Event, EventName, Timestamp, sample};
use serde::Serialize;

use crate::api::resource::Listed;

/// When the samples happened: a moment that never moves.
const SAMPLE_AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

#[derive(Serialize, JsonSchema)]
pub(crate) struct EventType {
    /// Its name.
    name: EventName,
    /// One sentence for people.
    description: &'static str,
    /// A body as it would be delivered.
    sample: Event<'static>,
}

pub(crate) async fn list() -> Response {
    let data = EventName::ALL
        .iter()
        .map(|name| EventType { name: *name, description: name.description(), sample: sample::event(*name, SAMPLE_AT) })
        .collect();
    Json(Listed { data, next: None }).into_response()
}
