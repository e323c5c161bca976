//! The events of a batch that an endpoint names as failed, in an answer that is otherwise a
//! success: `{"failed":["evt_…"]}`.

use std::{collections::HashSet, fmt};

use schemas::EventId;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Returns the ids under `failed`. A body that is not of this form names none. Of a body that
/// breaks off, the ids before its end count: to send an event again does less harm than to
/// lose it.
pub(super) fn named_failures(body: &[u8]) -> HashSet<EventId> {
    let mut named = HashSet::new();
    // The error says no more than that the rest names nothing.
    let _ = AnswerBody(&mut named).deserialize(&mut serde_json::Deserializer::from_slice(body));
    named
}

/// The object of an answer. The ids go into the set as they are read.
struct AnswerBody<'a>(&'a mut HashSet<EventId>);

impl<'de> DeserializeSeed<'de> for AnswerBody<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AnswerBody<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "failed" {
                map.next_value_seed(FailedIds(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The list of ids.
struct FailedIds<'a>(&'a mut HashSet<EventId>);

impl<'de> DeserializeSeed<'de> for FailedIds<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FailedIds<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ids")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        while let Some(element) = list.next_element::<Value>()? {
            self.0.extend(element.as_str().and_then(|text| text.parse::<EventId>().ok()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(count: u128) -> Vec<EventId> {
        (0..count).map(EventId::from_bits).collect()
    }

    #[test]
    fn the_named_ones_are_read() {
        let [a, b] = [1, 2].map(EventId::from_bits);
        for (body, named) in [
            (format!(r#"{{"failed":["{a}"]}}"#), vec![a]),
            (format!(r#"{{"ok":true,"failed":["{a}","{b}","{a}"],"more":{{}}}}"#), vec![a, b]),
            (format!(" {{ \"failed\" : [ \"{a}\" ,\n \"{b}\" ] }} "), vec![a, b]),
            (format!(r#"{{"failed":["evt_1",null,7,{{"id":"{b}"}},"{a}"]}}"#), vec![a]),
            (format!(r#"{{"failed":["{a}","evt_0000"#), vec![a]),
            (r#"{"failed":[]}"#.to_owned(), vec![]),
        ] {
            assert_eq!(named_failures(body.as_bytes()), named.into_iter().collect(), "{body}");
        }
    }

    #[test]
    fn other_bodies_name_none() {
        let a = EventId::from_bits(1);
        for body in ["", "ok", "<html>", "null", "[]", "{", r#"{"failed":"#, r#"{"failed":"all"}"#, "\u{feff}{}"] {
            assert_eq!(named_failures(body.as_bytes()).len(), 0, "{body}");
        }
        for body in
            [format!(r#"["{a}"]"#), format!(r#"{{"Failed":["{a}"]}}"#), format!(r#"{{"a":{{"failed":["{a}"]}}}}"#)]
        {
            assert_eq!(named_failures(body.as_bytes()).len(), 0, "{body}");
        }
    }

    proptest! {
        #[test]
        fn of_a_body_that_breaks_off_the_beginning_counts(cut in 0_usize..400) {
            let all = ids(10);
            let body = serde_json::to_vec(&serde_json::json!({"failed": all})).unwrap();
            let cut = cut.min(body.len());
            let named = named_failures(&body[..cut]);
            let whole = body[..cut].iter().filter(|byte| **byte == b'"').count().saturating_sub(2) / 2;
            prop_assert_eq!(named, all[..whole].iter().copied().collect::<HashSet<_>>());
        }
    }
}
