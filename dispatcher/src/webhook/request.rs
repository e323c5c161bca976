//! The request of an attempt: the body of one event or of a batch, its headers, and its
//! signatures. The same events make the same bytes, attempt after attempt.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use schemas::{EventName, Timestamp};

use super::{
    delivery::InFlight,
    endpoints::Route,
    sign::{ATTEMPT, EVENT, ID, SIGNATURE, SIMPLE_SIGNATURE, TIMESTAMP},
};

/// The parts of a request that the connection does not change.
pub(super) struct WebhookRequest {
    /// The `webhook-id`.
    id: String,
    body: Bytes,
    /// The name of the event; of a batch, the names of its events, each once.
    event: String,
    traceparent: Option<String>,
    attempt: u32,
}

impl WebhookRequest {
    pub(super) fn new(delivery: &InFlight) -> Self {
        let first = &delivery.messages.first;
        let (id, body, traceparent) = match delivery.batch_id() {
            // A batch has the traces of many visits, and the header has room for one.
            Some(batch) => (batch.to_string(), list(delivery), None),
            None => (first.event_id.to_string(), first.body.clone(), first.traceparent.clone()),
        };
        let mut names: Vec<EventName> = Vec::new();
        for message in delivery.messages.iter() {
            if !names.contains(&message.event) {
                names.push(message.event);
            }
        }
        let event = names.into_iter().map(EventName::as_str).collect::<Vec<_>>().join(", ");
        Self { id, body, event, traceparent, attempt: delivery.attempt }
    }

    /// Builds the request for an attempt at `at`, signed. The connection adds the target.
    ///
    /// # Errors
    /// When a value is not one that a header can have.
    pub(super) fn build(&self, route: &Route, at: Timestamp) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder().method(Method::POST);
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&route.headers);
            let mut set = |name, value: String| -> Result<(), http::Error> {
                headers.insert(name, HeaderValue::try_from(value)?);
                Ok(())
            };
            set(SIGNATURE, route.signer.standard(&self.id, at.as_secs(), &self.body))?;
            set(SIMPLE_SIGNATURE, route.signer.simple(&self.body))?;
            set(ID, self.id.clone())?;
            set(TIMESTAMP, at.as_secs().to_string())?;
            set(ATTEMPT, self.attempt.to_string())?;
            set(EVENT, self.event.clone())?;
            // The trace context is a visitor's text: a value that no header may have
            // is left out.
            if let Some(trace) = self.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
                headers.insert("traceparent", trace);
            }
        }
        request.body(Full::new(self.body.clone()))
    }
}

/// Returns the bodies of the events as a JSON array.
fn list(delivery: &InFlight) -> Bytes {
    let bytes: usize = delivery.messages.iter().map(|message| message.body.len() + 1).sum();
    let mut body = BytesMut::with_capacity(bytes + 1);
    let mut separator = b'[';
    for message in delivery.messages.iter() {
        body.put_u8(separator);
        body.extend_from_slice(&message.body);
        separator = b',';
    }
    body.put_u8(b']');
    body.freeze()
}
