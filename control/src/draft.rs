//! Changes that are not committed yet, drafted over the committed state. Each
//! sees those before it, so that a group of changes is committed in one
//! transaction with the outcome that they would have one by one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use schemas::{
    Endpoint, EndpointId, Envelope, Event, EventId, EventName, Link, LinkId, Timestamp, Topic, WorkspaceId,
    event::Changes,
};

use crate::{
    link::{self, make_up_slug},
    problem::{Kind, Problem},
    state::{Address, External, Kept, State, address, external, not_found},
};

/// A record that a draft produces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) topic: Topic,
    pub(crate) key: String,
    pub(crate) value: Option<Vec<u8>>,
}

/// Changes that are not committed yet.
#[derive(Debug, Default)]
pub(crate) struct Drafted {
    pub(crate) links: BTreeMap<LinkId, Option<Arc<Link>>>,
    pub(crate) endpoints: BTreeMap<EndpointId, Option<Arc<Endpoint>>>,
    pub(crate) records: Vec<Record>,
}

/// Changes being drafted over a state. Each sees those before it; one that is
/// refused leaves nothing behind.
pub(crate) struct Draft<'s> {
    state: &'s State,
    drafted: Drafted,
    addresses: HashMap<Address, Option<LinkId>>,
    externals: HashMap<External, Option<LinkId>>,
    short_url_base: &'s str,
    at: Timestamp,
}

impl<'s> Draft<'s> {
    pub(crate) fn new(state: &'s State, short_url_base: &'s str, at: Timestamp) -> Self {
        let (addresses, externals) = (HashMap::new(), HashMap::new());
        Self { state, drafted: Drafted::default(), addresses, externals, short_url_base, at }
    }

    pub(crate) fn finish(self) -> Drafted {
        self.drafted
    }

    /// Creates a link that was checked; makes up its slug if it has none.
    pub(crate) fn create_link(&mut self, mut link: Link) -> Result<Arc<Link>, Problem> {
        while link.slug.is_empty() {
            let slug = make_up_slug();
            if self.owner(&(link.domain.clone(), slug.clone())).is_none() {
                link.slug = slug;
            }
        }
        link.short_url = link::short_url(&link, self.short_url_base);
        self.claim(&link)?;
        let event = self.link_event(EventName::LinkCreated, &link, link.revision, None);
        self.write_link(None, link, &event)
    }

    /// Changes a link; one that stays as it is produces nothing.
    pub(crate) fn update_link(
        &mut self,
        workspace: &WorkspaceId,
        id: LinkId,
        expected: Option<u64>,
        change: impl FnOnce(&Link, &str, Timestamp) -> Result<Link, Problem>,
    ) -> Result<Arc<Link>, Problem> {
        let old = self.link(workspace, id, expected)?;
        let new = change(&old, self.short_url_base, self.at)?;
        if new == *old {
            return Ok(old);
        }
        self.claim(&new)?;
        let changes = link::changes(&old, &new);
        let event = self.link_event(EventName::LinkUpdated, &new, new.revision, Some(changes));
        self.write_link(Some(&old), new, &event)
    }

    /// Deletes a link.
    pub(crate) fn delete_link(
        &mut self,
        workspace: &WorkspaceId,
        id: LinkId,
        expected: Option<u64>,
    ) -> Result<(), Problem> {
        let link = self.link(workspace, id, expected)?;
        // The deletion is the version after the last.
        let event = self.link_event(EventName::LinkDeleted, &link, link.revision + 1, None);
        let event = serialise(&event)?;
        self.release(&link);
        self.drafted.links.insert(id, None);
        self.drafted.records.push(Record { topic: Topic::Links, key: id.to_string(), value: None });
        self.drafted.records.push(Record { topic: Topic::Events, key: id.to_string(), value: Some(event) });
        Ok(())
    }

    /// Creates an endpoint that was checked.
    pub(crate) fn create_endpoint(&mut self, endpoint: Endpoint) -> Result<Arc<Endpoint>, Problem> {
        self.write_endpoint(endpoint)
    }

