//! The committed links in the leader's memory, by the million.
//!
//! A link is kept as the JSON of its record and read on demand; beside it stand an id, a few hashes that tell most
//! links apart without reading, and four bytes in each index. `bench api` measures the memory of a link.

mod filter;
mod keys;
mod order;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, Hash},
    ops::Bound,
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use schemas::{Link, LinkId, Timestamp, WorkspaceId};

pub(crate) use self::{
    filter::{LimitedLink, LinkFilter, LinkPage},
    keys::LinkKey,
};
use self::{
    keys::StoredLinkKeys,
    order::SlotOrder,
    slots::{Slots, StoredLink},
};
use crate::state::{collection::EntityCollection, entity::Entity};

/// The number of a slot, with the hash of the id or key that it is found by.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    hash: u32,
    slot: u32,
}

/// Spreads the half of a hash that is stored over a whole hash, as the tables need it.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// All committed links.
#[derive(Debug, Default)]
pub(crate) struct LinkCollection {
    hasher: RandomState,
    slots: Slots,
    /// The empty slots.
    free: Vec<u32>,
    ids: HashTable<IndexEntry>,
    addresses: HashTable<IndexEntry>,
    externals: HashTable<IndexEntry>,
    /// The numbers of the workspaces.
    numbers: HashMap<WorkspaceId, u32>,
    /// The links of each workspace, by the workspace's number.
    orders: Vec<SlotOrder>,
    /// The links whose clicks are limited and have not reached the limit.
    limited: BTreeMap<LinkId, LimitedLink>,
    /// The deadlines of links, until they are forgotten.
    deadlines: BTreeSet<(Timestamp, LinkId)>,
}

/// The most links that are examined for one page, since writers wait meanwhile. A page can therefore be short, or empty,
/// and still have a next one.
const MAX_EXAMINED: usize = 500_000;
/// The most links that are read for one page, for the same reason.
const MAX_READ: usize = 5_000;

impl LinkCollection {
    /// Returns the slot of the key's owner.
    fn owner_slot(&self, key: &LinkKey) -> Option<u32> {
        let hash = self.hash(key);
        let is = |entry: &IndexEntry| {
            entry.hash == hash
                && self
                    .slot(entry.slot)
                    .and_then(|slot| serde_json::from_slice::<StoredLinkKeys>(&slot.json).ok())
                    .is_some_and(|keys| keys.contains(key))
        };
        self.table(key).find(spread(hash), is).map(|entry| entry.slot)
    }

    /// Returns up to `limit` of a workspace's links that match the filter, newest first, older than `before`.
    pub(crate) fn search(
        &self,
        workspace: &WorkspaceId,
        filter: &LinkFilter,
        before: Option<LinkId>,
        limit: usize,
    ) -> LinkPage {
        let mut page = LinkPage { links: Vec::new(), next: None };
        let Some(in_workspace) = self.numbers.get(workspace).and_then(|number| self.orders.get(*number as usize))
        else {
            return page;
        };
        let campaign = filter.campaign.as_ref().map(|campaign| self.short_hash(campaign));
        let slug_hash = filter.slug.as_ref().map(|slug| self.short_hash(slug));
        let tag = filter.tag.as_ref().map_or(0, |tag| self.tag_bit(tag));
        let mut examined = 0;
        let mut to_read = MAX_READ.max(limit);
        let mut last = None;
        for slot in in_workspace.backwards(before.as_ref(), |slot| self.slots.id(slot)) {
            let Some(slot) = self.slot(slot) else { continue };
            if page.links.len() == limit || examined == MAX_EXAMINED || to_read == 0 {
                page.next = last;
                return page;
            }
            examined += 1;
            last = Some(slot.id);
            let may_fit = campaign.is_none_or(|campaign| campaign == slot.campaign)
                && slug_hash.is_none_or(|slug| slug == slot.slug)
                && slot.tags & tag == tag;
            if may_fit {
                to_read -= 1;
                if let Some(link) = read(&slot.json).filter(|link| filter.matches(link)) {
                    page.links.push(Arc::new(link));
                }
            }
        }
        page
    }

