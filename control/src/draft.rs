//! Changes that are not committed yet, drafted over the committed state. Each
//! sees those before it, so that a group of changes is committed in one
//! transaction with the outcome that they would have one by one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use schemas::{Timestamp, Topic, Workspace, WorkspaceId, idempotency::KeptAnswer};
use service::problem::Problem;

use crate::{
    kept::{Difference, Kept, expect, not_found, serialise},
    rules::LinkRules,
    state::{Changes, Holds, State},
};

/// A record that a draft produces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) topic: Topic,
    pub(crate) key: String,
    pub(crate) value: Option<Vec<u8>>,
}

impl Record {
    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// What changes of a kind.
#[derive(Debug)]
pub(crate) struct Overlay<T: Kept> {
    pub(crate) changed: BTreeMap<T::Id, Option<Arc<T>>>,
    owners: HashMap<T::Claim, Option<T::Id>>,
}

impl<T: Kept> Default for Overlay<T> {
    fn default() -> Self {
        Self { changed: BTreeMap::new(), owners: HashMap::new() }
    }
}

/// Changes that are to be committed, and the records that say so.
#[derive(Debug, Default)]
pub(crate) struct Drafted {
    pub(crate) changes: Changes,
    pub(crate) records: Vec<Record>,
}

/// Changes being drafted over a state. Each sees those before it; one that is
/// refused leaves nothing behind.
pub(crate) struct Draft<'s> {
    state: &'s State,
    drafted: Drafted,
    link_rules: &'s LinkRules,
    at: Timestamp,
    telling: Telling,
}

/// Whether events tell of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    All,
    Nothing,
}

impl<'s> Draft<'s> {
    pub(crate) fn new(state: &'s State, link_rules: &'s LinkRules, at: Timestamp) -> Self {
        Self { state, drafted: Drafted::default(), link_rules, at, telling: Telling::All }
    }

    /// What it would produce so far.
    pub(crate) fn records(&self) -> &[Record] {
        &self.drafted.records
    }

    pub(crate) fn finish(self) -> Drafted {
        self.drafted
    }

    /// When it is drafted.
    pub(crate) const fn at(&self) -> Timestamp {
        self.at
    }

