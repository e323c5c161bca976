//! The total visits of many links, which are compared with each link's `max_clicks`.
//! They are read from the roll-up `totals`.

use std::collections::HashMap;

use clickhouse::Row;
use schemas::{LinkId, Timestamp, WorkspaceId};
use serde::Deserialize;

use crate::{Store, StoreError, roll_ups::RollUp};

/// The total of one link.
#[derive(Row, Deserialize)]
struct Total {
    link_id: LinkId,
    total: u64,
    people: u64,
}

/// The clicks and scans that a link has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTotal {
    /// Those of people and programs.
    pub all: u64,
    /// Those of people.
    pub people: u64,
}

/// A link that was visited.
#[derive(Row, Deserialize)]
struct Visited {
    workspace: String,
    link_id: LinkId,
}

impl Store {
    /// The most links that [`Store::links_visited_since`] returns.
    pub const VISITED_AT_ONCE: usize = 100_000;

    /// Returns links with clicks and scans since that moment, to five minutes, by the time of the
    /// visits.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn links_visited_since(&self, since: Timestamp) -> Result<Vec<(WorkspaceId, LinkId)>, StoreError> {
        let sql = format!(
            "SELECT workspace, link_id FROM clicks \
             WHERE toStartOfFiveMinutes(timestamp) >= toStartOfFiveMinutes(fromUnixTimestamp64Milli({{since:Int64}}, 'UTC')) \
             GROUP BY workspace, link_id LIMIT {}{}",
            Self::VISITED_AT_ONCE,
            RollUp::ByTime.settings()
        );
        let visited: Vec<Visited> = self.timed(self.query(&sql).param("since", since.as_millis()).fetch_all()).await?;
        Ok(visited.into_iter().map(|visited| (WorkspaceId::new(&visited.workspace), visited.link_id)).collect())
    }

    /// The most links for which [`Store::link_totals`] may be called at once: the query's
    /// parameters are part of a URL, whose length is limited.
    pub const TOTALS_AT_ONCE: usize = 250;

    /// Returns the clicks and scans of each of some links in its workspace; links without
    /// visits are left out.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn link_totals(
        &self,
        links: &[(&WorkspaceId, LinkId)],
    ) -> Result<HashMap<LinkId, LinkTotal>, StoreError> {
        let links: Vec<(&str, String)> =
            links.iter().map(|(workspace, id)| (workspace.as_str(), id.to_string())).collect();
        if links.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!(
            "SELECT link_id, count() AS total, countIf(NOT bot) AS people FROM clicks \
             WHERE (workspace, link_id) IN {{links:Array(Tuple(String, String))}} GROUP BY workspace, link_id{}",
            RollUp::Totals.settings()
        );
        let totals: Vec<Total> = self.timed(self.query(&sql).param("links", links).fetch_all()).await?;
        let total = |counted: Total| LinkTotal { all: counted.total, people: counted.people };
        Ok(totals.into_iter().map(|counted| (counted.link_id, total(counted))).collect())
    }
}
