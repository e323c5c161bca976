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
    /// Who changed what.
    Audit,
}

/// The kind of a column's values: how [`RowWriter`](crate::RowWriter) writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    /// A text.
    Text,
    /// A text of which there are few different ones.
    FewTexts,
    /// A list of texts.
    TextList,
    /// A map from one of few texts to a text.
    FewTextsMap,
    /// A map from text to text.
    TextMap,
    /// Whether a click is a click or a scan.
    ClickKind,
    /// A time, to the millisecond.
    Time,
    /// Whether something is so.
    Flag,
    /// A number of 16 bits.
    U16,
    /// A number of 32 bits.
    U32,
    /// A number of 64 bits.
    U64,
    /// A number of 64 bits with a sign.
    I64,
}

use ColumnKind::{ClickKind, FewTexts, FewTextsMap, Flag, I64, Text, TextList, TextMap, Time, U16, U32, U64};

/// A column that rows have a value of.
pub(crate) type KnownColumn = (&'static str, ColumnKind);

const CLICKS: &[KnownColumn] = &[
    ("id", Text),
    ("event_id", Text),
    ("kind", ClickKind),
    ("timestamp", Time),
    ("workspace", FewTexts),
    ("link_id", FewTexts),
    ("short_url", Text),
    ("destination", FewTexts),
    ("slug", Text),
    ("campaign", FewTexts),
    ("segment", FewTexts),
    ("tags", TextList),
    ("ip_address", Text),
    ("ip_key", Text),
    ("user_agent", Text),
    ("referer", FewTexts),
    ("country", FewTexts),
    ("region", FewTexts),
    ("city", FewTexts),
    ("asn", U32),
    ("organisation", FewTexts),
    ("network", FewTexts),
    ("device", FewTexts),
    ("browser", FewTexts),
    ("browser_version", FewTexts),
    ("os", FewTexts),
    ("os_version", FewTexts),
    ("app", FewTexts),
    ("source", FewTexts),
    ("medium", FewTexts),
    ("bot", Flag),
    ("bot_reason", FewTexts),
    ("session_id", Text),
    ("utm_source", FewTexts),
    ("utm_medium", FewTexts),
    ("utm_campaign", FewTexts),
    ("utm_term", Text),
    ("utm_content", Text),
    ("ad_creative", FewTexts),
    ("ad_set", FewTexts),
    ("ad_campaign", FewTexts),
    ("gclid", Text),
    ("fbclid", Text),
    ("click_ids", FewTextsMap),
    ("kafka_topic", FewTexts),
    ("kafka_partition", U16),
    ("kafka_offset", U64),
];

const LINK_EVENTS: &[KnownColumn] = &[
    ("id", Text),
    ("event", FewTexts),
    ("timestamp", Time),
    ("workspace", FewTexts),
    ("link_id", Text),
    ("body", Text),
    ("kafka_topic", FewTexts),
    ("kafka_partition", U16),
    ("kafka_offset", U64),
];

const CONVERSIONS: &[KnownColumn] = &[
    ("id", Text),
    ("conversion_id", Text),
    ("timestamp", Time),
    ("workspace", FewTexts),
    ("link_id", Text),
    ("short_url", Text),
    ("destination", Text),
    ("campaign", FewTexts),
    ("segment", FewTexts),
    ("tags", TextList),
    ("click_id", Text),
    ("session_id", Text),
    ("country", FewTexts),
    ("device", FewTexts),
    ("source", FewTexts),
    ("medium", FewTexts),
    ("name", FewTexts),
    ("order_id", Text),
    ("status", FewTexts),
    ("product", FewTexts),
    ("value", I64),
    ("currency", FewTexts),
    ("commission", I64),
    ("commission_currency", FewTexts),
    ("affiliate_id", Text),
    ("customer_id", Text),
    ("attributed", Flag),
    ("seconds_since_click", U64),
    ("metadata", TextMap),
    ("utm_source", FewTexts),
    ("utm_medium", FewTexts),
    ("utm_campaign", FewTexts),
    ("utm_term", Text),
    ("utm_content", Text),
    ("ad_creative", Text),
    ("ad_set", FewTexts),
    ("ad_campaign", FewTexts),
    ("kafka_topic", FewTexts),
    ("kafka_partition", U16),
    ("kafka_offset", U64),
];

const DELIVERIES: &[KnownColumn] = &[
    ("id", Text),
    ("timestamp", Time),
    ("workspace", FewTexts),
    ("endpoint_id", Text),
    ("event_id", Text),
    ("event", FewTexts),
    ("webhook_id", Text),
    ("attempt", U32),
    ("duration_ms", U32),
    ("outcome", FewTexts),
    ("status", U16),
    ("error", Text),
    ("response", Text),
    ("kafka_topic", FewTexts),
    ("kafka_partition", U16),
    ("kafka_offset", U64),
];

const AUDIT: &[KnownColumn] = &[
    ("id", Text),
    ("timestamp", Time),
    ("workspace", FewTexts),
    ("actor_type", FewTexts),
    ("actor_id", FewTexts),
    ("actor_name", FewTexts),
    ("action", FewTexts),
    ("resource", FewTexts),
    ("resource_ids", TextList),
    ("fields", TextList),
    ("request_id", Text),
    ("kafka_topic", FewTexts),
    ("kafka_partition", U16),
    ("kafka_offset", U64),
];

impl Table {
    /// Every table.
    pub const ALL: [Self; 5] = [Self::Clicks, Self::LinkEvents, Self::Conversions, Self::Deliveries, Self::Audit];

    /// Its name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clicks => "clicks",
            Self::LinkEvents => "link_events",
            Self::Conversions => "conversions",
            Self::Deliveries => "deliveries",
            Self::Audit => "audit",
        }
    }

    /// Returns the names of a row's columns, in the order in which they are written.
    pub fn column_names(self) -> impl Iterator<Item = &'static str> {
        self.columns().iter().map(|(name, _)| *name)
    }

    /// The columns of a row, in the order in which they are written. The last
    /// three say where the row came from; ClickHouse reserves names that begin
    /// with an underscore for virtual columns, so they have none.
    pub(crate) const fn columns(self) -> &'static [KnownColumn] {
        match self {
            Self::Clicks => CLICKS,
            Self::LinkEvents => LINK_EVENTS,
            Self::Conversions => CONVERSIONS,
            Self::Deliveries => DELIVERIES,
            Self::Audit => AUDIT,
        }
    }
}
