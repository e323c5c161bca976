//! The links of each workspace in the order of their slugs, and of their destinations: four bytes a link each, since the
//! texts are those in the JSON of the links. Through these orders links are listed sorted, and found by a beginning.
//!
//! While a leader reads its topic, the orders are not kept: sorting once at the end is many times faster.

use memchr::{memchr2, memmem};
use schemas::LinkId;

use super::{order::SlotOrder, slots::Slots};

/// A field by which links are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortField {
    Slug,
    Destination,
}

/// The bytes of a text that count in the order; links whose texts begin with the same bytes are in the order of their ids.
const KEY_BYTES: usize = 256;

/// The place of a link in an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SortKey<T> {
    /// The beginning of the text, as JSON has it.
    pub(crate) text: T,
    pub(crate) id: LinkId,
}

/// The orders of one workspace.
#[derive(Debug, Default)]
pub(super) struct SortedOrders {
    slugs: SlotOrder,
    destinations: SlotOrder,
}

/// Returns the text of a field in a link's JSON, without the quotes, cut.
fn text_of(json: &[u8], field: SortField) -> &[u8] {
    // The fields come before any map of the customer's, and a text in JSON has no bare quote.
    let name: &[u8] = match field {
        SortField::Slug => b"\"slug\":\"",
        SortField::Destination => b"\"destination\":\"",
    };
    let Some(at) = memmem::find(json, name) else { return &[] };
    let text = &json[at + name.len()..];
    let mut end = 0;
    while let Some(found) = memchr2(b'"', b'\\', &text[end..]) {
        end += found;
        if text[end] == b'"' || end >= KEY_BYTES {
            break;
        }
        end = (end + 2).min(text.len());
    }
    &text[..end.min(KEY_BYTES)]
}

/// Returns a caller's text as JSON has it, cut as the keys are.
pub(crate) fn key_text(text: &str) -> Vec<u8> {
    let quoted = serde_json::to_vec(text).unwrap_or_default();
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    inner[..inner.len().min(KEY_BYTES)].to_vec()
}

/// Returns the key of the link in a slot.
pub(super) fn key_of(slots: &Slots, slot: u32, field: SortField) -> SortKey<&[u8]> {
    slots.get(slot).map_or(SortKey { text: &[], id: LinkId::from_bits(0) }, |link| SortKey {
        text: text_of(&link.json, field),
        id: link.id,
    })
}

impl SortedOrders {
    /// Sorts the slots of a workspace.
    pub(super) fn new(slots: &Slots, of_workspace: &[u32]) -> Self {
        let sorted = |field| {
            let mut keyed: Vec<_> = of_workspace.iter().map(|slot| (key_of(slots, *slot, field), *slot)).collect();
            keyed.sort_unstable();
            SlotOrder::from_sorted(keyed.into_iter().map(|(_, slot)| slot))
        };
        Self { slugs: sorted(SortField::Slug), destinations: sorted(SortField::Destination) }
    }

    /// Adds the link in a slot.
    pub(super) fn insert(&mut self, slots: &Slots, slot: u32) {
        for field in [SortField::Slug, SortField::Destination] {
            let key = key_of(slots, slot, field);
            self.order_mut(field).insert(slot, &key, |slot| key_of(slots, slot, field));
        }
    }

    /// Removes the link in a slot, which must still be there.
    pub(super) fn remove(&mut self, slots: &Slots, slot: u32) {
        for field in [SortField::Slug, SortField::Destination] {
            let key = key_of(slots, slot, field);
            self.order_mut(field).remove(&key, |slot| key_of(slots, slot, field));
        }
    }

    /// Returns the order by a field.
    pub(super) const fn order(&self, field: SortField) -> &SlotOrder {
        match field {
            SortField::Slug => &self.slugs,
            SortField::Destination => &self.destinations,
        }
    }

    const fn order_mut(&mut self, field: SortField) -> &mut SlotOrder {
        match field {
            SortField::Slug => &mut self.slugs,
            SortField::Destination => &mut self.destinations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_in_the_json_as_it_is_written_there() {
        for text in ["sale", "a\"b", "\\", "\u{fc}ber", "", "\",\"slug\":\"x"] {
            let json = serde_json::to_vec(&serde_json::json!({"id": "x", "slug": text, "z": "\"slug\":\""})).unwrap();
            assert_eq!(text_of(&json, SortField::Slug), key_text(text), "{text}");
        }
        let long = "\\".repeat(1000);
        let json = serde_json::to_vec(&serde_json::json!({"destination": long, "slug": "s"})).unwrap();
        assert_eq!(text_of(&json, SortField::Destination), key_text(&long));
        assert_eq!(text_of(b"{}", SortField::Slug), b"");
    }
}
