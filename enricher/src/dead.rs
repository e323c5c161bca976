//! Dead letters of lines and reports that cannot be used. Addresses in them are
//! truncated, and what names a person is removed, because `dead` is kept for longer than
//! either may be.

use bus::{Outgoing, Partition};
use schemas::{Dead, DeadOrigin, Timestamp, Topic, Topics};

use crate::clicks::{address, bundle::Bundle, query};

/// A line, or a whole bundle, that cannot be used.
pub(crate) struct UnusableLine<'a> {
    pub(crate) bundle: &'a Bundle<'a>,
    /// The line's number in its bundle, from 0; `None` for the whole bundle.
    pub(crate) number: Option<usize>,
    pub(crate) text: &'a [u8],
    pub(crate) reason: String,
}

impl UnusableLine<'_> {
    /// Returns the value of the line's record on `dead`.
    pub(crate) fn dead_letter(self, topics: &Topics, at: Timestamp) -> Vec<u8> {
        let Bundle { partition, offset, name, .. } = self.bundle;
        let origin = DeadOrigin {
            line: self.number.and_then(|number| u32::try_from(number).ok()),
            bundle: name.clone(),
            ..DeadOrigin::record(topics.name(partition.topic), partition.index, *offset)
        };
        let payload = query::scrub(&address::scrub(&String::from_utf8_lossy(self.text)));
        value(&Dead::of_record(self.reason, at, origin, &payload))
    }
}

/// A report of a conversion that cannot be used.
pub(crate) struct UnusableReport<'a> {
    pub(crate) partition: Partition,
    pub(crate) offset: i64,
    pub(crate) text: &'a str,
    pub(crate) reason: String,
}

impl UnusableReport<'_> {
    /// Returns the value of the report's record on `dead`.
    pub(crate) fn dead_letter(self, topics: &Topics, at: Timestamp) -> Vec<u8> {
        let origin = DeadOrigin::record(topics.name(self.partition.topic), self.partition.index, self.offset);
        let payload = query::scrub_report(&address::scrub(self.text));
        value(&Dead::of_record(self.reason, at, origin, &payload))
    }
}

/// Returns the record on `dead` of a letter from a topic.
pub(crate) const fn record(from: Topic, letter: &[u8]) -> Outgoing<'_> {
    Outgoing::keyed(Topic::Dead, from.suffix().as_bytes(), Some(letter))
}

fn value(dead: &Dead) -> Vec<u8> {
    serde_json::to_vec(dead).unwrap_or_else(|error| format!("{{\"v\":1,\"reason\":\"{error}\"}}").into_bytes())
}
