//! Who calls, and what they may do. A key is found by the hash of what the caller
//! shows; one that is unknown and one that has expired are answered alike.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::{Key, Scope, Timestamp, Workspace, WorkspaceId, keyring};
use service::{
    headers::bearer,
    problem::{Kind, Problem},
};

use crate::{
    api::context::Api,
    caller::{Caller, missing_scope},
    kept::not_found,
    state::Holds,
    writer::Leader,
};

/// The workspace that an operator acts in, where it is not their key's.
const WORKSPACE: &str = "x-clickhook-workspace";

/// Lets only callers through, and not more often than they may call.
pub(crate) async fn require(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    match caller(&api, request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Lets only callers through whose key has the scope.
pub(crate) async fn needs(State(scope): State<Scope>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.key.may(scope) => next.run(request).await,
        _ => missing_scope(scope).into_response(),
    }
}

fn caller(api: &Api, headers: &HeaderMap) -> Result<Caller, Problem> {
    let secret = bearer(headers)?;
    let (leader, at) = (api.leader()?, Timestamp::now());
    let key = leader.read(|state| state.key(secret, at)).ok_or_else(|| {
        Problem::new(Kind::Unauthorized, "This API key opens nothing here: it is unknown, revoked or has expired")
    })?;
    if let Some(limiter) = &api.limiter {
        limiter
            .check(&key.id)
            .map_err(|wait| Problem::limited("This key calls too often: wait, then call more slowly", wait))?;
    }
    if key.scopes.contains(&Scope::Postback) {
        let detail = "This is a postback token: it reports conversions at its own address, and does nothing else";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    leader.uses.used(key.id, at, &api.producer);
    let workspace = workspace(&leader, &key, headers)?;
    // The key was found by this hash or by the one before: nothing is told by comparing.
    let by_previous = keyring::hash(secret) != key.hash;
    Ok(Caller { workspace, key, by_previous })
}

/// Where the caller acts: their key's workspace, or one that an operator names.
fn workspace(leader: &Leader, key: &Key, headers: &HeaderMap) -> Result<WorkspaceId, Problem> {
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
