//! Workspaces as the control plane keeps them: one goes only when it is empty.

use schemas::{Campaign, Domain, Endpoint, Key, Link, Topic, Workspace, WorkspaceId};
use service::problem::{Kind, Problem};

use crate::{
    draft::Draft,
    kept::{Kept, Unclaimed},
};

impl Kept for Workspace {
    type Id = WorkspaceId;
    type Claim = Unclaimed;

    const NAME: &'static str = "workspace";
    const TOPIC: Topic = Topic::Workspaces;

    fn id(&self) -> WorkspaceId {
        self.id.clone()
    }

    fn workspace(&self) -> Option<&WorkspaceId> {
        None
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn taken(claim: &Unclaimed, _: &WorkspaceId) -> Problem {
        match *claim {}
    }

    fn let_go(&self, draft: &Draft<'_>) -> Result<(), Problem> {
        if self.id == WorkspaceId::default() {
            return Err(Problem::new(Kind::Conflict, "The workspace `default` belongs to the installation and stays"));
        }
        let left: Vec<String> = [
            (draft.count::<Key>(&self.id), "keys"),
            (draft.count::<Domain>(&self.id), "domains"),
            (draft.count::<Endpoint>(&self.id), "endpoints"),
            (draft.count::<Campaign>(&self.id), "campaigns"),
            (draft.count::<Link>(&self.id), "links"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{what}: {count}"))
        .collect();
        if left.is_empty() {
            return Ok(());
        }
        let detail = format!("It is not empty ({}): delete what is left in it first", left.join(", "));
        Err(Problem::new(Kind::Conflict, detail))
    }
}