    /// Returns up to `count` of the links whose clicks are limited and have not reached the limit, after `after` in the
    /// order of their ids.
    pub(crate) fn limited(&self, after: Option<LinkId>, count: usize) -> Vec<LimitedLink> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.limited.range((from, Bound::Unbounded)).map(|(_, limited)| limited.clone()).take(count).collect()
    }

    /// Returns up to `count` deadlines that have passed and were not forgotten, the earliest first.
    pub(crate) fn passed_deadlines(&self, now: Timestamp, count: usize) -> Vec<(Timestamp, LinkId)> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).take(count).copied().collect()
    }

    /// Forgets deadlines about which nothing is left to do. A link that changes brings its deadline back.
    pub(crate) fn forget_deadlines(&mut self, deadlines: &[(Timestamp, LinkId)]) {
        for deadline in deadlines {
            self.deadlines.remove(deadline);
        }
    }

    /// Inserts a link, whose record has the value `json`, in place of an earlier version.
    fn insert_json(&mut self, link: &Link, json: &[u8]) {
        let number = self.number(&link.workspace);
        let stored = StoredLink {
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
                self.slots.set(at, Some(stored));
                at
            }
            None => self.add(stored),
        };
        for key in link.unique_keys() {
            self.own(&key, at);
        }
        if let Some(deadline) = link.expires_at {
            self.deadlines.insert((deadline, link.id));
        }
        match LimitedLink::of(link) {
            Some(limited) => self.limited.insert(link.id, limited),
            None => self.limited.remove(&link.id),
        };
    }

    /// Adds a link whose id is new, and returns its slot.
    fn add(&mut self, stored: StoredLink) -> u32 {
        let id = stored.id;
        let number = stored.workspace as usize;
        let at = match self.free.pop() {
            Some(at) => {
                self.slots.set(at, Some(stored));
                at
            }
            None => self.slots.push(stored),
        };
        let hash = self.hash(&id);
        self.ids.insert_unique(spread(hash), IndexEntry { hash, slot: at }, |entry| spread(entry.hash));
        let slots = &self.slots;
        self.orders[number].insert(at, &id, |slot| slots.id(slot));
        at
    }

    /// Makes the link in the slot the owner of the key.
    fn own(&mut self, key: &LinkKey, at: u32) {
        let hash = self.hash(key);
        // Two owners are never committed. If two are read from the topic, the later one is right.
        if let Some(owner) = self.owner_slot(key).filter(|owner| *owner != at)
            && let Ok(entry) = self.table_mut(key).find_entry(spread(hash), |entry| entry.slot == owner)
        {
            entry.remove();
        }
        self.table_mut(key).insert_unique(spread(hash), IndexEntry { hash, slot: at }, |entry| spread(entry.hash));
    }

    /// Frees the keys and the deadline that the link in the slot owns.
    fn disown(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        let Ok(keys) = serde_json::from_slice::<StoredLinkKeys>(&slot.json) else { return };
        if let Some(deadline) = keys.expires_at {
            let entry = (deadline, slot.id);
            self.deadlines.remove(&entry);
        }
        for key in keys.into_keys() {
            let hash = self.hash(&key);
            if let Ok(entry) = self.table_mut(&key).find_entry(spread(hash), |entry| entry.slot == at) {
                entry.remove();
            }
        }
    }

    /// Returns the number of a workspace, which may be new.
    fn number(&mut self, workspace: &WorkspaceId) -> u32 {
        if let Some(number) = self.numbers.get(workspace) {
            return *number;
        }
        let number = u32::try_from(self.orders.len()).unwrap_or(u32::MAX);
        self.orders.push(SlotOrder::default());
        self.numbers.insert(workspace.clone(), number);
        number
    }

    fn table(&self, key: &LinkKey) -> &HashTable<IndexEntry> {
        match key {
            LinkKey::Address(..) => &self.addresses,
            LinkKey::External(..) => &self.externals,
        }
    }

    fn table_mut(&mut self, key: &LinkKey) -> &mut HashTable<IndexEntry> {
        match key {
            LinkKey::Address(..) => &mut self.addresses,
            LinkKey::External(..) => &mut self.externals,
        }
    }

    /// Returns the slot of a link.
    fn slot_of(&self, id: LinkId) -> Option<u32> {
        let hash = self.hash(&id);
        let is = |entry: &IndexEntry| entry.hash == hash && self.slot(entry.slot).is_some_and(|slot| slot.id == id);
        self.ids.find(spread(hash), is).map(|entry| entry.slot)
    }

    fn slot(&self, at: u32) -> Option<&StoredLink> {
        self.slots.get(at)
    }

    fn hash(&self, of: &impl Hash) -> u32 {
        (self.hasher.hash_one(of) >> 32) as u32
    }

    /// Returns a hash that is not 0.
    fn short_hash(&self, text: &str) -> u32 {
        self.hash(&text).max(1)
    }

    /// Returns the bit of a tag.
    fn tag_bit(&self, tag: &str) -> u32 {
        1 << (self.hash(&tag) % 32)
    }
}

