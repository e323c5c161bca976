//! The facts that several formats read of an event, and the JSON that they write.

use std::borrow::Cow;

use bytes::Bytes;
use schemas::{ClickFacts, Event};
use serde::Serialize;
use serde_json::Value;

use crate::webhook::delivery::Message;

/// Reads the event of a message.
pub(super) fn read(message: &Message) -> Result<Event<'_>, String> {
    serde_json::from_slice(&message.body).map_err(|error| format!("the event cannot be read: {error}"))
}

/// Writes JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Bytes, String> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| format!("the event cannot be written: {error}"))
}

/// Returns the place of a visit, from the city to the country.
pub(super) fn place(click: &ClickFacts<'_>) -> Option<String> {
    let parts = [&click.city, &click.region, &click.country];
    let parts: Vec<&str> = parts.into_iter().flatten().map(Cow::as_ref).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Returns the names of the fields that an update changed.
pub(super) fn changed(event: &Event<'_>) -> Option<String> {
    if let Some(audit) = &event.audit {
        return (!audit.fields.is_empty()).then(|| audit.fields.join(", "));
    }
    let changes = serde_json::to_value(event.changes.as_ref()?).ok()?;
    let Value::Object(changes) = changes else { return None };
    Some(changes.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// Returns the message of an event of the workspace `default`, for tests.
#[cfg(test)]
pub(super) fn message(event: &Event<'_>) -> Message {
    use crate::webhook::delivery::SourceRecord;

    Message {
        workspace: schemas::WorkspaceId::default(),
        event_id: event.id,
        event: event.event,
        at: event.timestamp,
        body: serde_json::to_vec(event).unwrap().into(),
        traceparent: None,
        source: SourceRecord { partition: bus::Partition { topic: schemas::Topic::Events, index: 0 }, offset: 0 },
    }
}
