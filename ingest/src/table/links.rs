//! The links in memory. Readers on every core take no lock and never wait for a writer;
//! one writer follows the `links` topic.

use std::{collections::HashMap, hash::BuildHasher, path::Path, sync::Arc};

use bus::{Bus, BusError, Change, Table};
use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table::Entry};
use papaya::{HashSetRef, LocalGuard};
use schemas::{Link, LinkId, Topic, WorkspaceId};
use tracing::{error, info};

use crate::{
    metrics::IngestMetrics,
    table::domains::{CATCH_ALL, DomainNumber, Domains, id_of},
    table::location::LocationRules,
    table::row::{LinkAddress, LinkRow, LinkRowError},
};

/// The most links for which room is made ahead: a topic may have had many more records
/// than it has links. Where it has next to none, 42 MB are wasted.
const ROOM: usize = 1 << 20;

type LinkRows = papaya::HashSet<LinkRow, RandomState>;

/// The readers' handle. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<LinkRows>);

/// The links, held for the length of some lookups.
pub(crate) struct LinksView<'l>(HashSetRef<'l, LinkRow, RandomState, LocalGuard<'l>>);

impl Links {
    /// Pins the links as they are now.
    pub(crate) fn view(&self) -> LinksView<'_> {
        LinksView(self.0.pin())
    }
}

impl LinksView<'_> {
    /// Finds a domain's link by its slug in its canonical spelling.
    pub(crate) fn find(&self, domain: DomainNumber, slug: &str) -> Option<&LinkRow> {
        self.0.get(&LinkAddress { domain, slug: slug.as_bytes() })
    }
}

/// The writer's handle, of which there is one.
pub(crate) struct LinksWriter {
    links: Links,
    by_id: HashTable<LinkRow>,
    /// The rows of earlier slugs, which few links have.
    aliases: HashMap<LinkId, Box<[LinkRow]>>,
    hasher: RandomState,
    domains: Domains,
    rules: LocationRules,
}

impl LinksWriter {
    /// Makes a table without links, whose domains have the numbers of `domains`.
    pub(crate) fn new(domains: Domains, rules: LocationRules) -> Self {
        let hasher = RandomState::default();
        Self { links: Links::default(), by_id: HashTable::new(), aliases: HashMap::new(), hasher, domains, rules }
    }

    /// Returns a handle for readers.
    pub(crate) fn links(&self) -> Links {
        self.links.clone()
    }

    /// Follows the topic, and keeps a snapshot in `dir`, so that the next redirector
    /// starts without Kafka.
    pub(crate) fn follow(mut self, bus: &Bus, dir: &Path, metrics: IngestMetrics) -> Result<Table, BusError> {
        bus.table("ingest", Topic::Links, Some(dir), move |change| {
            let (key, done) = match change {
                Change::Put { key, value } => (key, self.read(value)),
                Change::Delete { key } => (key, id_of(key).map(|id| self.delete(id))),
                Change::Coming { rows } => return self.reserve(rows),
                Change::CaughtUp => return info!(links = self.by_id.len(), "the redirector knows all links"),
            };
            if let Err(reason) = done {
                metrics.links_refused.inc();
                let link = String::from_utf8_lossy(key);
                error!(%link, reason, "a link cannot be served: write it anew through the API");
            }
            metrics.links.set(i64::try_from(self.by_id.len()).unwrap_or(i64::MAX));
        })
    }

    fn read(&mut self, record: &[u8]) -> Result<(), String> {
        let link = serde_json::from_slice(record).map_err(|error| error.to_string())?;
        self.put(&link).map_err(|error| error.to_string())
    }

    fn reserve(&mut self, rows: u64) {
        let rows = usize::try_from(rows).map_or(ROOM, |rows| rows.min(ROOM));
        self.links.0.pin().reserve(rows);
        self.by_id.reserve(rows, |row| self.hasher.hash_one(row.id()));
    }

