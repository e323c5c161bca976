//! What the leader knows: everything that it keeps, with the owners of what must
//! be unique. Only what is committed is in here (`draft.rs` holds what is not),
//! so that readers see nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bus::Change;
use schemas::{
    Campaign, Domain, Endpoint, Key, Link, Timestamp, Topic, Workspace, WorkspaceId, idempotency::KeptAnswer, keyring,
};

use crate::{
    answers::Answers,
    draft::Overlay,
    kept::{Kept, Links, SecretHash},
};

/// All of a kind, by id, with the owners of their claims.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shelf<T: Kept> {
    all: BTreeMap<T::Id, Arc<T>>,
    owners: HashMap<T::Claim, T::Id>,
}

impl<T: Kept> Default for Shelf<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), owners: HashMap::new() }
    }
}

/// What holds all of a kind.
pub(crate) trait Holds<T: Kept>: Default {
    /// The one of that id, whosever it is.
    fn get(&self, id: &T::Id) -> Option<Arc<T>>;

    /// Whose that is.
    fn owner(&self, claim: &T::Claim) -> Option<T::Id>;

    /// How many there are.
    fn len(&self) -> usize;

    /// Up to `limit` of what callers in the workspace see, newest first, older
    /// than `before`; and whether there are more.
    fn page(&self, workspace: &WorkspaceId, before: Option<&T::Id>, limit: usize) -> (Vec<Arc<T>>, bool);

    /// Those of the workspace.
    fn theirs<'a>(&'a self, workspace: &'a WorkspaceId) -> impl Iterator<Item = Arc<T>> + 'a;

    /// Puts one in place of the one of its id.
    fn put(&mut self, new: Arc<T>);

    /// Takes one out. What it claimed goes only with the one that owns it.
    fn remove(&mut self, id: &T::Id);

    /// Makes committed changes visible.
    fn apply(&mut self, changes: Overlay<T>) {
        for (id, changed) in changes.changed {
            match changed {
                Some(new) => self.put(new),
                None => self.remove(&id),
            }
        }
    }

