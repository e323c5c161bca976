//! The memory of the links: slots in chunks, so that growing copies none of them.

use schemas::LinkId;

/// A link in memory, with the facts that tell most links apart without reading the JSON.
#[derive(Debug)]
pub(super) struct StoredLink {
    pub(super) id: LinkId,
    /// The value of the link's record, which was read without an error before.
    pub(super) json: Box<[u8]>,
    /// The number of the workspace.
    pub(super) workspace: u32,
    /// A hash of the campaign; 0 for none.
    pub(super) campaign: u32,
    /// A hash of the slug.
    pub(super) slug: u32,
    /// One bit for each tag, chosen by the tag's hash.
    pub(super) tags: u32,
}

/// The links by the numbers of their slots; a slot can be empty.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Vec<Option<StoredLink>>>);

/// The number of slots in a chunk.
const CHUNK: usize = 4096;

impl Slots {
    /// Returns the link in a slot.
    pub(super) fn get(&self, slot: u32) -> Option<&StoredLink> {
        self.0.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)?.as_ref()
    }

    /// Fills a slot, or empties it.
    pub(super) fn set(&mut self, slot: u32, link: Option<StoredLink>) {
        self.0[slot as usize / CHUNK][slot as usize % CHUNK] = link;
    }

    /// Puts a link into a new slot and returns the slot's number.
    pub(super) fn push(&mut self, link: StoredLink) -> u32 {
        if self.0.last().is_none_or(|last| last.len() == CHUNK) {
            self.0.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.0.len() - 1) * CHUNK;
        let Some(last) = self.0.last_mut() else { return 0 };
        last.push(Some(link));
        // Memory ends long before the numbers do.
        u32::try_from(before + last.len() - 1).unwrap_or(u32::MAX)
    }

    /// Returns the id of the link in a slot. The slots in an order are never empty.
    pub(super) fn id(&self, slot: u32) -> LinkId {
        self.get(slot).map_or(LinkId::from_bits(0), |link| link.id)
    }

    /// Iterates over all links.
    pub(super) fn iter(&self) -> impl Iterator<Item = &StoredLink> {
        self.0.iter().flatten().flatten()
    }
}
