//! A record of `clicks` as a row needs it: texts are borrowed from the record wherever they
//! have no escapes, absent facts are empty, and what no column holds is skipped. It reads
//! what [`Envelope`](schemas::Envelope) and [`Event`](schemas::Event) write.

use std::{borrow::Cow, fmt, ops::Deref};

use schemas::{ClickId, EventId, EventName, LinkId, Timestamp};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

/// A text. An `Option<Cow<str>>` would be copied.
#[derive(Debug, Default)]
pub(crate) struct BorrowedText<'a>(Cow<'a, str>);

impl Deref for BorrowedText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for BorrowedText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = BorrowedText<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(BorrowedText(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(BorrowedText(Cow::Owned(text.to_owned())))
            }
            // An absent fact that is written nevertheless.
            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(BorrowedText::default())
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A map from text to text, in the order of the record.
#[derive(Debug, Default)]
pub(crate) struct BorrowedMap<'a>(pub(crate) Vec<(BorrowedText<'a>, BorrowedText<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for BorrowedMap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = BorrowedMap<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from text to text")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::with_capacity(map.size_hint().unwrap_or_default());
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(BorrowedMap(entries))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

/// The envelope of a click.
#[derive(Debug, Deserialize)]
pub(crate) struct ClickRecord<'a> {
    pub(crate) v: u8,
    #[serde(borrow)]
    pub(crate) workspace: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) ip_key: BorrowedText<'a>,
    pub(crate) endpoint: Option<IgnoredAny>,
    #[serde(borrow)]
    pub(crate) event: ClickEvent<'a>,
}

/// The event of a click.
#[derive(Debug, Deserialize)]
pub(crate) struct ClickEvent<'a> {
    pub(crate) id: EventId,
    pub(crate) event: EventName,
    #[serde(borrow)]
    pub(crate) link: Option<ClickedLink<'a>>,
    #[serde(borrow)]
    pub(crate) click: Option<RecordedClick<'a>>,
    #[serde(borrow, default)]
    pub(crate) utm: ClickUtm<'a>,
    #[serde(borrow, default)]
    pub(crate) attribution: ClickAttribution<'a>,
}

/// The link of a click.
#[derive(Debug, Deserialize)]
pub(crate) struct ClickedLink<'a> {
    pub(crate) id: LinkId,
    #[serde(borrow)]
    pub(crate) short_url: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) destination: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) slug: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) campaign: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) segment: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) tags: Vec<BorrowedText<'a>>,
}

/// The facts of a click.
#[derive(Debug, Deserialize)]
pub(crate) struct RecordedClick<'a> {
    pub(crate) id: ClickId,
    pub(crate) timestamp: Timestamp,
    #[serde(borrow, default)]
    pub(crate) ip_address: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) user_agent: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) referer: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) country: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) region: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) city: BorrowedText<'a>,
    pub(crate) asn: Option<u32>,
    #[serde(borrow, default)]
    pub(crate) organisation: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) network: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) device: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) browser: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) browser_version: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) os: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) os_version: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) app: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) source: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) medium: BorrowedText<'a>,
    pub(crate) bot: bool,
    #[serde(borrow, default)]
    pub(crate) bot_reason: BorrowedText<'a>,
    #[serde(borrow, default)]
    pub(crate) session_id: BorrowedText<'a>,
}

/// The campaign parameters of a click.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClickUtm<'a> {
    #[serde(borrow)]
    pub(crate) source: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) medium: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) campaign: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) term: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) content: BorrowedText<'a>,
}

/// The ad of a click.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClickAttribution<'a> {
    #[serde(borrow)]
    pub(crate) referrer_ad_creative: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) ad_set: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) ad_campaign: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) gclid: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) fbclid: BorrowedText<'a>,
    #[serde(borrow)]
    pub(crate) click_ids: BorrowedMap<'a>,
}
