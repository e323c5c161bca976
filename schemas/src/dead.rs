//! Dead letters: records and deliveries that were given up, with the reason. A dead
//! letter always fits into a record of Kafka, since a dead letter that Kafka refuses
//! could never be written, and the offset of its source would wait for ever.

use serde::{Deserialize, Serialize};

use crate::{Delivery, EndpointId, EventId, Timestamp};

/// The bytes that a payload may take as a JSON string. Kafka takes records of up to
/// 4,000,000 bytes from clickhook's producers; the rest of a dead letter needs less
/// than the difference.
const PAYLOAD_BYTES: usize = 3_500_000;
/// The bytes of content that an excerpt has at most. As a JSON string, each of them
/// takes up to six.
const EXCERPT_BYTES: usize = 256 << 10;
/// The bytes that a reason may take as a JSON string. ClickHouse's errors can quote
/// the row that they are about.
const REASON_BYTES: usize = 64 << 10;
/// The bytes that a bundle's id may take as a JSON string. It is a header of a record
/// that anyone may have produced.
const BUNDLE_BYTES: usize = 1 << 10;
/// The words of a reason before the ids of a delivery that was left out.
const CUT: &str = "; its content was cut: ";

/// The place that a dead letter's record was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadOrigin {
    /// The topic's full name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The line of the record, from 0, where the record is a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The bundle's id, where the record is a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
}

impl DeadOrigin {
    /// Returns the place of a whole record.
    #[must_use]
    pub const fn record(topic: String, partition: i32, offset: i64) -> Self {
        Self { topic, partition, offset, line: None, bundle: None }
    }
}

/// A dead letter: a record on `dead`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// The version of the format: 1.
    pub v: u8,
    /// The reason, for people.
    pub reason: String,
    /// The time at which the record or delivery was given up.
    pub at: Timestamp,
    /// The place of the record.
    pub origin: DeadOrigin,
    /// The content of the record, addresses reduced. Text that was not UTF-8 is
    /// repaired, and content that Kafka would not take is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The length of the whole content in bytes, where `payload` is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u64>,
    /// The delivery that was given up, of one event, ready to be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

impl Dead {
    /// Returns the dead letter of a record with the content `payload`, which is cut
    /// where Kafka would not take it.
    #[must_use]
    pub fn of_record(reason: String, at: Timestamp, origin: DeadOrigin, payload: &str) -> Self {
        let kept = fitting(payload, PAYLOAD_BYTES);
        let payload_bytes = (kept.len() < payload.len()).then_some(payload.len() as u64);
        let payload = Some(kept.to_owned());
        Self { payload, payload_bytes, ..Self::without_content(reason, at, origin) }
    }

    /// Returns the dead letter of a delivery of one event. A delivery whose body Kafka would not
    /// take cannot be tried again: the dead letter has an excerpt of its body as the
    /// payload.
    #[must_use]
    pub fn of_delivery(reason: String, at: Timestamp, origin: DeadOrigin, delivery: Delivery) -> Self {
        let whole = Self { delivery: Some(delivery), ..Self::without_content(reason, at, origin) };
        let fits = |delivery: &Delivery| {
            let bytes: usize = delivery.events.iter().flat_map(|event| event.body.chars()).map(escaped_bytes).sum();
            bytes <= PAYLOAD_BYTES
        };
        if whole.delivery.as_ref().is_some_and(fits) { whole } else { whole.with_excerpt() }
    }

    /// Returns a smaller version of a dead letter that Kafka refused for its size, as
    /// where the topic takes smaller records than it was made with: first with an
    /// excerpt of the content, then without any. Returns none if nothing can be left
    /// out.
    #[must_use]
    pub fn smaller(self) -> Option<Self> {
        (self.delivery.is_some() || self.payload.is_some()).then(|| self.with_excerpt())
    }

    /// Returns the event and the endpoint of the delivery that was given up, also where the
    /// delivery itself was left out. Returns none of a record that was given up.
    #[must_use]
    pub fn delivery_ids(&self) -> Option<(EventId, EndpointId)> {
        if let Some(delivery) = &self.delivery {
            return Some((delivery.events.first()?.id, delivery.endpoint));
        }
        let (_, cut) = self.reason.rsplit_once(CUT)?;
        let (event, endpoint) = cut.split_once(" for ")?;
        Some((event.parse().ok()?, endpoint.parse().ok()?))
    }

    /// Replaces the content by an excerpt of it, and an excerpt by nothing. The reason
    /// says once that the content was cut, and names a delivery that is left out.
    fn with_excerpt(mut self) -> Self {
        if let Some(delivery) = self.delivery.take() {
            let events: Vec<String> = delivery.events.iter().map(|event| event.id.to_string()).collect();
            self.reason += &format!("{CUT}{} for {}", events.join(" "), delivery.endpoint);
            self.payload = Some(delivery.events.into_iter().map(|event| event.body).collect());
        }
        if let Some(content) = self.payload.take() {
            self.payload_bytes = self.payload_bytes.or(Some(content.len() as u64));
            let end = content.floor_char_boundary(EXCERPT_BYTES);
            self.payload = (end < content.len()).then(|| content[..end].to_owned());
        }
        self
    }

