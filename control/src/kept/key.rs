//! Keys as the control plane keeps them: a secret opens one key and no other.

use schemas::{Key, KeyId, Topic, WorkspaceId};
use service::problem::Problem;

use crate::kept::Kept;

/// SHA-256 of a secret, in hexadecimal: what only one key may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SecretHash(pub(crate) String);

impl Kept for Key {
    type Id = KeyId;
    type Claim = SecretHash;

    const NAME: &'static str = "key";
    const TOPIC: Topic = Topic::Keys;
    const TRAILS: &'static [Topic] = &[Topic::KeyUses];

    fn id(&self) -> KeyId {
        self.id
    }

    fn workspace(&self) -> Option<&WorkspaceId> {
        Some(&self.workspace)
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn claims(&self) -> Vec<SecretHash> {
        let previous = self.previous.as_ref().map(|previous| previous.hash.clone());
        std::iter::once(self.hash.clone()).chain(previous).map(SecretHash).collect()
    }

    /// Secrets are random but for the installation's own.
    fn taken(_: &SecretHash, owner: &KeyId) -> Problem {
        Problem::conflict("secret", format!("The secret is that of the key {owner} already: choose another"))
    }
}
