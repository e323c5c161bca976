//! The conversions of a workspace, each in its current state. A conversion has a row for
//! each status; the view `conversions_current` (`migrations/0005_conversions.sql`) decides
//! what is current.

use clickhouse::Row;
use schemas::{ClickId, ConversionId, LinkId, Timestamp, WorkspaceId};
use serde::Deserialize;

use crate::{Store, StoreError};

/// A choice of conversions; those of the whole workspace where every field is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConversionFilter<'a> {
    /// The link whose click led to the conversion.
    pub link: Option<LinkId>,
    /// The click that led to the conversion.
    pub click: Option<ClickId>,
    /// The number of the order.
    pub order: Option<&'a str>,
    /// The customer.
    pub customer: Option<&'a str>,
    /// The current status.
    pub status: Option<&'a str>,
}

/// The current state of a conversion. An absent fact is an empty text.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct ConversionRow {
    /// Its id.
    pub conversion_id: String,
    /// The time of its first status, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The time of its latest status, in milliseconds since the epoch.
    pub updated_ms: i64,
    /// `purchase`, `signup`, ….
    pub name: String,
    /// The number of the order.
    pub order_id: String,
    /// The latest status.
    pub status: String,
    /// The product.
    pub product: String,
    /// The worth in the minor unit of `currency`.
    pub value: i64,
    /// The currency of `value`; empty if no worth was reported.
    pub currency: String,
    /// The commission in the minor unit of `commission_currency`.
    pub commission: i64,
    /// The currency of `commission`; empty if no commission was reported.
    pub commission_currency: String,
    /// The affiliate.
    pub affiliate_id: String,
    /// The customer.
    pub customer_id: String,
    /// Whether the click is known.
    pub attributed: bool,
    /// Seconds from the click to the conversion.
    pub seconds_since_click: u64,
    /// The link; empty if the click is not known.
    pub link_id: String,
    /// The click; empty if it is not known.
    pub click_id: String,
    /// The campaign of the link.
    pub campaign: String,
    /// The ad that was clicked.
    pub ad_creative: String,
}

impl ConversionRow {
    /// Returns the time of the first status.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.timestamp_ms)
    }

    /// Returns the time of the latest status.
    #[must_use]
    pub const fn updated_at(&self) -> Timestamp {
        Timestamp::from_millis(self.updated_ms)
    }
}

impl Store {
    /// Returns up to `limit` conversions of a workspace, last reported first, that were
    /// first reported before the conversion `before`.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn conversions(
        &self,
        workspace: &WorkspaceId,
        filter: &ConversionFilter<'_>,
        before: Option<ConversionId>,
        limit: usize,
    ) -> Result<Vec<ConversionRow>, StoreError> {
        // Any row of a conversion may have the fact, and the view looks at all its rows.
        let mut ids = String::from("workspace = {workspace:String}");
        let mut current = String::new();
        if filter.link.is_some() {
            ids.push_str(" AND link_id = {link:String}");
        }
        if filter.click.is_some() {
            ids.push_str(" AND click_id = {click:String}");
        }
        if filter.order.is_some() {
            ids.push_str(" AND order_id = {order:String}");
        }
        if filter.customer.is_some() {
            ids.push_str(" AND customer_id = {customer:String}");
        }
        if before.is_some() {
            ids.push_str(" AND conversion_id < {before:String}");
        }
        if filter.status.is_some() {
            ids.push_str(" AND status = {status:String}");
            current.push_str(" AND status = {status:String}");
        } else {
            // Without a status every id is a row of the answer, so no more are needed.
            ids.push_str(" ORDER BY conversion_id DESC LIMIT {limit:UInt32}");
        }
        let sql = format!(
            "SELECT conversion_id, toUnixTimestamp64Milli(timestamp) AS timestamp_ms, \
             toUnixTimestamp64Milli(updated_at) AS updated_ms, name, order_id, status, product, value, currency, commission, \
             commission_currency, affiliate_id, customer_id, attributed, seconds_since_click, link_id, click_id, campaign, \
             ad_creative FROM conversions_current WHERE workspace = {{workspace:String}} \
             AND conversion_id IN (SELECT DISTINCT conversion_id FROM conversions WHERE {ids}){current} \
             ORDER BY conversion_id DESC LIMIT {{limit:UInt32}}"
        );
        let mut query = self.query(&sql).param("workspace", workspace.as_str());
        for (name, value) in [
            ("link", filter.link.map(|link| link.to_string())),
            ("click", filter.click.map(|click| click.to_string())),
            ("order", filter.order.map(str::to_owned)),
            ("customer", filter.customer.map(str::to_owned)),
            ("status", filter.status.map(str::to_owned)),
            ("before", before.map(|before| before.to_string())),
        ] {
            if let Some(value) = value {
                query = query.param(name, value);
            }
        }
        let query = query.param("limit", u32::try_from(limit).unwrap_or(u32::MAX));
        self.timed(query.fetch_all()).await
    }
}
