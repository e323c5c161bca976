//! Links in the leader's memory, by the million. A link is kept as the JSON of
//! its record and read when it is asked for; beside it stand an id, a few hashes
//! that tell most others apart without reading, and four bytes in each index.
//! `bench api` measures what that is a link.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash},
    ops::Bound,
    sync::Arc,
};

use bus::Change;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use schemas::{Link, LinkId, WorkspaceId};
use serde::Deserialize;

use crate::{
    kept::{Kept, LinkClaim, order::Order},
    state::Holds,
};

/// A link, and what is known of it without reading it.
#[derive(Debug)]
struct Slot {
    id: LinkId,
    /// The record's value. Whatever is put here could be read.
    json: Box<[u8]>,
    workspace: u32,
    /// A hash of the campaign; 0 for none.
    campaign: u32,
    /// A hash of the slug.
    slug: u32,
    /// A bit for each tag, by its hash.
    tags: u32,
}

/// A slot under a hash of what leads to it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: u32,
}

/// Half a hash, spread over a whole one: what the tables are built from.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Slots, in chunks: growing copies none of them.
#[derive(Debug, Default)]
struct Slots(Vec<Vec<Option<Slot>>>);

const CHUNK: usize = 4096;

impl Slots {
    fn get(&self, at: u32) -> Option<&Slot> {
        self.0.get(at as usize / CHUNK)?.get(at as usize % CHUNK)?.as_ref()
    }

    fn set(&mut self, at: u32, slot: Option<Slot>) {
        self.0[at as usize / CHUNK][at as usize % CHUNK] = slot;
    }

    fn push(&mut self, slot: Slot) -> u32 {
        if self.0.last().is_none_or(|last| last.len() == CHUNK) {
            self.0.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.0.len() - 1) * CHUNK;
        let Some(last) = self.0.last_mut() else { return 0 };
        last.push(Some(slot));
        // Memory ends long before numbers do.
        u32::try_from(before + last.len() - 1).unwrap_or(u32::MAX)
    }

    /// The id in a slot; of those in an order, none is empty.
    fn id(&self, at: u32) -> LinkId {
        self.get(at).map_or(LinkId::from_bits(0), |slot| slot.id)
    }
}

/// All links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    hasher: RandomState,
    slots: Slots,
    free: Vec<u32>,
    ids: HashTable<Entry>,
    addresses: HashTable<Entry>,
    externals: HashTable<Entry>,
    numbers: HashMap<WorkspaceId, u32>,
    /// Each workspace's links, by its number.
    orders: Vec<Order>,
    /// Those whose clicks are limited, and have not reached the limit.
    limited: BTreeMap<LinkId, Limited>,
}

/// A link whose clicks are limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) id: LinkId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) max_clicks: u64,
}

impl Limited {
    /// What limits a link, if it is limited and is not known to have reached that.
    fn of(link: &Link) -> Option<Self> {
        let max_clicks = link.max_clicks.filter(|_| link.exhausted_at.is_none())?;
        Some(Self { id: link.id, workspace: link.workspace.clone(), max_clicks })
    }
}

/// What a link claims, read without the rest of it.
#[derive(Deserialize)]
struct Claims {
    workspace: WorkspaceId,
    #[serde(default)]
    domain: Option<String>,
    slug: String,
    #[serde(default)]
    external_id: Option<String>,
}

impl Claims {
    fn is(&self, claim: &LinkClaim) -> bool {
        match claim {
            LinkClaim::Address(domain, slug) => self.domain == *domain && self.slug == *slug,
            LinkClaim::External(workspace, external) => {
                self.external_id.as_ref() == Some(external) && self.workspace == *workspace
            }
        }
    }

    fn all(self) -> impl Iterator<Item = LinkClaim> {
        let external = self.external_id.map(|external| LinkClaim::External(self.workspace, external));
        std::iter::once(LinkClaim::Address(self.domain, self.slug)).chain(external)
    }
}

