//! The format `cloudevents`: CloudEvents 1.0 in structured mode
//! (cloudevents.io, "JSON Event Format", 1.0.2). `data` is the event, byte for byte.

use bytes::Bytes;
use schemas::{EventId, EventName, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use super::event_facts::{json, read};
use crate::webhook::delivery::Message;

/// The most bytes around the event: the attributes, with the longest name of an event and of
/// a workspace.
pub(super) const ADDED_BYTES: usize = 512;

/// An event in its attributes.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: EventId,
    /// The workspace, as the path that the API has for it.
    source: String,
    r#type: EventName,
    /// The id of the link or endpoint that the event is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: Timestamp,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

/// Returns an event in the format.
pub(super) fn event(message: &Message) -> Result<Bytes, String> {
    let event = read(message)?;
    let data = serde_json::from_slice(&message.body).map_err(|error| format!("the event cannot be read: {error}"))?;
    let link = event.link.as_ref().map(|link| link.id.to_string());
    let campaign = event.campaign.as_ref().map(|campaign| campaign.id.to_string());
    json(&CloudEvent {
        specversion: "1.0",
        id: event.id,
        source: format!("/v1/workspaces/{}", message.workspace.as_str()),
        r#type: event.event,
        subject: link.or(campaign).or_else(|| event.endpoint.as_ref().map(|endpoint| endpoint.id.to_string())),
        time: event.timestamp,
        datacontenttype: "application/json",
        data,
    })
}

#[cfg(test)]
mod tests {
    use schemas::sample;

    use super::*;
    use crate::webhook::formats::event_facts::message;

    #[test]
    fn the_event_is_the_data_byte_for_byte() {
        let at = Timestamp::from_millis(1_770_301_425_120);
        for name in EventName::ALL {
            let sample = sample::event(*name, at);
            let body = serde_json::to_string(&sample).unwrap();
            let text = String::from_utf8(event(&message(&sample)).unwrap().to_vec()).unwrap();
            assert!(text.ends_with(&format!(r#""datacontenttype":"application/json","data":{body}}}"#)), "{text}");
            let start = format!(
                r#"{{"specversion":"1.0","id":"{}","source":"/v1/workspaces/default","type":"{name}","#,
                sample.id
            );
            assert!(text.starts_with(&start), "{text}");
            let is_about = text.contains(r#""subject":""#);
            let has_subject = sample.link.is_some() || sample.campaign.is_some() || sample.endpoint.is_some();
            assert_eq!(is_about, has_subject, "{text}");
        }
    }
}
