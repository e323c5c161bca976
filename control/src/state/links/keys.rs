//! The unique keys of links, and their deadlines.

use schemas::{Link, Timestamp, WorkspaceId};
use serde::Deserialize;

/// A key that only one link may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LinkKey {
    /// The domain and the slug that the link answers on: unique in the workspace, since a domain that is not proven can be
    /// listed by several.
    Address(WorkspaceId, Option<String>, String),
    /// The customer's own id: unique in the workspace.
    External(WorkspaceId, String),
}

/// A label by which a workspace's links are listed and counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LinkLabel {
    /// The name of the domain that the link answers on.
    Domain(String),
    Campaign(String),
    Tag(String),
}

impl LinkLabel {
    /// Tells whether a link has the label.
    pub(crate) fn is_on(&self, link: &Link) -> bool {
        match self {
            Self::Domain(domain) => link.domain.as_ref() == Some(domain),
            Self::Campaign(campaign) => link.campaign.as_ref() == Some(campaign),
            Self::Tag(tag) => link.tags.contains(tag),
        }
    }

    /// Iterates over the labels of a link.
    pub(super) fn of(link: &Link) -> impl Iterator<Item = Self> {
        let domain = link.domain.iter().cloned().map(Self::Domain);
        let campaign = link.campaign.iter().cloned().map(Self::Campaign);
        domain.chain(campaign).chain(link.tags.iter().cloned().map(Self::Tag))
    }
}

/// The unique keys, the labels and the deadline in a link's record, read without the rest of it.
#[derive(Deserialize)]
pub(super) struct StoredLinkKeys {
    workspace: WorkspaceId,
    #[serde(default)]
    domain: Option<String>,
    slug: String,
    #[serde(default)]
    former_slugs: Vec<String>,
    #[serde(default)]
    external_id: Option<String>,
    /// The deadline of the link, which has an index of its own.
    #[serde(default)]
    pub(super) expires_at: Option<Timestamp>,
    #[serde(default)]
    campaign: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

impl StoredLinkKeys {
    /// Tells whether the link has the key.
    pub(super) fn contains(&self, key: &LinkKey) -> bool {
        match key {
            LinkKey::Address(workspace, domain, slug) => {
                let has_slug = self.slug == *slug || self.former_slugs.contains(slug);
                has_slug && self.workspace == *workspace && self.domain == *domain
            }
            LinkKey::External(workspace, external) => {
                self.external_id.as_ref() == Some(external) && self.workspace == *workspace
            }
        }
    }

    /// Returns the keys and the labels.
    pub(super) fn into_parts(self) -> (Vec<LinkKey>, Vec<LinkLabel>) {
        let domain = self.domain.clone().map(LinkLabel::Domain);
        let labels = domain.into_iter().chain(self.campaign.map(LinkLabel::Campaign));
        let labels = labels.chain(self.tags.into_iter().map(LinkLabel::Tag)).collect();
        let address = |slug| LinkKey::Address(self.workspace.clone(), self.domain.clone(), slug);
        let mut keys: Vec<LinkKey> = std::iter::once(self.slug).chain(self.former_slugs).map(address).collect();
        keys.extend(self.external_id.map(|external| LinkKey::External(self.workspace.clone(), external)));
        (keys, labels)
    }
}