    /// Makes changes of which no event tells.
    pub(crate) fn untold<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        let telling = std::mem::replace(&mut self.telling, Telling::Nothing);
        let outcome = change(self);
        self.telling = telling;
        outcome
    }

    /// What links are held to.
    pub(crate) const fn link_rules(&self) -> &'s LinkRules {
        self.link_rules
    }

    /// The one of that id, whosever it is.
    pub(crate) fn find<T: Kept>(&self, id: &T::Id) -> Option<Arc<T>> {
        match T::drafted(&self.drafted.changes).changed.get(id) {
            Some(changed) => changed.clone(),
            None => T::shelf(self.state).get(id),
        }
    }

    /// Whose that is.
    pub(crate) fn owner<T: Kept>(&self, claim: &T::Claim) -> Option<T::Id> {
        match T::drafted(&self.drafted.changes).owners.get(claim) {
            Some(owner) => owner.clone(),
            None => T::shelf(self.state).owner(claim),
        }
    }

    /// How many of a kind the workspace has.
    pub(crate) fn count<T: Kept>(&self, workspace: &WorkspaceId) -> usize {
        let changed = &T::drafted(&self.drafted.changes).changed;
        let untouched = T::shelf(self.state).theirs(workspace).filter(|found| !changed.contains_key(&found.id()));
        let drafted = changed.values().flatten().filter(|found| found.workspace() == Some(workspace));
        untouched.count() + drafted.count()
    }

    /// Whether the workspace has one of which that is true.
    pub(crate) fn any<T: Kept>(&self, workspace: &WorkspaceId, is: impl Fn(&T) -> bool) -> bool {
        let changed = &T::drafted(&self.drafted.changes).changed;
        changed.values().flatten().any(|found| is(found))
            || T::shelf(self.state).theirs(workspace).any(|found| is(&found) && !changed.contains_key(&found.id()))
    }

    /// What was answered under that key of a record on `idempotency`.
    pub(crate) fn answered(&self, key: &str) -> Option<Arc<KeptAnswer>> {
        let drafted = self.drafted.changes.answers.get(key).cloned();
        drafted.or_else(|| self.state.answers.get(key, self.at))
    }

    /// Keeps what is answered, along with what is drafted.
    pub(crate) fn answer(&mut self, key: Arc<str>, answer: KeptAnswer) -> Result<(), Problem> {
        self.tell(Topic::Idempotency, &key, serialise(&answer)?);
        self.drafted.changes.answers.insert(key, Arc::new(answer));
        Ok(())
    }

    /// Produces a record that changes nothing here.
    pub(crate) fn tell(&mut self, topic: Topic, key: &str, value: Vec<u8>) {
        self.drafted.records.push(Record { topic, key: key.to_owned(), value: Some(value) });
    }

    /// Creates something that was checked.
    pub(crate) fn create<T: Kept>(&mut self, new: T) -> Result<Arc<T>, Problem> {
        let id = new.id();
        if self.find::<T>(&id).is_some() {
            return Err(Problem::conflict("id", format!("There is a {} {id} already: choose another id", T::NAME)));
        }
        // It may have been deleted since the caller was let in.
        if let Some(workspace) = new.workspace()
            && self.find::<Workspace>(workspace).is_none()
        {
            return Err(not_found::<Workspace>(workspace.as_str()));
        }
        self.write(None, new)
    }

    /// Changes something; what stays as it is produces nothing.
    pub(crate) fn update<T: Kept>(
        &mut self,
        workspace: &WorkspaceId,
        id: &T::Id,
        expected: Option<u64>,
        change: impl FnOnce(&T, Timestamp) -> Result<T, Problem>,
    ) -> Result<Arc<T>, Problem> {
        let old = expect(self.find::<T>(id), id, workspace, expected)?;
        let new = change(&old, self.at)?;
        self.write(Some(&old), new)
    }

    /// Deletes something, unless `allow` refuses.
    pub(crate) fn delete<T: Kept>(
        &mut self,
        workspace: &WorkspaceId,
        id: &T::Id,
        expected: Option<u64>,
        allow: impl FnOnce(&T) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let old = expect(self.find::<T>(id), id, workspace, expected)?;
        allow(&old)?;
        old.let_go(self)?;
        let event = self.event(Difference::Deleted(&*old))?;
        self.release(&*old);
        T::drafted_mut(&mut self.drafted.changes).changed.insert(id.clone(), None);
        self.record::<T>(id, None, event);
        let trails = T::TRAILS.iter().map(|topic| Record { topic: *topic, key: id.to_string(), value: None });
        self.drafted.records.extend(trails);
        Ok(())
    }

    fn write<T: Kept>(&mut self, old: Option<&T>, mut new: T) -> Result<Arc<T>, Problem> {
        new.settle(old, self)?;
        if old.is_some_and(|old| new == *old) {
            return Ok(Arc::new(new));
        }
        let others = self.claim(&new)?;
        let value = serialise(&new)?;
        let difference = old.map_or(Difference::Created(&new), |old| Difference::Updated(old, &new));
        let event = self.event(difference)?;
        for (other, without) in others {
            self.write(Some(&*other), without)?;
        }
        if let Some(old) = old {
            self.release(old);
        }
        let (id, new) = (new.id(), Arc::new(new));
        let overlay = T::drafted_mut(&mut self.drafted.changes);
        for claim in new.claims() {
            overlay.owners.insert(claim, Some(id.clone()));
        }
        overlay.changed.insert(id.clone(), Some(Arc::clone(&new)));
        self.record::<T>(&id, Some(value), event);
        Ok(new)
    }

    fn event<T: Kept>(&self, difference: Difference<'_, T>) -> Result<Option<Vec<u8>>, Problem> {
        match self.telling {
            Telling::All => T::event(difference, self.at),
            Telling::Nothing => Ok(None),
        }
    }

    fn record<T: Kept>(&mut self, id: &T::Id, value: Option<Vec<u8>>, event: Option<Vec<u8>>) {
        let key = id.to_string();
        self.drafted.records.push(Record { topic: T::TOPIC, key: key.clone(), value });
        if let Some(event) = event {
            self.drafted.records.push(Record { topic: Topic::Events, key, value: Some(event) });
        }
    }

    /// Checks that what must be unique is `new`'s to have. Answers with those
    /// that give way, and what is left of them.
    fn claim<T: Kept>(&self, new: &T) -> Result<Vec<(Arc<T>, T)>, Problem> {
        let mut others = Vec::new();
        for claim in new.claims() {
            let Some(owner) = self.owner::<T>(&claim).filter(|owner| *owner != new.id()) else { continue };
            let other = self.find::<T>(&owner);
            match other.as_ref().and_then(|other| other.without(&claim, self.at)).zip(other) {
                Some((without, other)) => others.push((other, without)),
                None => return Err(T::taken(&claim, &owner)),
            }
        }
        Ok(others)
    }

    /// What it claimed goes only with the one that owns it.
    fn release<T: Kept>(&mut self, old: &T) {
        let id = old.id();
        for claim in old.claims() {
            if self.owner::<T>(&claim).as_ref() == Some(&id) {
                T::drafted_mut(&mut self.drafted.changes).owners.insert(claim, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{Link, LinkId};
    use serde_json::{Value, json};
    use service::problem::Kind;

    use super::*;
    use crate::{
        kept::LinkClaim,
        link::{LinkPatch, NewLink},
        state::installed,
    };

    const AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

    fn workspace() -> WorkspaceId {
        WorkspaceId::default()
    }

    fn new(body: Value) -> Link {
        serde_json::from_value::<NewLink>(body).unwrap().check(&workspace(), &LinkRules::default(), AT).unwrap()
    }

    fn patch(draft: &mut Draft<'_>, id: LinkId, body: Value) -> Result<Arc<Link>, Problem> {
        let patch: LinkPatch = serde_json::from_value(body).unwrap();
        let rules = draft.link_rules();
        draft.update(&workspace(), &id, None, |link: &Link, at| patch.apply(link, rules, at))
    }

    /// Drafts and applies, as if it had been committed.
    fn commit<T>(state: &mut State, change: impl FnOnce(&mut Draft<'_>) -> T) -> (T, Vec<Record>) {
        let rules = LinkRules::default();
        let mut draft = Draft::new(state, &rules, AT);
        let outcome = change(&mut draft);
        let mut drafted = draft.finish();
        let records = std::mem::take(&mut drafted.records);
        state.apply(drafted.changes);
        (outcome, records)
    }

    fn any(_: &Link) -> Result<(), Problem> {
        Ok(())
    }

    fn sale() -> Value {
        json!({"destination": "https://a.example/", "slug": "sale", "external_id": "x1"})
    }

    #[test]
    fn a_slug_and_an_external_id_have_one_owner_also_within_a_draft() {
        let mut state = installed();
        let ((), records) = commit(&mut state, |draft| {
            draft.create(new(sale())).unwrap();
            let taken = draft.create(new(sale())).unwrap_err();
            assert_eq!((taken.kind, taken.errors[0].field.as_str()), (Kind::Conflict, "slug"));
            let other = json!({"destination": "https://a.example/", "external_id": "x1"});
            let taken = draft.create(new(other)).unwrap_err();
            assert_eq!((taken.kind, taken.errors[0].field.as_str()), (Kind::Conflict, "external_id"));
            let elsewhere = json!({"destination": "https://a.example/", "slug": "sale", "domain": "go.acme.co"});
            assert_eq!(draft.create(new(elsewhere)).unwrap().short_url, "https://go.acme.co/sale");
        });
        assert_eq!((records.len(), state.links.len()), (4, 2));
        let (taken, records) = commit(&mut state, |draft| draft.create(new(sale())));
        assert_eq!((taken.unwrap_err().kind, records.len()), (Kind::Conflict, 0));
    }

    #[test]
    fn what_is_given_up_can_be_taken_in_the_same_draft() {
        let mut state = installed();
        let (first, _) = commit(&mut state, |draft| draft.create(new(sale())).unwrap());
        let (second, _) = commit(&mut state, |draft| {
            patch(draft, first.id, json!({"slug": "old", "external_id": null})).unwrap();
            let second = draft.create(new(sale())).unwrap();
            patch(draft, first.id, json!({"slug": "sale"})).unwrap_err();
            second
        });
        let at = |state: &State, slug: &str| state.links.owner(&LinkClaim::Address(None, slug.to_owned()));
        assert_eq!(at(&state, "sale"), Some(second.id));
        assert_eq!(at(&state, "old"), Some(first.id));
        let ((), _) = commit(&mut state, |draft| draft.delete(&workspace(), &second.id, None, any).unwrap());
        assert_eq!(at(&state, "sale"), None);
        assert_eq!(state.links.owner(&LinkClaim::External(workspace(), "x1".to_owned())), None);
    }

    #[test]
    fn a_slug_is_kept_under_one_spelling() {
        let mut state = installed();
        let composed = json!({"destination": "https://a.example/", "slug": "caf\u{e9}"});
        let decomposed = json!({"destination": "https://a.example/", "slug": "cafe\u{301}"});
        let (link, _) = commit(&mut state, |draft| draft.create(new(decomposed.clone())).unwrap());
        assert_eq!((link.slug.as_str(), link.short_url.as_str()), ("caf\u{e9}", "http://localhost:8080/caf%C3%A9"));
        let (taken, _) = commit(&mut state, |draft| draft.create(new(composed)).unwrap_err());
        assert_eq!(taken.kind, Kind::Conflict);
        let (same, records) =
            commit(&mut state, |draft| patch(draft, link.id, json!({"slug": "cafe\u{301}"})).unwrap());
        assert_eq!((same, records), (link, vec![]));
    }

    #[test]
    fn every_change_of_a_link_is_an_event_of_its_own() {
        let mut state = installed();
        let (link, created) = commit(&mut state, |draft| draft.create(new(sale())).unwrap());
        let (_, updated) = commit(&mut state, |draft| patch(draft, link.id, json!({"campaign": "w"})).unwrap());
        let (_, nothing) = commit(&mut state, |draft| patch(draft, link.id, json!({"campaign": "w"})).unwrap());
        let (_, deleted) = commit(&mut state, |draft| draft.delete(&workspace(), &link.id, None, any).unwrap());
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
        assert_eq!(state, installed());
    }

    #[test]
    fn nothing_is_seen_across_workspaces_or_over_a_newer_version() {
        let mut state = installed();
        let (link, _) = commit(&mut state, |draft| draft.create(new(sale())).unwrap());
        let other = WorkspaceId::new("other");
        assert!(state.get::<Link>(&other, &link.id).is_none());
        let (refused, _) = commit(&mut state, |draft| draft.delete(&other, &link.id, None, any));
        assert_eq!(refused.unwrap_err().kind, Kind::NotFound);
        let (refused, _) = commit(&mut state, |draft| draft.delete(&workspace(), &link.id, Some(7), any));
        assert_eq!(refused.unwrap_err().kind, Kind::Changed);
        assert_eq!(state.page::<Link>(&other, None, 10).0.len(), 0);
    }

    #[test]
    fn pages_are_newest_first_and_complete() {
        let mut state = installed();
        let (ids, _) = commit(&mut state, |draft| {
            let body = json!({"destination": "https://a.example/"});
            (0..5).map(|_| draft.create(new(body.clone())).unwrap().id).collect::<Vec<_>>()
        });
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let (page, more) = state.page::<Link>(&workspace(), before.as_ref(), 2);
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
