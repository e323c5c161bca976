//! Records as they come from Kafka and as they go to it.

use std::fmt;

use rdkafka::{
    Message,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
};
use schemas::{Timestamp, Topic};

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// The partition's number, from 0.
    pub index: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic.suffix(), self.index)
    }
}

/// A record that was read. It borrows librdkafka's memory.
pub struct Record<'a> {
    pub(crate) message: BorrowedMessage<'a>,
    pub(crate) topic: Topic,
}

impl Record<'_> {
    /// The partition that it came from.
    #[must_use]
    pub fn partition(&self) -> Partition {
        Partition { topic: self.topic, index: self.message.partition() }
    }

    /// Its offset there.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    /// Its key; empty if it has none.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.message.key().unwrap_or_default()
    }

    /// Its value; `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.message.payload()
    }

    /// The value of its first header called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.message.headers()?.iter().find(|header| header.key == name)?.value
    }

    /// When it was produced, or appended where the topic uses the broker's clock.
    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.message.timestamp().to_millis().map(Timestamp::from_millis)
    }
}

/// A record to be produced.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The topic.
    pub topic: Topic,
    /// The partition; chosen by the key's hash if `None`.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` makes a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [(&'a str, &'a [u8])],
}

impl<'a> Outgoing<'a> {
    /// Returns a record whose partition follows from its key.
    #[must_use]
    pub const fn keyed(topic: Topic, key: &'a [u8], value: Option<&'a [u8]>) -> Self {
        Self { topic, partition: None, key: Some(key), value, headers: &[] }
    }

    pub(crate) fn owned_headers(&self) -> Option<OwnedHeaders> {
        (!self.headers.is_empty()).then(|| {
            self.headers.iter().fold(OwnedHeaders::new_with_capacity(self.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(*value) })
            })
        })
    }
}
