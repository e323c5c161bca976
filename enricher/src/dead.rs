//! Dead letters of lines that cannot be used.

use bus::Record;
use schemas::{Dead, Origin, Timestamp, Topics};

use crate::clicks::address;

/// A line that cannot be used.
pub(crate) struct UnusableLine<'a> {
    pub(crate) record: &'a Record<'a>,
    /// The line's number in its record, from 0.
    pub(crate) number: usize,
    pub(crate) text: &'a [u8],
    pub(crate) reason: String,
}

impl UnusableLine<'_> {
    /// Returns the value of the line's record on `dead`. Addresses are truncated,
    /// because `dead` is kept for longer than full addresses may be.
    pub(crate) fn dead_letter(self, topics: &Topics, at: Timestamp) -> Vec<u8> {
        let partition = self.record.partition();
        let bundle = self.record.header("bundle").map(|id| String::from_utf8_lossy(id).into_owned());
        let dead = Dead {
            v: 1,
            reason: self.reason,
            at,
            origin: Origin {
                topic: topics.name(partition.topic),
                partition: partition.index,
                offset: self.record.offset(),
                line: u32::try_from(self.number).ok(),
                bundle,
            },
            payload: Some(address::scrub(&String::from_utf8_lossy(self.text))),
            delivery: None,
        };
        serde_json::to_vec(&dead).unwrap_or_else(|error| format!("{{\"v\":1,\"reason\":\"{error}\"}}").into_bytes())
    }
}
