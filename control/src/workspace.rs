//! Workspaces as callers write them.

use schemars::JsonSchema;
use schemas::{Timestamp, Workspace, WorkspaceId};
use serde::Deserialize;
use service::problem::Problem;

use crate::check::{Checker, Patch};

const NAME_CHARS: usize = 128;

/// A workspace that someone wants.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWorkspace {
    /// A short name that stays: a-z, 0-9 and -.
    #[schemars(with = "WorkspaceId")]
    id: String,
    /// What people call it; its id if left out.
    name: Option<String>,
}

/// What someone wants changed of a workspace: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WorkspacePatch {
    name: Patch<String>,
}

/// The first version of a workspace.
pub(crate) const fn new_workspace(id: WorkspaceId, name: String, at: Timestamp) -> Workspace {
    Workspace { id, name, created_at: at, updated_at: at, revision: 1 }
}

impl NewWorkspace {
    /// The workspace, checked. One without a name is called by its id.
    pub(crate) fn check(self, at: Timestamp) -> Result<Workspace, Problem> {
        let mut checker = Checker::default();
        let id = self.id.parse().unwrap_or_else(|error: schemas::ids::WorkspaceIdError| {
            checker.wrong("id", error.to_string());
            WorkspaceId::default()
        });
        if let Some(name) = &self.name {
            checker.text("name", name, NAME_CHARS);
        }
        let name = self.name.unwrap_or(self.id);
        checker.finish(new_workspace(id, name, at))
    }
}

impl WorkspacePatch {
    /// `workspace` with the patch applied, checked.
    pub(crate) fn apply(self, workspace: &Workspace, at: Timestamp) -> Result<Workspace, Problem> {
        let mut checker = Checker::default();
        let mut new = workspace.clone();
        self.name.apply_required(&mut new.name, "name", &mut checker);
        checker.text("name", &new.name, NAME_CHARS);
        if new != *workspace {
            new.updated_at = at;
            new.revision += 1;
        }
        checker.finish(new)
    }
}