fn read(json: &[u8]) -> Option<Link> {
    serde_json::from_slice(json).ok()
}

impl EntityCollection<Link> for LinkCollection {
    fn get(&self, id: &LinkId) -> Option<Arc<Link>> {
        read(&self.slot(self.slot_of(*id)?)?.json).map(Arc::new)
    }

    fn owner(&self, key: &LinkKey) -> Option<LinkId> {
        let slot = self.owner_slot(key)?;
        self.slot(slot).map(|slot| slot.id)
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn page(&self, workspace: &WorkspaceId, before: Option<&LinkId>, limit: usize) -> (Vec<Arc<Link>>, bool) {
        let page = self.search(workspace, &LinkFilter::default(), before.copied(), limit);
        (page.links, page.next.is_some())
    }

    fn in_workspace<'a>(&'a self, workspace: &'a WorkspaceId) -> impl Iterator<Item = Arc<Link>> + 'a {
        let order = self.numbers.get(workspace).and_then(|number| self.orders.get(*number as usize));
        let slots = order.into_iter().flat_map(|order| order.backwards(None, |slot| self.slots.id(slot)));
        slots.filter_map(|slot| read(&self.slot(slot)?.json).map(Arc::new))
    }

    fn insert(&mut self, new: Arc<Link>) {
        match serde_json::to_vec(&new) {
            Ok(json) => self.insert_json(&new, &json),
            // The link was written to Kafka as the same JSON.
            Err(error) => tracing::error!(%error, id = %new.id, "a committed link cannot be kept in memory"),
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
    fn insert_record(&mut self, value: &[u8]) -> Result<(), serde_json::Error> {
        let link: Link = serde_json::from_slice(value)?;
        self.insert_json(&link, value);
        Ok(())
    }
}

impl PartialEq for LinkCollection {
    fn eq(&self, other: &Self) -> bool {
        fn all(links: &LinkCollection) -> BTreeMap<LinkId, &[u8]> {
            links.slots.iter().map(|slot| (slot.id, &*slot.json)).collect()
        }
        all(self) == all(other)
    }
}

impl Eq for LinkCollection {}

#[cfg(test)]
mod tests {
    use bus::Change;
    use proptest::prelude::*;
    use schemas::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::state::collection::BTreeCollection;

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
        fn they_are_kept_as_a_tree_keeps_them(ops in prop::collection::vec((0_u32..40, 0_u8..12, 0_u8..5), 0..300)) {
            let (mut links, mut tree) = (LinkCollection::default(), BTreeCollection::<Link>::default());
            for (id, slug, op) in ops {
                if op == 0 {
                    links.remove(&LinkId::from_bits(u128::from(id)));
                    tree.remove(&LinkId::from_bits(u128::from(id)));
                } else {
                    let external = (op == 1).then(|| format!("x{slug}"));
                    let link = Arc::new(link(id, &format!("s{slug}"), external.as_deref()));
                    links.insert(Arc::clone(&link));
                    tree.insert(link);
                }
            }
            prop_assert_eq!(links.len(), tree.len());
            let workspace = WorkspaceId::default();
            prop_assert_eq!(links.page(&workspace, None, 100), tree.page(&workspace, None, 100));
            let before = LinkId::from_bits(20);
            prop_assert_eq!(links.page(&workspace, Some(&before), 5), tree.page(&workspace, Some(&before), 5));
            for slug in 0..12 {
                for key in [
                    LinkKey::Address(None, format!("s{slug}")),
                    LinkKey::External(workspace.clone(), format!("x{slug}")),
                ] {
                    prop_assert_eq!(links.owner(&key), tree.owner(&key));
                }
            }
        }
    }

    #[test]
    fn a_search_finds_what_fits_page_by_page() {
        let mut links = LinkCollection::default();
        for id in 0..200 {
            links.insert(Arc::new(link(id, &format!("s{id}"), None)));
        }
        let filter =
            LinkFilter { campaign: Some("even".to_owned()), tag: Some("t1".to_owned()), ..LinkFilter::default() };
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = links.search(&WorkspaceId::default(), &filter, before, 7);
            found.extend(page.links.iter().map(|link| link.id.bits()));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        let expected: Vec<u128> = (0..200).rev().filter(|id| id % 2 == 0 && id % 3 == 1).collect();
        assert_eq!(found, expected);
        let one = LinkFilter { slug: Some("s77".to_owned()), ..LinkFilter::default() };
        assert_eq!(links.search(&WorkspaceId::default(), &one, None, 7).links.len(), 1);
        assert!(links.search(&WorkspaceId::new("other"), &one, None, 7).links.is_empty());
    }

    #[test]
    fn limited_are_those_that_have_a_limit_left_to_reach() {
        let mut links = LinkCollection::default();
        let limit = |id: u32, max: Option<u64>, exhausted_at: Option<Timestamp>| {
            Arc::new(Link { max_clicks: max, exhausted_at, ..link(id, &format!("s{id}"), None) })
        };
        let at = Timestamp::from_millis(1);
        for new in [limit(1, Some(5), None), limit(2, None, None), limit(3, Some(6), None), limit(4, Some(7), Some(at))]
        {
            links.insert(new);
        }
        let ids = |links: &LinkCollection, after: Option<u128>, count| -> Vec<u128> {
            links.limited(after.map(LinkId::from_bits), count).iter().map(|limited| limited.id.bits()).collect()
        };
        assert_eq!(ids(&links, None, 9), [1, 3]);
        assert_eq!((ids(&links, None, 1), ids(&links, Some(1), 9)), (vec![1], vec![3]));
        links.insert(limit(1, Some(5), Some(at)));
        links.insert(limit(4, Some(8), None));
        links.remove(&LinkId::from_bits(3));
        assert_eq!(ids(&links, None, 9), [4]);
        assert_eq!(links.limited(None, 9)[0].max_clicks, 8);
    }

    #[test]
    fn deadlines_pass_in_their_order_and_follow_their_links() {
        let mut links = LinkCollection::default();
        let at = Timestamp::from_millis;
        let expiring = |id: u32, deadline: Option<i64>| {
            Arc::new(Link { expires_at: deadline.map(at), ..link(id, &format!("s{id}"), None) })
        };
        for new in [expiring(1, Some(30)), expiring(2, Some(10)), expiring(3, None), expiring(4, Some(20))] {
            links.insert(new);
        }
        let passed = |links: &LinkCollection, now, count| -> Vec<(i64, u128)> {
            let passed = links.passed_deadlines(at(now), count);
            passed.into_iter().map(|(deadline, id)| (deadline.as_millis(), id.bits())).collect()
        };
        assert_eq!(passed(&links, 25, 9), [(10, 2), (20, 4)]);
        assert_eq!(passed(&links, 99, 1), [(10, 2)]);
        links.insert(expiring(2, Some(50)));
        links.remove(&LinkId::from_bits(4));
        links.forget_deadlines(&[(at(30), LinkId::from_bits(1))]);
        assert_eq!(passed(&links, 99, 9), [(50, 2)]);
        links.insert(expiring(1, Some(30)));
        assert_eq!(passed(&links, 99, 9), [(30, 1), (50, 2)]);
    }

    /// Measures the memory of a link beside its JSON: `cargo test --release -p control --lib -- --ignored --nocapture a_million`.
    #[test]
    #[ignore = "a measurement"]
    fn a_million_links() {
        for count in [1_000_000_u32, 5_000_000] {
            let mut links = LinkCollection::default();
            let (before, began) = (resident(), std::time::Instant::now());
            let mut json_bytes = 0;
            for id in 0..count {
                let value = serde_json::to_vec(&link(id, &format!("s{id}"), Some(&id.to_string()))).unwrap();
                json_bytes += value.len();
                let key = LinkId::from_bits(u128::from(id)).to_string();
                links.apply_record(&Change::Put { key: key.as_bytes(), value: &value }).unwrap();
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
