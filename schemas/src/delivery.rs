//! A delivery that waits on Kafka for its next attempt.

use serde::{Deserialize, Serialize};

use crate::{EndpointId, EventId, EventName, Timestamp, WebhookFormat, WorkspaceId, batch::Packing};

/// A delivery that waits for its next attempt: a record on `delay`. The events, their bytes
/// and their order are frozen, so that every retry signs and sends the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredDelivery")]
pub struct Delivery {
    /// Version of the format: 2.
    pub v: u8,
    /// The endpoint that the events go to.
    pub endpoint: EndpointId,
    /// The workspace that the events belong to.
    pub workspace: WorkspaceId,
    /// The number of the next attempt, from 1.
    pub attempt: u32,
    /// The earliest time of the next attempt.
    pub due: Timestamp,
    /// The time since which the delivery is held because its endpoint is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
    /// The form in which the events are sent; none while it is still open, because no attempt
    /// was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// The format in which the events are sent; none while it is still open. A delivery that
    /// was attempted without one was sent as it is, by an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<WebhookFormat>,
    /// The events, at least one; several are a batch.
    pub events: Vec<DeliveredEvent>,
}

/// An event of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredEvent {
    /// The event's id.
    #[serde(rename = "event_id")]
    pub id: EventId,
    /// The event's type.
    #[serde(rename = "event")]
    pub name: EventName,
    /// The exact body of the event.
    pub body: String,
    /// The W3C trace context, where the click carried one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A delivery as a record has it. Version 1 has one event, its fields beside the others.
#[derive(Deserialize)]
struct StoredDelivery {
    v: u8,
    endpoint: EndpointId,
    workspace: WorkspaceId,
    attempt: u32,
    due: Timestamp,
    #[serde(default)]
    held_since: Option<Timestamp>,
    #[serde(default)]
    packing: Option<Packing>,
    #[serde(default)]
    format: Option<WebhookFormat>,
    #[serde(default)]
    events: Vec<DeliveredEvent>,
    event_id: Option<EventId>,
    event: Option<EventName>,
    body: Option<String>,
    traceparent: Option<String>,
}

/// The error of a record that is not a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The delivery has no event.
    #[error("the delivery has no event")]
    NoEvent,
    /// The record is of a later version.
    #[error("the delivery's format is version {0}, only 1 and 2 are known")]
    Version(u8),
}

impl TryFrom<StoredDelivery> for Delivery {
    type Error = DeliveryError;

    fn try_from(stored: StoredDelivery) -> Result<Self, DeliveryError> {
        let StoredDelivery {
            v,
            endpoint,
            workspace,
            attempt,
            due,
            held_since,
            mut packing,
            mut format,
            mut events,
            ..
        } = stored;
        if v > 2 {
            return Err(DeliveryError::Version(v));
        }
        if events.is_empty() {
            let (Some(id), Some(name), Some(body)) = (stored.event_id, stored.event, stored.body) else {
                return Err(DeliveryError::NoEvent);
            };
            events.push(DeliveredEvent { id, name, body, traceparent: stored.traceparent });
            packing = (attempt > 1).then_some(Packing::Single);
        }
        if attempt > 1 {
            format = format.or(Some(WebhookFormat::Clickhook));
        }
        Ok(Self { v: 2, endpoint, workspace, attempt, due, held_since, packing, format, events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        let event = DeliveredEvent {
            id: EventId::from_bits(1),
            name: EventName::LinkClicked,
            body: "{\"id\":\"evt_1\"}".to_owned(),
            traceparent: None,
        };
        Delivery {
            v: 2,
            endpoint: EndpointId::from_bits(2),
            workspace: WorkspaceId::default(),
            attempt: 2,
            due: Timestamp::from_millis(5),
            held_since: None,
            packing: Some(Packing::Single),
            format: Some(WebhookFormat::Clickhook),
            events: vec![event],
        }
    }

    #[test]
    fn a_record_reads_back() {
        let text = serde_json::to_string(&delivery()).unwrap();
        assert_eq!(serde_json::from_str::<Delivery>(&text).unwrap(), delivery());
    }

    #[test]
    fn a_record_of_version_1_is_a_delivery_of_one_event() {
        let read = |attempt: u32| {
            let text = format!(
                r#"{{"v":1,"endpoint":"{}","workspace":"default","event_id":"{}","event":"link.clicked","attempt":{attempt},"due":"1970-01-01T00:00:00.005Z","body":"{{\"id\":\"evt_1\"}}"}}"#,
                EndpointId::from_bits(2),
                EventId::from_bits(1),
            );
            serde_json::from_str::<Delivery>(&text).unwrap()
        };
        assert_eq!(read(2), delivery());
        let unsent = Delivery { attempt: 1, packing: None, format: None, ..delivery() };
        assert_eq!(read(1), unsent, "it was not sent yet");
    }

    #[test]
    fn other_records_are_no_deliveries() {
        let record = |field: &str, value: serde_json::Value| {
            let mut record = serde_json::to_value(delivery()).unwrap();
            record[field] = value;
            serde_json::from_value::<Delivery>(record).unwrap_err().to_string()
        };
        assert!(record("events", serde_json::json!([])).contains("no event"));
        assert!(record("v", serde_json::json!(3)).contains("version 3"));
    }
}
