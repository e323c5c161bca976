//! Replays of events to an endpoint: started, watched and ended.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemas::{Endpoint, EndpointId, Replay, ReplayId, replay::ReplayState};
use service::problem::Problem;

use crate::{
    api::{
        context::Api,
        idempotency::{ChangeAnswer, Idempotent},
        request::{JsonBody, PageRequest},
        resource::{Listed, find, version_answer},
    },
    caller::Caller,
    kinds::replay::{NewReplay, Recovery, ReplayView},
    leading::writer::ActiveLeader,
    state::{
        draft::Draft,
        entity::{Expected, not_found, parse_id},
    },
};

/// The finished replays of an endpoint that are kept when a new one begins.
const KEPT: usize = 20;

/// Delivers events to an endpoint once more.
pub(crate) async fn replay(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    JsonBody(new): JsonBody<NewReplay>,
) -> Result<Response, Problem> {
    begin(&api, caller, idempotent, &text, new).await
}

/// Delivers everything that failed or was skipped once more.
pub(crate) async fn recover(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(idempotent): Extension<Idempotent>,
    Path(text): Path<String>,
    JsonBody(recovery): JsonBody<Recovery>,
) -> Result<Response, Problem> {
    begin(&api, caller, idempotent, &text, recovery.into()).await
}

async fn begin(
    api: &Api,
    caller: Caller,
    idempotent: Idempotent,
    endpoint: &str,
    new: NewReplay,
) -> Result<Response, Problem> {
    let id = parse_id::<Endpoint>(endpoint)?;
    let change = move |draft: &mut Draft<'_>| {
        let endpoint = draft.find::<Endpoint>(&id).filter(|endpoint| endpoint.workspace == caller.workspace);
        let endpoint = endpoint.ok_or_else(|| not_found::<Endpoint>(&id.to_string()))?;
        let replay = draft.create(new.check(&endpoint, draft.at())?)?;
        for old in outlived(draft, id) {
            // A replay that was deleted since is no obstacle.
            let _ = draft.delete::<Replay>(&caller.workspace, &old, &Expected::Anything, |_| Ok(()));
        }
        let location = Some(format!("/v1/endpoints/{id}/replays/{}", replay.id));
        let answer = version_answer(StatusCode::ACCEPTED, &*replay, &ReplayView::from(&*replay))?;
        Ok(ChangeAnswer { location, ..answer })
    };
    idempotent.write(api, change).await
}

/// Lists the replays of an endpoint, the last first.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    page: PageRequest<Replay>,
) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let endpoint = find::<Endpoint>(&leader, &caller, &text)?;
    let mut found: Vec<Arc<Replay>> = leader.read(|state| {
        let replays = state.replays.iter().filter(|replay| replay.endpoint == endpoint.id);
        replays.filter(|replay| page.before.is_none_or(|before| replay.id < before)).cloned().collect()
    });
    found.reverse();
    let next = found.get(page.limit).map(|_| found[page.limit - 1].id.to_string());
    let data: Vec<ReplayView<'_>> = found.iter().take(page.limit).map(|replay| ReplayView::from(&**replay)).collect();
    Ok(Json(Listed { data, next }).into_response())
}

/// Reads a replay.
pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let found = find_replay(&*api.leader()?, &caller, &endpoint, &id)?;
    Ok(version_answer(StatusCode::OK, &*found, &ReplayView::from(&*found))?.into_response())
}

/// Deletes a replay. A running replay ends, and the deliveries that it handed over are made.
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let leader = api.leader()?;
    let id = find_replay(&leader, &caller, &endpoint, &id)?.id;
    let author = caller.author();
    leader
        .write(author, move |draft| draft.delete::<Replay>(&caller.workspace, &id, &Expected::Anything, |_| Ok(())))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn find_replay(leader: &ActiveLeader, caller: &Caller, endpoint: &str, id: &str) -> Result<Arc<Replay>, Problem> {
    let endpoint = find::<Endpoint>(leader, caller, endpoint)?;
    let found = find::<Replay>(leader, caller, id)?;
    if found.endpoint == endpoint.id { Ok(found) } else { Err(not_found::<Replay>(id)) }
}

/// Returns the finished replays of an endpoint, but for the newest ones.
fn outlived(draft: &Draft<'_>, endpoint: EndpointId) -> Vec<ReplayId> {
    let replays = draft.committed::<Replay>().iter().filter(|replay| replay.endpoint == endpoint);
    let finished = replays.filter(|replay| replay.state != ReplayState::Running);
    let mut finished: Vec<ReplayId> = finished.map(|replay| replay.id).collect();
    finished.truncate(finished.len().saturating_sub(KEPT));
    finished
}
