//! Dead letters of lines that cannot be used.

use schemas::{Dead, DeadOrigin, Timestamp, Topics};

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
    /// Returns the value of the line's record on `dead`. Addresses are truncated, and what
    /// names a person is removed, because `dead` is kept for longer than either may be.
    pub(crate) fn dead_letter(self, topics: &Topics, at: Timestamp) -> Vec<u8> {
        let Bundle { partition, offset, name, .. } = self.bundle;
        let origin = DeadOrigin {
            line: self.number.and_then(|number| u32::try_from(number).ok()),
            bundle: name.clone(),
            ..DeadOrigin::record(topics.name(partition.topic), partition.index, *offset)
        };
        let payload = query::scrub(&address::scrub(&String::from_utf8_lossy(self.text)));
        let dead = Dead::of_record(self.reason, at, origin, &payload);
        serde_json::to_vec(&dead).unwrap_or_else(|error| format!("{{\"v\":1,\"reason\":\"{error}\"}}").into_bytes())
    }
}
