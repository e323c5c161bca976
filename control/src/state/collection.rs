//! Collections of committed entities, and the overlays of entities that a draft changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bus::Change;
use schemas::WorkspaceId;

use crate::state::{
    entity::Entity,
    quotas::{Tallies, Tally},
};

/// All committed entities of a kind, with the owners of their unique keys.
pub(crate) trait EntityCollection<T: Entity>: Default {
    /// Returns the entity of the id, in whichever workspace it is.
    fn get(&self, id: &T::Id) -> Option<Arc<T>>;

    /// Returns the id of the entity that has the unique key.
    fn owner(&self, key: &T::UniqueKey) -> Option<T::Id>;

    /// Returns the number of entities.
    fn len(&self) -> usize;

    /// Returns up to `limit` entities that callers in the workspace may see, newest first, older than `before`; and
    /// whether there are more.
    fn page(&self, workspace: &WorkspaceId, before: Option<&T::Id>, limit: usize) -> (Vec<Arc<T>>, bool);

    /// Tells whether an entity of the id was deleted whose last version stays on the topic.
    fn is_retired(&self, _id: &T::Id) -> bool {
        false
    }

    /// Returns the number of entities of the workspace, and the bytes of their records where these are limited.
    fn tally(&self, workspace: &WorkspaceId) -> Tally;

    /// Inserts an entity, in place of an earlier version.
    fn insert(&mut self, new: Arc<T>);

    /// Removes an entity. Only those of its unique keys go with it that it still owns.
    fn remove(&mut self, id: &T::Id);

    /// Notes that an entity was deleted whose last version stays on the topic.
    fn retire(&mut self, _id: T::Id) {}

    /// Makes committed changes visible.
    fn apply(&mut self, changes: Overlay<T>) {
        for id in changes.retired {
            self.retire(id);
        }
        for (id, changed) in changes.changed {
            match changed {
                Some(new) => self.insert(new),
                None => self.remove(&id),
            }
        }
    }

    /// Inserts the entity of a record's value.
    ///
    /// # Errors
    /// When the value cannot be read.
    fn insert_record(&mut self, value: &[u8]) -> Result<(), serde_json::Error> {
        self.insert(Arc::new(serde_json::from_slice(value)?));
        Ok(())
    }

    /// Applies a record of the topic. A record that cannot be read is an error: a leader without it would lose it.
    fn apply_record(&mut self, change: &Change<'_>) -> Result<(), String> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        match change {
            Change::Put { key, value } => {
                self.insert_record(value).map_err(|error| format!("{}: {error}", text(key)))?;
            }
            Change::Delete { key } => {
                let id = text(key).parse::<T::Id>().map_err(|error| error.to_string())?;
                self.remove(&id);
            }
            Change::Coming { .. } | Change::CaughtUp => {}
        }
        Ok(())
    }
}

/// A collection of entities in a tree, by their ids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BTreeCollection<T: Entity> {
    entities: BTreeMap<T::Id, Arc<T>>,
    owners: HashMap<T::UniqueKey, T::Id>,
    tallies: Tallies,
    /// The ids of deleted entities whose last versions stay on the topic.
    retired: BTreeSet<T::Id>,
}

impl<T: Entity> Default for BTreeCollection<T> {
    fn default() -> Self {
        Self {
            entities: BTreeMap::new(),
            owners: HashMap::new(),
            tallies: Tallies::default(),
            retired: BTreeSet::new(),
        }
    }
}

impl<T: Entity> BTreeCollection<T> {
    /// Iterates over all entities, of any workspace.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.entities.values()
    }
}

impl<T: Entity> EntityCollection<T> for BTreeCollection<T> {
    fn get(&self, id: &T::Id) -> Option<Arc<T>> {
        self.entities.get(id).cloned()
    }

    fn owner(&self, key: &T::UniqueKey) -> Option<T::Id> {
        self.owners.get(key).cloned()
    }

    fn len(&self) -> usize {
        self.entities.len()
    }

    fn page(&self, workspace: &WorkspaceId, before: Option<&T::Id>, limit: usize) -> (Vec<Arc<T>>, bool) {
        let older = match before {
            Some(before) => self.entities.range(..before),
            None => self.entities.range::<T::Id, _>(..),
        };
        let mut visible = older.rev().map(|(_, entity)| entity).filter(|entity| entity.is_visible_from(workspace));
        let page = visible.by_ref().take(limit).cloned().collect();
        (page, visible.next().is_some())
    }

    fn is_retired(&self, id: &T::Id) -> bool {
        self.retired.contains(id)
    }

    fn retire(&mut self, id: T::Id) {
        self.retired.insert(id);
    }

    fn tally(&self, workspace: &WorkspaceId) -> Tally {
        self.tallies.of(workspace)
    }

    fn insert(&mut self, new: Arc<T>) {
        let id = new.id();
        self.remove(&id);
        if new.is_retired() {
            self.retired.insert(id);
            return;
        }
        if let Some(workspace) = new.workspace() {
            self.tallies.add(workspace, Tally::one(0));
        }
        for key in new.unique_keys() {
            self.owners.insert(key, id.clone());
        }
        self.entities.insert(id, new);
    }

    fn remove(&mut self, id: &T::Id) {
        let Some(old) = self.entities.remove(id) else { return };
        if let Some(workspace) = old.workspace() {
            self.tallies.add(workspace, Tally::one(0).negated());
        }
        for key in old.unique_keys() {
            if self.owners.get(&key) == Some(id) {
                self.owners.remove(&key);
            }
        }
    }
}

/// The entities of a kind that a draft creates, changes and deletes.
#[derive(Debug)]
pub(crate) struct Overlay<T: Entity> {
    /// The new versions; nothing for a deleted entity.
    pub(crate) changed: BTreeMap<T::Id, Option<Arc<T>>>,
    /// The new owners of unique keys; nothing for a key that is free again.
    pub(crate) owners: HashMap<T::UniqueKey, Option<T::Id>>,
    /// The differences to the committed tallies.
    pub(crate) tallies: Tallies,
    /// The deleted entities whose last versions stay on the topic.
    pub(crate) retired: Vec<T::Id>,
}

impl<T: Entity> Default for Overlay<T> {
    fn default() -> Self {
        Self { changed: BTreeMap::new(), owners: HashMap::new(), tallies: Tallies::default(), retired: Vec::new() }
    }
}
