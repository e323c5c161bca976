//! The authentication of callers by their keys, and the request rates of keys and workspaces. An unknown key and an expired key are
//! answered alike.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::{Key, Scope, Timestamp, Workspace, WorkspaceId, keyring};
use service::{
    headers::bearer,
    problem::{Kind, Problem},
};
use tokio::time::sleep;

use crate::{
    api::{context::Api, cors},
    caller::{Caller, missing_scope},
    kinds::key::find_by_secret,
    leading::writer::ActiveLeader,
    rate::{Rate, RateHeaders, RatedCaller},
    state::{collection::EntityCollection, entity::not_found},
};

/// The header with the workspace that an operator acts in, if that is not the key's own.
const WORKSPACE: &str = "x-clickhook-workspace";
/// The header with the id of a request, which the audit log tells.
const REQUEST_ID: &str = "x-request-id";
/// The longest id of a request that is told.
const REQUEST_ID_BYTES: usize = 128;

/// The time until a request that comes too early is refused: one who asks again at once takes little of what others need.
const REFUSED_AFTER: Duration = Duration::from_millis(200);

/// Passes a request on if it has a valid key that does not call too often.
pub(crate) async fn require_key(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let mut about = AboutCaller::default();
    let mut response = match caller(&api, request.headers(), &mut about) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(Arc::clone(&api));
            next.run(request).await
        }
        Err(problem) => {
            if matches!(problem.kind, Kind::Limited { .. }) {
                sleep(REFUSED_AFTER).await;
            }
            problem.into_response()
        }
    };
    about.rate.insert_into(&mut response);
    if let Some(origin) = about.origin {
        cors::allow(origin, &mut response);
    }
    response
}

/// Passes a request on if the caller's key has the scope.
pub(crate) async fn require_scope(State(scope): State<Scope>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.key.may(scope) => next.run(request).await,
        _ => missing_scope(scope).into_response(),
    }
}

/// The facts about a caller that every answer tells, a refusal too.
#[derive(Default)]
struct AboutCaller {
    rate: RateHeaders,
    /// The origin whose page has called, if the key names it.
    origin: Option<HeaderValue>,
}

fn caller(api: &Api, headers: &HeaderMap, about: &mut AboutCaller) -> Result<Caller, Problem> {
    let secret = bearer(headers)?;
    let leader = api.leader()?;
    let at = Timestamp::now();
    let key = leader.read(|state| find_by_secret(state, secret, at)).ok_or_else(|| {
        Problem::new(Kind::Unauthorized, "This API key opens nothing here: it is unknown, revoked or has expired")
    })?;
    about.origin = cors::allowed_origin(headers, &key)?;
    // Requests of an operator count for the workspace of the key, wherever they act.
    let own = leader.read(|state| state.workspaces.get(&key.workspace));
    let limits = own.map(|workspace| workspace.limits).unwrap_or_default();
    let rated = RatedCaller {
        key: key.id,
        workspace: key.workspace.clone(),
        workspace_rate: Rate::of_workspace(api.rules.quotas.requests_per_s(&limits)),
    };
    let (counted, rate_headers) = api.rates.count(&rated, Instant::now());
    about.rate = rate_headers;
    counted?;
    if key.scopes.contains(&Scope::Postback) {
        let detail = "This is a postback token: it reports conversions at its own address, and does nothing else";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    leader.uses.used(key.id, at, &api.producer);
    let workspace = workspace(&leader, &key, headers)?;
    // The key was found by this hash or by the previous one, so the time of the comparison tells nothing.
    let by_previous = keyring::hash(secret) != key.hash;
    Ok(Caller { workspace, key, rated, by_previous, request_id: request_id(headers) })
}

/// Returns the id that a proxy or program has given to the request; nothing where it is no short visible ASCII text.
fn request_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (is_plain && (1..=REQUEST_ID_BYTES).contains(&text.len())).then(|| text.into())
}

/// Returns the workspace that the caller acts in: the key's own, or the one that an operator names.
fn workspace(leader: &ActiveLeader, key: &Key, headers: &HeaderMap) -> Result<WorkspaceId, Problem> {
    let Some(named) = headers.get(WORKSPACE) else { return Ok(key.workspace.clone()) };
    let named = named.to_str().unwrap_or_default();
    if named == key.workspace.as_str() {
        return Ok(key.workspace.clone());
    }
    if !key.may(Scope::Operator) {
        return Err(missing_scope(Scope::Operator));
    }
    let unknown = || not_found::<Workspace>(&named.chars().take(64).collect::<String>());
    let id: WorkspaceId = named.parse().map_err(|_| unknown())?;
    if leader.read(|state| state.workspaces.get(&id)).is_none() {
        return Err(unknown());
    }
    Ok(id)
}
