//! How often many links were followed in all: what a link's `max_clicks` is held
//! against. Phrased as the projection `by_link` is (`migrations/0001_clicks.sql`),
//! so that it costs a row for each hour in which a link was followed, however
//! often it was.

use std::collections::HashMap;

use clickhouse::Row;
use schemas::{LinkId, WorkspaceId};
use serde::Deserialize;

use crate::{Store, StoreError};

/// What was counted of a link.
#[derive(Row, Deserialize)]
struct Total {
    link_id: LinkId,
    total: u64,
}

impl Store {
    /// For how many links [`Store::link_totals`] may be asked at once: the question
    /// travels in an address, and addresses have an end.
    pub const TOTALS_AT_ONCE: usize = 250;

    /// How often each of some links was clicked or scanned in its workspace,
    /// programs included; those that never were are left out.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn link_totals(&self, links: &[(&WorkspaceId, LinkId)]) -> Result<HashMap<LinkId, u64>, StoreError> {
        let links: Vec<(&str, String)> =
            links.iter().map(|(workspace, id)| (workspace.as_str(), id.to_string())).collect();
        if links.is_empty() {
            return Ok(HashMap::new());
        }
        let query = self
            .query(
                "SELECT link_id, count() AS total FROM clicks \
                 WHERE (workspace, link_id) IN {links:Array(Tuple(String, String))} GROUP BY workspace, link_id",
            )
            .param("links", links);
        let totals: Vec<Total> = self.timed(query.fetch_all()).await?;
        Ok(totals.into_iter().map(|counted| (counted.link_id, counted.total)).collect())
    }
}
