//! Workspaces. Only an empty workspace can be deleted.

use bus::KeyUses;
use schemars::JsonSchema;
use schemas::{Campaign, Domain, Endpoint, Key, Link, Scope, Timestamp, Topic, Workspace, WorkspaceId};
use serde::Deserialize;
use service::problem::{Kind, Problem};

use crate::{
    caller::Caller,
    check::{Checker, Patch},
    kinds::resource::{CreateContext, Created, Resource},
    rules::ApiRules,
    state::{
        draft::{Draft, EntityKind},
        entity::{Entity, NoUniqueKey},
    },
};

const NAME_CHARS: usize = 128;

/// A workspace to be created.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWorkspace {
    /// A short name that cannot be changed: a-z, 0-9 and -.
    #[schemars(with = "WorkspaceId")]
    id: String,
    /// The name for people; the id if left out.
    name: Option<String>,
}

/// The changes of a workspace: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WorkspacePatch {
    name: Patch<String>,
}

impl Entity for Workspace {
    type Id = WorkspaceId;
    type UniqueKey = NoUniqueKey;

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

    fn conflict(key: &NoUniqueKey, _: &WorkspaceId) -> Problem {
        match *key {}
    }
}

impl EntityKind for Workspace {
    fn check_deletable(&self, draft: &Draft<'_>) -> Result<(), Problem> {
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
        let detail = format!("The workspace is not empty ({}): delete what is left in it first", left.join(", "));
        Err(Problem::new(Kind::Conflict, detail))
    }
}

impl Resource for Workspace {
    const PATH: &'static str = "/v1/workspaces";
    const SCOPE: Scope = Scope::Operator;
    const ORDER: &'static str = "from the last id to the first";

    type New = NewWorkspace;
    type Patch = WorkspacePatch;
    type View<'a> = &'a Self;

    fn create(new: NewWorkspace, context: &CreateContext<'_>) -> Result<Created<Self>, Problem> {
        new.check(context.at).map(Created::from)
    }

    fn patched(&self, patch: WorkspacePatch, _: &Caller, _: &ApiRules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, at)
    }

    fn view<'a>(&'a self, _: &KeyUses, _: Option<&'a str>) -> &'a Self {
        self
    }
}

/// Returns the first version of a workspace.
pub(crate) const fn new_workspace(id: WorkspaceId, name: String, at: Timestamp) -> Workspace {
    Workspace { id, name, created_at: at, updated_at: at, revision: 1 }
}

impl NewWorkspace {
    /// Returns the workspace, checked. Without a name, its name is its id.
    fn check(self, at: Timestamp) -> Result<Workspace, Problem> {
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
    /// Returns `workspace` with the patch applied, checked.
    fn apply(self, workspace: &Workspace, at: Timestamp) -> Result<Workspace, Problem> {
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
