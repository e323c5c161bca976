//! Where a link is looked up. Readers on every core take no lock and never wait
//! for a writer; one writer follows the `links` topic. A link is one compact row
//! whose strings are what a click copies (the serialised snapshot) and the
//! `Location`; the slug is a slice of the snapshot. What few links have (an end,
//! a beginning) stands behind the strings and takes no room elsewhere.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table::Entry};
use papaya::{Equivalent, HashSetRef, LocalGuard};
use schemas::{Link, LinkId, Timestamp, WorkspaceId, click::link_tail, link::ReferrerPolicy};
use triomphe::ThinArc;

use crate::{
    domains::{CATCH_ALL, Domains, Number},
    location::{LocationError, Rules},
};

/// A link that was read and cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error("its destination cannot be redirected to: {0}")]
    Destination(LocationError),
    #[error("its `expired_url` cannot be redirected to: {0}")]
    ExpiredUrl(LocationError),
    #[error("{0} is no redirect status")]
    Status(u16),
    #[error("its slug `{0}` is empty or too long")]
    Slug(String),
    #[error("it has no domain, which only links of the workspace `default` may lack")]
    NoDomain,
    #[error("it cannot be serialised: {0}")]
    Json(#[from] serde_json::Error),
}

/// How a link stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It has not started.
    NotYet,
    Live,
    Expired,
}

/// What a link has beyond a destination: bits of [`Head::traits`].
mod traits {
    pub(super) const PASSES_QUERY: u8 = 1;
    pub(super) const TELLS_CLICK_ID: u8 = 1 << 1;
    pub(super) const UNSAFE_URL: u8 = 1 << 2;
    /// A [`Span`](super::Span) stands at the end of the bytes.
    pub(super) const SPAN: u8 = 1 << 3;
}

#[derive(Clone, Copy)]
struct Head {
    /// Two halves, so that a row is aligned to 8 bytes.
    id: (u64, u64),
    domain: Number,
    /// Where in the bytes the tail ends.
    tail: u32,
    /// Where in the tail the slug begins, and its length; right behind the tail
    /// where JSON spells it differently.
    slug: (u32, u16),
    status: u16,
    traits: u8,
}

/// From when to when a link is live, and where it leads then: the last bytes of
/// the rows of links that have such facts, behind that address.
struct Span {
    /// Milliseconds since 1970.
    starts: i64,
    ends: i64,
    /// How many bytes the address has; 0 for none.
    expired_url: u32,
}

impl Span {
    const BYTES: usize = 8 + 8 + 4;

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

    fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let [starts @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *bytes;
        let [_, _, _, _, _, _, _, _, ends @ .., _, _, _, _] = *bytes;
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, url @ ..] = *bytes;
        Self {
            starts: i64::from_le_bytes(starts),
            ends: i64::from_le_bytes(ends),
            expired_url: u32::from_le_bytes(url),
        }
    }
}

/// A link, ready to be served. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Row(ThinArc<Head, u8>);

impl Row {
    fn head(&self) -> &Head {
        &self.0.header.header
    }

