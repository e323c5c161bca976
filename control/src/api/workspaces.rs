//! `/v1/workspaces`, for operators.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use schemas::{Scope, Timestamp, Workspace};
use serde::Serialize;
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        once::Once,
        request::Body,
        resource::{Resource, created},
    },
    caller::Caller,
    draft::Draft,
    rules::Rules,
    workspace::{NewWorkspace, WorkspacePatch},
    writer::Leader,
};

impl Resource for Workspace {
    const PATH: &'static str = "/v1/workspaces";
    const SCOPE: Scope = Scope::Operator;
    const ORDER: &'static str = "from the last id to the first";

    type Patch = WorkspacePatch;

    fn patched(&self, patch: WorkspacePatch, _: &Caller, _: &Rules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, at)
    }

    fn view<'a>(&'a self, _: &Leader) -> impl Serialize + 'a {
        self
    }
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(once): Extension<Once>,
    Body(new): Body<NewWorkspace>,
) -> Result<Response, Problem> {
    let workspace = new.check(Timestamp::now())?;
    let change = move |draft: &mut Draft<'_>| {
        let workspace = draft.create(workspace)?;
        created(&*workspace, &*workspace)
    };
    once.write(&api, change).await
}
