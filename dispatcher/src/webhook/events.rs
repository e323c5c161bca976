//! Reading `clicks` and `events`: a record becomes one delivery for each endpoint
//! that asks for its event, or for the one that it names.

use std::{sync::Arc, time::Duration};

use bus::{Consumer, Record};
use bytes::Bytes;
use schemas::{EndpointId, Envelope, Event, Timestamp, WorkspaceId};
use serde_json::value::RawValue;
use tracing::{debug, warn};

use super::{
    claims::{Claim, Claims, Tracked},
    deliver::{Deliverer, Message, Pending, unwanted},
    endpoints::Target,
    follow::{Intake, POLL},
    outbox::Place,
};

/// How long the one endpoint that a test names may take to become known: its
/// record travels on another topic.
const ENDPOINT_PATIENCE: Duration = Duration::from_secs(1);

/// Turns events into deliveries.
pub(super) struct Events {
    pub claims: Arc<Claims>,
    pub deliverer: Arc<Deliverer>,
    /// Whether reading rests because Kafka takes too little of what is put off.
    pub resting: bool,
}

/// Who gets an event.
enum Recipients {
    Asking(Vec<Arc<Target>>),
    /// A test's one endpoint, and what it is now.
    Named(EndpointId, Option<Arc<Target>>),
}

impl Intake for Events {
    fn take(&mut self, record: &Record<'_>, _: &Consumer<Claims>) {
        let place = Place { partition: record.partition(), offset: record.offset() };
        let value = record.value().unwrap_or_default();
        let (envelope, event) = match read(value) {
            Ok(read) => read,
            Err(reason) => {
                if let Some(claim) = self.claims(place, 1).pop() {
                    self.deliverer.bury_record(value, reason, place, claim);
                }
                return;
            }
        };
        let recipients = self.recipients(&envelope, &event);
        let claims = self.claims(place, recipients.len());
        if claims.is_empty() {
            return;
        }
        let traceparent = record.header("traceparent").and_then(|value| str::from_utf8(value).ok());
        let message = Arc::new(Message {
            workspace: WorkspaceId::new(&envelope.workspace),
            event_id: event.id,
            event: event.event,
            at: event.timestamp,
            body: Bytes::copy_from_slice(envelope.event.get().as_bytes()),
            traceparent: traceparent.map(ToOwned::to_owned),
            place,
        });
        self.hand_over(recipients, &message, claims);
    }

    fn tick(&mut self, consumer: &Consumer<Claims>) -> Duration {
        let swamped = self.deliverer.is_swamped();
        if swamped != self.resting {
            self.rest(swamped, consumer);
        }
        POLL
    }
}

impl Events {
    fn claims(&self, place: Place, pieces: usize) -> Vec<Claim> {
        match self.claims.track(place.partition, place.offset, pieces) {
            Tracked::Ours(claims) => claims,
            Tracked::Gone => Vec::new(),
        }
    }

    fn recipients(&self, envelope: &Envelope<'_, &RawValue>, event: &Event<'_>) -> Recipients {
        match envelope.endpoint {
            None => Recipients::Asking(self.deliverer.endpoints.matching(&envelope.workspace, event)),
            Some(id) => {
                let target = self.deliverer.endpoints.get(id);
                // Nothing crosses from one workspace to another.
                Recipients::Named(id, target.filter(|target| target.workspace == *envelope.workspace))
            }
        }
    }

    fn hand_over(&self, recipients: Recipients, message: &Arc<Message>, mut claims: Vec<Claim>) {
        let pending = |endpoint, claim| Pending { message: Arc::clone(message), endpoint, attempt: 1, claim };
        match recipients {
            Recipients::Asking(targets) => {
                for (target, claim) in targets.iter().zip(claims) {
                    self.send(target, pending(target.id, claim));
                }
            }
            Recipients::Named(id, target) => {
                let Some(claim) = claims.pop() else { return };
                match target {
                    Some(target) => self.send(&target, pending(id, claim)),
                    None => self.deliverer.postpone(pending(id, claim), Timestamp::now().plus(ENDPOINT_PATIENCE)),
                }
            }
        }
    }

    fn send(&self, target: &Target, pending: Pending) {
        match unwanted(target.status) {
            None => self.deliverer.offer(target, pending),
            Some(why) => self.deliverer.skip(pending, why),
        }
    }

    fn rest(&mut self, swamped: bool, consumer: &Consumer<Claims>) {
        let switch = |partitions: Vec<_>| {
            if swamped { consumer.pause(&partitions) } else { consumer.resume(&partitions) }
        };
        match consumer.assignment().and_then(switch) {
            Ok(()) if swamped => warn!("Kafka takes what is put off more slowly than it comes: reading rests"),
            Ok(()) => {}
            // The partitions are changing hands: the next tick tries again.
            Err(error) => return debug!(%error, "reading cannot be paused or resumed yet"),
        }
        self.resting = swamped;
    }
}

impl Recipients {
    const fn len(&self) -> usize {
        match self {
            Self::Asking(targets) => targets.len(),
            Self::Named(..) => 1,
        }
    }
}

/// Reads a record's value: the envelope with the body's exact bytes, and what
/// the body says.
fn read(value: &[u8]) -> Result<(Envelope<'_, &RawValue>, Event<'_>), String> {
    let envelope: Envelope<'_, &RawValue> =
        serde_json::from_slice(value).map_err(|error| format!("not an event's envelope: {error}"))?;
    if envelope.v != 1 {
        return Err(format!("an event's envelope of version {}, and only version 1 is known", envelope.v));
    }
    let event = serde_json::from_str(envelope.event.get()).map_err(|error| format!("not an event's body: {error}"))?;
    Ok((envelope, event))
}

#[cfg(test)]
mod tests {
    use schemas::{EventName, sample};

    use super::*;

    #[test]
    fn the_bodys_bytes_are_read_as_they_stand() {
        let body = serde_json::to_string(&sample::event(EventName::LinkClicked, Timestamp::from_millis(0))).unwrap();
        let spaced = body.replacen(':', ": ", 1);
        let value = format!(r#"{{"v":1,"workspace":"default","unknown":true,"event":{spaced}}}"#);
        let (envelope, event) = read(value.as_bytes()).unwrap();
        assert_eq!(envelope.event.get(), spaced);
        assert_eq!(event.event, EventName::LinkClicked);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let reason = |value: &str| read(value.as_bytes()).unwrap_err();
        assert!(reason("").starts_with("not an event's envelope"));
        assert!(reason(r#"{"v":1,"workspace":"default"}"#).contains("event"));
        assert!(reason(r#"{"v":1,"workspace":"default","event":{"id":"evt_1"}}"#).starts_with("not an event's body"));
        let event = serde_json::to_string(&sample::event(EventName::LinkClicked, Timestamp::from_millis(0))).unwrap();
        assert!(reason(&format!(r#"{{"v":2,"workspace":"default","event":{event}}}"#)).contains("version 2"));
    }
}