    /// Changes an endpoint; one that stays as it is produces nothing.
    pub(crate) fn update_endpoint(
        &mut self,
        workspace: &WorkspaceId,
        id: EndpointId,
        expected: Option<u64>,
        change: impl FnOnce(&Endpoint, Timestamp) -> Result<Endpoint, Problem>,
    ) -> Result<Arc<Endpoint>, Problem> {
        let old = self.endpoint(workspace, id, expected)?;
        let new = change(&old, self.at)?;
        if new == *old { Ok(old) } else { self.write_endpoint(new) }
    }

    /// Deletes an endpoint.
    pub(crate) fn delete_endpoint(
        &mut self,
        workspace: &WorkspaceId,
        id: EndpointId,
        expected: Option<u64>,
    ) -> Result<(), Problem> {
        self.endpoint(workspace, id, expected)?;
        self.drafted.endpoints.insert(id, None);
        self.drafted.records.push(Record { topic: Topic::Endpoints, key: id.to_string(), value: None });
        Ok(())
    }

    fn link(&self, workspace: &WorkspaceId, id: LinkId, expected: Option<u64>) -> Result<Arc<Link>, Problem> {
        let drafted = self.drafted.links.get(&id).map(Option::as_ref);
        expect(drafted.unwrap_or_else(|| Link::all(self.state).get(&id)), workspace, expected)
            .ok_or_else(|| not_found::<Link>(&id.to_string()))?
    }

    fn endpoint(
        &self,
        workspace: &WorkspaceId,
        id: EndpointId,
        expected: Option<u64>,
    ) -> Result<Arc<Endpoint>, Problem> {
        let drafted = self.drafted.endpoints.get(&id).map(Option::as_ref);
        expect(drafted.unwrap_or_else(|| Endpoint::all(self.state).get(&id)), workspace, expected)
            .ok_or_else(|| not_found::<Endpoint>(&id.to_string()))?
    }

    fn owner(&self, address: &Address) -> Option<LinkId> {
        self.addresses.get(address).copied().unwrap_or_else(|| self.state.owner(address))
    }

    fn external_owner(&self, external: &External) -> Option<LinkId> {
        self.externals.get(external).copied().unwrap_or_else(|| self.state.external_owner(external))
    }

    /// Checks that what must be unique is the link's to have.
    fn claim(&self, link: &Link) -> Result<(), Problem> {
        if self.owner(&address(link)).is_some_and(|owner| owner != link.id) {
            let host = link.domain.as_deref().map_or_else(String::new, |domain| format!(" on {domain}"));
            let reason = format!("`{}` is taken{host}: choose another, or leave it out to have one made up", link.slug);
            return Err(Problem::conflict("slug", reason));
        }
        if let Some(external) = external(link)
            && let Some(owner) = self.external_owner(&external)
            && owner != link.id
        {
            let reason = format!("`{}` is the external_id of {owner} already: change that link instead", external.1);
            return Err(Problem::conflict("external_id", reason));
        }
        Ok(())
    }

    fn release(&mut self, link: &Link) {
        if self.owner(&address(link)) == Some(link.id) {
            self.addresses.insert(address(link), None);
        }
        if let Some(external) = external(link)
            && self.external_owner(&external) == Some(link.id)
        {
            self.externals.insert(external, None);
        }
    }

    fn write_link(
        &mut self,
        old: Option<&Link>,
        link: Link,
        event: &Envelope<'_, Event<'_>>,
    ) -> Result<Arc<Link>, Problem> {
        let (value, event) = (serialise(&link)?, serialise(event)?);
        if let Some(old) = old {
            self.release(old);
        }
        self.addresses.insert(address(&link), Some(link.id));
        if let Some(external) = external(&link) {
            self.externals.insert(external, Some(link.id));
        }
        let (key, link) = (link.id.to_string(), Arc::new(link));
        self.drafted.links.insert(link.id, Some(Arc::clone(&link)));
        self.drafted.records.push(Record { topic: Topic::Links, key: key.clone(), value: Some(value) });
        self.drafted.records.push(Record { topic: Topic::Events, key, value: Some(event) });
        Ok(link)
    }