/// Which links are looked for. All of what is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) campaign: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) slug: Option<String>,
    /// How the slug begins.
    pub(crate) prefix: Option<String>,
}

impl Wanted {
    pub(crate) fn fits(&self, link: &Link) -> bool {
        fn is(wanted: Option<&String>, found: Option<&String>) -> bool {
            wanted.is_none() || wanted == found
        }
        is(self.campaign.as_ref(), link.campaign.as_ref())
            && is(self.domain.as_ref(), link.domain.as_ref())
            && is(self.slug.as_ref(), Some(&link.slug))
            && self.tag.as_ref().is_none_or(|tag| link.tags.contains(tag))
            && self.prefix.as_ref().is_none_or(|prefix| link.slug.starts_with(prefix))
    }
}

/// Some of the links that were looked for, newest first.
#[derive(Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) links: Vec<Arc<Link>>,
    /// Where to look on, if not everything was looked at.
    pub(crate) next: Option<LinkId>,
}

/// How many links are looked at, and how many of them read, for one page: what
/// keeps writers waiting at most. A page may so be short, or empty, and have a
/// next one.
const LOOKED_AT: usize = 500_000;
const READ: usize = 5_000;

impl Links {
    /// The slot of whose that is.
    fn owner_slot(&self, claim: &LinkClaim) -> Option<u32> {
        let hash = self.hash(claim);
        let is = |entry: &Entry| {
            entry.hash == hash
                && self
                    .slot(entry.slot)
                    .and_then(|slot| serde_json::from_slice::<Claims>(&slot.json).ok())
                    .is_some_and(|claims| claims.is(claim))
        };
        self.table(claim).find(spread(hash), is).map(|entry| entry.slot)
    }

    /// Up to `limit` of a workspace's links that fit, newest first, older than
    /// `before`.
    pub(crate) fn search(
        &self,
        workspace: &WorkspaceId,
        wanted: &Wanted,
        before: Option<LinkId>,
        limit: usize,
    ) -> Page {
        let mut page = Page { links: Vec::new(), next: None };
        let Some(theirs) = self.numbers.get(workspace).and_then(|number| self.orders.get(*number as usize)) else {
            return page;
        };
        let campaign = wanted.campaign.as_ref().map(|campaign| self.short_hash(campaign));
        let slug_hash = wanted.slug.as_ref().map(|slug| self.short_hash(slug));
        let tag = wanted.tag.as_ref().map_or(0, |tag| self.tag_bit(tag));
        let (mut looked_at, mut to_read) = (0, READ.max(limit));
        let mut last = None;
        for slot in theirs.backwards(before.as_ref(), |slot| self.slots.id(slot)) {
            let Some(slot) = self.slot(slot) else { continue };
            if page.links.len() == limit || looked_at == LOOKED_AT || to_read == 0 {
                page.next = last;
                return page;
            }
            looked_at += 1;
            last = Some(slot.id);
            let may_fit = campaign.is_none_or(|campaign| campaign == slot.campaign)
                && slug_hash.is_none_or(|slug| slug == slot.slug)
                && slot.tags & tag == tag;
            if may_fit {
                to_read -= 1;
                if let Some(link) = read(&slot.json).filter(|link| wanted.fits(link)) {
                    page.links.push(Arc::new(link));
                }
            }
        }
        page
    }

