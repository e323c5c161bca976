//! The unique keys of links, and their deadlines.

use schemas::{Timestamp, WorkspaceId};
use serde::Deserialize;

/// A key that only one link may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LinkKey {
    /// The domain and the slug that the link answers on: unique in the installation.
    Address(Option<String>, String),
    /// The customer's own id: unique in the workspace.
    External(WorkspaceId, String),
}

/// The unique keys and the deadline in a link's record, read without the rest of it.
#[derive(Deserialize)]
pub(super) struct StoredLinkKeys {
    workspace: WorkspaceId,
    #[serde(default)]
    domain: Option<String>,
    slug: String,
    #[serde(default)]
    external_id: Option<String>,
    /// The deadline of the link, which has an index of its own.
    #[serde(default)]
    pub(super) expires_at: Option<Timestamp>,
}

impl StoredLinkKeys {
    /// Tells whether the link has the key.
    pub(super) fn contains(&self, key: &LinkKey) -> bool {
        match key {
            LinkKey::Address(domain, slug) => self.domain == *domain && self.slug == *slug,
            LinkKey::External(workspace, external) => {
                self.external_id.as_ref() == Some(external) && self.workspace == *workspace
            }
        }
    }

    /// Iterates over the keys.
    pub(super) fn into_keys(self) -> impl Iterator<Item = LinkKey> {
        let external = self.external_id.map(|external| LinkKey::External(self.workspace, external));
        std::iter::once(LinkKey::Address(self.domain, self.slug)).chain(external)
    }
}
