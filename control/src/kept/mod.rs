//! What every kind of thing that the control plane keeps has in common: a topic,
//! an id, a workspace, versions, and claims to what only one may have. A new kind
//! is an impl of [`Kept`] and a line in `state.rs`; state, drafts, the leader's
//! reading and the API's reading, listing, patching and deleting follow from them.

mod campaign;
mod domain;
mod endpoint;
mod key;
mod link;
mod links;
mod order;
mod workspace;

use std::{
    fmt::{Debug, Display},
    hash::Hash,
    str::FromStr,
    sync::Arc,
};

use schemas::{Timestamp, Topic, WorkspaceId};
use serde::{Serialize, de::DeserializeOwned};
use service::problem::{Kind, Problem};

pub(crate) use crate::kept::{
    domain::DomainClaim,
    key::SecretHash,
    link::{LinkClaim, address},
    links::{Limited, Links, Wanted},
};
use crate::{draft::Draft, state::Stored};

/// A kind of thing that the control plane keeps.
pub(crate) trait Kept: Stored + Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync {
    /// Its id: the key of its record.
    type Id: Ord + Clone + Debug + Display + FromStr<Err: Display> + Send + Sync;
    /// Something that only one of the kind may have.
    type Claim: Clone + Debug + Eq + Hash + Send + Sync;

    /// What people call it.
    const NAME: &'static str;
    /// Where its records are.
    const TOPIC: Topic;
    /// Where further records under its id are, which go with it.
    const TRAILS: &'static [Topic] = &[];

    /// Its id.
    fn id(&self) -> Self::Id;

    /// Whose it is; nothing for what belongs to the installation.
    fn workspace(&self) -> Option<&WorkspaceId>;

    /// Which version it is.
    fn revision(&self) -> u64;

    /// Whether callers in `workspace` may see it.
    fn is_seen_from(&self, workspace: &WorkspaceId) -> bool {
        self.workspace().is_none_or(|theirs| theirs == workspace)
    }

    /// What it has that no other may have.
    fn claims(&self) -> Vec<Self::Claim> {
        Vec::new()
    }

    /// What is answered to one that claims what `owner` has.
    fn taken(claim: &Self::Claim, owner: &Self::Id) -> Problem;

    /// What is left of it when another claims what it has; nothing where it does
    /// not give way.
    fn without(&self, _claim: &Self::Claim, _at: Timestamp) -> Option<Self> {
        None
    }

    /// Settles, before it is written over `old`, what depends on everything
    /// else; refuses where it does not fit.
    fn settle(&mut self, _old: Option<&Self>, _draft: &Draft<'_>) -> Result<(), Problem> {
        Ok(())
    }

    /// Whether it can be deleted.
    fn let_go(&self, _draft: &Draft<'_>) -> Result<(), Problem> {
        Ok(())
    }

    /// The event that tells of a change, if any does.
    fn event(_change: Difference<'_, Self>, _at: Timestamp) -> Result<Option<Vec<u8>>, Problem> {
        Ok(None)
    }
}

/// What becomes of a thing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Difference<'a, T> {
    /// It is new.
    Created(&'a T),
    /// It was the first, and is the second.
    Updated(&'a T, &'a T),
    /// It is gone.
    Deleted(&'a T),
}

/// The claim of what never has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unclaimed {}

/// What was found, if callers in the workspace may see it and it is the version
/// that they expect.
pub(crate) fn expect<T: Kept>(
    found: Option<Arc<T>>,
    id: &T::Id,
    workspace: &WorkspaceId,
    expected: Option<u64>,
) -> Result<Arc<T>, Problem> {
    let found = found.filter(|found| found.is_seen_from(workspace)).ok_or_else(|| not_found::<T>(&id.to_string()))?;
    match expected {
        Some(revision) if revision != found.revision() => {
            let detail = format!("This {} is at revision {}: read it again", T::NAME, found.revision());
            Err(Problem::new(Kind::Changed, detail))
        }
        _ => Ok(found),
    }
}

/// Nothing of that id is the caller's.
pub(crate) fn not_found<T: Kept>(id: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("There is no {} {id}", T::NAME))
}

/// As a record's value.
pub(crate) fn serialise(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| Problem::unavailable(format!("It cannot be written down: {error}")))
}
