//! Where a link is looked up. Readers on every core take no lock and never wait
//! for a writer; one writer follows the `links` topic. A link is one compact row
//! whose strings are what a click copies (the serialised snapshot) and the
//! `Location`; the slug is a slice of the snapshot.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table::Entry};
use papaya::Equivalent;
use schemas::{Link, LinkId, click::link_tail};
use triomphe::ThinArc;
use url::Url;

/// The number of a domain; [`CATCH_ALL`] for links without one.
type Domain = u32;
/// Answers every host that no domain claims.
const CATCH_ALL: Domain = 0;

/// A link that was read and cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error("its destination is no URL: {0}")]
    Destination(#[from] url::ParseError),
    #[error("its destination is a {0}: URL, not http or https")]
    Scheme(String),
    #[error("{0} is no redirect status")]
    Status(u16),
    #[error("its slug `{0}` is empty, too long, or has characters that an address spells differently")]
    Slug(String),
    #[error("it cannot be serialised: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Clone, Copy)]
struct Head {
    /// Two halves, so that a row is aligned to 8 bytes.
    id: (u64, u64),
    domain: Domain,
    /// Where in the bytes the tail ends and the location begins.
    tail: u32,
    /// Where in the tail the slug begins, and its length.
    slug: (u32, u16),
    status: u16,
}

/// A link, ready to be served. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Row(ThinArc<Head, u8>);

impl Row {
    fn head(&self) -> &Head {
        &self.0.header.header
    }

    fn new(link: &Link, domain: Domain) -> Result<Self, RowError> {
        let refused = || RowError::Slug(link.slug.chars().take(64).collect());
        if !matches!(link.status_code, 301 | 302 | 307 | 308) {
            return Err(RowError::Status(link.status_code));
        }
        let location = location(&link.destination)?;
        let mut bytes = link_tail(link.workspace.as_str(), &link.facts())?;
        // Quotes inside of values are escaped, so this is the key.
        let key = format!("\"slug\":\"{}\"", link.slug);
        let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).ok_or_else(refused)?;
        let at = at + "\"slug\":\"".len();
        let len = u16::try_from(link.slug.len()).ok().filter(|len| *len > 0).ok_or_else(refused)?;
        let small = |value: usize| u32::try_from(value).map_err(|_| refused());
        let bits = link.id.bits();
        let head = Head {
            id: ((bits >> 64) as u64, bits as u64),
            domain,
            tail: small(bytes.len())?,
            slug: (small(at)?, len),
            status: link.status_code,
        };
        bytes.extend_from_slice(location.as_bytes());
        Ok(Self(ThinArc::from_header_and_slice(head, &bytes)))
    }

    /// What every click on the link has in common, serialised.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.0.slice[..self.head().tail as usize]
    }

    /// Where the redirect leads: ASCII.
    pub(crate) fn location(&self) -> &[u8] {
        &self.0.slice[self.head().tail as usize..]
    }

    /// What the redirect answers.
    pub(crate) fn status(&self) -> u16 {
        self.head().status
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

/// A header carries ASCII: what the destination has beyond it is percent-encoded
/// the way a browser would.
fn location(destination: &str) -> Result<Cow<'_, str>, RowError> {
    let url = Url::parse(destination)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(RowError::Scheme(url.scheme().to_owned()));
    }
    let as_is = destination.bytes().all(|byte| byte.is_ascii_graphic());
    Ok(if as_is { Cow::Borrowed(destination) } else { Cow::Owned(url.into()) })
}

/// What a row is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Address<'a> {
    domain: Domain,
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

#[derive(Default)]
struct Shared {
    rows: papaya::HashSet<Row, RandomState>,
    domains: papaya::HashMap<Box<str>, Domain, RandomState>,
}

/// The readers' side. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Shared>);

impl Links {
    /// The link that `host` answers with under `slug`. `host` is as in a `Host`
    /// header, port included.
    pub(crate) fn find(&self, host: Option<&str>, slug: &str) -> Option<Row> {
        let address = Address { domain: self.domain(host), slug: slug.as_bytes() };
        self.0.rows.pin().get(&address).cloned()
    }

