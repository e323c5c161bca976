//! Ids: their form (`lnk_`, `ep_`, `clk_`, `evt_`, `att_` and 26
//! characters of Crockford base32), the way in which they are minted, and the
//! derivation of an event's id from its fact, so that no retry can mint another.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::{Timestamp, event_name::EventName};

/// Crockford's alphabet: no I, L, O or U, in ascending order, so that encoded
/// ids sort like the numbers they stand for.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DIGITS: usize = 26;

/// The value of no digit.
const NO_DIGIT: u8 = 0xff;

/// The value of each byte as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < ALPHABET.len() {
        values[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

fn encode(mut value: u128) -> [u8; DIGITS] {
    let mut out = [0_u8; DIGITS];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    out
}

fn decode(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    // 26 digits hold 130 bits: a first digit above 7 would overflow.
    if bytes.len() != DIGITS || bytes[0] > b'7' {
        return None;
    }
    let mut value = 0_u128;
    for byte in bytes {
        let digit = VALUES[usize::from(*byte)];
        if digit == NO_DIGIT {
            return None;
        }
        value = value << 5 | digit as u128;
    }
    Some(value)
}

/// A text that is not an id of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not {kind} id: expected `{prefix}` and 26 characters of 0-9 and A-Z without I, L, O, U")]
pub struct IdError {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The prefix of every id of this kind.
            pub const PREFIX: &'static str = $prefix;

            /// The id with these 128 bits.
            #[must_use]
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits behind the text.
            #[must_use]
            pub const fn bits(self) -> u128 {
                self.0
            }

            /// The length of the text form, in bytes.
            pub const TEXT_BYTES: usize = $prefix.len() + DIGITS;

            /// Appends the text form to `out` without allocating for itself.
            pub fn write_to(self, out: &mut Vec<u8>) {
                out.extend_from_slice($prefix.as_bytes());
                out.extend_from_slice(&encode(self.0));
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = encode(self.0);
                f.write_str($prefix)?;
                f.write_str(str::from_utf8(&digits).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix($prefix).and_then(decode).map(Self).ok_or_else(|| IdError {
                    text: text.chars().take(64).collect(),
                    kind: $kind,
                    prefix: $prefix,
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct IdVisitor;
                impl de::Visitor<'_> for IdVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!($kind, " id"))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(IdVisitor)
            }
        }
    };
}

prefixed_id!(
    /// A link.
    LinkId, "lnk_", "a link"
);
prefixed_id!(
    /// An endpoint: an address that webhooks are sent to.
    EndpointId, "ep_", "an endpoint"
);
prefixed_id!(
    /// A domain that links answer on.
    DomainId, "dom_", "a domain"
);
prefixed_id!(
    /// A key to the API.
    KeyId, "key_", "a key"
);
prefixed_id!(
    /// A campaign: links that are counted together.
    CampaignId, "cmp_", "a campaign"
);
prefixed_id!(
    /// A replay of events to an endpoint.
    ReplayId, "rpl_", "a replay"
);
prefixed_id!(
    /// A conversion as it was reported.
    ConversionId, "cnv_", "a conversion"
);
prefixed_id!(
    /// A click or scan: a UUIDv7 (RFC 9562) whose 12 `rand_a` bits are its shard.
    ClickId, "clk_", "a click"
);
prefixed_id!(
    /// An event: 48 bits of time, then 80 bits hashed from the fact.
    EventId, "evt_", "an event"
);
prefixed_id!(
    /// One HTTP exchange of a delivery.
    AttemptId, "att_", "an attempt"
);

prefixed_id!(
    /// A batch of events: 48 bits of time, then 80 bits hashed from the events' ids.
    BatchId, "bat_", "a batch"
);

/// Lays out a UUIDv7: 48 bits of milliseconds, version, 12 bits, variant, 62 bits.
const fn uuid_v7(at: Timestamp, rand_a: u16, rand_b: u64) -> u128 {
    let millis = (at.as_millis() as u128) & 0xffff_ffff_ffff;
    millis << 80 | 0x7 << 76 | ((rand_a & 0xfff) as u128) << 64 | 0b10 << 62 | (rand_b & 0x3fff_ffff_ffff_ffff) as u128
}

macro_rules! minted {
    ($($name:ident),*) => {$(
        impl $name {
            /// Mints a fresh, time-ordered id.
            #[must_use]
            pub fn mint() -> Self {
                Self(uuid::Uuid::now_v7().as_u128())
            }
        }
    )*};
}
minted!(LinkId, EndpointId, AttemptId, DomainId, KeyId, CampaignId, ConversionId, ReplayId);

/// The number of shards that a click id can name: partition = shard mod partitions.
pub const SHARDS: u16 = 4096;

impl ClickId {
    /// The id of a click at `at` in `shard` (taken modulo [`SHARDS`]), made
    /// unique by 62 bits of `random`.
    #[must_use]
    pub const fn new(at: Timestamp, shard: u16, random: u64) -> Self {
        Self(uuid_v7(at, shard, random))
    }

    /// Returns the shard that the click belongs to, 0 to 4095.
    #[must_use]
    pub const fn shard(self) -> u16 {
        ((self.0 >> 64) & 0xfff) as u16
    }

    /// The partition of a topic of `partitions` that the click belongs to.
    #[must_use]
    pub const fn partition(self, partitions: u16) -> i32 {
        (self.shard() % partitions) as i32
    }

    /// Returns the time at which the click was seen.
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        Timestamp::from_millis((self.0 >> 80) as i64)
    }
}

impl EventId {
    /// Returns the time of the fact.
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        Timestamp::from_millis((self.0 >> 80) as i64)
    }

    /// The id of the fact that `kind` happened to `subject` in `workspace`.
    /// `occurrence` tells one occurrence of the same fact from the next (the
    /// revision of an update, the threshold of a milestone; empty for a click).
    #[must_use]
    pub fn of(workspace: &str, kind: EventName, subject: &str, occurrence: &str, at: Timestamp) -> Self {
        let mut hash = Sha256::new();
        for part in [workspace, kind.as_str(), subject, occurrence] {
            hash.update(part.as_bytes());
            // No part may contain it, so no two facts read the same.
            hash.update([0]);
        }
        let digest = hash.finalize();
        let mut bits = [0_u8; 16];
        bits[..6].copy_from_slice(&at.as_millis().to_be_bytes()[2..]);
        bits[6..].copy_from_slice(&digest[..10]);
        Self(u128::from_be_bytes(bits))
    }
}

