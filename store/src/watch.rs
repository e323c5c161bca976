//! The questions of the watch: which links and campaigns have clicks now, and how many ever. Each
//! is answered from a roll-up, or from the rows of few links in a few minutes.
//!
//! People's clicks and scans count together. Times are beginnings of five minutes, in which the
//! roll-up by time counts.

use std::collections::HashMap;

use clickhouse::Row;
use schemas::{Timestamp, WorkspaceId, watch::BurstCause};
use serde::Deserialize;

use crate::{Store, StoreError, roll_ups::RollUp};

/// The people's clicks of a link. Its texts are as they are in the table.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct LinkPeople {
    /// The workspace of the clicks.
    pub workspace: String,
    /// The id of the link.
    pub link_id: String,
    /// Clicks and scans by people.
    pub people: u64,
}

/// The people's clicks of a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct CampaignPeople {
    /// The workspace of the clicks.
    pub workspace: String,
    /// The name of the campaign.
    pub campaign: String,
    /// Clicks and scans by people.
    pub people: u64,
}

/// All clicks of a link, from the first.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct LinkHistory {
    /// The workspace of the clicks.
    pub workspace: String,
    /// The id of the link.
    pub link_id: String,
    /// Clicks and scans by people.
    pub people: u64,
    /// The time of the first click, in milliseconds since the epoch.
    pub first_ms: i64,
}

/// The clicks of a link in five minutes, programs' included.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct BusyLink {
    /// The beginning of the five minutes, in seconds since the epoch.
    pub bucket: i64,
    /// The workspace of the clicks.
    pub workspace: String,
    /// The id of the link.
    pub link_id: String,
    /// Clicks and scans.
    pub clicks: u64,
}

/// The clicks of a link in five minutes that have one cause.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct BurstRow {
    /// The beginning of the five minutes, in seconds since the epoch.
    pub bucket: i64,
    /// The workspace of the clicks.
    pub workspace: String,
    /// The id of the link.
    pub link_id: String,
    /// The organisation or user agent that all clicks have; empty for an address.
    pub who: String,
    /// Clicks and scans.
    pub clicks: u64,
}

/// The number of parts into which a question about all links is cut.
pub const LINK_SLICES: u8 = 8;
/// The most links or campaigns in an answer about all of them.
const MAX_ROWS: u32 = 200_000;
/// The most links in an answer about those with the most clicks.
const MAX_BUSY: u32 = 500;

/// Returns the condition of the clicks since a time, in the expression of the roll-up by time.
fn since_condition(since: Timestamp) -> String {
    format!("toStartOfFiveMinutes(timestamp) >= toDateTime({}, 'UTC')", since.as_secs())
}

const BUCKET: &str = "toInt64(toUnixTimestamp(toStartOfFiveMinutes(timestamp))) AS bucket";

