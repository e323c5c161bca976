//! The queries of the statistics. Each is phrased like the projection of a roll-up
//! (`migrations/0001_clicks.sql`), so that ClickHouse answers it from the projection.

use clickhouse::Row;
use schemars::JsonSchema;
use schemas::{LinkId, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::{Store, StoreError};

/// The visits of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Row, Serialize, Deserialize, JsonSchema)]
pub struct LinkClicks {
    /// Every visit, programs included.
    pub total: u64,
    /// Visits by people.
    pub human: u64,
    /// People's sessions: one address and user agent on one UTC day. Exact up
    /// to some ten thousand, then within 1 % (`uniq`).
    pub unique: u64,
}

impl Store {
    /// Returns the clicks of a link of `workspace`, scans not included.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn link_clicks(&self, workspace: &WorkspaceId, link: LinkId) -> Result<LinkClicks, StoreError> {
        self.link_visits(workspace, link, "click").await
    }

    /// Returns the scans of the QR code of a link of `workspace`.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn link_scans(&self, workspace: &WorkspaceId, link: LinkId) -> Result<LinkClicks, StoreError> {
        self.link_visits(workspace, link, "scan").await
    }

    async fn link_visits(&self, workspace: &WorkspaceId, link: LinkId, kind: &str) -> Result<LinkClicks, StoreError> {
        let query = self
            .query(
                "SELECT count() AS total, countIf(NOT bot) AS human, uniqIf(session_id, NOT bot) AS unique FROM clicks \
                 WHERE workspace = {workspace:String} AND link_id = {link:String} AND kind = {kind:String}",
            )
            .param("workspace", workspace.as_str())
            .param("link", link.to_string())
            .param("kind", kind);
        self.timed(query.fetch_one()).await
    }
}
