//! The conditions by which links are searched, and the results.

use std::sync::Arc;

use schemas::{Link, LinkId, WorkspaceId, link::MaxClicksOf};

/// The conditions that a link must satisfy, all of those that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkFilter {
    pub(crate) campaign: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) slug: Option<String>,
    /// The beginning of the slug.
    pub(crate) slug_prefix: Option<String>,
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
    }
}

/// A part of the links that a search finds, newest first.
#[derive(Debug, PartialEq)]
pub(crate) struct LinkPage {
    pub(crate) links: Vec<Arc<Link>>,
    /// The last link that was examined, if there are more: the search continues after it.
    pub(crate) next: Option<LinkId>,
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
