//! The committed links in the leader's memory, by the million.
//!
//! A link is kept as the JSON of its record and read on demand; beside it stand an id, a few hashes that tell most
//! links apart without reading, and four bytes in each index. `bench api` measures the memory of a link.

mod filter;
mod keys;
mod order;
mod search;
mod slots;
mod sorted;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    hash::{BuildHasher, Hash},
    ops::Bound,
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use schemas::{Link, LinkId, Timestamp, WorkspaceId};

pub(crate) use self::{
    filter::{ArchivedLinks, LimitedLink, LinkFilter, LinkPage, SortedPage},
    keys::{LinkKey, LinkLabel},
    search::{LinkSort, SortDirection},
    sorted::{SortField, SortKey},
};
use self::{
    keys::StoredLinkKeys,
    order::SlotOrder,
    slots::{Slots, StoredLink},
    sorted::SortedOrders,
};
use crate::state::{collection::EntityCollection, entity::Entity, quotas::Tally};

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

/// Whether the links of each workspace are kept sorted.
#[derive(Debug)]
enum Sorting {
    /// The orders of each workspace, by its number.
    Kept(Vec<SortedOrders>),
    /// The links will be sorted when all are there.
    Deferred,
}

impl Default for Sorting {
    fn default() -> Self {
        Self::Kept(Vec::new())
    }
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
    /// The tallies of the workspaces, by their numbers.
    tallies: Vec<Tally>,
    /// The links that have a label, for each workspace by its number.
    labels: Vec<BTreeMap<LinkLabel, SlotOrder>>,
    sorting: Sorting,
    /// The links whose clicks are limited and have not reached the limit.
    limited: BTreeMap<LinkId, LimitedLink>,
    /// The deadlines of links, until they are forgotten.
    deadlines: BTreeSet<(Timestamp, LinkId)>,
}

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

    /// Makes a collection that is to be filled with many links, and sorts them at the end ([`LinkCollection::sort`]).
    pub(crate) fn filling() -> Self {
        Self { sorting: Sorting::Deferred, ..Self::default() }
    }

    /// Sorts all links, and keeps them sorted from then on.
    pub(crate) fn sort(&mut self) {
        let sorted = |order: &SlotOrder| {
            let slots: Vec<u32> = order.backwards(None, |slot| self.slots.id(slot)).collect();
            SortedOrders::new(&self.slots, &slots)
        };
        self.sorting = Sorting::Kept(self.orders.iter().map(sorted).collect());
    }

    /// Iterates over the ids of a workspace's links that have the label, newest first, older than `before`.
    pub(crate) fn labelled(
        &self,
        workspace: &WorkspaceId,
        label: &LinkLabel,
        before: Option<&LinkId>,
    ) -> impl Iterator<Item = LinkId> {
        let order = self.order_labelled(workspace, label);
        let slots = order.into_iter().flat_map(move |order| order.backwards(before, |slot| self.slots.id(slot)));
        slots.map(|slot| self.slots.id(slot))
    }

    /// Returns the number of a workspace's links that have the label.
    pub(crate) fn count_labelled(&self, workspace: &WorkspaceId, label: &LinkLabel) -> usize {
        self.order_labelled(workspace, label).map_or(0, SlotOrder::len)
    }

    fn order_labelled(&self, workspace: &WorkspaceId, label: &LinkLabel) -> Option<&SlotOrder> {
        let number = *self.numbers.get(workspace)?;
        self.labels.get(number as usize)?.get(label)
    }

    /// Returns up to `limit` tags of a workspace's links behind `after` in ascending order, each with its number of links;
    /// and whether there are more.
    pub(crate) fn tags(
        &self,
        workspace: &WorkspaceId,
        after: Option<&str>,
        limit: usize,
    ) -> (Vec<(String, usize)>, bool) {
        let number = self.numbers.get(workspace);
        let Some(labels) = number.and_then(|number| self.labels.get(*number as usize)) else {
            return (Vec::new(), false);
        };
        let from = after.map_or(Bound::Included(LinkLabel::Tag(String::new())), |after| {
            Bound::Excluded(LinkLabel::Tag(after.to_owned()))
        });
        let mut tags = labels.range((from, Bound::Unbounded)).filter_map(|(label, order)| match label {
            LinkLabel::Tag(tag) => Some((tag.clone(), order.len())),
            LinkLabel::Domain(_) | LinkLabel::Campaign(_) => None,
        });
        let page = tags.by_ref().take(limit).collect();
        (page, tags.next().is_some())
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

    /// Returns those of the links whose clicks are limited and have not reached the limit.
    pub(crate) fn limited_of(&self, ids: impl Iterator<Item = LinkId>) -> Vec<LimitedLink> {
        ids.filter_map(|id| self.limited.get(&id).cloned()).collect()
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
        let tally = Tally::one(json.len());
        let at = match self.slot_of(link.id) {
            Some(at) => {
                self.disown(at);
                self.slots.set(at, Some(stored));
                at
            }
            None => self.add(stored),
        };
        self.tallies[number as usize] += tally;
        if let Sorting::Kept(orders) = &mut self.sorting {
            orders[number as usize].insert(&self.slots, at);
        }
        for label in LinkLabel::of(link) {
            let slots = &self.slots;
            self.labels[number as usize].entry(label).or_default().insert(at, &link.id, |slot| slots.id(slot));
        }
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

    /// Frees the keys and the deadline that the link in the slot owns, and takes it out of the labels and the tally.
    fn disown(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        let (id, number) = (slot.id, slot.workspace);
        let tally = Tally::one(slot.json.len()).negated();
        let Ok(stored) = serde_json::from_slice::<StoredLinkKeys>(&slot.json) else { return };
        if let Some(deadline) = stored.expires_at {
            self.deadlines.remove(&(deadline, id));
        }
        self.tallies[number as usize] += tally;
        if let Sorting::Kept(orders) = &mut self.sorting {
            orders[number as usize].remove(&self.slots, at);
        }
        let (keys, labels) = stored.into_parts();
        for label in labels {
            let slots = &self.slots;
            if let Entry::Occupied(mut entry) = self.labels[number as usize].entry(label) {
                entry.get_mut().remove(&id, |slot| slots.id(slot));
                if entry.get().len() == 0 {
                    entry.remove();
                }
            }
        }
        for key in keys {
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
        self.tallies.push(Tally::default());
        self.labels.push(BTreeMap::new());
        if let Sorting::Kept(orders) = &mut self.sorting {
            orders.push(SortedOrders::default());
        }
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
        let all = LinkFilter { archived: ArchivedLinks::Any, ..LinkFilter::default() };
        let page = self.search(workspace, &all, before.copied(), limit);
        (page.links, page.next.is_some())
    }

    fn tally(&self, workspace: &WorkspaceId) -> Tally {
        let number = self.numbers.get(workspace);
        number.and_then(|number| self.tallies.get(*number as usize)).copied().unwrap_or_default()
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