    /// Adds or replaces a link. A link that is disabled or cannot be served is removed.
    pub(crate) fn put(&mut self, link: &Link) -> Result<(), LinkRowError> {
        if link.disabled {
            self.delete(link.id);
            return Ok(());
        }
        let rows = match self.number(link).and_then(|number| LinkRow::all(link, number, &self.rules)) {
            Ok(rows) => rows,
            Err(error) => {
                self.delete(link.id);
                return Err(error);
            }
        };
        let Some((row, aliases)) = rows.split_first() else { return Ok(()) };
        let hasher = self.hasher.clone();
        let (id, hash) = (row.id(), hasher.hash_one(row.id()));
        let before = match self.by_id.entry(hash, |old| old.id() == id, |old| hasher.hash_one(old.id())) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), row.clone())),
            Entry::Vacant(entry) => {
                entry.insert(row.clone());
                None
            }
        };
        let aliases_before =
            if aliases.is_empty() { self.aliases.remove(&id) } else { self.aliases.insert(id, aliases.into()) };
        // The new addresses answer before the old ones stop.
        for row in &rows {
            self.links.0.pin().insert(row.clone());
        }
        for before in before.iter().chain(aliases_before.iter().flatten()) {
            if !rows.contains(before) {
                self.forget(before);
            }
        }
        Ok(())
    }

    /// Removes a link.
    fn delete(&mut self, id: LinkId) {
        let hash = self.hasher.hash_one(id);
        let Ok(entry) = self.by_id.find_entry(hash, |row| row.id() == id) else { return };
        let (row, _) = entry.remove();
        self.forget(&row);
        for alias in self.aliases.remove(&id).iter().flatten() {
            self.forget(alias);
        }
    }

    /// Removes an address, if it is still this link's.
    fn forget(&self, row: &LinkRow) {
        let rows = self.links.0.pin();
        if rows.get(&row.address()).is_some_and(|found| found.id() == row.id()) {
            rows.remove(&row.address());
        }
    }

    fn number(&self, link: &Link) -> Result<DomainNumber, LinkRowError> {
        match &link.domain {
            Some(name) => Ok(self.domains.number(&link.workspace, name)),
            None if link.workspace == WorkspaceId::default() => Ok(CATCH_ALL),
            None => Err(LinkRowError::NoDomain),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use schemas::{Timestamp, sample::plain_link};

    use super::*;
    use crate::table::domains::tests::rules;

    pub(crate) fn link(id: u128, domain: Option<&str>, slug: &str, destination: &str) -> Link {
        let plain = plain_link(LinkId::from_bits(id), slug, destination);
        Link { domain: domain.map(str::to_owned), passthrough: false, ..plain }
    }

    fn writer() -> (LinksWriter, Links) {
        let writer = LinksWriter::new(Domains::default(), rules());
        let links = writer.links();
        (writer, links)
    }

    fn found(links: &Links, domain: DomainNumber, slug: &str) -> Option<String> {
        links.view().find(domain, slug).map(|row| String::from_utf8(row.location().to_vec()).unwrap())
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
        assert_eq!(writer.by_id.len(), 1);
        writer.delete(LinkId::from_bits(1));
        assert_eq!(found(&links, CATCH_ALL, "new"), None);
        assert_eq!(writer.by_id.len(), 0);
    }

    #[test]
    fn a_link_answers_on_its_earlier_slugs() {
        let (mut writer, links) = writer();
        let former = |slugs: &[&str], link: Link| Link {
            former_slugs: slugs.iter().map(|slug| (*slug).to_owned()).collect(),
            ..link
        };
        let b = "https://b.example/";
        writer.put(&link(1, None, "old", "https://a.example/")).unwrap();
        writer.put(&former(&["old", "older"], link(1, None, "new", b))).unwrap();
        for slug in ["old", "older", "new"] {
            assert_eq!(found(&links, CATCH_ALL, slug).as_deref(), Some(b), "{slug}");
        }
        // Clicks tell of the link as it is.
        let look = links.view();
        let (old, new) = (look.find(CATCH_ALL, "old").unwrap(), look.find(CATCH_ALL, "new").unwrap());
        assert_eq!(old.tail(), new.tail());
        drop(look);
        writer.put(&former(&["new"], link(1, None, "old", b))).unwrap();
        assert_eq!(found(&links, CATCH_ALL, "older"), None);
        assert!(found(&links, CATCH_ALL, "old").is_some() && found(&links, CATCH_ALL, "new").is_some());
        // Another link has taken an earlier slug that was given up.
        writer.put(&link(1, None, "old", b)).unwrap();
        writer.put(&link(2, None, "new", "https://c.example/")).unwrap();
        writer.delete(LinkId::from_bits(1));
        assert_eq!((found(&links, CATCH_ALL, "old"), writer.aliases.len()), (None, 0));
        assert_eq!(found(&links, CATCH_ALL, "new").as_deref(), Some("https://c.example/"));
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
        assert!(matches!(writer.put(&homeless), Err(LinkRowError::NoDomain)));
        assert_eq!(found(&links, CATCH_ALL, "sale").as_deref(), Some("https://all.example/"));
    }

    #[test]
    fn a_disabled_link_is_not_there() {
        let (mut writer, links) = writer();
        let sale = link(1, None, "sale", "https://a.example/");
        writer.put(&sale).unwrap();
        writer.put(&Link { disabled: true, ..sale.clone() }).unwrap();
        assert_eq!((found(&links, CATCH_ALL, "sale"), writer.by_id.len()), (None, 0));
        writer.put(&sale).unwrap();
        assert!(found(&links, CATCH_ALL, "sale").is_some());
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
    fn a_slug_that_json_spells_differently_is_found() {
        let (mut writer, links) = writer();
        for slug in ["a\"b", "\"", "a\\", "\u{7}", "\",\"slug\":\"x"] {
            let over = Some("https://over.example/".to_owned());
            let at = Some(Timestamp::from_millis(5));
            let odd = Link { expired_url: over, expires_at: at, ..link(1, None, slug, "https://a.example/") };
            writer.put(&odd).unwrap();
            assert_eq!(found(&links, CATCH_ALL, slug).as_deref(), Some("https://a.example/"), "{slug:?}");
            let look = links.view();
            let row = look.find(CATCH_ALL, slug).unwrap();
            assert_eq!(row.expired_url(), Some(b"https://over.example/".as_slice()));
            assert!(row.tail().ends_with(b"}\n"));
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_and_takes_its_place_away() {
        let (mut writer, links) = writer();
        writer.put(&link(1, None, "sale", "https://a.example/")).unwrap();
        assert!(matches!(writer.put(&link(1, None, "sale", "nowhere")), Err(LinkRowError::Destination(_))));
        assert_eq!(found(&links, CATCH_ALL, "sale"), None);
        assert!(matches!(writer.put(&link(1, None, "", "https://a.example/")), Err(LinkRowError::Slug(_))));
        let over = Link { expired_url: Some("data:,x".to_owned()), ..link(1, None, "a", "https://a.example/") };
        assert!(matches!(writer.put(&over), Err(LinkRowError::ExpiredUrl(_))));
        let odd = Link { status_code: 200, ..link(1, None, "a", "https://a.example/") };
        assert!(matches!(writer.put(&odd), Err(LinkRowError::Status(200))));
    }
}
