//! Changes that are not committed yet, drafted over the committed state. Each change sees those before it, so that a
//! group of changes is committed in one transaction with the outcome that they would have one by one.

use std::sync::Arc;

use schemas::{
    Envelope, Event, EventName, Link, LinkId, Timestamp, Topic, Workspace, WorkspaceId,
    audit::{AuditAction, AuditedKind},
    fired::{FiredFact, FiredRecord, FiredSubject},
    idempotency::KeptAnswer,
};
use serde::Serialize;
use service::problem::Problem;

use crate::{
    rules::{DraftRules, LinkRules},
    state::{
        HasCollection, State, StateChanges,
        audit::{AuditTrail, AuditedChange, Author, changed_fields},
        collection::EntityCollection,
        entity::{Expected, expect, not_found},
        fired::FiredChange,
        links::LinkLabel,
        quotas::{Quota, Tally},
    },
};

/// A kind of entities, with the rules that depend on other entities.
pub(crate) trait EntityKind: HasCollection {
    /// The quota for the number of entities of a workspace.
    const QUOTA: Option<Quota> = None;
    /// The quota for the bytes of all records of a workspace.
    const BYTES_QUOTA: Option<Quota> = None;
    /// The name of the kind in the audit log.
    const AUDITED: AuditedKind;

    /// Sets the fields of a checked entity that follow from other entities, before it is written over `old`.
    ///
    /// # Errors
    /// When the entity does not fit the others.
    fn normalise(&mut self, _old: Option<&Self>, _draft: &Draft<'_>) -> Result<(), Problem> {
        Ok(())
    }

    /// Checks that no other entity needs this one.
    ///
    /// # Errors
    /// When the entity cannot be deleted.
    fn check_deletable(&self, _draft: &Draft<'_>) -> Result<(), Problem> {
        Ok(())
    }

    /// Returns the way in which the audit log tells of an update; nothing for one that callers do not see.
    fn audit_action(_old: &Self, _new: &Self) -> Option<AuditAction> {
        Some(AuditAction::Updated)
    }

    /// Returns the event that tells of a change, if the kind has events.
    fn event(_change: EntityChange<'_, Self>, _at: Timestamp) -> Result<Option<Vec<u8>>, Problem> {
        Ok(None)
    }
}

/// A change of an entity, with its versions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EntityChange<'a, T> {
    Created(&'a T),
    Updated { old: &'a T, new: &'a T },
    Deleted(&'a T),
}

/// A record that a draft produces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DraftRecord {
    pub(crate) topic: Topic,
    pub(crate) key: String,
    /// The value; nothing to delete the key.
    pub(crate) value: Option<Vec<u8>>,
}

impl DraftRecord {
    /// Returns the size of the key and the value, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// Changes that are to be committed, and the records that say so.
#[derive(Debug, Default)]
pub(crate) struct DraftedChanges {
    pub(crate) changes: StateChanges,
    pub(crate) records: Vec<DraftRecord>,
}

/// Changes being drafted over a state. A change that is refused leaves nothing behind.
pub(crate) struct Draft<'s> {
    state: &'s State,
    drafted: DraftedChanges,
    rules: &'s DraftRules,
    at: Timestamp,
    events: ChangeEvents,
    quotas: QuotaChecks,
    /// The changes that are noted for the audit log.
    trail: AuditTrail,
}

/// Whether changes are held to the quotas of workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotaChecks {
    Enforce,
    /// The leader makes the changes, and no caller.
    Skip,
}

/// Whether changes of entities produce their events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeEvents {
    Emit,
    Suppress,
}

impl<'s> Draft<'s> {
    /// Begins a draft whose changes happen at the moment `at`.
    pub(crate) fn new(state: &'s State, rules: &'s DraftRules, at: Timestamp) -> Self {
        let drafted = DraftedChanges::default();
        let (events, quotas) = (ChangeEvents::Emit, QuotaChecks::Enforce);
        Self { state, drafted, rules, at, events, quotas, trail: AuditTrail::default() }
    }