    fn write_endpoint(&mut self, endpoint: Endpoint) -> Result<Arc<Endpoint>, Problem> {
        let value = serialise(&endpoint)?;
        let (key, endpoint) = (endpoint.id.to_string(), Arc::new(endpoint));
        self.drafted.endpoints.insert(endpoint.id, Some(Arc::clone(&endpoint)));
        self.drafted.records.push(Record { topic: Topic::Endpoints, key, value: Some(value) });
        Ok(endpoint)
    }

    fn link_event(
        &self,
        name: EventName,
        link: &Link,
        revision: u64,
        changes: Option<Changes>,
    ) -> Envelope<'static, Event<'static>> {
        let workspace = link.workspace.as_str();
        let event = Event {
            id: EventId::of(workspace, name, &link.id.to_string(), &revision.to_string(), self.at),
            event: name,
            timestamp: self.at,
            link: Some(owned(link)),
            click: None,
            utm: None,
            attribution: None,
            changes,
            message: None,
        };
        Envelope { v: 1, workspace: workspace.to_owned().into(), ip_key: None, endpoint: None, event }
    }
}

/// The link's facts, without borrowing from it.
fn owned(link: &Link) -> schemas::LinkFacts<'static> {
    schemas::LinkFacts {
        id: link.id,
        short_url: link.short_url.clone().into(),
        destination: link.destination.clone().into(),
        slug: link.slug.clone().into(),
        campaign: link.campaign.clone().map(Into::into),
        segment: link.segment.clone().map(Into::into),
        tags: link.tags.iter().map(|tag| tag.clone().into()).collect(),
    }
}

fn serialise(value: &impl serde::Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| Problem::unavailable(format!("It cannot be written down: {error}")))
}

