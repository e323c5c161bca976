//! A link as the redirector keeps it: one compact row. Its strings are what a
//! click copies (the serialised snapshot, the tail of its line); the slug and the
//! `Location` are slices of that where JSON spells them alike, which is nearly
//! always. Facts that few links have (an end, a beginning) follow the strings, and take
//! no room in other rows.

use std::{
    hash::{Hash, Hasher},
    sync::LazyLock,
};

use memchr::memmem;
use papaya::Equivalent;
use schemas::{Link, LinkId, Timestamp, click::link_tail, link::ReferrerPolicy};
use triomphe::ThinArc;

use crate::{
    table::domains::DomainNumber,
    table::location::{LocationError, LocationRules},
};

/// A link that was read and cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkRowError {
    #[error("its destination cannot be redirected to: {0}")]
    Destination(LocationError),
    #[error("its `expired_url` cannot be redirected to: {0}")]
    ExpiredUrl(LocationError),
    #[error("{0} is no redirect status")]
    Status(u16),
    #[error("its slug `{0}` is empty or too long")]
    Slug(String),
    #[error("it takes {0} bytes, more than a redirector keeps of a link")]
    Long(usize),
    #[error("it has no domain, which only links of the workspace `default` may lack")]
    NoDomain,
    #[error("it cannot be serialised: {0}")]
    Json(#[from] serde_json::Error),
}

/// The phase of a link's life at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkPhase {
    /// The link has not started.
    NotStarted,
    Live,
    Expired,
}

/// The options of a link, as bits of [`LinkRowHeader::traits`].
mod traits {
    pub(super) const PASSES_QUERY: u8 = 1;
    pub(super) const TELLS_CLICK_ID: u8 = 1 << 1;
    pub(super) const UNSAFE_URL: u8 = 1 << 2;
    /// A [`LiveSpan`](super::LiveSpan) is at the end of the bytes.
    pub(super) const SPAN: u8 = 1 << 3;
    /// The place of the status among [`STATUSES`](super::STATUSES), as two bits.
    pub(super) const STATUS_SHIFT: u8 = 4;
}

/// The statuses of a redirect.
const STATUSES: [u16; 4] = [302, 301, 307, 308];

/// A part of the bytes: where it begins, and its length.
#[derive(Clone, Copy)]
struct ByteRange {
    at: u32,
    len: u32,
}

/// A short part of the bytes. Without padding.
#[derive(Clone, Copy)]
#[repr(Rust, packed(2))]
struct ShortByteRange {
    at: u32,
    len: u16,
}

impl From<ShortByteRange> for ByteRange {
    fn from(ShortByteRange { at, len }: ShortByteRange) -> Self {
        Self { at, len: len.into() }
    }
}

#[derive(Clone, Copy)]
struct LinkRowHeader {
    /// Two halves, so that a row is aligned to 8 bytes.
    id: (u64, u64),
    domain: DomainNumber,
    /// The length of the tail, with which the bytes begin.
    tail: u32,
    location: ByteRange,
    slug: ShortByteRange,
    traits: u8,
}

/// The time for which a link is live, and the length of the address to which it leads
/// after that. The address and the span are the last bytes of a row that has them.
struct LiveSpan {
    /// The first moment, in milliseconds since 1970.
    starts: i64,
    ends: i64,
    /// The length of the address in bytes; 0 for none.
    expired_url: u32,
}

impl LiveSpan {
    fn of(link: &Link, expired_url: &str) -> Option<Self> {
        let ends = if link.exhausted_at.is_some() { Some(i64::MIN) } else { link.expires_at.map(Timestamp::as_millis) };
        if link.starts_at.is_none() && ends.is_none() {
            return None;
        }
        Some(Self {
            starts: link.starts_at.map_or(i64::MIN, Timestamp::as_millis),
            ends: ends.unwrap_or(i64::MAX),
            expired_url: u32::try_from(expired_url.len()).ok()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.starts.to_le_bytes());
        out.extend_from_slice(&self.ends.to_le_bytes());
        out.extend_from_slice(&self.expired_url.to_le_bytes());
    }

    /// Reads a span at the end of `bytes`; returns the bytes before it, too.
    fn split_from(bytes: &[u8]) -> Option<(&[u8], Self)> {
        let (bytes, url) = bytes.split_last_chunk()?;
        let (bytes, ends) = bytes.split_last_chunk()?;
        let (bytes, starts) = bytes.split_last_chunk()?;
        let span = Self {
            starts: i64::from_le_bytes(*starts),
            ends: i64::from_le_bytes(*ends),
            expired_url: u32::from_le_bytes(*url),
        };
        Some((bytes, span))
    }
}

/// A link, ready to be served. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LinkRow(ThinArc<LinkRowHeader, u8>);

impl LinkRow {
    fn head(&self) -> &LinkRowHeader {
        &self.0.header.header
    }

