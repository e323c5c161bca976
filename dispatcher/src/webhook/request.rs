//! The request of an attempt: its body (`formats/`), its headers, and its signatures
//! (`signers.rs`). The same events make the same bytes, attempt after attempt.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header::CONTENT_TYPE};
use http_body_util::Full;
use schemas::{EventName, Timestamp};

use super::{
    delivery::InFlight,
    endpoints::Route,
    formats::{self, FormattedBody},
    sign::{ATTEMPT, EVENT, ID, SIGNATURE, SIMPLE_SIGNATURE, TIMESTAMP},
    signers::Signatures,
};

/// The parts of a request that the connection does not change.
pub(super) struct WebhookRequest {
    /// The `webhook-id`.
    id: String,
    body: FormattedBody,
    /// The name of the event; of a batch, the names of its events, each once.
    event: String,
    traceparent: Option<String>,
    attempt: u32,
}

impl WebhookRequest {
    /// # Errors
    /// When an event cannot be written in the delivery's format.
    pub(super) fn new(delivery: &InFlight) -> Result<Self, String> {
        let first = &delivery.messages.first;
        let (id, traceparent) = match delivery.batch_id() {
            // A batch has the traces of many visits, and the header has room for one.
            Some(batch) => (batch.to_string(), None),
            None => (first.event_id.to_string(), first.traceparent.clone()),
        };
        let body = formats::body(delivery)?;
        let mut names: Vec<EventName> = Vec::new();
        for message in delivery.messages.iter() {
            if !names.contains(&message.event) {
                names.push(message.event);
            }
        }
        let event = names.into_iter().map(EventName::as_str).collect::<Vec<_>>().join(", ");
        Ok(Self { id, body, event, traceparent, attempt: delivery.attempt })
    }

    /// Builds the request for an attempt at `at`, signed. The connection adds the target.
    ///
    /// # Errors
    /// When a value is not one that a header can have.
    pub(super) fn build(&self, route: &Route, at: Timestamp) -> Result<Request<Full<Bytes>>, http::Error> {
        let FormattedBody { content_type, bytes } = &self.body;
        let mut request = Request::builder().method(Method::POST);
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&route.headers);
            let mut set = |name, value: String| -> Result<(), http::Error> {
                headers.insert(name, HeaderValue::try_from(value)?);
                Ok(())
            };
            let Signatures { standard, simple } = route.signers.sign(&self.id, at, bytes);
            set(SIGNATURE, standard)?;
            set(SIMPLE_SIGNATURE, simple)?;
            set(ID, self.id.clone())?;
            set(TIMESTAMP, at.as_secs().to_string())?;
            set(ATTEMPT, self.attempt.to_string())?;
            set(EVENT, self.event.clone())?;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            // The trace context is a visitor's text: a value that no header may have
            // is left out.
            if let Some(trace) = self.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
                headers.insert("traceparent", trace);
            }
        }
        request.body(Full::new(bytes.clone()))
    }
}
