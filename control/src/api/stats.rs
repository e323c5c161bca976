//! `GET /v1/stats/links/{id}`: the counts of a link, from ClickHouse.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{Link, LinkId, WorkspaceId};
use serde::Serialize;
use service::problem::Problem;
use store::{LinkClicks, Store, StoreError};
use tracing::warn;

use crate::{
    api::{context::Api, resource::find},
    caller::Caller,
};

/// The counts of a link.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LinkStats {
    /// The visits by the short address.
    clicks: LinkClicks,
    /// The visits by the QR code.
    scans: LinkClicks,
}

/// Returns the counts of a link.
pub(crate) async fn link(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let link = find::<Link>(&*api.leader()?, &caller, &text)?;
    let stats = ask(&api.store, &caller.workspace, link.id).await.map_err(|error| {
        warn!(%error, "reading statistics from ClickHouse failed");
        Problem::unavailable("The statistics cannot be read: ClickHouse does not answer")
    })?;
    Ok(Json(stats).into_response())
}

async fn ask(store: &Store, workspace: &WorkspaceId, id: LinkId) -> Result<LinkStats, StoreError> {
    let (clicks, scans) = tokio::try_join!(store.link_clicks(workspace, id), store.link_scans(workspace, id))?;
    Ok(LinkStats { clicks, scans })
}
