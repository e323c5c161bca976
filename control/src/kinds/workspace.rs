//! Workspaces. Only an empty workspace can be deleted.

use bus::KeyUses;
use schemars::JsonSchema;
use schemas::{
    Campaign, Domain, Endpoint, Key, Link, Scope, Timestamp, Topic, Workspace, WorkspaceId, WorkspaceLimits,
    audit::AuditedKind,
};
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
/// The largest number that every JSON reader understands (2^53 - 1).
const MAX_LIMIT: u64 = (1 << 53) - 1;
const MAX_REQUESTS_PER_S: u64 = 1_000_000;

/// A workspace to be created.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWorkspace {
    /// A short name that cannot be changed: a-z, 0-9 and -.
    #[schemars(with = "WorkspaceId")]
    id: String,
    /// The name for people; the id if left out.
    name: Option<String>,
    /// The limits that differ from those of the installation.
    #[serde(default)]
    limits: NewLimits,
}

/// The changes of a workspace: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WorkspacePatch {
    name: Patch<String>,
    /// The limits that differ from those of the installation. Null takes all of them back, and so does null of a limit.
    limits: Patch<LimitsPatch>,
}

/// The limits of a new workspace.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewLimits {
    /// The most links.
    #[schemars(range(max = MAX_LIMIT))]
    links: Option<u64>,
    /// The most bytes of all links together, each as its JSON.
    #[schemars(range(max = MAX_LIMIT))]
    link_bytes: Option<u64>,
    /// The most endpoints.
    #[schemars(range(max = MAX_LIMIT))]
    endpoints: Option<u64>,
    /// The most domains.
    #[schemars(range(max = MAX_LIMIT))]
    domains: Option<u64>,
    /// The most keys.
    #[schemars(range(max = MAX_LIMIT))]
    keys: Option<u64>,
    /// The most campaigns.
    #[schemars(range(max = MAX_LIMIT))]
    campaigns: Option<u64>,
    /// The average requests a second of all keys together.
    #[schemars(range(min = 1, max = MAX_REQUESTS_PER_S))]
    requests_per_s: Option<u64>,
}

/// The changes of limits: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsPatch {
    /// The most links.
    #[schemars(range(max = MAX_LIMIT))]
    links: Patch<u64>,
    /// The most bytes of all links together, each as its JSON.
    #[schemars(range(max = MAX_LIMIT))]
    link_bytes: Patch<u64>,
    /// The most endpoints.
    #[schemars(range(max = MAX_LIMIT))]
    endpoints: Patch<u64>,
    /// The most domains.
    #[schemars(range(max = MAX_LIMIT))]
    domains: Patch<u64>,
    /// The most keys.
    #[schemars(range(max = MAX_LIMIT))]
    keys: Patch<u64>,
    /// The most campaigns.
    #[schemars(range(max = MAX_LIMIT))]
    campaigns: Patch<u64>,
    /// The average requests a second of all keys together.
    #[schemars(range(min = 1, max = MAX_REQUESTS_PER_S))]
    requests_per_s: Patch<u64>,
}

impl From<NewLimits> for WorkspaceLimits {
    fn from(new: NewLimits) -> Self {
        let NewLimits { links, link_bytes, endpoints, domains, keys, campaigns, requests_per_s } = new;
        Self { links, link_bytes, endpoints, domains, keys, campaigns, requests_per_s }
    }
}

impl LimitsPatch {
    fn apply(self, limits: &mut WorkspaceLimits) {
        self.links.apply(&mut limits.links);
        self.link_bytes.apply(&mut limits.link_bytes);
        self.endpoints.apply(&mut limits.endpoints);
        self.domains.apply(&mut limits.domains);
        self.keys.apply(&mut limits.keys);
        self.campaigns.apply(&mut limits.campaigns);
        self.requests_per_s.apply(&mut limits.requests_per_s);
    }
}

fn check_limits(limits: &WorkspaceLimits, checker: &mut Checker) {
    for (field, limit) in [
        ("limits.links", limits.links),
        ("limits.link_bytes", limits.link_bytes),
        ("limits.endpoints", limits.endpoints),
        ("limits.domains", limits.domains),
        ("limits.keys", limits.keys),
        ("limits.campaigns", limits.campaigns),
    ] {
        if limit.is_some_and(|limit| limit > MAX_LIMIT) {
            checker.wrong(field, format!("must be at most {MAX_LIMIT}"));
        }
    }
    if limits.requests_per_s.is_some_and(|limit| !(1..=MAX_REQUESTS_PER_S).contains(&limit)) {
        checker.wrong("limits.requests_per_s", format!("must be 1 to {MAX_REQUESTS_PER_S}"));
    }
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

    /// Rows of a workspace outlast it, so its id is never given again.
    fn retired(&self, at: Timestamp) -> Option<Self> {
        Some(Self { deleted_at: Some(at), updated_at: at, revision: self.revision + 1, ..self.clone() })
    }

    fn is_retired(&self) -> bool {
        self.deleted_at.is_some()
    }

    fn conflict(key: &NoUniqueKey, _: &WorkspaceId) -> Problem {
        match *key {}
    }
}

impl EntityKind for Workspace {
    const AUDITED: AuditedKind = AuditedKind::Workspace;

    fn check_deletable(&self, draft: &Draft<'_>) -> Result<(), Problem> {
        if self.id == WorkspaceId::default() {
            return Err(Problem::new(Kind::Conflict, "The workspace `default` belongs to the installation and stays"));
        }
        let left: Vec<String> = [
            (draft.tally::<Key>(&self.id), "keys"),
            (draft.tally::<Domain>(&self.id), "domains"),
            (draft.tally::<Endpoint>(&self.id), "endpoints"),
            (draft.tally::<Campaign>(&self.id), "campaigns"),
            (draft.tally::<Link>(&self.id), "links"),
        ]
        .into_iter()
        .map(|(tally, noun)| (tally.count(), noun))
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| format!("{noun}: {count}"))
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
pub(crate) fn new_workspace(id: WorkspaceId, name: String, at: Timestamp) -> Workspace {
    let limits = WorkspaceLimits::default();
    Workspace { id, name, limits, deleted_at: None, created_at: at, updated_at: at, revision: 1 }
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
        let limits = self.limits.into();
        check_limits(&limits, &mut checker);
        let name = self.name.unwrap_or(self.id);
        checker.finish(Workspace { limits, ..new_workspace(id, name, at) })
    }
}

impl WorkspacePatch {
    /// Returns `workspace` with the patch applied, checked.
    fn apply(self, workspace: &Workspace, at: Timestamp) -> Result<Workspace, Problem> {
        let mut checker = Checker::default();
        let mut new = workspace.clone();
        self.name.apply_required(&mut new.name, "name", &mut checker);
        checker.text("name", &new.name, NAME_CHARS);
        match self.limits {
            Patch::Keep => {}
            Patch::Remove => new.limits = WorkspaceLimits::default(),
            Patch::Set(limits) => limits.apply(&mut new.limits),
        }
        check_limits(&new.limits, &mut checker);
        if new != *workspace {
            new.updated_at = at;
            new.revision += 1;
        }
        checker.finish(new)
    }
}
