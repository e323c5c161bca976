//! Campaigns as the control plane keeps them: links name one by its name, so a
//! workspace has each name once.

use schemas::{Campaign, CampaignId, Topic, WorkspaceId};
use service::problem::Problem;

use crate::kept::Kept;

/// What only one campaign may have: its name in the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CampaignName(WorkspaceId, String);

impl Kept for Campaign {
    type Id = CampaignId;
    type Claim = CampaignName;

    const NAME: &'static str = "campaign";
    const TOPIC: Topic = Topic::Campaigns;

    fn id(&self) -> CampaignId {
        self.id
    }

    fn workspace(&self) -> Option<&WorkspaceId> {
        Some(&self.workspace)
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn claims(&self) -> Vec<CampaignName> {
        vec![CampaignName(self.workspace.clone(), self.name.clone())]
    }

    fn taken(claim: &CampaignName, owner: &CampaignId) -> Problem {
        Problem::conflict("name", format!("`{}` is the name of {owner} already: choose another", claim.1))
    }
}
