//! `/v1/links`: creating links, and finding them.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{Link, Scope, Timestamp, workspace::SlugCase};
use serde::{Deserialize, Serialize};
use service::problem::{Kind, Problem};
use tokio::task::yield_now;

use crate::{
    api::{
        context::Api,
        once::Once,
        request::{Body, Page, PageQuery},
        resource::{Listed, Resource, created},
    },
    caller::Caller,
    draft::Draft,
    kept::{DomainClaim, LinkClaim, Wanted},
    link::{LinkPatch, NewLink},
    rules::Rules,
    state::Holds,
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

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(once): Extension<Once>,
    Body(new): Body<NewLink>,
) -> Result<Response, Problem> {
    let link = new.check(&caller.workspace, &api.rules.links, Timestamp::now())?;
    let change = move |draft: &mut Draft<'_>| {
        let link = draft.create(link)?;
        created(&*link, &*link)
    };
    once.write(&api, change).await
}

/// Which links are asked for: all that fit everything that is given.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinksQuery {
    /// How many at most.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// What the page before gave as `next`.
    cursor: Option<String>,
    /// Those of a campaign.
    campaign: Option<String>,
    /// Those that have a tag.
    tag: Option<String>,
    /// Those of a domain.
    domain: Option<String>,
    /// Those of a slug.
    slug: Option<String>,
    /// The one of the customer's own id.
    external_id: Option<String>,
    /// Those whose slug begins with this.
    search: Option<String>,
}

/// How often links are looked through for one page, a bounded stretch each time,
/// so that nobody else waits for long.
const STRETCHES: usize = 20;

/// Lists links, newest first. A page may have fewer than were asked for, and a
/// next one, where few of many fit.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<LinksQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::new(Kind::Malformed, rejection.body_text()))?;
    let page = Page::<Link>::of(&PageQuery { limit: query.limit, cursor: query.cursor })?;
    let leader = api.leader()?;
    // As links on the domain have it.
    let case = query.domain.as_ref().and_then(|name| {
        leader.read(|state| Some(state.domains.get(&state.domains.owner(&DomainClaim::Name(name.clone()))?)?.slug_case))
    });
    let case = case.unwrap_or(SlugCase::Sensitive);
    let canonical = |text: String| case.canonical(text.into()).into_owned();
    let wanted = Wanted {
        campaign: query.campaign,
        tag: query.tag,
        domain: query.domain,
        slug: query.slug.map(canonical),
        prefix: query.search.map(canonical),
    };
    if let Some(external) = query.external_id {
        let claim = LinkClaim::External(caller.workspace.clone(), external);
        let found = leader.read(|state| state.links.get(&state.links.owner(&claim)?));
        let is_next = |link: &Link| page.before.is_none_or(|before| link.id < before);
        let data = found.into_iter().filter(|link| wanted.fits(link) && is_next(link)).collect();
        return Ok(Json(Listed::<Arc<Link>> { data, next: None }).into_response());
    }
    let (mut data, mut next) = (Vec::new(), page.before);
    for _ in 0..STRETCHES {
        let left = page.limit - data.len();
        let found = leader.read(|state| state.links.search(&caller.workspace, &wanted, next, left));
        data.extend(found.links);
        next = found.next;
        if next.is_none() || data.len() == page.limit {
            break;
        }
        yield_now().await;
    }
    Ok(Json(Listed { data, next: next.map(|id| id.to_string()) }).into_response())
}
