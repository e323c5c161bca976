//! The reader of `clicks` and `events`: a record becomes one delivery for each
//! endpoint that asks for its event, or for the one endpoint that the record names.

use std::{sync::Arc, time::Duration};

use bus::{Consumer, Record};
use bytes::Bytes;
use schemas::{EndpointId, Envelope, Event, Timestamp, WorkspaceId};
use serde_json::value::RawValue;
use tracing::{debug, warn};

use super::{
    backpressure::{Backpressure, Switch},
    claims::{OffsetClaim, OffsetClaims, Tracked},
    deliver::Deliverer,
    delivery::{InFlight, Message, OneOrMore, SourceRecord},
    endpoints::Recipient,
    handover::PartitionOwner,
    readers::{POLL, RecordHandler},
};

/// The delay of a test whose endpoint is not known yet: the endpoint's record
/// travels on another topic.
const UNKNOWN_ENDPOINT_DELAY: Duration = Duration::from_secs(1);

/// Turns events into deliveries.
pub(super) struct EventReader {
    pub claims: Arc<OffsetClaims>,
    pub deliverer: Arc<Deliverer>,
    pub backpressure: Backpressure,
}

/// The endpoints that get an event.
enum Recipients {
    /// The endpoints that ask for it.
    Subscribed(Vec<Arc<Recipient>>),
    /// The one endpoint of a test, if it is known.
    Named(EndpointId, Option<Arc<Recipient>>),
}

impl RecordHandler for EventReader {
    fn handle(&mut self, record: &Record<'_>, _: &Consumer<PartitionOwner>) {
        let source = SourceRecord { partition: record.partition(), offset: record.offset() };
        let value = record.value().unwrap_or_default();
        let (envelope, event) = match read(value) {
            Ok(read) => read,
            Err(reason) => {
                if let Some(claim) = self.claims(source, 1).pop() {
                    self.deliverer.spawn_dead_letter(value, reason, source, claim);
                }
                return;
            }
        };
        let recipients = self.recipients(&envelope, &event);
        let claims = self.claims(source, recipients.len());
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
            source,
        });
        self.hand_over(recipients, &message, claims);
    }

    fn before_poll(&mut self, consumer: &Consumer<PartitionOwner>) -> Duration {
        let wanted = Backpressure::wanted(self.deliverer.is_backlogged(), self.claims.assignments());
        if let Some(switch) = self.backpressure.switch_to(wanted) {
            self.apply(switch, wanted, consumer);
        }
        POLL
    }
}

impl EventReader {
    fn claims(&self, source: SourceRecord, pieces: usize) -> Vec<OffsetClaim> {
        match self.claims.track(source.partition, source.offset, pieces) {
            Tracked::Owned(claims) => claims,
            Tracked::Done | Tracked::Revoked => Vec::new(),
        }
    }

    fn recipients(&self, envelope: &Envelope<'_, &RawValue>, event: &Event<'_>) -> Recipients {
        match envelope.endpoint {
            None => Recipients::Subscribed(self.deliverer.endpoints.matching(&envelope.workspace, event)),
            Some(id) => {
                let recipient = self.deliverer.endpoints.get(id);
                // No event crosses from one workspace to another.
                Recipients::Named(id, recipient.filter(|recipient| recipient.workspace == *envelope.workspace))
            }
        }
    }

    fn hand_over(&self, recipients: Recipients, message: &Arc<Message>, mut claims: Vec<OffsetClaim>) {
        let delivery = |endpoint, claim| InFlight {
            endpoint,
            messages: OneOrMore::one(Arc::clone(message)),
            packing: None,
            format: None,
            attempt: 1,
            held_since: None,
            claims: vec![claim],
        };
        match recipients {
            Recipients::Subscribed(recipients) => {
                for (recipient, claim) in recipients.iter().zip(claims) {
                    self.deliverer.accept(recipient, delivery(recipient.id, claim));
                }
            }
            Recipients::Named(id, recipient) => {
                let Some(claim) = claims.pop() else { return };
                let delivery = delivery(id, claim);
                match recipient {
                    Some(recipient) => self.deliverer.accept(&recipient, delivery),
                    None => self.deliverer.spawn_delay(delivery, Timestamp::now().plus(UNKNOWN_ENDPOINT_DELAY)),
                }
            }
        }
    }

    fn apply(&mut self, switch: Switch, wanted: Backpressure, consumer: &Consumer<PartitionOwner>) {
        let switched = consumer.assignment().and_then(|partitions| match switch {
            Switch::Pause => consumer.pause(&partitions),
            Switch::Resume => consumer.resume(&partitions),
        });
        match (switched, switch) {
            (Ok(()), Switch::Pause) if self.deliverer.waits_for_kafka() => {
                warn!("backpressure: consumer paused, Kafka takes records more slowly than they come");
            }
            // That is no fault of Kafka's, and happens every second under full load.
            (Ok(()), Switch::Pause) => debug!("backpressure: consumer paused, lanes are full"),
            (Ok(()), Switch::Resume) => debug!("backpressure over: consumer resumed"),
            // A rebalance is under way: the next tick tries again.
            (Err(error), _) => return debug!(%error, "consumer not paused or resumed: retried at the next poll"),
        }
        self.backpressure = wanted;
    }
}

impl Recipients {
    const fn len(&self) -> usize {
        match self {
            Self::Subscribed(recipients) => recipients.len(),
            Self::Named(..) => 1,
        }
    }
}

/// Reads a record's value: the envelope with the exact bytes of the body, and the
/// parsed body.
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
