//! `GET /v1/links`: the search for links, and `POST /v1/links`: their creation.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{Link, Timestamp};
use serde::Deserialize;
use service::problem::{FieldError, Problem};
use tokio::task::yield_now;

use crate::{
    api::{
        context::Api,
        idempotency::Idempotent,
        request::{JsonBody, PageQuery, PageRequest, page_limit, read_query, wrong_cursor},
        resource::{Listed, created_answer, version_answer},
    },
    caller::Caller,
    kinds::link::{
        NewLink,
        search::{LinkSearch, find_same},
    },
    leading::writer::ActiveLeader,
    state::{
        draft::Draft,
        links::{ArchivedLinks, LinkFilter, LinkSort, SortDirection, SortField, SortKey},
    },
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
    /// The field by which links are sorted: `created` by default.
    #[serde(default)]
    sort: SortBy,
    /// The direction: `desc` by default for `created`, and `asc` for the others.
    order: Option<OrderBy>,
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
    /// Lists only the links whose destination begins with this text.
    destination: Option<String>,
    /// Lists the links that are not archived (`false`, the default), those that are (`true`), or both (`any`).
    #[serde(default)]
    archived: ArchivedLinks,
}

/// A field by which links are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum SortBy {
    #[default]
    Created,
    Slug,
    Destination,
}

/// A direction of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum OrderBy {
    Asc,
    Desc,
}

/// The most searches for one page. Each examines a bounded number of links, and others are served in between.
const MAX_SEARCHES: usize = 20;
/// The links that are read for nothing for which a search counts as one request more.
const READ_PER_REQUEST: usize = 500;

/// A page of links in the making.
#[derive(Default)]
struct FoundLinks {
    data: Vec<Arc<Link>>,
    read: usize,
    next: Option<String>,
}

/// Lists links, newest first or sorted. Where few of many links match, a page may have fewer than were asked for, and a
/// next one.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<LinksQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let filter = LinkFilter {
        campaign: query.campaign,
        tag: query.tag,
        domain: query.domain,
        slug: query.slug,
        slug_prefix: query.search,
        destination_prefix: query.destination,
        archived: query.archived,
    };
    let mut search = LinkSearch { workspace: caller.workspace.clone(), filter, external_id: query.external_id };
    let leader = api.leader()?;
    leader.read(|state| search.normalise_slugs(state));
    let field = match query.sort {
        SortBy::Created => None,
        SortBy::Slug => Some(SortField::Slug),
        SortBy::Destination => Some(SortField::Destination),
    };
    let found = match (field, query.order) {
        (Some(field), order) => {
            let direction = match order {
                Some(OrderBy::Desc) => SortDirection::Descending,
                Some(OrderBy::Asc) | None => SortDirection::Ascending,
            };
            sorted(&leader, &search, LinkSort { field, direction }, query.limit, query.cursor.as_deref()).await?
        }
        (None, Some(OrderBy::Asc)) => {
            let reason = "must be `desc` where links are sorted by `created`";
            return Err(Problem::invalid(vec![FieldError::new("order", reason)]));
        }
        (None, Some(OrderBy::Desc) | None) => {
            let page = PageRequest::<Link>::from_query(&PageQuery { limit: query.limit, cursor: query.cursor })?;
            newest(&leader, &search, &page).await
        }
    };
    // Links that were read and do not match are work without a result.
    let wasted = found.read.saturating_sub(found.data.len());
    api.rates.charge(&caller.rated, u32::try_from(wasted / READ_PER_REQUEST).unwrap_or(u32::MAX));
    Ok(Json(Listed { data: found.data, next: found.next }).into_response())
}

async fn newest(leader: &ActiveLeader, search: &LinkSearch, page: &PageRequest<Link>) -> FoundLinks {
    let mut all = FoundLinks::default();
    let mut next = page.before;
    for _ in 0..MAX_SEARCHES {
        let left = page.limit - all.data.len();
        let found = leader.read(|state| search.page(state, next, left));
        all.read += found.read;
        all.data.extend(found.links);
        next = found.next;
        if next.is_none() || all.data.len() == page.limit {
            break;
        }
        yield_now().await;
    }
    all.next = next.map(|id| id.to_string());
    all
}

async fn sorted(
    leader: &ActiveLeader,
    search: &LinkSearch,
    sort: LinkSort,
    limit: Option<usize>,
    cursor: Option<&str>,
) -> Result<FoundLinks, Problem> {
    let mut errors = Vec::new();
    let limit = page_limit(limit, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let mut next = cursor.map(|cursor| place(cursor).ok_or_else(wrong_cursor)).transpose()?;
    let mut all = FoundLinks::default();
    for _ in 0..MAX_SEARCHES {
        let left = limit - all.data.len();
        let found = leader.read(|state| search.sorted_page(state, sort, next.as_ref(), left));
        all.read += found.read;
        all.data.extend(found.links);
        next = found.next;
        if next.is_none() || all.data.len() == limit {
            break;
        }
        yield_now().await;
    }
    all.next = next.map(|SortKey { text, id }| format!("{id}.{}", hex::encode(text)));
    Ok(all)
}

/// Reads the cursor of a sorted list.
fn place(cursor: &str) -> Option<SortKey<Vec<u8>>> {
    let (id, text) = cursor.split_once('.')?;
    Some(SortKey { text: hex::decode(text).ok()?, id: id.parse().ok()? })
}

/// The query of a creation.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CreationQuery")]
pub(crate) struct CreationQuery {
    /// Whether a link with the same fields is answered (200) in place of a new one. The slug counts only if it is given.
    #[serde(default)]
    find_if_exists: bool,
}

/// Creates a link, or finds one that has the same fields.
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    query: Result<Query<CreationQuery>, QueryRejection>,
    JsonBody(new): JsonBody<NewLink>,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let new = new.check(&caller.workspace, &api.rules.links, Timestamp::now())?;
    let change = move |draft: &mut Draft<'_>| {
        if query.find_if_exists
            && let Some(found) = find_same(draft, &new)?
        {
            return version_answer(StatusCode::OK, &*found, &*found);
        }
        let created = draft.create(new)?;
        created_answer(&*created, &*created)
    };
    idempotent.write(&api, change).await
}
