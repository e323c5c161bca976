//! Searches: the links of a workspace that satisfy a filter, newest first or sorted. A search looks at a bounded number of
//! links, through the shortest order that has all that can match.

use std::sync::Arc;

use schemas::{Link, LinkId, WorkspaceId};

use super::{
    LinkCollection, Sorting,
    filter::{LinkFilter, LinkPage, SortedPage},
    order::SlotOrder,
    read,
    slots::StoredLink,
    sorted::{SortField, SortKey, SortedOrders, key_of, key_text},
};

/// The most links that are examined for one page, since writers wait meanwhile. A page can therefore be short, or empty,
/// and still have a next one.
const MAX_EXAMINED: usize = 500_000;
/// The most links that are read for one page, for the same reason.
const MAX_READ: usize = 5_000;
/// The most links with the same beginning of a slug or destination that are read at once.
const MAX_BEGINNING: usize = 1_000;

/// The order of a list that is not newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkSort {
    pub(crate) field: SortField,
    pub(crate) direction: SortDirection,
}

/// A direction of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortDirection {
    Ascending,
    Descending,
}

/// The hashes of a filter, which tell most links apart that do not match.
struct Sieve {
    campaign: Option<u32>,
    slug: Option<u32>,
    tag: u32,
}

impl Sieve {
    fn new(links: &LinkCollection, filter: &LinkFilter) -> Self {
        Self {
            campaign: filter.campaign.as_ref().map(|campaign| links.short_hash(campaign)),
            slug: filter.slug.as_ref().map(|slug| links.short_hash(slug)),
            tag: filter.tag.as_ref().map_or(0, |tag| links.tag_bit(tag)),
        }
    }

    fn passes(&self, link: &StoredLink) -> bool {
        self.campaign.is_none_or(|campaign| campaign == link.campaign)
            && self.slug.is_none_or(|slug| slug == link.slug)
            && link.tags & self.tag == self.tag
    }
}

impl LinkCollection {
    /// Returns up to `limit` of a workspace's links that match the filter, newest first, older than `before`.
    pub(crate) fn search(
        &self,
        workspace: &WorkspaceId,
        filter: &LinkFilter,
        before: Option<LinkId>,
        limit: usize,
    ) -> LinkPage {
        let mut page = LinkPage { links: Vec::new(), next: None, read: 0 };
        if let Some(few) = self.few_beginning(workspace, filter, before) {
            for slot in few {
                if page.links.len() == limit {
                    page.next = page.links.last().map(|link: &Arc<Link>| link.id);
                    return page;
                }
                page.read += 1;
                page.links.extend(self.read_matching(slot, filter));
            }
            return page;
        }
        let Some(in_order) = self.order_of(workspace, filter) else { return page };
        let sieve = Sieve::new(self, filter);
        let mut examined = 0;
        let mut to_read = MAX_READ.max(limit);
        let mut last = None;
        for at in in_order.backwards(before.as_ref(), |slot| self.slots.id(slot)) {
            let Some(slot) = self.slot(at) else { continue };
            if page.links.len() == limit || examined == MAX_EXAMINED || to_read == 0 {
                page.next = last;
                return page;
            }
            examined += 1;
            last = Some(slot.id);
            if sieve.passes(slot) {
                to_read -= 1;
                page.read += 1;
                page.links.extend(self.read_matching(at, filter));
            }
        }
        page
    }

