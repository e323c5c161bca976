//! The conditions by which links are searched, and the results.

use std::sync::Arc;

use schemars::JsonSchema;
use schemas::{Link, LinkId, WorkspaceId, link::MaxClicksOf};
use serde::Deserialize;

use crate::state::links::{
    keys::LinkLabel,
    sorted::{SortField, SortKey},
};

/// The conditions that a link must satisfy, all of those that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkFilter {
    pub(crate) campaign: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) slug: Option<String>,
    /// The beginning of the slug.
    pub(crate) slug_prefix: Option<String>,
    /// The beginning of the destination.
    pub(crate) destination_prefix: Option<String>,
    pub(crate) archived: ArchivedLinks,
}

impl LinkFilter {
    /// Tells whether the link satisfies all conditions.
    pub(crate) fn matches(&self, link: &Link) -> bool {
        fn is(wanted: Option<&String>, found: Option<&String>) -> bool {
            wanted.is_none() || wanted == found
        }
        is(self.campaign.as_ref(), link.campaign.as_ref())
            && is(self.domain.as_ref(), link.domain.as_ref())
            && is(self.slug.as_ref(), Some(&link.slug))
            && self.tag.as_ref().is_none_or(|tag| link.tags.contains(tag))
            && self.slug_prefix.as_ref().is_none_or(|prefix| link.slug.starts_with(prefix))
            && self.archived.has(link)
            && self.destination_prefix.as_ref().is_none_or(|prefix| link.destination.starts_with(prefix))
    }
}

impl LinkFilter {
    /// Returns the wanted beginning of a field.
    pub(super) fn beginning(&self, field: SortField) -> Option<&str> {
        match field {
            SortField::Slug => self.slug_prefix.as_deref(),
            SortField::Destination => self.destination_prefix.as_deref(),
        }
    }

    /// Iterates over the labels that a link must have.
    pub(super) fn labels(&self) -> impl Iterator<Item = LinkLabel> {
        let domain = self.domain.iter().cloned().map(LinkLabel::Domain);
        let campaign = self.campaign.iter().cloned().map(LinkLabel::Campaign);
        domain.chain(campaign).chain(self.tag.iter().cloned().map(LinkLabel::Tag))
    }
}

/// The links that are listed, by whether they are archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(crate) enum ArchivedLinks {
    /// The links that are not archived.
    #[default]
    #[serde(rename = "false")]
    Without,
    /// The links that are archived.
    #[serde(rename = "true")]
    Only,
    /// All links.
    #[serde(rename = "any")]
    Any,
}

impl ArchivedLinks {
    fn has(self, link: &Link) -> bool {
        match self {
            Self::Without => !link.archived,
            Self::Only => link.archived,
            Self::Any => true,
        }
    }
}

/// A part of the links that a search finds, newest first.
#[derive(Debug, PartialEq)]
pub(crate) struct LinkPage {
    /// The links that were read, which is the work that the search was.
    pub(crate) read: usize,
    pub(crate) links: Vec<Arc<Link>>,
    /// The last link that was examined, if there are more: the search continues after it.
    pub(crate) next: Option<LinkId>,
}

/// A part of the links that a search finds, sorted by a field.
#[derive(Debug, PartialEq)]
pub(crate) struct SortedPage {
    /// The links that were read, which is the work that the search was.
    pub(crate) read: usize,
    pub(crate) links: Vec<Arc<Link>>,
    /// The place of the last link that was examined, if there are more.
    pub(crate) next: Option<SortKey<Vec<u8>>>,
}

/// A link whose clicks are limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitedLink {
    pub(crate) id: LinkId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) max_clicks: u64,
    pub(crate) of: MaxClicksOf,
}

impl LimitedLink {
    /// Returns the limit of a link, if it has one and is not known to have reached it.
    pub(super) fn of(link: &Link) -> Option<Self> {
        let max_clicks = link.max_clicks.filter(|_| link.exhausted_at.is_none())?;
        Some(Self { id: link.id, workspace: link.workspace.clone(), max_clicks, of: link.max_clicks_of })
    }
}