    /// Makes the rows of a link whose domain has that number: that of its slug first, then
    /// one for each earlier slug on which the link still answers.
    pub(crate) fn all(link: &Link, domain: DomainNumber, rules: &LocationRules) -> Result<Vec<Self>, LinkRowError> {
        let slugs = std::iter::once(&link.slug).chain(&link.former_slugs);
        slugs.map(|slug| Self::new(link, slug, domain, rules)).collect()
    }

    /// Makes the row of a link that answers on a slug of the domain with that number.
    fn new(link: &Link, slug: &str, domain: DomainNumber, rules: &LocationRules) -> Result<Self, LinkRowError> {
        let status = STATUSES.iter().position(|status| *status == link.status_code);
        let status = status.and_then(|at| u8::try_from(at).ok()).ok_or(LinkRowError::Status(link.status_code))?;
        if slug.is_empty() || slug.len() > usize::from(u16::MAX) {
            return Err(LinkRowError::Slug(slug.chars().take(64).collect()));
        }
        let location = rules.check(&link.destination).map_err(LinkRowError::Destination)?;
        let location = if link.append_click_id { rules.without_click_id(&location) } else { location.as_ref().into() };
        let expired = link.expired_url.as_deref().map_or(Ok("".into()), |url| rules.check(url));
        let expired = expired.map_err(LinkRowError::ExpiredUrl)?;
        let span = LiveSpan::of(link, &expired);
        let bit = |has: bool, bit: u8| if has { bit } else { 0 };
        let traits = bit(link.passthrough, traits::PASSES_QUERY)
            | bit(link.append_click_id, traits::TELLS_CLICK_ID)
            | bit(link.referrer_policy == Some(ReferrerPolicy::UnsafeUrl), traits::UNSAFE_URL)
            | bit(span.is_some(), traits::SPAN)
            | status << traits::STATUS_SHIFT;
        let mut bytes = link_tail(link.workspace.as_str(), &link.facts())?;
        let tail = bytes.len();
        let slug = SLUG.part(&mut bytes, tail, slug)?;
        // As long as it was checked to be.
        let slug = ShortByteRange { at: slug.at, len: u16::try_from(slug.len).unwrap_or_default() };
        let location = DESTINATION.part(&mut bytes, tail, &location)?;
        if let Some(span) = span {
            bytes.extend_from_slice(expired.as_bytes());
            span.write(&mut bytes);
        }
        let bits = link.id.bits();
        let head = LinkRowHeader {
            id: ((bits >> 64) as u64, bits as u64),
            domain,
            tail: u32::try_from(tail).map_err(|_| LinkRowError::Long(tail))?,
            location,
            slug,
            traits,
        };
        Ok(Self(ThinArc::from_header_and_slice(head, &bytes)))
    }

    fn has(&self, bit: u8) -> bool {
        self.head().traits & bit != 0
    }

    /// Returns the bytes before the span, and the span.
    fn span(&self) -> Option<(&[u8], LiveSpan)> {
        if self.has(traits::SPAN) { LiveSpan::split_from(&self.0.slice) } else { None }
    }

    fn part(&self, ByteRange { at, len }: ByteRange) -> &[u8] {
        &self.0.slice[at as usize..at as usize + len as usize]
    }

    /// Returns the serialised facts that every click on the link has in common.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.0.slice[..self.head().tail as usize]
    }

    /// Returns the address to which the redirect leads, in ASCII.
    pub(crate) fn location(&self) -> &[u8] {
        self.part(self.head().location)
    }

