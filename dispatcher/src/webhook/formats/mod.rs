//! The formats in which endpoints get events: a format turns the bodies of events into the body
//! of a request. The same events give the same bytes, attempt after attempt, and
//! `JSON.stringify(JSON.parse(body))` has the same bytes as the body in every format.

mod cloudevents;
mod event_facts;
mod flat;
mod slack;

use bytes::{BufMut, Bytes, BytesMut};
use schemas::{Packing, WebhookFormat};

use super::delivery::{InFlight, Message};

/// The body of a request.
pub(super) struct FormattedBody {
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// The bytes that are signed and sent.
    pub bytes: Bytes,
}

/// Returns the body of a delivery.
///
/// # Errors
/// When an event cannot be read, which a format other than its own must.
pub(super) fn body(delivery: &InFlight) -> Result<FormattedBody, String> {
    let packing = delivery.packing.unwrap_or_default();
    let format = delivery.format.unwrap_or_default();
    let content_type = match (format, packing) {
        (WebhookFormat::Cloudevents, Packing::Single) => "application/cloudevents+json",
        (WebhookFormat::Cloudevents, Packing::Batch) => "application/cloudevents-batch+json",
        (WebhookFormat::Clickhook | WebhookFormat::Flat | WebhookFormat::Slack, _) => "application/json",
    };
    let messages = || delivery.messages.iter().map(AsRef::as_ref);
    let bytes = match (format, packing) {
        (WebhookFormat::Clickhook, Packing::Single) => delivery.messages.first.body.clone(),
        (WebhookFormat::Slack, _) => slack::message(messages())?,
        (format, Packing::Single) => formatted(format, packing, &delivery.messages.first)?,
        (format, Packing::Batch) => list(messages().map(|message| formatted(format, packing, message)))?,
    };
    Ok(FormattedBody { content_type, bytes })
}

/// Returns the bytes that a format adds to an event at most.
pub(super) const fn added_bytes(format: WebhookFormat) -> usize {
    match format {
        WebhookFormat::Cloudevents => cloudevents::ADDED_BYTES,
        WebhookFormat::Flat => flat::ADDED_BYTES,
        // A message is bounded by its lines.
        WebhookFormat::Clickhook | WebhookFormat::Slack => 0,
    }
}

fn formatted(format: WebhookFormat, packing: Packing, message: &Message) -> Result<Bytes, String> {
    match format {
        WebhookFormat::Clickhook => Ok(message.body.clone()),
        WebhookFormat::Flat => flat::event(message, packing),
        WebhookFormat::Cloudevents => cloudevents::event(message),
        WebhookFormat::Slack => slack::message(std::iter::once(message)),
    }
}

/// Returns a JSON array of the bodies.
fn list(bodies: impl Iterator<Item = Result<Bytes, String>>) -> Result<Bytes, String> {
    let bodies: Vec<Bytes> = bodies.collect::<Result<_, _>>()?;
    let mut list = BytesMut::with_capacity(bodies.iter().map(|body| body.len() + 1).sum::<usize>() + 1);
    let mut separator = b'[';
    for body in bodies {
        list.put_u8(separator);
        list.extend_from_slice(&body);
        separator = b',';
    }
    list.put_u8(b']');
    Ok(list.freeze())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schemas::{EndpointId, Event, EventName, Timestamp, sample};

    use super::{event_facts::message, *};
    use crate::webhook::delivery::OneOrMore;

    const AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

    fn delivery(events: &[Event<'_>], packing: Packing, format: WebhookFormat) -> InFlight {
        InFlight {
            endpoint: EndpointId::from_bits(1),
            messages: OneOrMore::from_list(events.iter().map(message).map(Arc::new)).unwrap(),
            packing: Some(packing),
            format: Some(format),
            attempt: 1,
            held_since: None,
            claims: Vec::new(),
        }
    }

    fn samples() -> Vec<Event<'static>> {
        EventName::ALL.iter().map(|name| sample::event(*name, AT)).collect()
    }

    #[test]
    fn the_events_own_format_is_its_bytes() {
        let events = samples();
        for event in &events {
            let FormattedBody { content_type, bytes } =
                body(&delivery(std::slice::from_ref(event), Packing::Single, WebhookFormat::Clickhook)).unwrap();
            assert_eq!(content_type, "application/json");
            assert_eq!(bytes, serde_json::to_vec(event).unwrap());
        }
        let batch = body(&delivery(&events, Packing::Batch, WebhookFormat::Clickhook)).unwrap();
        assert_eq!(batch.bytes, serde_json::to_vec(&events).unwrap());
    }

    #[test]
    fn a_batch_is_a_list_but_for_slack() {
        let events = samples();
        for format in WebhookFormat::ALL {
            let FormattedBody { content_type, bytes } = body(&delivery(&events, Packing::Batch, format)).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            match format {
                WebhookFormat::Slack => assert!(value["text"].is_string()),
                _ => assert_eq!(value.as_array().unwrap().len(), events.len(), "{format:?}"),
            }
            let is_cloudevents = content_type == "application/cloudevents-batch+json";
            assert_eq!(is_cloudevents, format == WebhookFormat::Cloudevents);
        }
    }

    #[test]
    fn no_format_adds_more_than_it_says() {
        for format in WebhookFormat::ALL {
            for event in samples() {
                let single = formatted(format, Packing::Batch, &message(&event)).unwrap();
                let event_bytes = serde_json::to_vec(&event).unwrap().len();
                assert!(single.len() <= event_bytes + added_bytes(format), "{format:?} {}", event.event);
            }
        }
    }

    #[test]
    fn an_event_that_cannot_be_read_is_an_error() {
        let mut broken = message(&sample::event(EventName::WebhookTest, AT));
        broken.body = Bytes::from_static(b"{}");
        for format in [WebhookFormat::Flat, WebhookFormat::Slack, WebhookFormat::Cloudevents] {
            assert!(formatted(format, Packing::Single, &broken).is_err(), "{format:?}");
        }
    }
}