    /// Applies a record. One that cannot be read is an error: to lead without it
    /// would be to forget it.
    fn read(&mut self, change: &Change<'_>) -> Result<(), String> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        match change {
            Change::Put { key, value } => {
                let new: T = serde_json::from_slice(value).map_err(|error| format!("{}: {error}", text(key)))?;
                self.put(Arc::new(new));
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

impl<T: Kept> Holds<T> for Shelf<T> {
    fn get(&self, id: &T::Id) -> Option<Arc<T>> {
        self.all.get(id).cloned()
    }

    fn owner(&self, claim: &T::Claim) -> Option<T::Id> {
        self.owners.get(claim).cloned()
    }

    fn theirs<'a>(&'a self, workspace: &'a WorkspaceId) -> impl Iterator<Item = Arc<T>> + 'a {
        self.all.values().filter(move |found| found.workspace() == Some(workspace)).cloned()
    }

    fn len(&self) -> usize {
        self.all.len()
    }

    fn page(&self, workspace: &WorkspaceId, before: Option<&T::Id>, limit: usize) -> (Vec<Arc<T>>, bool) {
        let older = match before {
            Some(before) => self.all.range(..before),
            None => self.all.range::<T::Id, _>(..),
        };
        let mut theirs = older.rev().map(|(_, found)| found).filter(|found| found.is_seen_from(workspace));
        let page = theirs.by_ref().take(limit).cloned().collect();
        (page, theirs.next().is_some())
    }

    fn put(&mut self, new: Arc<T>) {
        let id = new.id();
        self.remove(&id);
        for claim in new.claims() {
            self.owners.insert(claim, id.clone());
        }
        self.all.insert(id, new);
    }

    fn remove(&mut self, id: &T::Id) {
        let Some(old) = self.all.remove(id) else { return };
        for claim in old.claims() {
            if self.owners.get(&claim) == Some(id) {
                self.owners.remove(&claim);
            }
        }
    }
}

/// Where a kind is kept.
pub(crate) trait Stored: Sized + 'static {
    /// What holds it.
    type Held: Holds<Self>
    where
        Self: Kept;

    /// What is committed.
    fn shelf(state: &State) -> &Self::Held
    where
        Self: Kept;

    /// What is drafted.
    fn drafted(changes: &Changes) -> &Overlay<Self>
    where
        Self: Kept;

    /// What is drafted, to add to it.
    fn drafted_mut(changes: &mut Changes) -> &mut Overlay<Self>
    where
        Self: Kept;
}

macro_rules! kinds {
    ($($field:ident: $kind:ty, $held:ty;)*) => {
        /// Everything that is committed.
        #[derive(Debug, Default, PartialEq, Eq)]
        pub(crate) struct State {
            $(pub(crate) $field: $held,)*
            pub(crate) answers: Answers,
        }

        /// What a draft changes.
        #[derive(Debug, Default)]
        pub(crate) struct Changes {
            $($field: Overlay<$kind>,)*
            pub(crate) answers: HashMap<Arc<str>, Arc<KeptAnswer>>,
        }

        impl State {
            /// The topics that say what is committed.
            pub(crate) const TOPICS: &[Topic] = &[$(<$kind as Kept>::TOPIC,)* Topic::Idempotency];

            /// Applies a record of one of the topics.
            pub(crate) fn read(&mut self, topic: Topic, change: &Change<'_>) -> Result<(), String> {
                $(if topic == <$kind as Kept>::TOPIC {
                    return self.$field.read(change);
                })*
                if topic == Topic::Idempotency {
                    self.answers.read(change);
                    return Ok(());
                }
                Err(format!("{} says nothing that the control plane keeps", topic.suffix()))
            }

            /// Makes committed changes visible.
            pub(crate) fn apply(&mut self, changes: Changes) {
                $(self.$field.apply(changes.$field);)*
                for (key, answer) in changes.answers {
                    self.answers.put(key, answer);
                }
            }
        }

        $(impl Stored for $kind {
            type Held = $held;

            fn shelf(state: &State) -> &$held {
                &state.$field
            }
            fn drafted(changes: &Changes) -> &Overlay<Self> {
                &changes.$field
            }
            fn drafted_mut(changes: &mut Changes) -> &mut Overlay<Self> {
                &mut changes.$field
            }
        })*
    };
}

kinds! {
    links: Link, Links;
    endpoints: Endpoint, Shelf<Endpoint>;
    workspaces: Workspace, Shelf<Workspace>;
    domains: Domain, Shelf<Domain>;
    keys: Key, Shelf<Key>;
    campaigns: Campaign, Shelf<Campaign>;
}

impl State {
    /// The one of that id, if callers in the workspace may see it.
    pub(crate) fn get<T: Kept>(&self, workspace: &WorkspaceId, id: &T::Id) -> Option<Arc<T>> {
        T::shelf(self).get(id).filter(|found| found.is_seen_from(workspace))
    }

    /// A page of what callers in the workspace see: [`Holds::page`].
    pub(crate) fn page<T: Kept>(
        &self,
        workspace: &WorkspaceId,
        before: Option<&T::Id>,
        limit: usize,
    ) -> (Vec<Arc<T>>, bool) {
        T::shelf(self).page(workspace, before, limit)
    }

    /// The key that `secret` opens at `at`. What a caller can choose is hashed
    /// before it is looked up, so how long that takes tells nothing of a secret.
    pub(crate) fn key(&self, secret: &str, at: Timestamp) -> Option<Arc<Key>> {
        let hash = keyring::hash(secret);
        let id = self.keys.owner(&SecretHash(hash.clone()))?;
        self.keys.get(&id).filter(|key| key.opens(&hash, at))
    }
}

/// A state with the workspace that every installation has, and a domain of it.
#[cfg(test)]
pub(crate) fn installed() -> State {
    let (home, at) = (WorkspaceId::default(), Timestamp::from_millis(0));
    let mut state = State::default();
    state.domains.put(Arc::new(schemas::sample::plain_domain(schemas::DomainId::from_bits(1), "go.acme.co")));
    state.workspaces.put(Arc::new(crate::workspace::new_workspace(home, "Default".to_owned(), at)));
    state
}