    /// Returns the address to which the link leads once it has expired, in ASCII.
    pub(crate) fn expired_url(&self) -> Option<&[u8]> {
        let (bytes, span) = self.span()?;
        let len = span.expired_url as usize;
        (len > 0).then(|| &bytes[bytes.len() - len..])
    }

    /// Returns the link's phase at `at`.
    pub(crate) fn phase(&self, at: Timestamp) -> LinkPhase {
        match self.span() {
            Some((_, span)) if span.ends <= at.as_millis() => LinkPhase::Expired,
            Some((_, span)) if span.starts > at.as_millis() => LinkPhase::NotStarted,
            _ => LinkPhase::Live,
        }
    }

    /// Returns the status of the redirect.
    pub(crate) fn status(&self) -> u16 {
        STATUSES[usize::from(self.head().traits >> traits::STATUS_SHIFT) % STATUSES.len()]
    }

    /// Whether the redirect keeps the method of a request (RFC 9110 §15.4.8 and §15.4.9),
    /// so that any method may ask for it.
    pub(crate) fn keeps_method(&self) -> bool {
        matches!(self.status(), 307 | 308)
    }

    /// Whether a visit's query is passed on.
    pub(crate) fn passes_query(&self) -> bool {
        self.has(traits::PASSES_QUERY)
    }

    /// Whether the destination is told the click's id.
    pub(crate) fn tells_click_id(&self) -> bool {
        self.has(traits::TELLS_CLICK_ID)
    }

    /// Returns the `Referrer-Policy` of the redirect.
    pub(crate) fn referrer_policy(&self) -> Option<ReferrerPolicy> {
        self.has(traits::UNSAFE_URL).then_some(ReferrerPolicy::UnsafeUrl)
    }

    pub(crate) fn id(&self) -> LinkId {
        let (high, low) = self.head().id;
        LinkId::from_bits(u128::from(high) << 64 | u128::from(low))
    }

    fn slug(&self) -> &[u8] {
        self.part(self.head().slug.into())
    }

    pub(crate) fn address(&self) -> LinkAddress<'_> {
        LinkAddress { domain: self.head().domain, slug: self.slug() }
    }
}

/// The key by which a row is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkAddress<'a> {
    pub(crate) domain: DomainNumber,
    pub(crate) slug: &'a [u8],
}

impl PartialEq for LinkRow {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for LinkRow {}

impl Hash for LinkRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl Equivalent<LinkRow> for LinkAddress<'_> {
    fn equivalent(&self, row: &LinkRow) -> bool {
        *self == row.address()
    }
}

