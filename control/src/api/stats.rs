//! `GET /v1/stats/links/{id}`: the clicks, conversions and revenue of a link, from ClickHouse.

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
use store::{AdStats, ConversionCounts, LinkClicks, Revenue, Store, StoreError};
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
    /// The conversions that these visits led to.
    conversions: ConversionStats,
    /// The ads with the most clicks, up to 20.
    ads: Vec<AdStats>,
}

/// The conversions of a link, each counted once and in its current status.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConversionStats {
    #[serde(flatten)]
    counts: ConversionCounts,
    /// Conversions that stand for each visit by a person, scans included; absent without visits.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    /// The sums of the conversions that stand, by currency.
    revenue: Vec<Revenue>,
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
    let (clicks, scans, counts, revenue, ads) = tokio::try_join!(
        store.link_clicks(workspace, id),
        store.link_scans(workspace, id),
        store.link_conversions(workspace, id),
        store.link_revenue(workspace, id),
        store.link_ads(workspace, id),
    )?;
    let visits = clicks.human + scans.human;
    // Both numbers are far below 2^53, where a float stops to be exact.
    let rate = (visits > 0).then(|| counts.total as f64 / visits as f64);
    Ok(LinkStats { clicks, scans, conversions: ConversionStats { counts, rate, revenue }, ads })
}
