//! `GET /v1/usage`: what a workspace has of each limited thing, and how much it may have.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use schemars::JsonSchema;
use schemas::WorkspaceId;
use serde::Serialize;
use service::problem::Problem;

use crate::{
    api::context::Api,
    caller::Caller,
    state::{
        State as EntityState,
        collection::EntityCollection,
        entity::not_found,
        quotas::{DefaultQuotas, Quota},
    },
};

/// A limit of a workspace, and its use.
#[derive(Serialize, JsonSchema)]
pub(crate) struct QuotaUsage {
    /// The amount that the workspace has now.
    used: u64,
    /// The most that the workspace may have.
    limit: u64,
}

/// The rate limit of a workspace.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RateLimit {
    /// The average requests a second of all keys together; 0 where there is no limit.
    limit: u32,
}

/// The use of a workspace's limits.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Usage")]
pub(crate) struct WorkspaceUsage {
    /// The workspace.
    workspace: WorkspaceId,
    links: QuotaUsage,
    /// The bytes of all links together, each as its JSON.
    link_bytes: QuotaUsage,
    endpoints: QuotaUsage,
    domains: QuotaUsage,
    keys: QuotaUsage,
    campaigns: QuotaUsage,
    requests_per_s: RateLimit,
}

/// Answers with the use of the caller's workspace. Any key may ask.
pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<WorkspaceUsage>, Problem> {
    let usage = api.leader()?.read(|state| usage(state, &api.rules.quotas, &caller.workspace));
    usage.map(Json).ok_or_else(|| not_found::<schemas::Workspace>(caller.workspace.as_str()))
}

fn usage(state: &EntityState, quotas: &DefaultQuotas, id: &WorkspaceId) -> Option<WorkspaceUsage> {
    let limits = state.workspaces.get(id)?.limits;
    let usage = |quota, used| QuotaUsage { used, limit: quotas.limit(quota, &limits) };
    let links = state.links.tally(id);
    Some(WorkspaceUsage {
        workspace: id.clone(),
        links: usage(Quota::Links, links.count()),
        link_bytes: usage(Quota::LinkBytes, links.bytes()),
        endpoints: usage(Quota::Endpoints, state.endpoints.tally(id).count()),
        domains: usage(Quota::Domains, state.domains.tally(id).count()),
        keys: usage(Quota::Keys, state.keys.tally(id).count()),
        campaigns: usage(Quota::Campaigns, state.campaigns.tally(id).count()),
        requests_per_s: RateLimit { limit: quotas.requests_per_s(&limits) },
    })
}