    /// Returns up to `limit` of a workspace's links that match the filter, sorted by a field, behind `after`.
    pub(crate) fn search_sorted(
        &self,
        workspace: &WorkspaceId,
        filter: &LinkFilter,
        sort: LinkSort,
        after: Option<&SortKey<Vec<u8>>>,
        limit: usize,
    ) -> SortedPage {
        let mut page = SortedPage { links: Vec::new(), next: None, read: 0 };
        let Some(orders) = self.sorted(workspace) else { return page };
        let order = orders.order(sort.field);
        let beginning = filter.beginning(sort.field).map(key_text).unwrap_or_default();
        // No text has this byte.
        let end: Vec<u8> = beginning.iter().copied().chain([u8::MAX]).collect();
        let key = |slot| key_of(&self.slots, slot, sort.field);
        let after = after.map(|after| SortKey { text: after.text.as_slice(), id: after.id });
        let first = SortKey { text: beginning.as_slice(), id: LinkId::from_bits(0) };
        let last = SortKey { text: end.as_slice(), id: LinkId::from_bits(0) };
        let slots: Box<dyn Iterator<Item = u32>> = match sort.direction {
            SortDirection::Ascending => Box::new(order.forwards(after.as_ref().unwrap_or(&first), key)),
            SortDirection::Descending => Box::new(order.backwards(Some(after.as_ref().unwrap_or(&last)), key)),
        };
        let sieve = Sieve::new(self, filter);
        let mut examined = 0;
        let mut to_read = MAX_READ.max(limit);
        let mut before = None;
        for at in slots {
            let Some(slot) = self.slot(at) else { continue };
            let place = key(at);
            if Some(&place) == after.as_ref() {
                continue;
            }
            if !place.text.starts_with(&beginning) {
                return page;
            }
            if page.links.len() == limit || examined == MAX_EXAMINED || to_read == 0 {
                page.next = before.map(|SortKey { text, id }: SortKey<&[u8]>| SortKey { text: text.to_vec(), id });
                return page;
            }
            examined += 1;
            before = Some(place);
            if sieve.passes(slot) {
                to_read -= 1;
                page.read += 1;
                page.links.extend(self.read_matching(at, filter));
            }
        }
        page
    }

    /// Returns a workspace's links with this destination, a thousand at most.
    pub(crate) fn leading_to(&self, workspace: &WorkspaceId, destination: &str) -> Vec<Arc<Link>> {
        let slots = self.beginning_with(workspace, SortField::Destination, destination, MAX_BEGINNING);
        let links = slots.into_iter().filter_map(|slot| read(&self.slot(slot)?.json));
        links.filter(|link| link.destination == destination).map(Arc::new).collect()
    }

    fn read_matching(&self, slot: u32, filter: &LinkFilter) -> Option<Arc<Link>> {
        read(&self.slot(slot)?.json).filter(|link| filter.matches(link)).map(Arc::new)
    }

    /// Returns the slots of the links with the wanted beginning of a slug or destination, newest first, older than `before`;
    /// nothing where none is wanted, or too many have it.
    fn few_beginning(&self, workspace: &WorkspaceId, filter: &LinkFilter, before: Option<LinkId>) -> Option<Vec<u32>> {
        let mut fields = [SortField::Slug, SortField::Destination].into_iter();
        let (field, beginning) = fields.find_map(|field| Some((field, filter.beginning(field)?)))?;
        self.sorted(workspace)?;
        let mut slots = self.beginning_with(workspace, field, beginning, MAX_BEGINNING + 1);
        if slots.len() > MAX_BEGINNING {
            return None;
        }
        slots.retain(|slot| before.is_none_or(|before| self.slots.id(*slot) < before));
        slots.sort_unstable_by_key(|slot| std::cmp::Reverse(self.slots.id(*slot)));
        Some(slots)
    }

    /// Returns the slots of up to `limit` links whose slugs or destinations begin with a text, in ascending order.
    fn beginning_with(&self, workspace: &WorkspaceId, field: SortField, text: &str, limit: usize) -> Vec<u32> {
        let Some(orders) = self.sorted(workspace) else { return Vec::new() };
        let text = key_text(text);
        let key = |slot| key_of(&self.slots, slot, field);
        let from = SortKey { text: text.as_slice(), id: LinkId::from_bits(0) };
        let slots = orders.order(field).forwards(&from, key);
        slots.take_while(|slot| key(*slot).text.starts_with(&text)).take(limit).collect()
    }

    /// Returns the sorted orders of a workspace.
    fn sorted(&self, workspace: &WorkspaceId) -> Option<&SortedOrders> {
        match &self.sorting {
            Sorting::Kept(orders) => orders.get(*self.numbers.get(workspace)? as usize),
            Sorting::Deferred => None,
        }
    }

    /// Returns the shortest of the orders that have all links which match the filter; nothing where none can match.
    fn order_of(&self, workspace: &WorkspaceId, filter: &LinkFilter) -> Option<&SlotOrder> {
        let number = *self.numbers.get(workspace)?;
        let mut shortest = self.orders.get(number as usize)?;
        for label in filter.labels() {
            let labelled = self.labels.get(number as usize)?.get(&label)?;
            if labelled.len() < shortest.len() {
                shortest = labelled;
            }
        }
        Some(shortest)
    }
}
