//! Endpoints as the control plane keeps them.

use schemas::{Endpoint, EndpointId, Topic, WorkspaceId};
use service::problem::Problem;

use crate::kept::{Kept, Unclaimed};

impl Kept for Endpoint {
    type Id = EndpointId;
    type Claim = Unclaimed;

    const NAME: &'static str = "endpoint";
    const TOPIC: Topic = Topic::Endpoints;

    fn id(&self) -> EndpointId {
        self.id
    }

    fn workspace(&self) -> Option<&WorkspaceId> {
        Some(&self.workspace)
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn taken(claim: &Unclaimed, _: &EndpointId) -> Problem {
        match *claim {}
    }
}
