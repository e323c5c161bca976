//! `PUT /v1/links/upsert`, and many links changed or deleted in one call.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{Link, LinkId, WorkspaceId};
use serde::{Deserialize, Serialize};
use service::problem::{FieldError, Problem};

use crate::{
    api::{
        context::Api,
        request::{JsonBody, expected},
        resource::{created_answer, version_answer},
    },
    caller::Caller,
    kinds::link::{
        LinkPatch,
        upsert::{self, Upserted},
    },
    state::{
        draft::Draft,
        entity::{Expected, not_found},
        links::LinkKey,
    },
};

/// The most links that a call can name.
const MAX_LINKS: usize = 1000;
/// The most links of one transaction, since other changes wait for it.
const CHUNK: usize = 100;

/// Upserts a link: 201 if it was created, 200 if it was changed or had these fields already.
pub(crate) async fn upsert(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(given): JsonBody<LinkPatch>,
) -> Result<Response, Problem> {
    if given.external_id().is_none() && given.slug().is_none() {
        let reason = "is missing: an upsert finds its link by `external_id`, or by `slug` (and `domain`)";
        return Err(Problem::invalid(vec![FieldError::new("external_id", reason)]));
    }
    let expected = expected(&headers)?;
    let author = caller.author();
    let change = move |draft: &mut Draft<'_>| upsert::upsert(draft, &caller.workspace, given, &expected);
    let upserted = api.leader()?.write(author, change).await?;
    let answer = match upserted {
        Upserted::Created(link) => created_answer(&*link, &*link),
        Upserted::Updated(link) | Upserted::Unchanged(link) => version_answer(StatusCode::OK, &*link, &*link),
    };
    answer.map(IntoResponse::into_response)
}

/// A change of many links: one merge patch (RFC 7396) for all.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Update")]
pub(crate) struct BulkUpdate {
    ids: Option<Vec<LinkId>>,
    external_ids: Option<Vec<String>>,
    set: LinkPatch,
}

/// A deletion of many links.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Delete")]
pub(crate) struct BulkDelete {
    ids: Option<Vec<LinkId>>,
    external_ids: Option<Vec<String>>,
}

/// Changes the named links, each independently of the others.
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    JsonBody(update): JsonBody<BulkUpdate>,
) -> Result<Response, Problem> {
    let selectors = selectors(update.ids, update.external_ids)?;
    let unique: Vec<FieldError> = [("set.slug", update.set.slug()), ("set.external_id", update.set.external_id())]
        .into_iter()
        .filter(|(_, value)| value.is_some())
        .map(|(field, _)| FieldError::new(field, "is unique to a link: change links one by one"))
        .collect();
    if !unique.is_empty() {
        return Err(Problem::invalid(unique));
    }
    if let Some(FieldError { field, reason, .. }) = update.set.oversized() {
        return Err(Problem::invalid(vec![FieldError::new(format!("set.{field}"), reason)]));
    }
    let set = Arc::new(update.set);
    for_each_link(&api, caller, selectors, move |draft, workspace, id| {
        let rules = draft.link_rules();
        let before = draft.find::<Link>(&id).map(|link| link.revision);
        let patch = LinkPatch::clone(&set);
        let link =
            draft.update::<Link>(workspace, &id, &Expected::Anything, |link, at| patch.apply(link, rules, at))?;
        Ok(if before == Some(link.revision) { BulkOutcome::Unchanged } else { BulkOutcome::Updated })
    })
    .await
}

/// Deletes the named links.
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    JsonBody(delete): JsonBody<BulkDelete>,
) -> Result<Response, Problem> {
    let selectors = selectors(delete.ids, delete.external_ids)?;
    for_each_link(&api, caller, selectors, |draft, workspace, id| {
        draft.delete::<Link>(workspace, &id, &Expected::Anything, |_| Ok(())).map(|()| BulkOutcome::Deleted)
    })
    .await
}

/// The way in which a caller names a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Name")]
enum LinkSelector {
    Id(LinkId),
    ExternalId(String),
}

/// Returns the links that a call names.
fn selectors(ids: Option<Vec<LinkId>>, external_ids: Option<Vec<String>>) -> Result<Vec<LinkSelector>, Problem> {
    let (field, selectors): (_, Vec<LinkSelector>) = match (ids, external_ids) {
        (Some(ids), None) => ("ids", ids.into_iter().map(LinkSelector::Id).collect()),
        (None, Some(external_ids)) => {
            ("external_ids", external_ids.into_iter().map(LinkSelector::ExternalId).collect())
        }
        _ => {
            let reason = "exactly one of `ids` and `external_ids` must say which links are meant";
            return Err(Problem::invalid(vec![FieldError::new("ids", reason)]));
        }
    };
    let wrong = |reason: String| Err(Problem::invalid(vec![FieldError::new(field, reason)]));
    if !(1..=MAX_LINKS).contains(&selectors.len()) {
        return wrong(format!("names {} links, must name 1 to {MAX_LINKS}", selectors.len()));
    }
    if selectors.iter().collect::<HashSet<_>>().len() < selectors.len() {
        return wrong("names a link twice".to_owned());
    }
    Ok(selectors)
}

/// The outcome for a link.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Outcome")]
enum BulkOutcome {
    Updated,
    Unchanged,
    Deleted,
    Refused,
}

/// The result for a named link.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Done")]
struct BulkResult {
    #[serde(flatten)]
    name: LinkSelector,
    outcome: BulkOutcome,
    /// The reason why the link was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// The results for all named links, in that order.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "All")]
pub(crate) struct BulkResults {
    data: Vec<BulkResult>,
}

/// Makes a change of each link, in transactions of several links each. A link that is refused does not stop the others.
async fn for_each_link(
    api: &Api,
    caller: Caller,
    selectors: Vec<LinkSelector>,
    change: impl Fn(&mut Draft<'_>, &WorkspaceId, LinkId) -> Result<BulkOutcome, Problem> + Clone + Send + 'static,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let mut data = Vec::with_capacity(selectors.len());
    for chunk in selectors.chunks(CHUNK) {
        let chunk = chunk.to_vec();
        let workspace = caller.workspace.clone();
        let change = change.clone();
        let change = move |draft: &mut Draft<'_>| {
            let results = chunk.into_iter().map(|name| {
                let outcome = find(draft, &workspace, &name).and_then(|id| change(draft, &workspace, id));
                match outcome {
                    Ok(outcome) => BulkResult { name, outcome, detail: None, errors: Vec::new() },
                    Err(problem) => BulkResult {
                        name,
                        outcome: BulkOutcome::Refused,
                        detail: Some(problem.detail),
                        errors: problem.errors,
                    },
                }
            });
            Ok(results.collect::<Vec<BulkResult>>())
        };
        data.extend(leader.write(caller.author(), change).await?);
    }
    Ok(Json(BulkResults { data }).into_response())
}

fn find(draft: &Draft<'_>, workspace: &WorkspaceId, name: &LinkSelector) -> Result<LinkId, Problem> {
    match name {
        LinkSelector::Id(id) => Ok(*id),
        LinkSelector::ExternalId(external) => {
            let key = LinkKey::External(workspace.clone(), external.clone());
            draft.owner::<Link>(&key).ok_or_else(|| not_found::<Link>(&format!("with external_id `{external}`")))
        }
    }
}