    /// Up to `count` of the links whose clicks are limited and have not reached the
    /// limit, behind `after` in the order of their ids.
    pub(crate) fn limited(&self, after: Option<LinkId>, count: usize) -> Vec<Limited> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.limited.range((from, Bound::Unbounded)).map(|(_, limited)| limited.clone()).take(count).collect()
    }

    /// Puts a link, whose record has this value, in place of the one of its id.
    fn put_record(&mut self, link: &Link, json: &[u8]) {
        let number = self.number(&link.workspace);
        let slot = Slot {
            id: link.id,
            json: json.into(),
            workspace: number,
            campaign: link.campaign.as_ref().map_or(0, |campaign| self.short_hash(campaign)),
            slug: self.short_hash(&link.slug),
            tags: link.tags.iter().fold(0, |tags, tag| tags | self.tag_bit(tag)),
        };
        let at = match self.slot_of(link.id) {
            Some(at) => {
                self.disown(at);
                self.slots.set(at, Some(slot));
                at
            }
            None => self.add(slot),
        };
        for claim in link.claims() {
            self.own(&claim, at);
        }
        match Limited::of(link) {
            Some(limited) => self.limited.insert(link.id, limited),
            None => self.limited.remove(&link.id),
        };
    }

    fn add(&mut self, slot: Slot) -> u32 {
        let (id, number) = (slot.id, slot.workspace as usize);
        let at = match self.free.pop() {
            Some(at) => {
                self.slots.set(at, Some(slot));
                at
            }
            None => self.slots.push(slot),
        };
        let hash = self.hash(&id);
        self.ids.insert_unique(spread(hash), Entry { hash, slot: at }, |entry| spread(entry.hash));
        let slots = &self.slots;
        self.orders[number].insert(at, &id, |slot| slots.id(slot));
        at
    }

    fn own(&mut self, claim: &LinkClaim, at: u32) {
        let hash = self.hash(claim);
        // Two owners are never committed; of two that are read, the later one is right.
        if let Some(owner) = self.owner_slot(claim).filter(|owner| *owner != at)
            && let Ok(entry) = self.table_mut(claim).find_entry(spread(hash), |entry| entry.slot == owner)
        {
            entry.remove();
        }
        self.table_mut(claim).insert_unique(spread(hash), Entry { hash, slot: at }, |entry| spread(entry.hash));
    }

    fn disown(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        let Ok(claims) = serde_json::from_slice::<Claims>(&slot.json) else { return };
        for claim in claims.all() {
            let hash = self.hash(&claim);
            if let Ok(entry) = self.table_mut(&claim).find_entry(spread(hash), |entry| entry.slot == at) {
                entry.remove();
            }
        }
    }

    fn number(&mut self, workspace: &WorkspaceId) -> u32 {
        if let Some(number) = self.numbers.get(workspace) {
            return *number;
        }
        let number = u32::try_from(self.orders.len()).unwrap_or(u32::MAX);
        self.orders.push(Order::default());
        self.numbers.insert(workspace.clone(), number);
        number
    }

    fn table(&self, claim: &LinkClaim) -> &HashTable<Entry> {
        match claim {
            LinkClaim::Address(..) => &self.addresses,
            LinkClaim::External(..) => &self.externals,
        }
    }

    fn table_mut(&mut self, claim: &LinkClaim) -> &mut HashTable<Entry> {
        match claim {
            LinkClaim::Address(..) => &mut self.addresses,
            LinkClaim::External(..) => &mut self.externals,
        }
    }

    fn slot_of(&self, id: LinkId) -> Option<u32> {
        let hash = self.hash(&id);
        let is = |entry: &Entry| entry.hash == hash && self.slot(entry.slot).is_some_and(|slot| slot.id == id);
        self.ids.find(spread(hash), is).map(|entry| entry.slot)
    }

    fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at)
    }

    fn hash(&self, of: &impl Hash) -> u32 {
        (self.hasher.hash_one(of) >> 32) as u32
    }

    /// A hash that is not 0.
    fn short_hash(&self, text: &str) -> u32 {
        self.hash(&text).max(1)
    }

    fn tag_bit(&self, tag: &str) -> u32 {
        1 << (self.hash(&tag) % 32)
    }
}

fn read(json: &[u8]) -> Option<Link> {
    serde_json::from_slice(json).ok()
}

impl Holds<Link> for Links {
    fn get(&self, id: &LinkId) -> Option<Arc<Link>> {
        read(&self.slot(self.slot_of(*id)?)?.json).map(Arc::new)
    }