/// What was found, if it is the workspace's and the version that is expected.
fn expect<T: Kept>(
    found: Option<&Arc<T>>,
    workspace: &WorkspaceId,
    expected: Option<u64>,
) -> Option<Result<Arc<T>, Problem>> {
    let found = found.filter(|found| found.workspace() == workspace)?;
    if expected.is_some_and(|revision| revision != found.revision()) {
        let detail = format!("This {} is at revision {}: read it again", T::NAME, found.revision());
        return Some(Err(Problem::new(Kind::Changed, detail)));
    }
    Some(Ok(Arc::clone(found)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::link::{LinkPatch, NewLink};

    const BASE: &str = "http://localhost:8080";
    const AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

    fn workspace() -> WorkspaceId {
        WorkspaceId::default()
    }

    fn new(body: Value) -> Link {
        serde_json::from_value::<NewLink>(body).unwrap().check(&workspace(), AT).unwrap()
    }

    fn patch(draft: &mut Draft<'_>, id: LinkId, body: Value) -> Result<Arc<Link>, Problem> {
        let patch: LinkPatch = serde_json::from_value(body).unwrap();
        draft.update_link(&workspace(), id, None, |link, base, at| patch.apply(link, base, at))
    }

    /// Drafts and applies, as if it had been committed.
    fn commit<T>(state: &mut State, change: impl FnOnce(&mut Draft<'_>) -> T) -> (T, Vec<Record>) {
        let mut draft = Draft::new(state, BASE, AT);
        let outcome = change(&mut draft);
        let mut drafted = draft.finish();
        let records = std::mem::take(&mut drafted.records);
        state.apply(drafted);
        (outcome, records)
    }

    fn sale() -> Value {
        json!({"destination": "https://a.example/", "slug": "sale", "external_id": "x1"})
    }

    #[test]
    fn a_slug_and_an_external_id_have_one_owner_also_within_a_draft() {
        let mut state = State::default();
        let ((), records) = commit(&mut state, |draft| {
            draft.create_link(new(sale())).unwrap();
            let taken = draft.create_link(new(sale())).unwrap_err();
            assert_eq!((taken.kind, taken.errors[0].field.as_str()), (Kind::Conflict, "slug"));
            let other = json!({"destination": "https://a.example/", "external_id": "x1"});
            let taken = draft.create_link(new(other)).unwrap_err();
            assert_eq!((taken.kind, taken.errors[0].field.as_str()), (Kind::Conflict, "external_id"));
            let elsewhere = json!({"destination": "https://a.example/", "slug": "sale", "domain": "go.acme.co"});
            assert_eq!(draft.create_link(new(elsewhere)).unwrap().short_url, "https://go.acme.co/sale");
        });
        assert_eq!((records.len(), state.len()), (4, (2, 0)));
        let (taken, records) = commit(&mut state, |draft| draft.create_link(new(sale())));
        assert_eq!((taken.unwrap_err().kind, records.len()), (Kind::Conflict, 0));
    }

    #[test]
    fn what_is_given_up_can_be_taken_in_the_same_draft() {
        let mut state = State::default();
        let (first, _) = commit(&mut state, |draft| draft.create_link(new(sale())).unwrap());
        let (second, _) = commit(&mut state, |draft| {
            patch(draft, first.id, json!({"slug": "old", "external_id": null})).unwrap();
            let second = draft.create_link(new(sale())).unwrap();
            patch(draft, first.id, json!({"slug": "sale"})).unwrap_err();
            second
        });
        assert_eq!(state.owner(&(None, "sale".to_owned())), Some(second.id));
        assert_eq!(state.owner(&(None, "old".to_owned())), Some(first.id));
        let ((), _) = commit(&mut state, |draft| draft.delete_link(&workspace(), second.id, None).unwrap());
        assert_eq!(state.owner(&(None, "sale".to_owned())), None);
        assert_eq!(state.external_owner(&(workspace(), "x1".to_owned())), None);
    }

    #[test]
    fn every_change_of_a_link_is_an_event_of_its_own() {
        let mut state = State::default();
        let (link, created) = commit(&mut state, |draft| draft.create_link(new(sale())).unwrap());
        let (_, updated) = commit(&mut state, |draft| patch(draft, link.id, json!({"campaign": "w"})).unwrap());
        let (_, nothing) = commit(&mut state, |draft| patch(draft, link.id, json!({"campaign": "w"})).unwrap());
        let (_, deleted) = commit(&mut state, |draft| draft.delete_link(&workspace(), link.id, None).unwrap());
        assert_eq!(nothing, []);
        assert_eq!((deleted[0].topic, &deleted[0].value), (Topic::Links, &None));
        let mut ids = Vec::new();
        for (records, name) in [(created, "link.created"), (updated, "link.updated"), (deleted, "link.deleted")] {
            assert_eq!((records[1].topic, records[1].key.as_str()), (Topic::Events, link.id.to_string().as_str()));
            let event: Value = serde_json::from_slice(records[1].value.as_ref().unwrap()).unwrap();
            assert_eq!(event["event"]["event"], name);
            assert_eq!(event["event"]["changes"].is_object(), name == "link.updated");
            ids.push(event["event"]["id"].clone());
        }
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert_eq!(state, State::default());
    }

    #[test]
    fn nothing_is_seen_across_workspaces_or_over_a_newer_version() {
        let mut state = State::default();
        let (link, _) = commit(&mut state, |draft| draft.create_link(new(sale())).unwrap());
        let other = WorkspaceId::new("other");
        assert!(state.get::<Link>(&other, link.id).is_none());
        let (refused, _) = commit(&mut state, |draft| draft.delete_link(&other, link.id, None));
        assert_eq!(refused.unwrap_err().kind, Kind::NotFound);
        let (refused, _) = commit(&mut state, |draft| draft.delete_link(&workspace(), link.id, Some(7)));
        assert_eq!(refused.unwrap_err().kind, Kind::Changed);
        assert_eq!(state.page::<Link>(&other, None, 10).0.len(), 0);
    }

    #[test]
    fn pages_are_newest_first_and_complete() {
        let mut state = State::default();
        let (ids, _) = commit(&mut state, |draft| {
            let body = json!({"destination": "https://a.example/"});
            (0..5).map(|_| draft.create_link(new(body.clone())).unwrap().id).collect::<Vec<_>>()
        });
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let (page, more) = state.page::<Link>(&workspace(), before, 2);
            seen.extend(page.iter().map(|link| link.id));
            before = seen.last().copied();
            if !more {
                break;
            }
        }
        assert!(seen.is_sorted_by(|a, b| a > b));
        assert_eq!(seen.len(), ids.len());
    }
}