    fn new(link: &Link, domain: Number, rules: &Rules) -> Result<Self, RowError> {
        let refused = || RowError::Slug(link.slug.chars().take(64).collect());
        if !matches!(link.status_code, 301 | 302 | 307 | 308) {
            return Err(RowError::Status(link.status_code));
        }
        let location = rules.check(&link.destination).map_err(RowError::Destination)?;
        let expired = link.expired_url.as_deref().map_or(Ok("".into()), |url| rules.check(url));
        let expired = expired.map_err(RowError::ExpiredUrl)?;
        let mut bytes = link_tail(link.workspace.as_str(), &link.facts())?;
        let tail = bytes.len();
        // Quotes inside of values are escaped, so this is the key.
        let key = format!("\"slug\":\"{}\"", link.slug);
        let at = match bytes.windows(key.len()).position(|window| window == key.as_bytes()) {
            Some(at) if !link.slug.contains(['"', '\\']) => at + "\"slug\":\"".len(),
            _ => {
                bytes.extend_from_slice(link.slug.as_bytes());
                tail
            }
        };
        let len = u16::try_from(link.slug.len()).ok().filter(|len| *len > 0).ok_or_else(refused)?;
        let small = |value: usize| u32::try_from(value).map_err(|_| refused());
        let span = Span::of(link, &expired);
        let bits = link.id.bits();
        let bit = |has: bool, bit: u8| if has { bit } else { 0 };
        let head = Head {
            id: ((bits >> 64) as u64, bits as u64),
            domain,
            tail: small(tail)?,
            slug: (small(at)?, len),
            status: link.status_code,
            traits: bit(link.passthrough, traits::PASSES_QUERY)
                | bit(link.append_click_id, traits::TELLS_CLICK_ID)
                | bit(link.referrer_policy == Some(ReferrerPolicy::UnsafeUrl), traits::UNSAFE_URL)
                | bit(span.is_some(), traits::SPAN),
        };
        let location = if link.append_click_id { rules.without_click_id(&location) } else { location.as_ref().into() };
        bytes.extend_from_slice(location.as_bytes());
        if let Some(span) = span {
            bytes.extend_from_slice(expired.as_bytes());
            span.write(&mut bytes);
        }
        Ok(Self(ThinArc::from_header_and_slice(head, &bytes)))
    }

    fn has(&self, bit: u8) -> bool {
        self.head().traits & bit != 0
    }

    /// The bytes behind the tail and the slug, without the span, and the span.
    fn addresses(&self) -> (&[u8], Option<Span>) {
        let Head { tail, slug: (at, len), .. } = *self.head();
        let bytes = &self.0.slice[tail.max(at + u32::from(len)) as usize..];
        if !self.has(traits::SPAN) {
            return (bytes, None);
        }
        bytes.split_last_chunk().map_or((bytes, None), |(bytes, span)| (bytes, Some(Span::read(span))))
    }

    /// What every click on the link has in common, serialised.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.0.slice[..self.head().tail as usize]
    }

    /// Where the redirect leads: ASCII.
    pub(crate) fn location(&self) -> &[u8] {
        let (bytes, span) = self.addresses();
        span.map_or(bytes, |span| &bytes[..bytes.len() - span.expired_url as usize])
    }

    /// Where it leads once it has expired: ASCII.
    pub(crate) fn expired_url(&self) -> Option<&[u8]> {
        let (bytes, span) = self.addresses();
        let len = span?.expired_url as usize;
        (len > 0).then(|| &bytes[bytes.len() - len..])
    }

    /// How it stands at `at`.
    pub(crate) fn stand(&self, at: Timestamp) -> Stand {
        match self.addresses().1 {
            Some(span) if span.ends <= at.as_millis() => Stand::Expired,
            Some(span) if span.starts > at.as_millis() => Stand::NotYet,
            _ => Stand::Live,
        }
    }

    /// What the redirect answers.
    pub(crate) fn status(&self) -> u16 {
        self.head().status
    }

    /// Whether a visit's query is passed on.
    pub(crate) fn passes_query(&self) -> bool {
        self.has(traits::PASSES_QUERY)
    }

    /// Whether the destination is told the click's id.
    pub(crate) fn tells_click_id(&self) -> bool {
        self.has(traits::TELLS_CLICK_ID)
    }

    /// What the browser is told to tell the destination.
    pub(crate) fn referrer_policy(&self) -> Option<ReferrerPolicy> {
        self.has(traits::UNSAFE_URL).then_some(ReferrerPolicy::UnsafeUrl)
    }

    fn id(&self) -> LinkId {
        let (high, low) = self.head().id;
        LinkId::from_bits(u128::from(high) << 64 | u128::from(low))
    }

    fn slug(&self) -> &[u8] {
        let (at, len) = self.head().slug;
        &self.0.slice[at as usize..at as usize + usize::from(len)]
    }

    fn address(&self) -> Address<'_> {
        Address { domain: self.head().domain, slug: self.slug() }
    }
}