    fn owner(&self, claim: &LinkClaim) -> Option<LinkId> {
        let slot = self.owner_slot(claim)?;
        self.slot(slot).map(|slot| slot.id)
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn page(&self, workspace: &WorkspaceId, before: Option<&LinkId>, limit: usize) -> (Vec<Arc<Link>>, bool) {
        let page = self.search(workspace, &Wanted::default(), before.copied(), limit);
        (page.links, page.next.is_some())
    }

    fn theirs<'a>(&'a self, workspace: &'a WorkspaceId) -> impl Iterator<Item = Arc<Link>> + 'a {
        let order = self.numbers.get(workspace).and_then(|number| self.orders.get(*number as usize));
        let slots = order.into_iter().flat_map(|order| order.backwards(None, |slot| self.slots.id(slot)));
        slots.filter_map(|slot| read(&self.slot(slot)?.json).map(Arc::new))
    }

    fn put(&mut self, new: Arc<Link>) {
        match serde_json::to_vec(&new) {
            Ok(json) => self.put_record(&new, &json),
            // It was written to Kafka as the same JSON.
            Err(error) => tracing::error!(%error, id = %new.id, "a link cannot be kept"),
        }
    }

    fn remove(&mut self, id: &LinkId) {
        let Some(at) = self.slot_of(*id) else { return };
        self.disown(at);
        let hash = self.hash(id);
        if let Ok(entry) = self.ids.find_entry(spread(hash), |entry| entry.slot == at) {
            entry.remove();
        }
        let slots = &self.slots;
        let Some(slot) = slots.get(at) else { return };
        self.orders[slot.workspace as usize].remove(id, |slot| slots.id(slot));
        self.slots.set(at, None);
        self.free.push(at);
        self.limited.remove(id);
    }

    /// Keeps the record's value as it is.
    fn read(&mut self, change: &Change<'_>) -> Result<(), String> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        match change {
            Change::Put { key, value } => {
                let link: Link = serde_json::from_slice(value).map_err(|error| format!("{}: {error}", text(key)))?;
                self.put_record(&link, value);
            }
            Change::Delete { key } => {
                let id = text(key).parse::<LinkId>().map_err(|error| error.to_string())?;
                self.remove(&id);
            }
            Change::Coming { .. } | Change::CaughtUp => {}
        }
        Ok(())
    }
}

impl PartialEq for Links {
    fn eq(&self, other: &Self) -> bool {
        fn all(links: &Links) -> BTreeMap<LinkId, &[u8]> {
            links.slots.0.iter().flatten().flatten().map(|slot| (slot.id, &*slot.json)).collect()
        }
        all(self) == all(other)
    }
}

impl Eq for Links {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::state::Shelf;

    fn link(id: u32, slug: &str, external_id: Option<&str>) -> Link {
        let mut link: Link = serde_json::from_value(json!({
            "id": LinkId::from_bits(u128::from(id)), "workspace": "default", "slug": slug, "destination": "https://a.example/",
            "short_url": "https://go.example/", "status_code": 302, "created_at": Timestamp::from_millis(0),
            "updated_at": Timestamp::from_millis(0), "revision": 1,
        }))
        .unwrap();
        link.external_id = external_id.map(ToOwned::to_owned);
        link.tags = vec![format!("t{}", id % 3)];
        link.campaign = id.is_multiple_of(2).then(|| "even".to_owned());
        link
    }

