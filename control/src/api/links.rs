//! `/v1/links`.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use schemas::{Link, Scope, Timestamp};
use serde::Serialize;

use super::{
    Api, Rules,
    request::Body,
    resource::{Resource, created},
};
use crate::{
    auth::Caller,
    link::{LinkPatch, NewLink},
    problem::Problem,
    writer::Leader,
};

impl Resource for Link {
    const PATH: &'static str = "/v1/links";
    const SCOPE: Scope = Scope::Links;

    type Patch = LinkPatch;

    fn patched(&self, patch: LinkPatch, _: &Caller, rules: &Rules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, &rules.links, at)
    }

    fn view<'a>(&'a self, _: &Leader) -> impl Serialize + 'a {
        self
    }
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewLink>,
) -> Result<Response, Problem> {
    let link = new.check(&caller.workspace, &api.rules.links, Timestamp::now())?;
    let link = api.leader()?.write(move |draft| draft.create(link)).await?;
    Ok(created(&*link, &*link))
}