/// What a row is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Address<'a> {
    domain: Number,
    slug: &'a [u8],
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Row {}

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl Equivalent<Row> for Address<'_> {
    fn equivalent(&self, row: &Row) -> bool {
        *self == row.address()
    }
}

type Rows = papaya::HashSet<Row, RandomState>;

/// The readers' side. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Rows>);

/// The links while they are looked at.
pub(crate) struct Look<'l>(HashSetRef<'l, Row, RandomState, LocalGuard<'l>>);

impl Links {
    /// The links as they are now.
    pub(crate) fn look(&self) -> Look<'_> {
        Look(self.0.pin())
    }
}

impl Look<'_> {
    /// The link that a domain answers with under a slug in its canonical spelling.
    pub(crate) fn find(&self, domain: Number, slug: &str) -> Option<&Row> {
        self.0.get(&Address { domain, slug: slug.as_bytes() })
    }
}

/// The one that changes the table.
pub(crate) struct LinksWriter {
    links: Links,
    by_id: HashTable<Row>,
    hasher: RandomState,
    domains: Domains,
    rules: Rules,
}

impl LinksWriter {
    /// A table without links, whose domains have the numbers of `domains`.
    pub(crate) fn new(domains: Domains, rules: Rules) -> Self {
        Self { links: Links::default(), by_id: HashTable::new(), hasher: RandomState::default(), domains, rules }
    }

    /// A handle for readers.
    pub(crate) fn links(&self) -> Links {
        self.links.clone()
    }

