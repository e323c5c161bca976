//! Domains as the control plane keeps them: a name is one workspace's, a
//! workspace has one default domain, and a domain with links stays.

use schemas::{Domain, DomainId, Link, Timestamp, Topic, WorkspaceId};
use service::problem::{Kind, Problem};

use crate::{draft::Draft, kept::Kept};

/// What only one domain may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DomainClaim {
    /// Its name: unique in the installation.
    Name(String),
    /// Being the default of the workspace.
    Default(WorkspaceId),
}

impl Kept for Domain {
    type Id = DomainId;
    type Claim = DomainClaim;

    const NAME: &'static str = "domain";
    const TOPIC: Topic = Topic::Domains;

    fn id(&self) -> DomainId {
        self.id
    }

    fn workspace(&self) -> Option<&WorkspaceId> {
        Some(&self.workspace)
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn claims(&self) -> Vec<DomainClaim> {
        let default = self.is_default.then(|| DomainClaim::Default(self.workspace.clone()));
        std::iter::once(DomainClaim::Name(self.name.clone())).chain(default).collect()
    }

    /// Whose it is, is none of the caller's business.
    fn taken(claim: &DomainClaim, _: &DomainId) -> Problem {
        match claim {
            DomainClaim::Name(name) => {
                let reason = format!("`{name}` is a domain of this installation already: choose another");
                Problem::conflict("name", reason)
            }
            DomainClaim::Default(_) => {
                Problem::conflict("is_default", "The workspace has a default domain already".to_owned())
            }
        }
    }

    /// The default of before gives way to the new one.
    fn without(&self, claim: &DomainClaim, at: Timestamp) -> Option<Self> {
        match claim {
            DomainClaim::Name(_) => None,
            DomainClaim::Default(_) => {
                Some(Self { is_default: false, updated_at: at, revision: self.revision + 1, ..self.clone() })
            }
        }
    }

    fn let_go(&self, draft: &Draft<'_>) -> Result<(), Problem> {
        // Nobody else's links are on it.
        if draft.any(&self.workspace, |link: &Link| link.domain.as_ref() == Some(&self.name)) {
            let detail = format!("There are links on {}: delete them first", self.name);
            return Err(Problem::new(Kind::Conflict, detail));
        }
        Ok(())
    }
}
