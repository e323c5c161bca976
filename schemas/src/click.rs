//! The redirector's record of a visit: one line of a bundle on `clicks.raw`. The line
//! has only the facts that the redirector saw; the enricher derives all others.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{ClickId, LinkFacts, hints::Hints};

/// The record of a bundle that was accepted although it may have been a second
/// copy, on `replayed`, keyed by the bundle's id.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Replayed {
    /// Version of the format: 1.
    pub v: u8,
    /// The partition of `clicks.raw`.
    pub partition: i32,
    /// The offset of the accepted record.
    pub offset: i64,
}

/// The kind of visit that a line records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClickClass {
    /// Someone followed the link.
    Click,
    /// Someone scanned the link's QR code.
    Qr,
    /// A browser or a preview fetched the redirect before anyone clicked.
    Prefetch,
    /// Someone followed a link that has expired.
    Expired,
    /// Someone asked for an address that no link has.
    Orphan,
}

impl ClickClass {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Click => "click",
            Self::Qr => "qr",
            Self::Prefetch => "prefetch",
            Self::Expired => "expired",
            Self::Orphan => "orphan",
        }
    }

    /// Whether it is counted, and events tell of it.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Click | Self::Qr)
    }
}

/// One visit as the redirector saw it, with the link as it was at that moment.
/// The time is in the id. Lines are written by [`Visit::write_line`] and read
/// without copying what needs no unescaping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RawClick<'a> {
    /// Version of the line's format: 1.
    pub v: u8,
    /// The click's id: time, shard, and 62 random bits.
    pub id: ClickId,
    /// Click, scan, or a visit that is not counted.
    pub class: ClickClass,
    /// Whether the address asked for more than a person would.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rate_limited: bool,
    /// The workspace that owns the link, or the domain where there is no link.
    #[serde(borrow)]
    pub workspace: Cow<'a, str>,
    /// The visitor's full address. It is reduced by the enricher.
    #[serde(borrow)]
    pub ip: Cow<'a, str>,
    /// `User-Agent`, cut at 1 KiB.
    #[serde(borrow, default, deserialize_with = "borrowed", skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Cow<'a, str>>,
    /// `Referer`, cut at 2 KiB.
    #[serde(borrow, default, deserialize_with = "borrowed", skip_serializing_if = "Option::is_none")]
    pub referer: Option<Cow<'a, str>>,
    /// The request's query without `?` and without `qr`, cut at 4 KiB.
    #[serde(borrow, default, deserialize_with = "borrowed", skip_serializing_if = "Option::is_none")]
    pub query: Option<Cow<'a, str>>,
    /// The hints of other headers, in the form of [`Hints`].
    #[serde(borrow, default, deserialize_with = "borrowed", skip_serializing_if = "Option::is_none")]
    pub hints: Option<Cow<'a, str>>,
    /// W3C trace context, where the request carried one.
    #[serde(borrow, default, deserialize_with = "borrowed", skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Cow<'a, str>>,
    /// The address that was asked for, where no link has it: host, slash, slug.
    #[serde(borrow, default, deserialize_with = "borrowed", skip_serializing_if = "Option::is_none")]
    pub asked: Option<Cow<'a, str>>,
    /// The link as it was at that moment; none has an orphan visit.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkFacts<'a>>,
}

/// Reads a text without copying it where it needs no unescaping. serde borrows a `Cow`,
/// and copies an `Option` of one.
fn borrowed<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(Deserialize)]
    struct UncopiedText<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::deserialize(deserializer)?.map(|UncopiedText(text)| text))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// The header of a bundle of clicks with how many lines it has.
pub const BUNDLE_COUNT_HEADER: &str = "count";
/// The header of a bundle of clicks with its id.
pub const BUNDLE_HEADER: &str = "bundle";
/// The header of a bundle of clicks that may be a second copy: it was in a spool, or a
/// Kafka client had given it up. A bundle without it is a first copy.
pub const AGAIN_HEADER: &str = "again";
/// The header, beside [`AGAIN_HEADER`], with the last offset of the partition that Kafka
/// had acknowledged to the redirector when the bundle was closed: a first copy, if there
/// is one, stands behind it. Missing where the redirector knew none.
pub const AFTER_HEADER: &str = "after";

/// The facts that one visit adds to the part of a line that is the same for every visit
/// of a link.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// The id minted for it.
    pub id: ClickId,
    /// Click, scan, or a visit that is not counted.
    pub class: ClickClass,
    /// Whether the address asked for more than a person would.
    pub rate_limited: bool,
    /// The visitor's address.
    pub ip: std::net::IpAddr,
    /// `User-Agent`, as text.
    pub user_agent: Option<&'a str>,
    /// `Referer`, as text.
    pub referer: Option<&'a str>,
    /// The query without `?` and `qr`.
    pub query: Option<&'a str>,
    /// The hints of other headers.
    pub hints: Hints,
    /// `traceparent`, if valid.
    pub traceparent: Option<&'a str>,
}