    fn without_content(mut reason: String, at: Timestamp, mut origin: DeadOrigin) -> Self {
        reason.truncate(fitting(&reason, REASON_BYTES).len());
        if let Some(bundle) = &mut origin.bundle {
            bundle.truncate(fitting(bundle, BUNDLE_BYTES).len());
        }
        Self { v: 1, reason, at, origin, payload: None, payload_bytes: None, delivery: None }
    }
}

/// Returns the longest beginning of `text` that takes at most `bytes` bytes as a JSON
/// string, without its quotes. The cut is between characters.
fn fitting(text: &str, bytes: usize) -> &str {
    let mut left = bytes;
    for (index, char) in text.char_indices() {
        let Some(rest) = left.checked_sub(escaped_bytes(char)) else { return &text[..index] };
        left = rest;
    }
    text
}

/// Returns the bytes that `char` takes in a JSON string as `serde_json` writes it.
const fn escaped_bytes(char: char) -> usize {
    match char {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => char.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DeliveredEvent;

    /// The producers' `message.max.bytes`.
    const MESSAGE_BYTES: usize = 4_000_000;

    fn origin() -> DeadOrigin {
        DeadOrigin::record("clickhook.clicks".to_owned(), 3, 7)
    }

    fn length(dead: &Dead) -> usize {
        serde_json::to_vec(dead).unwrap().len()
    }

    #[test]
    fn a_dead_letter_fits_into_a_record_of_kafka_and_says_that_it_was_cut() {
        for char in ["\"", "\u{1}", "\u{fffd}", "a", "🚒"] {
            let payload = char.repeat(2_500_000 / char.len() + 2_000_000);
            let bundle = Some(char.repeat(3_000_000));
            let dead =
                Dead::of_record(char.repeat(3_000_000), Timestamp::now(), DeadOrigin { bundle, ..origin() }, &payload);
            assert!(length(&dead) < MESSAGE_BYTES, "{char:?}: {}", length(&dead));
            assert_eq!(dead.payload_bytes, Some(payload.len() as u64));
            assert!(payload.starts_with(dead.payload.as_deref().unwrap()));
        }
    }

    #[test]
    fn a_payload_that_fits_is_whole() {
        let dead = Dead::of_record("why".to_owned(), Timestamp::now(), origin(), "not json \"");
        assert_eq!(dead.payload.as_deref(), Some("not json \""));
        assert_eq!(dead.payload_bytes, None);
    }

    #[test]
    fn a_refused_dead_letter_gets_smaller_until_it_has_no_content() {
        let content = "é".repeat(EXCERPT_BYTES);
        let whole = Dead::of_record("why".to_owned(), Timestamp::now(), origin(), &content);
        let excerpt = whole.smaller().unwrap();
        assert_eq!(excerpt.payload.as_deref().map(str::len), Some(EXCERPT_BYTES));
        let empty = excerpt.smaller().unwrap();
        assert_eq!(empty.payload, None);
        assert_eq!(empty.payload_bytes, Some(content.len() as u64));
        assert_eq!(empty.smaller(), None);
    }

    #[test]
    fn a_dead_letter_names_its_delivery_also_where_it_is_cut() {
        let ids = (EventId::from_bits(1), EndpointId::from_bits(2));
        let event =
            DeliveredEvent { id: ids.0, name: crate::EventName::LinkClicked, body: "x".to_owned(), traceparent: None };
        let delivery = Delivery {
            v: 2,
            endpoint: ids.1,
            workspace: crate::WorkspaceId::default(),
            attempt: 6,
            due: Timestamp::now(),
            held_since: None,
            packing: None,
            format: None,
            events: vec![event],
        };
        let mut dead = Some(Dead::of_delivery("why; its".to_owned(), Timestamp::now(), origin(), delivery));
        while let Some(letter) = dead {
            assert_eq!(letter.delivery_ids(), Some(ids));
            dead = letter.smaller();
        }
        let record = Dead::of_record("its content was bad".to_owned(), Timestamp::now(), origin(), "x");
        assert_eq!(record.delivery_ids(), None);
    }

    proptest! {
        #[test]
        fn the_bytes_of_a_json_string_are_counted_as_they_are_written(text in "\\PC*|[\0-\u{2f}\u{7f}-\u{90}\\\\]*") {
            let written = serde_json::to_string(&text).unwrap().len() - 2;
            prop_assert_eq!(text.chars().map(escaped_bytes).sum::<usize>(), written);
        }
    }
}
