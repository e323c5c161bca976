//! The facts of clicks by their ids, as the join of conversions needs them.

use std::collections::HashMap;

use clickhouse::Row;
use schemas::{Attribution, ClickFacts, ClickId, LinkFacts, LinkId, Timestamp, Utm};
use serde::Deserialize;

use crate::{Store, StoreError};

/// A click with its link and its campaign parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredClick {
    /// The workspace that owns the link.
    pub workspace: String,
    /// The link, as it was at that moment.
    pub link: LinkFacts<'static>,
    /// The click or scan.
    pub click: ClickFacts<'static>,
    /// The campaign parameters of the visit.
    pub utm: Utm<'static>,
    /// The ad that the visit came from.
    pub attribution: Attribution<'static>,
}

/// The columns of [`COLUMNS`], in their order.
#[derive(Row, Deserialize)]
struct ClickRow {
    id: ClickId,
    at: i64,
    workspace: String,
    link_id: LinkId,
    short_url: String,
    destination: String,
    slug: String,
    campaign: String,
    segment: String,
    tags: Vec<String>,
    ip_address: String,
    user_agent: String,
    referer: String,
    country: String,
    region: String,
    city: String,
    asn: u32,
    organisation: String,
    network: String,
    device: String,
    browser: String,
    browser_version: String,
    os: String,
    os_version: String,
    app: String,
    source: String,
    medium: String,
    bot: bool,
    bot_reason: String,
    session_id: String,
    utm_source: String,
    utm_medium: String,
    utm_campaign: String,
    utm_term: String,
    utm_content: String,
    ad_creative: String,
    ad_set: String,
    ad_campaign: String,
    gclid: String,
    fbclid: String,
    click_ids: Vec<(String, String)>,
}

const COLUMNS: &str = "id, toUnixTimestamp64Milli(timestamp) AS at, workspace, link_id, short_url, destination, slug, \
     campaign, segment, tags, ip_address, user_agent, referer, country, region, city, asn, organisation, network, \
     device, browser, browser_version, os, os_version, app, source, medium, bot, bot_reason, session_id, utm_source, \
     utm_medium, utm_campaign, utm_term, utm_content, ad_creative, ad_set, ad_campaign, gclid, fbclid, click_ids";

/// An empty column is an absent fact.
fn fact<T: From<String>>(text: String) -> Option<T> {
    (!text.is_empty()).then(|| text.into())
}

impl From<ClickRow> for StoredClick {
    fn from(row: ClickRow) -> Self {
        Self {
            workspace: row.workspace,
            link: LinkFacts {
                id: row.link_id,
                short_url: row.short_url.into(),
                destination: row.destination.into(),
                slug: row.slug.into(),
                campaign: fact(row.campaign),
                segment: fact(row.segment),
                tags: row.tags.into_iter().map(Into::into).collect(),
            },
            click: ClickFacts {
                id: row.id,
                timestamp: Timestamp::from_millis(row.at),
                ip_address: fact(row.ip_address),
                user_agent: fact(row.user_agent),
                referer: fact(row.referer),
                country: fact(row.country),
                region: fact(row.region),
                city: fact(row.city),
                asn: (row.asn != 0).then_some(row.asn),
                organisation: fact(row.organisation),
                network: fact(row.network),
                device: fact(row.device),
                browser: fact(row.browser),
                browser_version: fact(row.browser_version),
                os: fact(row.os),
                os_version: fact(row.os_version),
                app: fact(row.app),
                source: fact(row.source),
                medium: fact(row.medium),
                bot: row.bot,
                bot_reason: fact(row.bot_reason),
                session_id: fact(row.session_id),
            },
            utm: Utm {
                source: fact(row.utm_source),
                medium: fact(row.utm_medium),
                campaign: fact(row.utm_campaign),
                term: fact(row.utm_term),
                content: fact(row.utm_content),
            },
            attribution: Attribution {
                referrer_ad_creative: fact(row.ad_creative),
                ad_set: fact(row.ad_set),
                ad_campaign: fact(row.ad_campaign),
                gclid: fact(row.gclid),
                fbclid: fact(row.fbclid),
                click_ids: row.click_ids.into_iter().map(|(name, id)| (name.into(), id.into())).collect(),
            },
        }
    }
}

impl Store {
    /// The most clicks for which [`Store::clicks_by_id`] may be called at once: of more,
    /// ClickHouse would read whole parts, and the parameters would not fit into a URL.
    pub const CLICKS_AT_ONCE: usize = 100;

    /// Returns the clicks with these ids, of any workspace; unknown ids are left out.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn clicks_by_id(&self, ids: &[ClickId]) -> Result<HashMap<ClickId, StoredClick>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        // Above its default the limit turns the index `by_row` off without a word.
        let sql = format!(
            "SELECT {COLUMNS} FROM clicks WHERE id IN {{ids:Array(String)}} \
             SETTINGS max_projection_rows_to_use_projection_index = 100000000"
        );
        let rows: Vec<ClickRow> = self.timed(self.query(&sql).param("ids", ids).fetch_all()).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.into())).collect())
    }
}
