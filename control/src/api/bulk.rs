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
        request::{Body, if_match},
        resource::{created, versioned},
    },
    caller::Caller,
    draft::Draft,
    kept::{LinkClaim, not_found},
    link::LinkPatch,
    upsert::{Upserted, upsert as draft_upsert},
};

/// How many links a call names at most.
const NAMED: usize = 1000;
/// How many of them share a transaction: others wait for it.
const PIECE: usize = 100;

/// 201 for one that was created; 200 for one that was changed, or was so already.
pub(crate) async fn upsert(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Body(given): Body<LinkPatch>,
) -> Result<Response, Problem> {
    if given.external_id().is_none() && given.slug().is_none() {
        let reason = "is missing: an upsert finds its link by `external_id`, or by `slug` (and `domain`)";
        return Err(Problem::invalid(vec![FieldError::new("external_id", reason)]));
    }
    let expected = if_match(&headers)?;
    let change = move |draft: &mut Draft<'_>| draft_upsert(draft, &caller.workspace, given, expected);
    let upserted = api.leader()?.write(change).await?;
    let answer = match upserted {
        Upserted::Created(link) => created(&*link, &*link),
        Upserted::Updated(link) | Upserted::Unchanged(link) => versioned(StatusCode::OK, &*link, &*link),
    };
    answer.map(IntoResponse::into_response)
}

/// What many links are to be changed to: a merge patch (RFC 7396) for all.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    ids: Option<Vec<LinkId>>,
    external_ids: Option<Vec<String>>,
    set: LinkPatch,
}

/// Which links are to be deleted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delete {
    ids: Option<Vec<LinkId>>,
    external_ids: Option<Vec<String>>,
}

/// Changes the links that are named, each for itself.
pub(crate) async fn update(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(update): Body<Update>,
) -> Result<Response, Problem> {
    let named = named(update.ids, update.external_ids)?;
    let own: Vec<FieldError> = [("set.slug", update.set.slug()), ("set.external_id", update.set.external_id())]
        .into_iter()
        .filter(|(_, value)| value.is_some())
        .map(|(field, _)| FieldError::new(field, "is a link's own: change it one by one"))
        .collect();
    if !own.is_empty() {
        return Err(Problem::invalid(own));
    }
    if let Some(FieldError { field, reason, .. }) = update.set.too_much() {
        return Err(Problem::invalid(vec![FieldError::new(format!("set.{field}"), reason)]));
    }
    let set = Arc::new(update.set);
    each(&api, caller, named, move |draft, workspace, id| {
        let rules = draft.link_rules();
        let before = draft.find::<Link>(&id).map(|link| link.revision);
        let patch = LinkPatch::clone(&set);
        let link = draft.update::<Link>(workspace, &id, None, |link, at| patch.apply(link, rules, at))?;
        Ok(if before == Some(link.revision) { Outcome::Unchanged } else { Outcome::Updated })
    })
    .await
}

/// Deletes the links that are named.
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(delete): Body<Delete>,
) -> Result<Response, Problem> {
    let named = named(delete.ids, delete.external_ids)?;
    each(&api, caller, named, |draft, workspace, id| {
        draft.delete::<Link>(workspace, &id, None, |_| Ok(())).map(|()| Outcome::Deleted)
    })
    .await
}

/// How a caller names a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Name {
    Id(LinkId),
    ExternalId(String),
}

fn named(ids: Option<Vec<LinkId>>, external_ids: Option<Vec<String>>) -> Result<Vec<Name>, Problem> {
    let (field, named): (_, Vec<Name>) = match (ids, external_ids) {
        (Some(ids), None) => ("ids", ids.into_iter().map(Name::Id).collect()),
        (None, Some(external_ids)) => ("external_ids", external_ids.into_iter().map(Name::ExternalId).collect()),
        _ => {
            let reason = "exactly one of `ids` and `external_ids` must say which links are meant";
            return Err(Problem::invalid(vec![FieldError::new("ids", reason)]));
        }
    };
    let wrong = |reason: String| Err(Problem::invalid(vec![FieldError::new(field, reason)]));
    if !(1..=NAMED).contains(&named.len()) {
        return wrong(format!("names {} links, must name 1 to {NAMED}", named.len()));
    }
    if named.iter().collect::<HashSet<_>>().len() < named.len() {
        return wrong("names a link twice".to_owned());
    }
    Ok(named)
}

/// What became of a link.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Updated,
    Unchanged,
    Deleted,
    Refused,
}

/// What became of a link that was named.
#[derive(Debug, Serialize, JsonSchema)]
struct Done {
    #[serde(flatten)]
    name: Name,
    outcome: Outcome,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// What became of all that were named, in that order.
#[derive(Serialize, JsonSchema)]
pub(crate) struct All {
    data: Vec<Done>,
}

/// Makes a change of each link, in transactions of some each; one that is refused
/// keeps none back.
async fn each(
    api: &Api,
    caller: Caller,
    named: Vec<Name>,
    change: impl Fn(&mut Draft<'_>, &WorkspaceId, LinkId) -> Result<Outcome, Problem> + Clone + Send + 'static,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let mut data = Vec::with_capacity(named.len());
    for piece in named.chunks(PIECE) {
        let (piece, workspace, change) = (piece.to_vec(), caller.workspace.clone(), change.clone());
        let change = move |draft: &mut Draft<'_>| {
            let done = piece.into_iter().map(|name| {
                let outcome = find(draft, &workspace, &name).and_then(|id| change(draft, &workspace, id));
                match outcome {
                    Ok(outcome) => Done { name, outcome, detail: None, errors: Vec::new() },
                    Err(problem) => {
                        Done { name, outcome: Outcome::Refused, detail: Some(problem.detail), errors: problem.errors }
                    }
                }
            });
            Ok(done.collect::<Vec<Done>>())
        };
        data.extend(leader.write(change).await?);
    }
    Ok(Json(All { data }).into_response())
}

fn find(draft: &Draft<'_>, workspace: &WorkspaceId, name: &Name) -> Result<LinkId, Problem> {
    match name {
        Name::Id(id) => Ok(*id),
        Name::ExternalId(external) => {
            let claim = LinkClaim::External(workspace.clone(), external.clone());
            draft.owner::<Link>(&claim).ok_or_else(|| not_found::<Link>(&format!("with external_id `{external}`")))
        }
    }
}
