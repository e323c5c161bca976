//! The search for links: which conditions a query means, and the pages of the result.

use std::sync::Arc;

use schemas::{Link, LinkId, WorkspaceId, workspace::SlugCase};
use service::problem::Problem;

use crate::{
    kinds::{domain::DomainKey, link::slug},
    state::{
        State,
        collection::EntityCollection,
        draft::{Draft, EntityKind},
        links::{LinkFilter, LinkKey, LinkPage, LinkSort, SortKey, SortedPage},
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
        let listed = |name: &String| DomainKey::Listed(self.workspace.clone(), name.clone());
        let name = self.filter.domain.as_ref().map(listed);
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
        let links: Vec<Arc<Link>> =
            found.into_iter().filter(|link| self.filter.matches(link) && is_older(link)).collect();
        LinkPage { read: links.len(), links, next: None }
    }

    /// Returns up to `limit` links that match, sorted, behind `after`.
    pub(crate) fn sorted_page(
        &self,
        state: &State,
        sort: LinkSort,
        after: Option<&SortKey<Vec<u8>>>,
        limit: usize,
    ) -> SortedPage {
        if self.external_id.is_some() {
            // There is one at most, which needs no order.
            let LinkPage { links, read, .. } = self.page(state, None, limit);
            let links = if after.is_some() { Vec::new() } else { links };
            return SortedPage { links, read, next: None };
        }
        state.links.search_sorted(&self.workspace, &self.filter, sort, after, limit)
    }
}

/// Returns a link with the fields of a new one, newest first. A new link without a slug is like one with any.
pub(crate) fn find_same(draft: &Draft<'_>, new: &Link) -> Result<Option<Arc<Link>>, Problem> {
    let mut wanted = new.clone();
    wanted.normalise(None, draft)?;
    let is_same = |found: &Arc<Link>| {
        let mut like = wanted.clone();
        like.id = found.id;
        like.exhausted_at = found.exhausted_at;
        like.archived = found.archived;
        like.created_at = found.created_at;
        like.updated_at = found.updated_at;
        like.revision = found.revision;
        if new.slug.is_empty() {
            like.slug.clone_from(&found.slug);
            like.short_url.clone_from(&found.short_url);
        }
        like.former_slugs.clone_from(&found.former_slugs);
        like == **found
    };
    let mut found: Vec<Arc<Link>> =
        draft.links_leading_to(&new.workspace, &new.destination).into_iter().filter(is_same).collect();
    found.sort_unstable_by_key(|link| link.id);
    Ok(found.pop())
}