impl Visit<'_> {
    /// Appends the visit's line, newline included. `link_tail` is what
    /// [`link_tail`] made of the link when the link last changed, so that a
    /// click serialises nothing that it shares with the last one.
    pub fn write_line(&self, link_tail: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"v\":1,\"id\":\"");
        self.id.write_to(out);
        out.extend_from_slice(b"\",\"class\":\"");
        out.extend_from_slice(self.class.as_str().as_bytes());
        out.extend_from_slice(if self.rate_limited { b"\",\"rate_limited\":true,\"ip\":\"" } else { b"\",\"ip\":\"" });
        // A Vec takes every write.
        let _ = std::io::Write::write_fmt(out, format_args!("{}\"", self.ip));
        for (key, value) in [
            ("user_agent", self.user_agent),
            ("referer", self.referer),
            ("query", self.query),
            ("traceparent", self.traceparent),
        ] {
            if let Some(value) = value {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(b"\":");
                let _ = serde_json::to_writer(&mut *out, value);
            }
        }
        if !self.hints.is_empty() {
            out.extend_from_slice(b",\"hints\":\"");
            self.hints.write_to(out);
            out.push(b'"');
        }
        out.extend_from_slice(link_tail);
    }
}

/// The end of every line of a link's visits: `,"workspace":…,"link":{…}}` and a
/// newline.
///
/// # Errors
/// Never for the types at hand; serde's signature allows for it.
pub fn link_tail(workspace: &str, link: &LinkFacts<'_>) -> serde_json::Result<Vec<u8>> {
    // Amply for most: a start makes them by the million.
    let mut tail = Vec::with_capacity(512);
    tail.extend_from_slice(b",\"workspace\":");
    serde_json::to_writer(&mut tail, workspace)?;
    tail.extend_from_slice(b",\"link\":");
    serde_json::to_writer(&mut tail, link)?;
    tail.extend_from_slice(b"}\n");
    Ok(tail)
}

/// The end of an orphan visit's line: whose domain it was, and what was asked for.
///
/// # Errors
/// Never for the types at hand; serde's signature allows for it.
pub fn orphan_tail(workspace: &str, asked: &str) -> serde_json::Result<Vec<u8>> {
    let mut tail = b",\"workspace\":".to_vec();
    serde_json::to_writer(&mut tail, workspace)?;
    tail.extend_from_slice(b",\"asked\":");
    serde_json::to_writer(&mut tail, asked)?;
    tail.extend_from_slice(b"}\n");
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{LinkId, Timestamp};

    fn link() -> LinkFacts<'static> {
        LinkFacts {
            id: LinkId::from_bits(7),
            short_url: "https://go.acme.co/sale".into(),
            destination: "https://acme.com/winter-sale".into(),
            slug: "sale".into(),
            campaign: Some("winter".into()),
            segment: None,
            tags: vec!["social".into()],
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(agent: Option<String>, referer: Option<String>, query: Option<String>, random: u64) {
            let hints = if random % 3 == 0 { "" } else { "b=Brave,p=Android,m=1,f=nav" };
            let visit = Visit {
                id: ClickId::new(Timestamp::from_millis(1_770_301_425_120), 42, random),
                class: ClickClass::Qr,
                rate_limited: random % 2 == 0,
                ip: "2001:db8::1".parse().unwrap(),
                user_agent: agent.as_deref(),
                referer: referer.as_deref(),
                query: query.as_deref(),
                hints: Hints::read(hints),
                traceparent: None,
            };
            let mut line = Vec::new();
            visit.write_line(&link_tail("default", &link()).unwrap(), &mut line);
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let read: RawClick<'_> = serde_json::from_slice(&line).unwrap();
            let expected = RawClick {
                v: 1,
                id: visit.id,
                class: ClickClass::Qr,
                rate_limited: visit.rate_limited,
                workspace: "default".into(),
                ip: "2001:db8::1".into(),
                user_agent: agent.as_deref().map(Cow::from),
                referer: referer.as_deref().map(Cow::from),
                query: query.as_deref().map(Cow::from),
                hints: (!hints.is_empty()).then_some(hints.into()),
                traceparent: None,
                asked: None,
                link: Some(link()),
            };
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn what_needs_no_unescaping_is_not_copied() {
        let line = r#"{"v":1,"id":"clk_01KGQ7ZJ4GE01A80000000002A","class":"click","workspace":"a","ip":"192.0.2.1",
            "user_agent":"x","referer":"\u0061","query":null}"#;
        let raw: RawClick<'_> = serde_json::from_str(line).unwrap();
        assert!(matches!(raw.user_agent, Some(Cow::Borrowed("x"))), "{:?}", raw.user_agent);
        assert_eq!((raw.referer.as_deref(), raw.query), (Some("a"), None));
    }

    #[test]
    fn an_orphan_tells_what_was_asked_for() {
        let visit = Visit {
            id: ClickId::new(Timestamp::from_millis(1_770_301_425_120), 42, 7),
            class: ClickClass::Orphan,
            rate_limited: false,
            ip: "192.0.2.1".parse().unwrap(),
            user_agent: None,
            referer: None,
            query: None,
            hints: Hints::default(),
            traceparent: None,
        };
        let mut line = Vec::new();
        visit.write_line(&orphan_tail("default", "go.acme.co/\"x").unwrap(), &mut line);
        let read: RawClick<'_> = serde_json::from_slice(&line).unwrap();
        assert_eq!((read.class, read.link, read.asked.as_deref()), (ClickClass::Orphan, None, Some("go.acme.co/\"x")));
        assert!(!read.class.counts());
    }
}
