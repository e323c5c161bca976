//! `/v1/campaigns`.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use schemas::{Campaign, Scope, Timestamp};
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
    campaign::{CampaignPatch, NewCampaign},
    draft::Draft,
    rules::Rules,
    writer::Leader,
};

impl Resource for Campaign {
    const PATH: &'static str = "/v1/campaigns";
    const SCOPE: Scope = Scope::Links;

    type Patch = CampaignPatch;

    fn patched(&self, patch: CampaignPatch, _: &Caller, _: &Rules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, at)
    }

    fn view<'a>(&'a self, _: &Leader) -> impl Serialize + 'a {
        self
    }
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Body(new): Body<NewCampaign>,
) -> Result<Response, Problem> {
    let campaign = new.check(&caller.workspace, Timestamp::now())?;
    let change = move |draft: &mut Draft<'_>| {
        let campaign = draft.create(campaign)?;
        created(&*campaign, &*campaign)
    };
    once.write(&api, change).await
}
