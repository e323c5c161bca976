//! The size of dead letters: Kafka must take each of them, whatever it is about.

use schemas::Dead;

/// The part of a record or a body that a dead letter keeps, in characters.
const EXCERPT_CHARS: usize = 256 * 1024;
/// The end of the reason of a dead letter whose content was cut.
const CUT: &str = "; its content was cut, because the dead letter was too large for Kafka";

/// Returns the beginning of a text, as a dead letter keeps it.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS).collect()
}

/// Returns a smaller version of a dead letter that Kafka refused for its size: with an
/// excerpt of its content first, then without any. Returns none if nothing can be left
/// out.
pub(crate) fn cut(dead: Dead) -> Option<Dead> {
    let payload = match (&dead.delivery, &dead.payload) {
        (Some(delivery), _) => Some(excerpt(&delivery.body)),
        (None, Some(payload)) => {
            let shorter = excerpt(payload);
            (shorter.len() < payload.len()).then_some(shorter)
        }
        (None, None) => return None,
    };
    let reason = if dead.reason.ends_with(CUT) { dead.reason } else { format!("{}{CUT}", dead.reason) };
    Some(Dead { delivery: None, payload, reason, ..dead })
}

#[cfg(test)]
mod tests {
    use schemas::{Delivery, EndpointId, EventId, EventName, Origin, Timestamp, WorkspaceId};

    use super::*;

    fn dead(payload: Option<String>, delivery: Option<Delivery>) -> Dead {
        let origin = Origin { topic: "t.clicks".to_owned(), partition: 1, offset: 2, line: None, bundle: None };
        Dead { v: 1, reason: "no retry".to_owned(), at: Timestamp::from_millis(0), origin, payload, delivery }
    }

    fn delivery(body: String) -> Delivery {
        let at = Timestamp::from_millis(0);
        Delivery {
            v: 1,
            endpoint: EndpointId::from_bits(1),
            workspace: WorkspaceId::default(),
            event_id: EventId::of("default", EventName::LinkClicked, "clk_1", "", at),
            event: EventName::LinkClicked,
            attempt: 1,
            due: at,
            body,
            traceparent: None,
        }
    }

    #[test]
    fn content_is_cut_step_by_step_and_the_reason_says_so_once() {
        let whole = dead(None, Some(delivery("x".repeat(EXCERPT_CHARS + 1))));
        let origin = whole.origin.clone();
        let first = cut(whole).unwrap();
        assert_eq!(first.delivery, None);
        assert_eq!(first.payload, Some("x".repeat(EXCERPT_CHARS)));
        assert_eq!(first.reason, format!("no retry{CUT}"));
        let second = cut(first).unwrap();
        assert_eq!(second.payload, None);
        assert_eq!(second.reason, format!("no retry{CUT}"));
        assert_eq!(second.origin, origin);
        assert_eq!(cut(second), None);
    }

    #[test]
    fn a_long_payload_becomes_an_excerpt_first() {
        let first = cut(dead(Some("é".repeat(EXCERPT_CHARS + 1)), None)).unwrap();
        assert_eq!(first.payload, Some("é".repeat(EXCERPT_CHARS)));
        assert_eq!(cut(first).unwrap().payload, None);
    }
}
