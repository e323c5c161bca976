//! The state of a leader: all entities that the control plane keeps, and the owners of their unique keys.
//!
//! Only committed entities are in a [`State`], so that readers see nothing else; `draft.rs` holds the changes that are
//! not committed yet. A kind of entities is an impl of [`Entity`](entity::Entity) and of [`EntityKind`](draft::EntityKind) (in
//! `kinds/`), and a line in `kinds!` below.

pub(crate) mod answers;
pub(crate) mod audit;
pub(crate) mod collection;
pub(crate) mod draft;
pub(crate) mod entity;
pub(crate) mod fired;
pub(crate) mod links;
pub(crate) mod quotas;

use std::{collections::HashMap, sync::Arc};

use bus::Change;
use schemas::{Campaign, Domain, Endpoint, Key, Link, Replay, Topic, Workspace, WorkspaceId, idempotency::KeptAnswer};

use crate::state::{
    answers::IdempotentAnswers,
    collection::{BTreeCollection, EntityCollection, Overlay},
    entity::Entity,
    fired::{FiredChange, FiredFacts},
    links::LinkCollection,
};

/// A kind of entities that the state has a collection of.
pub(crate) trait HasCollection: Entity {
    /// The collection of committed entities.
    type Collection: EntityCollection<Self>;

    /// Returns the committed entities.
    fn collection(state: &State) -> &Self::Collection;

    /// Returns the drafted entities.
    fn overlay(changes: &StateChanges) -> &Overlay<Self>;

    /// Returns the drafted entities, to add to them.
    fn overlay_mut(changes: &mut StateChanges) -> &mut Overlay<Self>;
}

macro_rules! kinds {
    ($($field:ident: $kind:ty, $collection:ty;)*) => {
        /// All committed entities, the answers to idempotent calls, and the facts that the watch has told.
        #[derive(Debug, Default, PartialEq, Eq)]
        pub(crate) struct State {
            $(pub(crate) $field: $collection,)*
            pub(crate) answers: IdempotentAnswers,
            pub(crate) fired: FiredFacts,
        }

        /// The changes of a draft.
        #[derive(Debug, Default)]
        pub(crate) struct StateChanges {
            $($field: Overlay<$kind>,)*
            pub(crate) answers: HashMap<Arc<str>, Arc<KeptAnswer>>,
            pub(crate) fired: Vec<FiredChange>,
        }

        impl State {
            /// The topics that the state is read from.
            pub(crate) const TOPICS: &[Topic] = &[$(<$kind as Entity>::TOPIC,)* Topic::Idempotency, Topic::Fired];

            /// Applies a record of one of the topics.
            pub(crate) fn apply_record(&mut self, topic: Topic, change: &Change<'_>) -> Result<(), String> {
                $(if topic == <$kind as Entity>::TOPIC {
                    return self.$field.apply_record(change);
                })*
                if topic == Topic::Idempotency {
                    self.answers.apply_record(change);
                    return Ok(());
                }
                if topic == Topic::Fired {
                    return self.fired.apply_record(change);
                }
                Err(format!("{} is no topic of the control plane's state", topic.suffix()))
            }

            /// Makes committed changes visible.
            pub(crate) fn apply(&mut self, changes: StateChanges) {
                $(self.$field.apply(changes.$field);)*
                for (key, answer) in changes.answers {
                    self.answers.insert(key, answer);
                }
                self.fired.apply(changes.fired);
            }
        }

        $(impl HasCollection for $kind {
            type Collection = $collection;

            fn collection(state: &State) -> &$collection {
                &state.$field
            }
            fn overlay(changes: &StateChanges) -> &Overlay<Self> {
                &changes.$field
            }
            fn overlay_mut(changes: &mut StateChanges) -> &mut Overlay<Self> {
                &mut changes.$field
            }
        })*
    };
}

kinds! {
    links: Link, LinkCollection;
    endpoints: Endpoint, BTreeCollection<Endpoint>;
    workspaces: Workspace, BTreeCollection<Workspace>;
    domains: Domain, BTreeCollection<Domain>;
    keys: Key, BTreeCollection<Key>;
    campaigns: Campaign, BTreeCollection<Campaign>;
    replays: Replay, BTreeCollection<Replay>;
}

impl State {
    /// Makes a state that is to be filled from the topics ([`State::finish_filling`]).
    pub(crate) fn filling() -> Self {
        Self { links: LinkCollection::filling(), ..Self::default() }
    }

    /// Ends the filling of the state.
    pub(crate) fn finish_filling(&mut self) {
        self.links.sort();
    }

    /// Returns the entity of the id, if callers in the workspace may see it.
    pub(crate) fn get<T: HasCollection>(&self, workspace: &WorkspaceId, id: &T::Id) -> Option<Arc<T>> {
        T::collection(self).get(id).filter(|found| found.is_visible_from(workspace))
    }

    /// Returns a page of the entities that callers in the workspace may see: [`EntityCollection::page`].
    pub(crate) fn page<T: HasCollection>(
        &self,
        workspace: &WorkspaceId,
        before: Option<&T::Id>,
        limit: usize,
    ) -> (Vec<Arc<T>>, bool) {
        T::collection(self).page(workspace, before, limit)
    }
}

/// Returns a state with the workspace that every installation has, and a domain of it.
#[cfg(test)]
pub(crate) fn installed() -> State {
    let at = schemas::Timestamp::from_millis(0);
    let id = WorkspaceId::default();
    let limits = schemas::WorkspaceLimits::default();
    let workspace = Workspace {
        id,
        name: "Default".to_owned(),
        limits,
        deleted_at: None,
        created_at: at,
        updated_at: at,
        revision: 1,
    };
    let mut state = State::default();
    state.domains.insert(Arc::new(schemas::sample::plain_domain(schemas::DomainId::from_bits(1), "go.acme.co")));
    state.workspaces.insert(Arc::new(workspace));
    state
}