impl BatchId {
    /// The id of the batch of these events in this order.
    #[must_use]
    pub fn of(events: impl IntoIterator<Item = EventId>) -> Self {
        let mut hash = Sha256::new();
        let mut time = None;
        for event in events {
            let bits = event.bits().to_be_bytes();
            time.get_or_insert([bits[0], bits[1], bits[2], bits[3], bits[4], bits[5]]);
            hash.update(bits);
        }
        let digest = hash.finalize();
        let mut bits = [0_u8; 16];
        bits[..6].copy_from_slice(&time.unwrap_or_default());
        bits[6..].copy_from_slice(&digest[..10]);
        Self(u128::from_be_bytes(bits))
    }
}

impl AttemptId {
    /// The id of this attempt's part that concerns one event: the same time, and 62 bits hashed
    /// from both ids.
    #[must_use]
    pub fn of_event(self, event: EventId) -> Self {
        const LOW: u128 = (1 << 62) - 1;
        let digest =
            Sha256::new().chain_update(self.0.to_be_bytes()).chain_update(event.bits().to_be_bytes()).finalize();
        let hashed = digest[..16].iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        Self(self.0 & !LOW | hashed & LOW)
    }
}

/// The name of a workspace: the installation's unit of ownership. Everything
/// belongs to one, and nothing is seen or matched across two.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkspaceId(Arc<str>);

