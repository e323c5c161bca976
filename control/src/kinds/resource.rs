//! The trait of the kinds that callers create, read, list, change and delete.

use bus::KeyUses;
use schemars::JsonSchema;
use schemas::{Scope, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use service::{problem::Problem, vault::Vault};
use zeroize::Zeroizing;

use crate::{caller::Caller, rules::ApiRules, state::draft::EntityKind};

/// A kind of entities that the API serves.
pub(crate) trait Resource: EntityKind {
    /// The path of the collection, such as `/v1/links`.
    const PATH: &'static str;
    /// The scope that a key needs.
    const SCOPE: Scope;
    /// The order of lists, which is that of ids, the last first. Ids grow with time unless callers choose them.
    const ORDER: &'static str = "newest first";

    /// The body of a request that creates an entity.
    type New: DeserializeOwned + JsonSchema + Send + 'static;
    /// The body of a request that changes an entity: a merge patch (RFC 7396).
    type Patch: DeserializeOwned + JsonSchema + Send + 'static;
    /// The entity as callers see it.
    type View<'a>: Serialize + JsonSchema;

    /// Checks a request and makes the entity that it asks for.
    fn create(new: Self::New, context: &CreateContext<'_>) -> Result<Created<Self>, Problem>;

    /// Checks whether the caller may change or delete the entity.
    fn check_access(&self, _caller: &Caller) -> Result<(), Problem> {
        Ok(())
    }

    /// Returns the entity with the patch applied, checked. Its revision is the next one if the patch changes anything.
    fn patched(&self, patch: Self::Patch, caller: &Caller, rules: &ApiRules, at: Timestamp) -> Result<Self, Problem>;

    /// Returns the entity as callers see it, with its secret in the answers that show a new one.
    fn view<'a>(&'a self, uses: &KeyUses, secret: Option<&'a str>) -> Self::View<'a>;
}

/// The circumstances of a request that creates an entity.
#[derive(Clone, Copy)]
pub(crate) struct CreateContext<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) rules: &'a ApiRules,
    /// The vault that seals secrets.
    pub(crate) vault: &'a Vault,
    pub(crate) at: Timestamp,
}

/// A new entity, and the secret that only the answer to its creation shows.
pub(crate) struct Created<T> {
    pub(crate) entity: T,
    pub(crate) secret: Option<Zeroizing<String>>,
}

impl<T> From<T> for Created<T> {
    fn from(entity: T) -> Self {
        Self { entity, secret: None }
    }
}
