//! `GET /v1/links`: the search for links.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::Link;
use serde::Deserialize;
use service::problem::{Kind, Problem};
use tokio::task::yield_now;

use crate::{
    api::{
        context::Api,
        request::{PageQuery, PageRequest},
        resource::Listed,
    },
    caller::Caller,
    kinds::link::search::LinkSearch,
    state::links::LinkFilter,
};

/// The query of the list of links. A link is listed if it satisfies all conditions that are given.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinksQuery {
    /// The most links of the page.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// Lists only the links of this campaign.
    campaign: Option<String>,
    /// Lists only the links with this tag.
    tag: Option<String>,
    /// Lists only the links on this domain.
    domain: Option<String>,
    /// Lists only the links with this slug.
    slug: Option<String>,
    /// Lists only the link with this id of the customer's own.
    external_id: Option<String>,
    /// Lists only the links whose slug begins with this text.
    search: Option<String>,
}

/// The most searches for one page. Each examines a bounded number of links, and others are served in between.
const MAX_SEARCHES: usize = 20;

/// Lists links, newest first. Where few of many links match, a page may have fewer than were asked for, and a next one.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<LinksQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::new(Kind::Malformed, rejection.body_text()))?;
    let page = PageRequest::<Link>::from_query(&PageQuery { limit: query.limit, cursor: query.cursor })?;
    let filter = LinkFilter {
        campaign: query.campaign,
        tag: query.tag,
        domain: query.domain,
        slug: query.slug,
        slug_prefix: query.search,
    };
    let mut search = LinkSearch { workspace: caller.workspace, filter, external_id: query.external_id };
    let leader = api.leader()?;
    leader.read(|state| search.normalise_slugs(state));
    let mut data = Vec::new();
    let mut next = page.before;
    for _ in 0..MAX_SEARCHES {
        let left = page.limit - data.len();
        let found = leader.read(|state| search.page(state, next, left));
        data.extend(found.links);
        next = found.next;
        if next.is_none() || data.len() == page.limit {
            break;
        }
        yield_now().await;
    }
    Ok(Json(Listed { data, next: next.map(|id| id.to_string()) }).into_response())
}
