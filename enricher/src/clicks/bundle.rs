//! A bundle of raw clicks: a record of `clicks.raw`.

use std::borrow::Cow;

use bus::{Partition, Record};
use schemas::Topic;
use uuid::Uuid;

use super::second_copies::{Again, BundleId, Sighting};

/// A bundle that was read, borrowed from its record or held until it can be
/// processed.
pub(crate) struct Bundle<'a> {
    pub(crate) partition: Partition,
    pub(crate) offset: i64,
    /// The header `bundle`, whatever it contains.
    pub(crate) name: Option<String>,
    pub(super) sighting: Option<Sighting>,
    pub(crate) value: Cow<'a, [u8]>,
}

impl<'a> Bundle<'a> {
    pub(super) fn read(record: &'a Record<'_>) -> Self {
        let partition = record.partition();
        let offset = record.offset();
        let sighting =
            bundle_id(record).map(|id| Sighting { id, partition: partition.index, offset, again: again(record) });
        Self {
            partition,
            offset,
            name: record.header("bundle").map(|name| String::from_utf8_lossy(name).into_owned()),
            sighting,
            value: Cow::Borrowed(record.value().unwrap_or_default()),
        }
    }

    /// Returns a bundle that came from nowhere, for fuzzing.
    pub(crate) const fn of_lines(lines: &'a [u8]) -> Self {
        let partition = Partition { topic: Topic::ClicksRaw, index: 0 };
        Self { partition, offset: 0, name: None, sighting: None, value: Cow::Borrowed(lines) }
    }

    pub(super) fn into_owned(self) -> Bundle<'static> {
        Bundle { value: Cow::Owned(self.value.into_owned()), ..self }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.value.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    }
}

/// Returns the id that a redirector gave a bundle. A bundle of another producer
/// may have none.
pub(super) fn bundle_id(record: &Record<'_>) -> Option<BundleId> {
    Some(Uuid::try_parse_ascii(record.header("bundle")?).ok()?.as_u128())
}

/// Returns whether a record says that it may be a second copy.
pub(super) fn again(record: &Record<'_>) -> Again {
    if record.header("again").is_none() {
        return Again::No;
    }
    let after = record.header("after").and_then(|after| str::from_utf8(after).ok()?.parse().ok());
    // An offset that the log has not reached is one of a topic that was made again.
    Again::Yes { after: after.filter(|after| *after < record.offset()) }
}