/// A key of the tail, as it is written before its value.
struct TailKey(LazyLock<memmem::Finder<'static>>);

static SLUG: TailKey = TailKey(LazyLock::new(|| memmem::Finder::new("\"slug\":\"")));
static DESTINATION: TailKey = TailKey(LazyLock::new(|| memmem::Finder::new("\"destination\":\"")));

impl TailKey {
    /// Returns the range of `value` in `bytes`: in the tail behind this key or, if JSON
    /// spells the value differently, behind the tail, where it is appended.
    fn part(&self, bytes: &mut Vec<u8>, tail: usize, value: &str) -> Result<ByteRange, LinkRowError> {
        // Quotes inside of values are escaped, so what is found first is the key.
        let found = self.0.find(&bytes[..tail]).map(|at| at + self.0.needle().len());
        let same =
            |at: &usize| bytes[*at..tail].strip_prefix(value.as_bytes()).is_some_and(|rest| rest.starts_with(b"\""));
        let at = found.filter(same).unwrap_or_else(|| {
            bytes.extend_from_slice(value.as_bytes());
            bytes.len() - value.len()
        });
        let long = |_| LinkRowError::Long(bytes.len());
        Ok(ByteRange { at: u32::try_from(at).map_err(long)?, len: u32::try_from(value.len()).map_err(long)? })
    }
}

#[cfg(test)]
mod tests {
    use schemas::RawClick;

    use super::*;
    use crate::{
        table::domains::{CATCH_ALL, tests::rules},
        table::links::tests::link,
    };

    fn row(link: &Link) -> LinkRow {
        LinkRow::new(link, &link.slug, CATCH_ALL, &rules()).unwrap()
    }

    #[test]
    fn a_link_has_a_beginning_and_an_end() {
        let at = Timestamp::from_millis;
        let plain = link(1, None, "s", "https://a.example/");
        let (some, url) = (|ms| Some(at(ms)), Some("https://over.example/\u{fc}".to_owned()));
        for (link, now, expected) in [
            (plain.clone(), 0, LinkPhase::Live),
            (Link { starts_at: some(5), ..plain.clone() }, 4, LinkPhase::NotStarted),
            (Link { starts_at: some(5), ..plain.clone() }, 5, LinkPhase::Live),
            (Link { expires_at: some(5), ..plain.clone() }, 4, LinkPhase::Live),
            (Link { expires_at: some(5), ..plain.clone() }, 5, LinkPhase::Expired),
            (Link { starts_at: some(9), expires_at: some(5), ..plain.clone() }, 6, LinkPhase::Expired),
            (Link { exhausted_at: some(9), ..plain.clone() }, 6, LinkPhase::Expired),
            (Link { expires_at: some(5), expired_url: url.clone(), ..plain.clone() }, 5, LinkPhase::Expired),
        ] {
            let row = row(&link);
            assert_eq!(row.phase(at(now)), expected, "{link:?}");
            assert_eq!(row.location(), b"https://a.example/");
            let over = link.expired_url.is_some().then_some(b"https://over.example/%C3%BC".as_slice());
            assert_eq!(row.expired_url(), over);
        }
        let bytes = |link: &Link| row(link).0.slice.len();
        assert_eq!(bytes(&plain), bytes(&Link { expired_url: url, ..plain.clone() }), "no end, no room for it");
    }

    #[test]
    fn traits_are_kept_and_an_old_click_id_is_not() {
        let plain = link(1, None, "s", "https://a.example/?ch_click_id=clk_old&b");
        for (passthrough, append_click_id, referrer_policy) in [
            (false, false, None),
            (true, false, None),
            (false, true, None),
            (false, false, Some(ReferrerPolicy::UnsafeUrl)),
        ] {
            let link = Link { passthrough, append_click_id, referrer_policy, ..plain.clone() };
            let row = row(&link);
            let kept = (row.passes_query(), row.tells_click_id(), row.referrer_policy());
            assert_eq!(kept, (passthrough, append_click_id, referrer_policy));
            let url = if append_click_id { "https://a.example/?b" } else { &link.destination };
            assert_eq!(row.location(), url.as_bytes());
        }
    }

    #[test]
    fn every_status_is_kept_and_a_long_fragment_is_served() {
        for status_code in STATUSES {
            let link = Link { status_code, ..link(1, None, "s", "https://a.example/") };
            assert_eq!(row(&link).status(), status_code);
        }
        assert!(
            LinkRow::all(&Link { status_code: 303, ..link(1, None, "s", "https://a.example/") }, 0, &rules()).is_err()
        );
        let long = format!("https://a.example/{}#{}", "|".repeat(8000), "\u{fc}".repeat(16 << 10));
        let row = row(&link(1, None, "s", &long));
        assert_eq!(row.location().len(), "https://a.example/#".len() + 3 * 8000 + 6 * (16 << 10));
    }

    #[test]
    fn a_row_is_compact() {
        assert!(size_of::<LinkRowHeader>() <= 40, "{}", size_of::<LinkRowHeader>());
        let row = row(&link(1, None, "sale", "https://a.example/"));
        assert_eq!((row.0.slice.len(), row.location()), (row.tail().len(), b"https://a.example/".as_slice()));
    }

    #[test]
    fn the_tail_ends_a_line_that_reads_back() {
        let hostile = link(1, None, "a\u{fc}", "https://a.example/\"slug\":\"x\"");
        let row = row(&hostile);
        let mut line = b"{\"v\":1,\"id\":\"clk_00000000000000000000000000\",\"class\":\"qr\",\"ip\":\"::1\"".to_vec();
        line.extend_from_slice(row.tail());
        let read: RawClick<'_> = serde_json::from_slice(&line).unwrap();
        assert_eq!(read.link, Some(hostile.facts()));
        assert_eq!(row.slug(), "a\u{fc}".as_bytes());
    }
}