    proptest! {
        #[test]
        fn they_are_kept_as_a_shelf_keeps_them(ops in prop::collection::vec((0_u32..40, 0_u8..12, 0_u8..5), 0..300)) {
            let (mut links, mut shelf) = (Links::default(), Shelf::<Link>::default());
            for (id, slug, op) in ops {
                if op == 0 {
                    links.remove(&LinkId::from_bits(u128::from(id)));
                    shelf.remove(&LinkId::from_bits(u128::from(id)));
                } else {
                    let external = (op == 1).then(|| format!("x{slug}"));
                    let link = Arc::new(link(id, &format!("s{slug}"), external.as_deref()));
                    links.put(Arc::clone(&link));
                    shelf.put(link);
                }
            }
            prop_assert_eq!(links.len(), shelf.len());
            let workspace = WorkspaceId::default();
            prop_assert_eq!(links.page(&workspace, None, 100), shelf.page(&workspace, None, 100));
            let before = LinkId::from_bits(20);
            prop_assert_eq!(links.page(&workspace, Some(&before), 5), shelf.page(&workspace, Some(&before), 5));
            for slug in 0..12 {
                for claim in [
                    LinkClaim::Address(None, format!("s{slug}")),
                    LinkClaim::External(workspace.clone(), format!("x{slug}")),
                ] {
                    prop_assert_eq!(links.owner(&claim), shelf.owner(&claim));
                }
            }
        }
    }

    #[test]
    fn a_search_finds_what_fits_page_by_page() {
        let mut links = Links::default();
        for id in 0..200 {
            links.put(Arc::new(link(id, &format!("s{id}"), None)));
        }
        let wanted = Wanted { campaign: Some("even".to_owned()), tag: Some("t1".to_owned()), ..Wanted::default() };
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = links.search(&WorkspaceId::default(), &wanted, before, 7);
            found.extend(page.links.iter().map(|link| link.id.bits()));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        let expected: Vec<u128> = (0..200).rev().filter(|id| id % 2 == 0 && id % 3 == 1).collect();
        assert_eq!(found, expected);
        let one = Wanted { slug: Some("s77".to_owned()), ..Wanted::default() };
        assert_eq!(links.search(&WorkspaceId::default(), &one, None, 7).links.len(), 1);
        assert!(links.search(&WorkspaceId::new("other"), &one, None, 7).links.is_empty());
    }

    #[test]
    fn limited_are_those_that_have_a_limit_left_to_reach() {
        let mut links = Links::default();
        let limit = |id: u32, max: Option<u64>, exhausted_at: Option<Timestamp>| {
            Arc::new(Link { max_clicks: max, exhausted_at, ..link(id, &format!("s{id}"), None) })
        };
        let at = Timestamp::from_millis(1);
        for new in [limit(1, Some(5), None), limit(2, None, None), limit(3, Some(6), None), limit(4, Some(7), Some(at))]
        {
            links.put(new);
        }
        let ids = |links: &Links, after: Option<u128>, count| -> Vec<u128> {
            links.limited(after.map(LinkId::from_bits), count).iter().map(|limited| limited.id.bits()).collect()
        };
        assert_eq!(ids(&links, None, 9), [1, 3]);
        assert_eq!((ids(&links, None, 1), ids(&links, Some(1), 9)), (vec![1], vec![3]));
        links.put(limit(1, Some(5), Some(at)));
        links.put(limit(4, Some(8), None));
        links.remove(&LinkId::from_bits(3));
        assert_eq!(ids(&links, None, 9), [4]);
        assert_eq!(links.limited(None, 9)[0].max_clicks, 8);
    }

    /// What a link costs beside its JSON: `cargo test --release -p control --lib -- --ignored --nocapture a_million`.
    #[test]
    #[ignore = "a measurement"]
    fn a_million_links() {
        for count in [1_000_000_u32, 5_000_000] {
            let mut links = Links::default();
            let (before, began) = (resident(), std::time::Instant::now());
            let mut json_bytes = 0;
            for id in 0..count {
                let value = serde_json::to_vec(&link(id, &format!("s{id}"), Some(&id.to_string()))).unwrap();
                json_bytes += value.len();
                let key = LinkId::from_bits(u128::from(id)).to_string();
                links.read(&Change::Put { key: key.as_bytes(), value: &value }).unwrap();
            }
            let bytes = (resident() - before) as f64 / f64::from(count);
            let json = json_bytes as f64 / f64::from(count);
            println!(
                "{count} links with an external id: {:.1} s, {json:.0} bytes of JSON and {:.0} beside it each",
                began.elapsed().as_secs_f64(),
                bytes - json
            );
        }
    }

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }
}
