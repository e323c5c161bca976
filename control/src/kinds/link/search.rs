//! The search for links: which conditions a query means, and the pages of the result.

use std::sync::Arc;

use schemas::{Link, LinkId, WorkspaceId, workspace::SlugCase};

use crate::{
    kinds::{domain::DomainKey, link::slug},
    state::{
        State,
        collection::EntityCollection,
        links::{LinkFilter, LinkKey, LinkPage},
    },
};

/// A search for links of a workspace.
#[derive(Clone, Debug)]
pub(crate) struct LinkSearch {
    pub(crate) workspace: WorkspaceId,
    pub(crate) filter: LinkFilter,
    /// The external id of the only link that can match.
    pub(crate) external_id: Option<String>,
}

impl LinkSearch {
    /// Spells the slugs of the filter as links on the filter's domain have them.
    pub(crate) fn normalise_slugs(&mut self, state: &State) {
        let name = self.filter.domain.as_ref().map(|name| DomainKey::Name(name.clone()));
        let domain = name.and_then(|name| state.domains.get(&state.domains.owner(&name)?));
        let case = domain.map_or(SlugCase::Sensitive, |domain| domain.slug_case);
        for slug in [&mut self.filter.slug, &mut self.filter.slug_prefix].into_iter().flatten() {
            *slug = slug::canonical(slug, case);
        }
    }

    /// Returns up to `limit` links that match, newest first, older than `before`. The page can be short, or empty, and
    /// still have a next one, so that a search for few of many links does not keep writers waiting.
    pub(crate) fn page(&self, state: &State, before: Option<LinkId>, limit: usize) -> LinkPage {
        let Some(external) = &self.external_id else {
            return state.links.search(&self.workspace, &self.filter, before, limit);
        };
        let key = LinkKey::External(self.workspace.clone(), external.clone());
        let found = state.links.owner(&key).and_then(|id| state.links.get(&id));
        let is_older = |link: &Arc<Link>| before.is_none_or(|before| link.id < before);
        let links = found.into_iter().filter(|link| self.filter.matches(link) && is_older(link)).collect();
        LinkPage { links, next: None }
    }
}
