//! `GET /v1/tags`: the tags of a workspace's links, each with its number of links. `POST /v1/tags/rename` writes a new name
//! through to the links.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use schemars::JsonSchema;
use schemas::{Link, LinkId};
use serde::{Deserialize, Serialize};
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        request::{JsonBody, PageQuery, page_limit, read_query, wrong_cursor},
        resource::Listed,
    },
    caller::Caller,
    check::Checker,
    kinds::link::{check_tag, with_tag_renamed},
    state::{draft::Draft, entity::Expected, links::LinkLabel},
};

/// The most links of one transaction.
const CHUNK: usize = 500;
/// The most transactions of a call.
const MAX_CHUNKS: usize = 40;
/// The links for whose renaming a call counts as one request more.
const LINKS_PER_REQUEST: usize = 100;

/// A tag.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tag")]
pub(crate) struct TagCount {
    /// The tag.
    tag: String,
    /// The number of links that have the tag.
    links: usize,
}

/// Lists the tags of a workspace in alphabetical order.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Listed<TagCount>>, Problem> {
    let query = read_query(query)?;
    let mut errors = Vec::new();
    let limit = page_limit(query.limit, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let read = |cursor: String| hex::decode(cursor).ok().and_then(|tag| String::from_utf8(tag).ok());
    let after = query.cursor.map(|cursor| read(cursor).ok_or_else(wrong_cursor)).transpose()?;
    let (tags, more) = api.leader()?.read(|state| state.links.tags(&caller.workspace, after.as_deref(), limit));
    // A tag can have any character; as a cursor it must fit into every query.
    let next = tags.last().filter(|_| more).map(|(tag, _)| hex::encode(tag));
    let data = tags.into_iter().map(|(tag, links)| TagCount { tag, links }).collect();
    Ok(Json(Listed { data, next }))
}

/// A tag to be renamed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rename")]
pub(crate) struct TagRenaming {
    /// The tag as it is.
    from: String,
    /// The tag as it is to be. Links that have it already lose the other.
    to: String,
}

/// The result of a renaming.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Renamed")]
pub(crate) struct TagRenamed {
    /// The number of links that were changed.
    renamed: usize,
    /// The number of links that still have the old tag: call again until it is 0.
    left: usize,
    /// The reason why a link still has the old tag, where one was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The result of a transaction.
struct ChunkRenamed {
    renamed: usize,
    /// The last link that was looked at; nothing at the end.
    last: Option<LinkId>,
    refused: Option<Problem>,
}

/// Renames a tag on all links of a workspace, newest first.
pub(crate) async fn rename(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    JsonBody(renaming): JsonBody<TagRenaming>,
) -> Result<Json<TagRenamed>, Problem> {
    let mut checker = Checker::default();
    check_tag("to", &renaming.to, &mut checker);
    if renaming.from == renaming.to {
        checker.wrong("to", "is the tag as it is: give another");
    }
    let TagRenaming { from, to } = checker.finish(renaming)?;
    let leader = api.leader()?;
    let label = LinkLabel::Tag(from.clone());
    let (mut renamed, mut before, mut detail) = (0, None, None);
    for _ in 0..MAX_CHUNKS {
        let (workspace, label, from, to) = (caller.workspace.clone(), label.clone(), from.clone(), to.clone());
        let change = move |draft: &mut Draft<'_>| {
            let ids = draft.labelled(&workspace, &label, before.as_ref(), CHUNK);
            let mut chunk = ChunkRenamed { renamed: 0, last: ids.last().copied(), refused: None };
            for id in ids {
                let rename = |link: &Link, at| Ok(with_tag_renamed(link, &from, &to, at));
                match draft.update::<Link>(&workspace, &id, &Expected::Anything, rename) {
                    Ok(_) => chunk.renamed += 1,
                    Err(problem) => chunk.refused = Some(problem),
                }
            }
            Ok(chunk)
        };
        let chunk = leader.enqueue(caller.author(), change).await?.committed().await?;
        renamed += chunk.renamed;
        detail = chunk.refused.map(|problem| problem.detail).or(detail);
        if chunk.last.is_none() {
            break;
        }
        before = chunk.last;
    }
    api.rates.charge(&caller.rated, u32::try_from(renamed / LINKS_PER_REQUEST).unwrap_or(u32::MAX));
    let left = leader.read(|state| state.links.count_labelled(&caller.workspace, &label));
    Ok(Json(TagRenamed { renamed, left, detail }))
}