impl Store {
    /// Returns the number of rows of `clicks`.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn click_rows(&self) -> Result<u64, StoreError> {
        self.timed(self.query("SELECT count() FROM clicks").fetch_one()).await
    }

    /// Returns the number of rows of `conversions` of each of some campaigns that have any.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn conversion_rows(
        &self,
        campaigns: &[(&WorkspaceId, &str)],
    ) -> Result<HashMap<(String, String), u64>, StoreError> {
        let campaigns: Vec<_> = campaigns.iter().map(|(workspace, name)| (workspace.as_str(), *name)).collect();
        let sql = "SELECT toString(workspace), toString(campaign), count() FROM conversions \
                   WHERE (workspace, campaign) IN {campaigns:Array(Tuple(String, String))} GROUP BY workspace, campaign";
        let query = self.query(sql).param("campaigns", campaigns);
        let rows: Vec<(String, String, u64)> = self.timed(query.fetch_all()).await?;
        Ok(rows.into_iter().map(|(workspace, campaign, rows)| ((workspace, campaign), rows)).collect())
    }

    /// Returns the clicks in each five minutes since a time, which begin at these seconds since the
    /// epoch.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn clicks_by_time(&self, since: Timestamp) -> Result<Vec<(i64, u64)>, StoreError> {
        let sql = format!(
            "SELECT {BUCKET}, count() FROM clicks WHERE {} GROUP BY toStartOfFiveMinutes(timestamp){}",
            since_condition(since),
            RollUp::ByTime.settings()
        );
        self.timed(self.query(&sql).fetch_all()).await
    }

    /// Returns the links whose clicks since a time have taken them over one of the thresholds.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn links_over(&self, since: Timestamp, thresholds: &[u64]) -> Result<Vec<LinkPeople>, StoreError> {
        let clicked = since_condition(since);
        let sql = format!(
            "SELECT workspace, link_id, people FROM \
             (SELECT workspace, link_id, countIf(NOT bot) AS people FROM clicks WHERE (workspace, link_id) IN \
             (SELECT workspace, link_id FROM clicks WHERE {clicked} GROUP BY workspace, link_id{by_time}) \
             GROUP BY workspace, link_id{totals}) AS ever INNER JOIN \
             (SELECT workspace, link_id, countIf(NOT bot) AS recent FROM clicks WHERE {clicked} \
             GROUP BY workspace, link_id{by_time}) AS lately USING (workspace, link_id) \
             WHERE arrayExists(threshold -> people >= threshold AND people < threshold + recent, {{thresholds:Array(UInt64)}}) \
             ORDER BY workspace, link_id LIMIT {MAX_ROWS}",
            by_time = RollUp::ByTime.settings(),
            totals = RollUp::Totals.settings(),
        );
        self.timed(self.query(&sql).param("thresholds", thresholds).fetch_all()).await
    }

    /// Returns a slice of the links that have at least so many clicks.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn links_above(&self, slice: u8, at_least: u64) -> Result<Vec<LinkPeople>, StoreError> {
        let sql = format!(
            "SELECT workspace, link_id, countIf(NOT bot) AS people FROM clicks \
             WHERE cityHash64(link_id) % {LINK_SLICES} = {slice} GROUP BY workspace, link_id \
             HAVING people >= {at_least} ORDER BY workspace, link_id LIMIT {MAX_ROWS}{}",
            RollUp::Totals.settings()
        );
        self.timed(self.query(&sql).fetch_all()).await
    }

    /// Returns the campaigns with their clicks; with a time, only those that have clicks since.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn campaign_people(&self, since: Option<Timestamp>) -> Result<Vec<CampaignPeople>, StoreError> {
        let clicked = since.map_or_else(String::new, |since| {
            format!(
                " AND (workspace, campaign) IN (SELECT workspace, campaign FROM clicks WHERE {} \
                 GROUP BY workspace, campaign{})",
                since_condition(since),
                RollUp::ByTime.settings()
            )
        });
        let sql = format!(
            "SELECT workspace, campaign, countIf(NOT bot) AS people FROM clicks WHERE campaign != ''{clicked} \
             GROUP BY workspace, campaign ORDER BY workspace, campaign LIMIT {MAX_ROWS}{}",
            RollUp::Totals.settings()
        );
        self.timed(self.query(&sql).fetch_all()).await
    }

    /// Returns the links with the most clicks by people since a time, at least so many, most first.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn people_since(&self, since: Timestamp, at_least: u64) -> Result<Vec<LinkPeople>, StoreError> {
        let sql = format!(
            "SELECT workspace, link_id, countIf(NOT bot) AS people FROM clicks WHERE {} GROUP BY workspace, link_id \
             HAVING people >= {at_least} ORDER BY people DESC LIMIT {MAX_BUSY}{}",
            since_condition(since),
            RollUp::ByTime.settings()
        );
        self.timed(self.query(&sql).fetch_all()).await
    }

    /// Returns all clicks of some links, of [`Store::TOTALS_AT_ONCE`] at most.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn link_histories(&self, links: &[(&str, &str)]) -> Result<Vec<LinkHistory>, StoreError> {
        let sql = format!(
            "SELECT workspace, link_id, countIf(NOT bot) AS people, toUnixTimestamp64Milli(min(timestamp)) AS first_ms \
             FROM clicks WHERE (workspace, link_id) IN {{links:Array(Tuple(String, String))}} \
             GROUP BY workspace, link_id{}",
            RollUp::Totals.settings()
        );
        self.timed(self.query(&sql).param("links", links).fetch_all()).await
    }

    /// Returns the links with the most clicks in five minutes since a time, at least so many, most
    /// first.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn busy_links(&self, since: Timestamp, at_least: u64) -> Result<Vec<BusyLink>, StoreError> {
        let sql = format!(
            "SELECT {BUCKET}, workspace, link_id, count() AS clicks FROM clicks WHERE {} \
             GROUP BY toStartOfFiveMinutes(timestamp), workspace, link_id HAVING clicks >= {at_least} \
             ORDER BY clicks DESC LIMIT {MAX_BUSY}{}",
            since_condition(since),
            RollUp::ByTime.settings()
        );
        self.timed(self.query(&sql).fetch_all()).await
    }

    /// Returns the largest burst of each of some links in each five minutes since a time, if it has
    /// at least so many clicks; of [`Store::TOTALS_AT_ONCE`] links at most.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn bursts(
        &self,
        cause: BurstCause,
        links: &[(&str, &str)],
        since: Timestamp,
        at_least: u64,
    ) -> Result<Vec<BurstRow>, StoreError> {
        let (column, who) = match cause {
            // The key of an address stays here.
            BurstCause::Address => ("ip_key", "''"),
            BurstCause::Network => ("organisation", "toString(organisation)"),
            BurstCause::Agent => ("user_agent", "user_agent"),
        };
        let sql = format!(
            "SELECT {BUCKET}, workspace, link_id, {who} AS who, count() AS clicks FROM clicks \
             WHERE (workspace, link_id) IN {{links:Array(Tuple(String, String))}} \
             AND timestamp >= fromUnixTimestamp64Milli(toInt64({})) AND {column} != '' \
             GROUP BY bucket, workspace, link_id, {column} HAVING clicks >= {at_least} \
             ORDER BY clicks DESC LIMIT 1 BY bucket, workspace, link_id",
            since.as_millis()
        );
        self.timed(self.query(&sql).param("links", links).fetch_all()).await
    }
}