impl WorkspaceId {
    /// The workspace named `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The longest name of a workspace, in characters.
pub const WORKSPACE_CHARS: usize = 40;

/// A text that cannot name a workspace.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no workspace's id: expected 1 to {WORKSPACE_CHARS} characters of a-z, 0-9 and -")]
pub struct WorkspaceIdError(String);

impl FromStr for WorkspaceId {
    type Err = WorkspaceIdError;

    fn from_str(text: &str) -> Result<Self, WorkspaceIdError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if (1..=WORKSPACE_CHARS).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self::new(text))
        } else {
            Err(WorkspaceIdError(text.chars().take(64).collect()))
        }
    }
}

impl Default for WorkspaceId {
    /// Returns the workspace `default`, which exists before any other is made.
    fn default() -> Self {
        Self::new("default")
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_id_depends_on_the_fact_alone() {
        let at = Timestamp::from_millis(1_770_301_425_120);
        let id = EventId::of("default", EventName::LinkClicked, "clk_1", "", at);
        assert_eq!(id, EventId::of("default", EventName::LinkClicked, "clk_1", "", at));
        assert_ne!(id, EventId::of("other", EventName::LinkClicked, "clk_1", "", at));
        assert_ne!(id, EventId::of("default", EventName::QrScanned, "clk_1", "", at));
        assert_ne!(id, EventId::of("default", EventName::LinkClicked, "clk_1", "2", at));
    }

    #[test]
    fn the_id_of_a_batch_depends_on_its_events_and_their_order() {
        let [a, b] = [1, 2].map(|bits| EventId::from_bits(bits << 80 | bits));
        assert_eq!(BatchId::of([a, b]), BatchId::of([a, b]));
        assert_ne!(BatchId::of([a, b]), BatchId::of([b, a]));
        assert_ne!(BatchId::of([a, b]), BatchId::of([a]));
        assert_eq!(BatchId::of([a, b]).bits() >> 80, a.bits() >> 80, "it has the time of its first event");
    }

    #[test]
    fn an_attempts_event_has_the_attempts_time() {
        let attempt = AttemptId::mint();
        let [a, b] = [1, 2].map(|bits| attempt.of_event(EventId::from_bits(bits)));
        assert_ne!(a, b);
        assert_eq!(a.bits() >> 62, attempt.bits() >> 62);
    }

    #[test]
    fn an_id_of_another_kind_is_refused_by_name() {
        let link = LinkId::mint().to_string();
        let error = link.parse::<ClickId>().unwrap_err().to_string();
        assert!(error.contains("a click id") && error.contains("clk_"), "{error}");
        assert!("clk_ZZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<ClickId>().is_err());
        assert!("clk_".parse::<ClickId>().is_err());
    }

    #[test]
    fn a_workspace_has_a_short_plain_name() {
        let long = "a".repeat(WORKSPACE_CHARS);
        for name in ["a", "acme-eu-2", &long] {
            assert_eq!(name.parse(), Ok(WorkspaceId::new(name)));
        }
        for name in ["", "Acme", "a b", "a_b", "\u{e4}", "a/b", &format!("{long}a")] {
            assert!(name.parse::<WorkspaceId>().is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bits_are_the_same_id(bits: u128) {
            let id = ClickId::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<ClickId>(), Ok(id));
        }

        #[test]
        fn ids_sort_as_text_as_they_sort_as_numbers(a: u128, b: u128) {
            let (a, b) = (ClickId::from_bits(a), ClickId::from_bits(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn a_click_id_gives_back_its_time_and_shard(ms in 0_i64..0xffff_ffff_ffff, shard in 0_u16..SHARDS, random: u64) {
            let at = Timestamp::from_millis(ms);
            let id = ClickId::new(at, shard, random);
            prop_assert_eq!((id.timestamp(), id.shard()), (at, shard));
        }
    }
}
