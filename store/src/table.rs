//! The tables that rows are inserted into, with their columns in the order in
//! which [`rows`](crate::rows) writes them.

/// A table that rows are inserted into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Clicks and scans.
    Clicks,
    /// Changes of links, and other events that are neither clicks nor conversions.
    LinkEvents,
    /// Conversions: a row for each status, and for a click that was found later.
    Conversions,
    /// Attempts to deliver webhooks.
    Deliveries,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 4] = [Self::Clicks, Self::LinkEvents, Self::Conversions, Self::Deliveries];

    /// Its name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clicks => "clicks",
            Self::LinkEvents => "link_events",
            Self::Conversions => "conversions",
            Self::Deliveries => "deliveries",
        }
    }

    /// The columns of a row, in the order in which they are written. The last
    /// three say where the row came from; ClickHouse reserves names that begin
    /// with an underscore for virtual columns, so they have none.
    pub(crate) const fn columns(self) -> &'static str {
        match self {
            Self::Clicks => {
                "id, event_id, kind, timestamp, workspace, link_id, short_url, destination, slug, campaign, segment, tags, \
                 ip_address, ip_key, user_agent, referer, country, region, city, asn, organisation, network, \
                 device, browser, browser_version, os, os_version, app, source, medium, bot, bot_reason, session_id, utm_source, utm_medium, utm_campaign, utm_term, \
                 utm_content, ad_creative, ad_set, ad_campaign, gclid, fbclid, click_ids, kafka_topic, kafka_partition, kafka_offset"
            }
            Self::LinkEvents => {
                "id, event, timestamp, workspace, link_id, body, kafka_topic, kafka_partition, kafka_offset"
            }
            Self::Conversions => {
                "id, conversion_id, timestamp, workspace, link_id, short_url, destination, campaign, segment, tags, click_id, \
                 session_id, country, device, source, medium, name, order_id, status, product, value, currency, commission, \
                 commission_currency, affiliate_id, customer_id, attributed, seconds_since_click, metadata, utm_source, \
                 utm_medium, utm_campaign, utm_term, utm_content, ad_creative, ad_set, ad_campaign, kafka_topic, \
                 kafka_partition, kafka_offset"
            }
            Self::Deliveries => {
                "id, timestamp, workspace, endpoint_id, event_id, event, attempt, duration_ms, outcome, status, error, \
                 response, kafka_topic, kafka_partition, kafka_offset"
            }
        }
    }
}