    /// Returns the records that the draft produces so far.
    pub(crate) fn records(&self) -> &[DraftRecord] {
        &self.drafted.records
    }

    /// Ends the draft.
    pub(crate) fn finish(self) -> DraftedChanges {
        self.drafted
    }

    /// Returns the moment at which the changes happen.
    pub(crate) const fn at(&self) -> Timestamp {
        self.at
    }

    /// Makes the changes of an author, and tells of them in the audit log.
    ///
    /// # Errors
    /// When the changes are refused, or the log's records cannot be written.
    pub(crate) fn authored<T>(
        &mut self,
        author: &Author,
        change: impl FnOnce(&mut Self) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let outcome = change(self);
        // A refused step may have made changes before, which stand.
        let told = std::mem::take(&mut self.trail).records(author, self.at)?;
        self.drafted.records.extend(told);
        outcome
    }

    /// Notes a change for the audit log that is no change of an entity.
    pub(crate) fn note(&mut self, change: AuditedChange) {
        self.trail.note(change);
    }

    /// Makes changes with or without their events.
    pub(crate) fn with_events<T>(&mut self, events: ChangeEvents, change: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.events, events);
        let outcome = change(self);
        self.events = before;
        outcome
    }

    /// Makes changes of the leader's own, which no quota holds up.
    pub(crate) fn without_quotas<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.quotas, QuotaChecks::Skip);
        let outcome = change(self);
        self.quotas = before;
        outcome
    }

    /// Returns the rules that links are checked against.
    pub(crate) fn link_rules(&self) -> &'s LinkRules {
        &self.rules.links
    }

    /// Returns the entity of the id, in whichever workspace it is.
    pub(crate) fn find<T: HasCollection>(&self, id: &T::Id) -> Option<Arc<T>> {
        match T::overlay(&self.drafted.changes).changed.get(id) {
            Some(changed) => changed.clone(),
            None => T::collection(self.state).get(id),
        }
    }

    /// Returns the committed entities of a kind, without what was drafted.
    pub(crate) fn committed<T: HasCollection>(&self) -> &'s T::Collection {
        T::collection(self.state)
    }

    /// Returns the id of the entity that has the unique key.
    pub(crate) fn owner<T: HasCollection>(&self, key: &T::UniqueKey) -> Option<T::Id> {
        match T::overlay(&self.drafted.changes).owners.get(key) {
            Some(owner) => owner.clone(),
            None => T::collection(self.state).owner(key),
        }
    }

    /// Returns the number of entities of a kind in the workspace, and the bytes of their records.
    pub(crate) fn tally<T: HasCollection>(&self, workspace: &WorkspaceId) -> Tally {
        let mut tally = T::collection(self.state).tally(workspace);
        tally += T::overlay(&self.drafted.changes).tallies.of(workspace);
        tally
    }

    /// Tells whether any link of the workspace has the label. Looks at no more links than the draft changes.
    pub(crate) fn has_labelled(&self, workspace: &WorkspaceId, label: &LinkLabel) -> bool {
        let changed = &Link::overlay(&self.drafted.changes).changed;
        changed.values().flatten().any(|link| link.workspace == *workspace && label.is_on(link))
            || self.state.links.labelled(workspace, label, None).any(|id| !changed.contains_key(&id))
    }

    /// Returns links of the workspace with this destination, all that the draft changes and a thousand others at most.
    pub(crate) fn links_leading_to(&self, workspace: &WorkspaceId, destination: &str) -> Vec<Arc<Link>> {
        let changed = &Link::overlay(&self.drafted.changes).changed;
        let leads_there = |link: &&Arc<Link>| link.workspace == *workspace && link.destination == destination;
        let mut found: Vec<Arc<Link>> = changed.values().flatten().filter(leads_there).cloned().collect();
        let committed = self.state.links.leading_to(workspace, destination);
        found.extend(committed.into_iter().filter(|link| !changed.contains_key(&link.id)));
        found
    }

    /// Returns up to `limit` of the workspace's committed links that have the label, newest first, older than `before`.
    pub(crate) fn labelled(
        &self,
        workspace: &WorkspaceId,
        label: &LinkLabel,
        before: Option<&LinkId>,
        limit: usize,
    ) -> Vec<LinkId> {
        self.state.links.labelled(workspace, label, before).take(limit).collect()
    }

    /// Returns the answer that is kept under the key of a record on `idempotency`.
    pub(crate) fn kept_answer(&self, key: &str) -> Option<Arc<KeptAnswer>> {
        let drafted = self.drafted.changes.answers.get(key).cloned();
        drafted.or_else(|| self.state.answers.get(key, self.at))
    }

    /// Keeps an answer, in the transaction of the changes.
    pub(crate) fn keep_answer(&mut self, key: Arc<str>, answer: KeptAnswer) -> Result<(), Problem> {
        self.produce(Topic::Idempotency, &key, serialise(&answer)?);
        self.drafted.changes.answers.insert(key, Arc::new(answer));
        Ok(())
    }

    /// Returns the facts of a subject that were told, those of this draft included.
    pub(crate) fn fired(&self, subject: FiredSubject) -> Vec<FiredFact> {
        let mut facts = self.state.fired.of(subject).to_vec();
        for change in &self.drafted.changes.fired {
            match change {
                FiredChange::Told(record) if record.subject == subject => {
                    facts.retain(|earlier| !earlier.is_replaced_by(&record.fact));
                    facts.push(record.fact.clone());
                }
                FiredChange::Forgotten(forgotten) if *forgotten == subject => facts.clear(),
                FiredChange::Told(_) | FiredChange::Forgotten(_) => {}
            }
        }
        facts
    }

    /// Records that a fact was told, and tells it by the event, if there is one, in one transaction.
    pub(crate) fn fire(
        &mut self,
        workspace: &WorkspaceId,
        record: FiredRecord,
        event: Option<Event<'_>>,
    ) -> Result<(), Problem> {
        let value = serialise(&record)?;
        if let Some(event) = event {
            if let (EventName::LinkExpired, FiredSubject::Link(link)) = (event.event, record.subject) {
                self.trail.note(AuditedChange {
                    workspace: Some(workspace.clone()),
                    kind: AuditedKind::Link,
                    action: AuditAction::Expired,
                    id: link.to_string(),
                    occurrence: event.id.to_string(),
                    fields: Vec::new(),
                });
            }
            let workspace = workspace.as_str().into();
            let envelope = Envelope { v: 1, workspace, ip_key: None, endpoint: None, event };
            self.produce(Topic::Events, &record.subject.to_string(), serialise(&envelope)?);
        }
        self.produce(Topic::Fired, &record.key(), value);
        self.drafted.changes.fired.push(FiredChange::Told(record));
        Ok(())
    }

    /// Produces a record that changes nothing in the state.
    pub(crate) fn produce(&mut self, topic: Topic, key: &str, value: Vec<u8>) {
        self.drafted.records.push(DraftRecord { topic, key: key.to_owned(), value: Some(value) });
    }

    /// Produces a record that erases the value of a key, and changes nothing in the state.
    pub(crate) fn produce_tombstone(&mut self, topic: Topic, key: &str) {
        self.drafted.records.push(DraftRecord { topic, key: key.to_owned(), value: None });
    }

    /// Creates a checked entity.
    pub(crate) fn create<T: EntityKind>(&mut self, new: T) -> Result<Arc<T>, Problem> {
        let id = new.id();
        if self.find::<T>(&id).is_some() {
            return Err(Problem::conflict("id", format!("There is a {} {id} already: choose another id", T::NAME)));
        }
        let is_deleted_here = matches!(T::overlay(&self.drafted.changes).changed.get(&id), Some(None));
        if is_deleted_here || T::collection(self.state).is_retired(&id) {
            let reason =
                format!("A {} {id} was deleted, and what is kept of it has this id: choose another id", T::NAME);
            return Err(Problem::conflict("id", reason));
        }
        // The workspace may have been deleted since the caller was authenticated.
        if let Some(workspace) = new.workspace()
            && self.find::<Workspace>(workspace).is_none()
        {
            return Err(not_found::<Workspace>(workspace.as_str()));
        }
        self.write(None, new)
    }

    /// Changes an entity. An entity that stays as it is produces no record.
    pub(crate) fn update<T: EntityKind>(
        &mut self,
        workspace: &WorkspaceId,
        id: &T::Id,
        expected: &Expected,
        change: impl FnOnce(&T, Timestamp) -> Result<T, Problem>,
    ) -> Result<Arc<T>, Problem> {
        let old = expect(self.find::<T>(id), id, workspace, expected)?;
        let new = change(&old, self.at)?;
        self.write(Some(&old), new)
    }

    /// Deletes an entity, unless `allow` or the kind's rules refuse.
    pub(crate) fn delete<T: EntityKind>(
        &mut self,
        workspace: &WorkspaceId,
        id: &T::Id,
        expected: &Expected,
        allow: impl FnOnce(&T) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let old = expect(self.find::<T>(id), id, workspace, expected)?;
        allow(&old)?;
        old.check_deletable(self)?;
        let event = self.event(EntityChange::Deleted(&*old))?;
        self.note_entity(&*old, AuditAction::Deleted, old.revision() + 1, Vec::new());
        self.release_keys(&*old);
        let size = serialise(&*old)?.len();
        let retired = old.retired(self.at).map(|retired| serialise(&retired)).transpose()?;
        let overlay = T::overlay_mut(&mut self.drafted.changes);
        overlay.changed.insert(id.clone(), None);
        if retired.is_some() {
            overlay.retired.push(id.clone());
        }
        if let Some(workspace) = old.workspace() {
            overlay.tallies.add(workspace, Tally::one(T::BYTES_QUOTA.map_or(0, |_| size)).negated());
        }
        self.produce_version::<T>(id, retired, event);
        let key = id.to_string();
        let deletions =
            T::DEPENDENT_TOPICS.iter().map(|topic| DraftRecord { topic: *topic, key: key.clone(), value: None });
        self.drafted.records.extend(deletions);
        if let Some(subject) = old.fired_subject() {
            self.forget_fired(subject);
        }
        Ok(())
    }

    /// Deletes the records of the facts that were told of a subject.
    fn forget_fired(&mut self, subject: FiredSubject) {
        let facts = self.fired(subject);
        if facts.is_empty() {
            return;
        }
        for fact in facts {
            self.produce_tombstone(Topic::Fired, &format!("{subject}/{}", fact.key()));
        }
        self.drafted.changes.fired.push(FiredChange::Forgotten(subject));
    }

    fn write<T: EntityKind>(&mut self, old: Option<&T>, mut new: T) -> Result<Arc<T>, Problem> {
        new.normalise(old, self)?;
        if old.is_some_and(|old| new == *old) {
            return Ok(Arc::new(new));
        }
        let releasing = self.releasing_owners(&new)?;
        let value = serialise(&new)?;
        let before = old.map(serialise).transpose()?;
        let growth = Self::growth::<T>(before.as_deref(), value.len());
        self.check_quotas::<T>(new.workspace(), growth)?;
        let change = old.map_or(EntityChange::Created(&new), |old| EntityChange::Updated { old, new: &new });
        let event = self.event(change)?;
        for (owner, released) in releasing {
            self.write(Some(&*owner), released)?;
        }
        self.note_written(old.zip(before.as_deref()), &new, &value)?;
        if let Some(old) = old {
            self.release_keys(old);
        }
        let id = new.id();
        let new = Arc::new(new);
        let overlay = T::overlay_mut(&mut self.drafted.changes);
        for key in new.unique_keys() {
            overlay.owners.insert(key, Some(id.clone()));
        }
        overlay.changed.insert(id.clone(), Some(Arc::clone(&new)));
        if let Some(workspace) = new.workspace() {
            overlay.tallies.add(workspace, growth);
        }
        self.produce_version::<T>(&id, Some(value), event);
        Ok(new)
    }

    /// Notes a version for the audit log, unless it is one that callers do not see. `value` is the version's JSON, and
    /// `old` the version before with its JSON.
    fn note_written<T: EntityKind>(&mut self, old: Option<(&T, &[u8])>, new: &T, value: &[u8]) -> Result<(), Problem> {
        match old {
            None => self.note_entity(new, AuditAction::Created, new.revision(), Vec::new()),
            Some((old, before)) if old.revision() != new.revision() => {
                if let Some(action) = T::audit_action(old, new) {
                    self.note_entity(new, action, new.revision(), changed_fields(before, value)?);
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn note_entity<T: EntityKind>(&mut self, entity: &T, action: AuditAction, revision: u64, fields: Vec<String>) {
        self.trail.note(AuditedChange {
            workspace: entity.workspace().cloned(),
            kind: T::AUDITED,
            action,
            id: entity.id().to_string(),
            occurrence: revision.to_string(),
            fields,
        });
    }

    /// Returns the difference that a new version of so many bytes makes to the tally of its workspace.
    fn growth<T: EntityKind>(before: Option<&[u8]>, bytes: usize) -> Tally {
        let counted = |bytes| T::BYTES_QUOTA.map_or(0, |_| bytes);
        let mut growth = Tally::one(counted(bytes));
        if let Some(before) = before {
            growth += Tally::one(counted(before.len())).negated();
        }
        growth
    }

    /// Checks that the workspace may grow by so much.
    fn check_quotas<T: EntityKind>(&self, workspace: Option<&WorkspaceId>, growth: Tally) -> Result<(), Problem> {
        let Some(workspace) = workspace.filter(|_| self.quotas == QuotaChecks::Enforce) else { return Ok(()) };
        let Some(limits) = self.find::<Workspace>(workspace) else { return Ok(()) };
        let used = self.tally::<T>(workspace);
        for (quota, used, added) in
            [(T::QUOTA, used.count(), growth.count()), (T::BYTES_QUOTA, used.bytes(), growth.bytes())]
        {
            if let Some(quota) = quota {
                self.rules.quotas.check(quota, &limits, used, added)?;
            }
        }
        Ok(())
    }

    fn event<T: EntityKind>(&self, change: EntityChange<'_, T>) -> Result<Option<Vec<u8>>, Problem> {
        match self.events {
            ChangeEvents::Emit => T::event(change, self.at),
            ChangeEvents::Suppress => Ok(None),
        }
    }

    fn produce_version<T: EntityKind>(&mut self, id: &T::Id, value: Option<Vec<u8>>, event: Option<Vec<u8>>) {
        let key = id.to_string();
        self.drafted.records.push(DraftRecord { topic: T::TOPIC, key: key.clone(), value });
        if let Some(event) = event {
            self.drafted.records.push(DraftRecord { topic: Topic::Events, key, value: Some(event) });
        }
    }

    /// Returns the other owners of `new`'s unique keys that release them, each with its version without the key.
    ///
    /// # Errors
    /// When an owner keeps its key.
    fn releasing_owners<T: EntityKind>(&self, new: &T) -> Result<Vec<(Arc<T>, T)>, Problem> {
        let mut releasing = Vec::new();
        for key in new.unique_keys() {
            let Some(owner_id) = self.owner::<T>(&key).filter(|owner| *owner != new.id()) else { continue };
            let owner = self.find::<T>(&owner_id);
            match owner.as_ref().and_then(|owner| owner.release_key(&key, self.at)).zip(owner) {
                Some((released, owner)) => releasing.push((owner, released)),
                None => return Err(T::conflict(&key, &owner_id)),
            }
        }
        Ok(releasing)
    }

    /// Frees the unique keys that `old` still owns.
    fn release_keys<T: EntityKind>(&mut self, old: &T) {
        let id = old.id();
        for key in old.unique_keys() {
            if self.owner::<T>(&key).as_ref() == Some(&id) {
                T::overlay_mut(&mut self.drafted.changes).owners.insert(key, None);
            }
        }
    }
}

/// Writes a record's value as JSON.
pub(crate) fn serialise(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| Problem::unavailable(format!("The record cannot be written: {error}")))
}