    /// How many links there are that can be looked up.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The link is now this. One that is disabled or cannot be served takes its
    /// place away.
    pub(crate) fn put(&mut self, link: &Link) -> Result<(), RowError> {
        if link.disabled {
            self.delete(link.id);
            return Ok(());
        }
        let row = match self.number(link).and_then(|number| Row::new(link, number, &self.rules)) {
            Ok(row) => row,
            Err(error) => {
                self.delete(link.id);
                return Err(error);
            }
        };
        let hasher = self.hasher.clone();
        let (id, hash) = (row.id(), hasher.hash_one(row.id()));
        let before = match self.by_id.entry(hash, |old| old.id() == id, |old| hasher.hash_one(old.id())) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), row.clone())),
            Entry::Vacant(entry) => {
                entry.insert(row.clone());
                None
            }
        };
        // The new address answers before the old one stops.
        self.links.0.pin().insert(row.clone());
        if let Some(before) = before.filter(|before| *before != row) {
            self.forget(&before);
        }
        Ok(())
    }

    /// The link is gone.
    pub(crate) fn delete(&mut self, id: LinkId) {
        let hash = self.hasher.hash_one(id);
        let Ok(entry) = self.by_id.find_entry(hash, |row| row.id() == id) else { return };
        let (row, _) = entry.remove();
        self.forget(&row);
    }

    /// Takes an address away, if it is still this link's.
    fn forget(&self, row: &Row) {
        let rows = self.links.0.pin();
        if rows.get(&row.address()).is_some_and(|found| found.id() == row.id()) {
            rows.remove(&row.address());
        }
    }

    fn number(&self, link: &Link) -> Result<Number, RowError> {
        match &link.domain {
            Some(name) => Ok(self.domains.number(&link.workspace, name)),
            None if link.workspace == WorkspaceId::default() => Ok(CATCH_ALL),
            None => Err(RowError::NoDomain),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use schemas::{RawClick, sample::plain_link};

    use super::*;
    use crate::domains::tests::rules;

    pub(crate) fn link(id: u128, domain: Option<&str>, slug: &str, destination: &str) -> Link {
        let plain = plain_link(LinkId::from_bits(id), slug, destination);
        Link { domain: domain.map(str::to_owned), passthrough: false, ..plain }
    }

    fn writer() -> (LinksWriter, Links) {
        let writer = LinksWriter::new(Domains::default(), rules());
        let links = writer.links();
        (writer, links)
    }

    fn found(links: &Links, domain: Number, slug: &str) -> Option<String> {
        links.look().find(domain, slug).map(|row| String::from_utf8(row.location().to_vec()).unwrap())
    }

    #[test]
    fn a_link_is_found_where_it_is_and_nowhere_else() {
        let (mut writer, links) = writer();
        writer.put(&link(1, None, "sale", "https://a.example/")).unwrap();
        assert_eq!(found(&links, CATCH_ALL, "sale").as_deref(), Some("https://a.example/"));
        assert_eq!(found(&links, CATCH_ALL, "Sale"), None);
        writer.put(&link(1, None, "new", "https://b.example/")).unwrap();
        assert_eq!(found(&links, CATCH_ALL, "sale"), None);
        assert_eq!(found(&links, CATCH_ALL, "new").as_deref(), Some("https://b.example/"));
        assert_eq!(writer.len(), 1);
        writer.delete(LinkId::from_bits(1));
        assert_eq!(found(&links, CATCH_ALL, "new"), None);
        assert_eq!(writer.len(), 0);
    }

    #[test]
    fn a_link_answers_on_its_workspaces_domain_alone() {
        let (mut writer, links) = writer();
        let domains = writer.domains.clone();
        let (mine, other) = (WorkspaceId::default(), WorkspaceId::new("other"));
        writer.put(&link(1, None, "sale", "https://all.example/")).unwrap();
        writer.put(&link(2, Some("go.acme.co"), "sale", "https://acme.example/")).unwrap();
        assert_eq!(found(&links, CATCH_ALL, "sale").as_deref(), Some("https://all.example/"));
        let at = |workspace| found(&links, domains.number(workspace, "go.acme.co"), "sale");
        assert_eq!((at(&mine).as_deref(), at(&other)), (Some("https://acme.example/"), None));
        let homeless = Link { workspace: other, ..link(3, None, "sale", "https://other.example/") };
        assert!(matches!(writer.put(&homeless), Err(RowError::NoDomain)));
        assert_eq!(found(&links, CATCH_ALL, "sale").as_deref(), Some("https://all.example/"));
    }

    #[test]
    fn a_link_has_a_beginning_and_an_end() {
        let at = Timestamp::from_millis;
        let plain = link(1, None, "s", "https://a.example/");
        let (some, url) = (|ms| Some(at(ms)), Some("https://over.example/\u{fc}".to_owned()));
        for (link, now, expected) in [
            (plain.clone(), 0, Stand::Live),
            (Link { starts_at: some(5), ..plain.clone() }, 4, Stand::NotYet),
            (Link { starts_at: some(5), ..plain.clone() }, 5, Stand::Live),
            (Link { expires_at: some(5), ..plain.clone() }, 4, Stand::Live),
            (Link { expires_at: some(5), ..plain.clone() }, 5, Stand::Expired),
            (Link { starts_at: some(9), expires_at: some(5), ..plain.clone() }, 6, Stand::Expired),
            (Link { exhausted_at: some(9), ..plain.clone() }, 6, Stand::Expired),
            (Link { expires_at: some(5), expired_url: url.clone(), ..plain.clone() }, 5, Stand::Expired),
        ] {
            let row = Row::new(&link, CATCH_ALL, &rules()).unwrap();
            assert_eq!(row.stand(at(now)), expected, "{link:?}");
            assert_eq!(row.location(), b"https://a.example/");
            let over = link.expired_url.is_some().then_some(b"https://over.example/%C3%BC".as_slice());
            assert_eq!(row.expired_url(), over);
        }
        let bytes = |link: &Link| Row::new(link, CATCH_ALL, &rules()).unwrap().0.slice.len();
        assert_eq!(bytes(&plain), bytes(&Link { expired_url: url, ..plain.clone() }), "no end, no room for it");
    }

    #[test]
    fn a_disabled_link_is_not_there() {
        let (mut writer, links) = writer();
        let sale = link(1, None, "sale", "https://a.example/");
        writer.put(&sale).unwrap();
        writer.put(&Link { disabled: true, ..sale.clone() }).unwrap();
        assert_eq!((found(&links, CATCH_ALL, "sale"), writer.len()), (None, 0));
        writer.put(&sale).unwrap();
        assert!(found(&links, CATCH_ALL, "sale").is_some());
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
            let row = Row::new(&link, CATCH_ALL, &rules()).unwrap();
            let kept = (row.passes_query(), row.tells_click_id(), row.referrer_policy());
            assert_eq!(kept, (passthrough, append_click_id, referrer_policy));
            let url = if append_click_id { "https://a.example/?b" } else { &link.destination };
            assert_eq!(row.location(), url.as_bytes());
        }
    }

    #[test]
    fn a_row_is_compact() {
        assert!(size_of::<Head>() <= 40, "{}", size_of::<Head>());
    }

    #[test]
    fn an_address_taken_over_survives_its_former_owner() {
        let (mut writer, links) = writer();
        writer.put(&link(1, None, "sale", "https://a.example/")).unwrap();
        writer.put(&link(2, None, "sale", "https://b.example/")).unwrap();
        writer.delete(LinkId::from_bits(1));
        assert_eq!(found(&links, CATCH_ALL, "sale").as_deref(), Some("https://b.example/"));
    }

    #[test]
    fn the_tail_ends_a_line_that_reads_back() {
        let hostile = link(1, None, "a\u{fc}", "https://a.example/\"slug\":\"x\"");
        let row = Row::new(&hostile, CATCH_ALL, &rules()).unwrap();
        let mut line = b"{\"v\":1,\"id\":\"clk_00000000000000000000000000\",\"class\":\"qr\",\"ip\":\"::1\"".to_vec();
        line.extend_from_slice(row.tail());
        let read: RawClick<'_> = serde_json::from_slice(&line).unwrap();
        assert_eq!(read.link, Some(hostile.facts()));
        assert_eq!(row.slug(), "a\u{fc}".as_bytes());
    }

    #[test]
    fn a_slug_that_json_spells_differently_is_found() {
        let (mut writer, links) = writer();
        for slug in ["a\"b", "\"", "a\\", "\u{7}", "\",\"slug\":\"x"] {
            let over = Some("https://over.example/".to_owned());
            let at = Some(Timestamp::from_millis(5));
            let odd = Link { expired_url: over, expires_at: at, ..link(1, None, slug, "https://a.example/") };
            writer.put(&odd).unwrap();
            assert_eq!(found(&links, CATCH_ALL, slug).as_deref(), Some("https://a.example/"), "{slug:?}");
            let look = links.look();
            let row = look.find(CATCH_ALL, slug).unwrap();
            assert_eq!(row.expired_url(), Some(b"https://over.example/".as_slice()));
            assert!(row.tail().ends_with(b"}\n"));
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_and_takes_its_place_away() {
        let (mut writer, links) = writer();
        writer.put(&link(1, None, "sale", "https://a.example/")).unwrap();
        assert!(matches!(writer.put(&link(1, None, "sale", "nowhere")), Err(RowError::Destination(_))));
        assert_eq!(found(&links, CATCH_ALL, "sale"), None);
        assert!(matches!(writer.put(&link(1, None, "", "https://a.example/")), Err(RowError::Slug(_))));
        let over = Link { expired_url: Some("data:,x".to_owned()), ..link(1, None, "a", "https://a.example/") };
        assert!(matches!(writer.put(&over), Err(RowError::ExpiredUrl(_))));
        let odd = Link { status_code: 200, ..link(1, None, "a", "https://a.example/") };
        assert!(matches!(writer.put(&odd), Err(RowError::Status(200))));
    }
}