    fn domain(&self, host: Option<&str>) -> Domain {
        if self.0.domains.is_empty() {
            return CATCH_ALL;
        }
        let Some(host) = host.map(host_name) else { return CATCH_ALL };
        self.0.domains.pin().get(&*host).copied().unwrap_or(CATCH_ALL)
    }
}

/// A host without its port and final dot, in lower case.
fn host_name(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The one that changes the table.
#[derive(Default)]
pub(crate) struct LinksWriter {
    links: Links,
    by_id: HashTable<Row>,
    hasher: RandomState,
    /// Each domain's number, which it keeps, and how many links it has.
    domains: HashMap<Box<str>, (Domain, usize)>,
    names: Vec<Box<str>>,
}

impl LinksWriter {
    /// A handle for readers.
    pub(crate) fn links(&self) -> Links {
        self.links.clone()
    }

    /// How many links there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The link is now this. One that cannot be served takes its place away.
    pub(crate) fn put(&mut self, link: &Link) -> Result<(), RowError> {
        let row = match Row::new(link, self.number(link.domain.as_deref())) {
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
        self.claim(row.head().domain);
        // The new address answers before the old one stops.
        self.links.0.rows.pin().insert(row.clone());
        if let Some(before) = before {
            if before != row {
                self.forget(&before);
            }
            self.release(before.head().domain);
        }
        Ok(())
    }

    /// The link is gone.
    pub(crate) fn delete(&mut self, id: LinkId) {
        let hash = self.hasher.hash_one(id);
        let Ok(entry) = self.by_id.find_entry(hash, |row| row.id() == id) else { return };
        let (row, _) = entry.remove();
        self.forget(&row);
        self.release(row.head().domain);
    }

    /// Takes an address away, if it is still this link's.
    fn forget(&self, row: &Row) {
        let rows = self.links.0.rows.pin();
        if rows.get(&row.address()).is_some_and(|found| found.id() == row.id()) {
            rows.remove(&row.address());
        }
    }

    fn number(&mut self, domain: Option<&str>) -> Domain {
        let Some(domain) = domain else { return CATCH_ALL };
        if let Some((number, _)) = self.domains.get(domain) {
            return *number;
        }
        self.names.push(domain.into());
        let number = Domain::try_from(self.names.len()).expect("4 billion domains do not fit in memory");
        self.domains.insert(domain.into(), (number, 0));
        number
    }

    fn count(&mut self, number: Domain) -> Option<(&str, &mut usize)> {
        let name = self.names.get((number as usize).checked_sub(1)?)?;
        let (_, count) = self.domains.get_mut(name)?;
        Some((name, count))
    }

    /// A domain answers for itself from its first link on.
    fn claim(&mut self, number: Domain) {
        let Some((name, count)) = self.count(number) else { return };
        *count += 1;
        if *count == 1 {
            let name = name.into();
            self.links.0.domains.pin().insert(name, number);
        }
    }

    fn release(&mut self, number: Domain) {
        let Some((name, count)) = self.count(number) else { return };
        *count -= 1;
        if *count == 0 {
            let name: Box<str> = name.into();
            self.links.0.domains.pin().remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{RawClick, Timestamp, WorkspaceId, usermap::UserMap};

    use super::*;

    fn link(id: u128, domain: Option<&str>, slug: &str, destination: &str) -> Link {
        Link {
            id: LinkId::from_bits(id),
            workspace: WorkspaceId::default(),
            domain: domain.map(str::to_owned),
            slug: slug.to_owned(),
            destination: destination.to_owned(),
            short_url: format!("http://localhost:8080/{slug}"),
            campaign: None,
            segment: None,
            tags: Vec::new(),
            status_code: 302,
            starts_at: None,
            expires_at: None,
            expired_url: None,
            max_clicks: None,
            exhausted_at: None,
            disabled: false,
            append_click_id: false,
            passthrough: false,
            referrer_policy: None,
            metadata: UserMap::default(),
            external_id: None,
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            revision: 1,
        }
    }

    fn found(links: &Links, host: &str, slug: &str) -> Option<String> {
        links.find(Some(host), slug).map(|row| String::from_utf8(row.location().to_vec()).unwrap())
    }

    #[test]
    fn a_link_is_found_where_it_is_and_nowhere_else() {
        let mut writer = LinksWriter::default();
        let links = writer.links();
        writer.put(&link(1, None, "sale", "https://a.example/")).unwrap();
        assert_eq!(found(&links, "anything:8080", "sale").as_deref(), Some("https://a.example/"));
        assert_eq!(found(&links, "anything", "Sale"), None);
        writer.put(&link(1, None, "new", "https://b.example/")).unwrap();
        assert_eq!(found(&links, "anything", "sale"), None);
        assert_eq!(found(&links, "anything", "new").as_deref(), Some("https://b.example/"));
        assert_eq!(writer.len(), 1);
        writer.delete(LinkId::from_bits(1));
        assert_eq!(found(&links, "anything", "new"), None);
        assert_eq!(writer.len(), 0);
    }

    #[test]
    fn a_domain_answers_for_itself_while_it_has_links() {
        let mut writer = LinksWriter::default();
        let links = writer.links();
        writer.put(&link(1, None, "sale", "https://all.example/")).unwrap();
        writer.put(&link(2, Some("go.acme.co"), "sale", "https://acme.example/")).unwrap();
        assert_eq!(found(&links, "GO.acme.co.:443", "sale").as_deref(), Some("https://acme.example/"));
        assert_eq!(found(&links, "other.co", "sale").as_deref(), Some("https://all.example/"));
        assert_eq!(found(&links, "[::1]:8080", "sale").as_deref(), Some("https://all.example/"));
        writer.put(&link(2, Some("go.acme.co"), "other", "https://acme.example/")).unwrap();
        assert_eq!(found(&links, "go.acme.co", "sale"), None);
        writer.delete(LinkId::from_bits(2));
        assert_eq!(found(&links, "go.acme.co", "sale").as_deref(), Some("https://all.example/"));
    }

    #[test]
    fn an_address_taken_over_survives_its_former_owner() {
        let mut writer = LinksWriter::default();
        let links = writer.links();
        writer.put(&link(1, None, "sale", "https://a.example/")).unwrap();
        writer.put(&link(2, None, "sale", "https://b.example/")).unwrap();
        writer.delete(LinkId::from_bits(1));
        assert_eq!(found(&links, "h", "sale").as_deref(), Some("https://b.example/"));
    }

    #[test]
    fn the_tail_ends_a_line_that_reads_back() {
        let hostile = link(1, None, "a\u{fc}", "https://a.example/\"slug\":\"x\"");
        let row = Row::new(&hostile, CATCH_ALL).unwrap();
        let mut line = b"{\"v\":1,\"id\":\"clk_00000000000000000000000000\",\"class\":\"qr\",\"ip\":\"::1\"".to_vec();
        line.extend_from_slice(row.tail());
        let read: RawClick<'_> = serde_json::from_slice(&line).unwrap();
        assert_eq!(read.link, Some(hostile.facts()));
        assert_eq!(row.slug(), "a\u{fc}".as_bytes());
    }

    #[test]
    fn what_cannot_be_served_is_refused_and_takes_its_place_away() {
        let mut writer = LinksWriter::default();
        let links = writer.links();
        writer.put(&link(1, None, "sale", "https://a.example/")).unwrap();
        assert!(matches!(writer.put(&link(1, None, "sale", "nowhere")), Err(RowError::Destination(_))));
        assert_eq!(found(&links, "h", "sale"), None);
        assert!(matches!(writer.put(&link(1, None, "a\"b", "https://a.example/")), Err(RowError::Slug(_))));
        assert!(matches!(writer.put(&link(1, None, "", "https://a.example/")), Err(RowError::Slug(_))));
        let odd = Link { status_code: 200, ..link(1, None, "a", "https://a.example/") };
        assert!(matches!(writer.put(&odd), Err(RowError::Status(200))));
    }

    #[test]
    fn a_location_is_always_ascii() {
        assert_eq!(location("https://acme.com").unwrap(), "https://acme.com");
        assert_eq!(location("https://acme.com/\u{fc}ber?q=a b").unwrap(), "https://acme.com/%C3%BCber?q=a%20b");
        assert!(matches!(location("javascript:alert(1)"), Err(RowError::Scheme(_))));
        assert_eq!(location("https://acme.com/\r\nSet-Cookie: a").unwrap(), "https://acme.com/Set-Cookie:%20a");
    }
}
