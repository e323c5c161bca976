//! A link as the control plane keeps it: a record on `links`, and what the API
//! shows.

use serde::{Deserialize, Serialize};

use crate::{LinkId, Timestamp, WorkspaceId, event::LinkFacts, usermap::UserMap};

/// A short link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its id.
    pub id: LinkId,
    /// The workspace that owns it.
    pub workspace: WorkspaceId,
    /// The host that it answers on; absent for the workspace's default domain,
    /// which on a fresh installation answers every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The path of its short address, without the slash.
    pub slug: String,
    /// Where it leads.
    pub destination: String,
    /// The address that people share.
    pub short_url: String,
    /// The campaign that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// The audience that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What the redirect answers: 301, 302, 307 or 308.
    pub status_code: u16,
    /// The customer's own facts.
    #[serde(default, skip_serializing_if = "UserMap::is_empty")]
    pub metadata: UserMap,
    /// The customer's own id, unique in the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Counts the link's versions from 1: what its ETag is made of.
    pub revision: u64,
}

impl Link {
    /// The link as events tell of it.
    #[must_use]
    pub fn facts(&self) -> LinkFacts<'_> {
        LinkFacts {
            id: self.id,
            short_url: self.short_url.as_str().into(),
            destination: self.destination.as_str().into(),
            slug: self.slug.as_str().into(),
            campaign: self.campaign.as_deref().map(Into::into),
            segment: self.segment.as_deref().map(Into::into),
            tags: self.tags.iter().map(|tag| tag.as_str().into()).collect(),
        }
    }
}
