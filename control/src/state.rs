//! What the leader knows: links and endpoints, with the indexes that keep slugs
//! and external ids unique. Only what is committed is in here (`draft.rs` holds
//! what is not), so that readers see nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use schemas::{Endpoint, EndpointId, Link, LinkId, WorkspaceId};

use crate::{
    draft::Drafted,
    problem::{Kind, Problem},
};

/// Where a link answers: unique in the installation.
pub(crate) type Address = (Option<String>, String);
/// A customer's own id: unique in the workspace.
pub(crate) type External = (WorkspaceId, String);

pub(crate) fn address(link: &Link) -> Address {
    (link.domain.clone(), link.slug.clone())
}

pub(crate) fn external(link: &Link) -> Option<External> {
    Some((link.workspace.clone(), link.external_id.clone()?))
}

/// Everything that is committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    links: BTreeMap<LinkId, Arc<Link>>,
    addresses: HashMap<Address, LinkId>,
    externals: HashMap<External, LinkId>,
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
}

/// Something with an id in a workspace, kept by the state.
pub(crate) trait Kept: Sized {
    /// Its id.
    type Id: Ord + Copy;
    /// What people call it.
    const NAME: &'static str;
    /// Where the state keeps it.
    fn all(state: &State) -> &BTreeMap<Self::Id, Arc<Self>>;
    /// Whose it is.
    fn workspace(&self) -> &WorkspaceId;
    /// Which version it is.
    fn revision(&self) -> u64;
}

impl Kept for Link {
    type Id = LinkId;
    const NAME: &'static str = "link";
    fn all(state: &State) -> &BTreeMap<LinkId, Arc<Self>> {
        &state.links
    }
    fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }
    fn revision(&self) -> u64 {
        self.revision
    }
}

impl Kept for Endpoint {
    type Id = EndpointId;
    const NAME: &'static str = "endpoint";
    fn all(state: &State) -> &BTreeMap<EndpointId, Arc<Self>> {
        &state.endpoints
    }
    fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }
    fn revision(&self) -> u64 {
        self.revision
    }
}

impl State {
    /// The one of that id, if it is the workspace's.
    pub(crate) fn get<T: Kept>(&self, workspace: &WorkspaceId, id: T::Id) -> Option<Arc<T>> {
        T::all(self).get(&id).filter(|found| found.workspace() == workspace).cloned()
    }

    /// Up to `limit` of the workspace's, newest first, older than `before`; and
    /// whether there are more.
    pub(crate) fn page<T: Kept>(
        &self,
        workspace: &WorkspaceId,
        before: Option<T::Id>,
        limit: usize,
    ) -> (Vec<Arc<T>>, bool) {
        let all = T::all(self);
        let older = match before {
            Some(before) => all.range(..before),
            None => all.range(..),
        };
        let mut theirs = older.rev().map(|(_, found)| found).filter(|found| found.workspace() == workspace);
        let page = theirs.by_ref().take(limit).cloned().collect();
        (page, theirs.next().is_some())
    }

    /// Whose address it is.
    pub(crate) fn owner(&self, address: &Address) -> Option<LinkId> {
        self.addresses.get(address).copied()
    }

    /// Whose external id it is.
    pub(crate) fn external_owner(&self, external: &External) -> Option<LinkId> {
        self.externals.get(external).copied()
    }

    /// How many links and endpoints there are.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.links.len(), self.endpoints.len())
    }

    pub(crate) fn put_link(&mut self, link: Arc<Link>) {
        self.remove_link(link.id);
        self.addresses.insert(address(&link), link.id);
        if let Some(external) = external(&link) {
            self.externals.insert(external, link.id);
        }
        self.links.insert(link.id, link);
    }

    /// An index entry goes only with the link that owns it.
    pub(crate) fn remove_link(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        let address = address(&link);
        if self.addresses.get(&address) == Some(&id) {
            self.addresses.remove(&address);
        }
        if let Some(external) = external(&link)
            && self.externals.get(&external) == Some(&id)
        {
            self.externals.remove(&external);
        }
    }

    pub(crate) fn put_endpoint(&mut self, endpoint: Arc<Endpoint>) {
        self.endpoints.insert(endpoint.id, endpoint);
    }

    pub(crate) fn remove_endpoint(&mut self, id: EndpointId) {
        self.endpoints.remove(&id);
    }

    /// Makes committed changes visible.
    pub(crate) fn apply(&mut self, changes: Drafted) {
        for (id, link) in changes.links {
            match link {
                Some(link) => self.put_link(link),
                None => self.remove_link(id),
            }
        }
        for (id, endpoint) in changes.endpoints {
            match endpoint {
                Some(endpoint) => self.put_endpoint(endpoint),
                None => self.remove_endpoint(id),
            }
        }
    }
}

/// Nothing of that id is the caller's.
pub(crate) fn not_found<T: Kept>(id: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("There is no {} {id}", T::NAME))
}
