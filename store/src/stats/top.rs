//! The values of a fact with the most visits: top sources, countries, devices and others.

use std::collections::HashMap;

use clickhouse::Row;
use schemas::WorkspaceId;
use serde::Deserialize;

use crate::{
    Store, StoreError,
    roll_ups::RollUp,
    stats::{
        bounds::bounded,
        conversions::{current, standing},
        counts::rows,
        period::{Slice, StatsPeriod},
        subject::{ClickSource, StatsSubject},
    },
};

macro_rules! dimensions {
    ($($variant:ident = $name:literal, $doc:literal;)*) => {
        /// The fact whose values are listed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Dimension {
            $(#[doc = $doc] $variant,)*
        }

        impl Dimension {
            /// Every dimension.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name of the dimension.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

dimensions! {
    Sources = "sources", "The sources of visits.";
    Mediums = "mediums", "The kinds of sources.";
    Referrers = "referrers", "The hosts of referrers.";
    Countries = "countries", "The countries of visitors.";
    Regions = "regions", "The regions of visitors, each with its country.";
    Cities = "cities", "The cities of visitors, each with its region and country.";
    Devices = "devices", "The kinds of devices.";
    Browsers = "browsers", "The browsers.";
    Os = "os", "The operating systems.";
    Apps = "apps", "The apps whose built-in browsers opened the links.";
    Networks = "networks", "The organisations of visitors' networks.";
    Creatives = "creatives", "The ads that were clicked.";
    AdSets = "ad_sets", "The sets or groups of ads.";
    UtmCampaigns = "utm_campaigns", "The values of `utm_campaign`.";
    Bots = "bots", "The reasons why visits count as programs', with their details.";
    BotReasons = "bot_reasons", "The reasons why visits count as programs', without details.";
    Links = "links", "The links, by their ids.";
    Campaigns = "campaigns", "The campaigns, by their names.";
    Destinations = "destinations", "The addresses that the links led to.";
}

/// A value of a dimension, with its visits, clicks and scans together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopEntry {
    /// The value.
    pub value: String,
    /// The country of a region or city.
    pub country: Option<String>,
    /// The region of a city.
    pub region: Option<String>,
    /// All visits, programs' included.
    pub total: u64,
    /// People's visits.
    pub human: u64,
    /// Conversions that stand; absent where conversions do not have the fact.
    pub conversions: Option<u64>,
}

#[derive(Row, Deserialize)]
struct EntryRow {
    value: String,
    country: String,
    region: String,
    total: u64,
    human: u64,
}

impl Dimension {
    /// Returns the expression of the value in `clicks`.
    const fn expression(self) -> &'static str {
        match self {
            Self::Sources => "source",
            Self::Mediums => "medium",
            Self::Referrers => "domainWithoutWWW(referer)",
            Self::Countries => "country",
            Self::Regions => "region",
            Self::Cities => "city",
            Self::Devices => "device",
            Self::Browsers => "browser",
            Self::Os => "os",
            Self::Apps => "app",
            Self::Networks => "organisation",
            Self::Creatives => "ad_creative",
            Self::AdSets => "ad_set",
            Self::UtmCampaigns => "utm_campaign",
            Self::Bots => "bot_reason",
            Self::BotReasons => "splitByChar(':', toString(bot_reason))[1]",
            Self::Links => "link_id",
            Self::Campaigns => "campaign",
            Self::Destinations => "destination",
        }
    }

    /// Returns the expressions of the country and the region, where they are told beside the value.
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Regions => ("country", "''"),
            Self::Cities => ("country", "region"),
            _ => ("''", "''"),
        }
    }

    /// Returns the column of `conversions_current` with the value.
    const fn conversion_column(self) -> Option<&'static str> {
        match self {
            Self::Sources => Some("source"),
            Self::Countries => Some("country"),
            Self::Devices => Some("device"),
            Self::Creatives => Some("ad_creative"),
            Self::UtmCampaigns => Some("utm_campaign"),
            Self::Links => Some("link_id"),
            Self::Campaigns => Some("campaign"),
            _ => None,
        }
    }

    /// Returns the source of a slice: the totals of links have a few of the facts.
    fn source(self, period: StatsPeriod) -> ClickSource {
        let is_ever = period.since.is_none() && period.until.is_none();
        match self {
            Self::Links | Self::Campaigns | Self::Destinations if is_ever => ClickSource::RollUp(RollUp::Totals),
            _ => ClickSource::Rows,
        }
    }
}

impl Store {
    /// Returns the `limit` values of a dimension with the most visits by people, or of the reasons
    /// of programs those with the most visits. An absent fact is no value.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or the question is beyond its bounds.
    pub async fn top(
        &self,
        workspace: &WorkspaceId,
        subject: &StatsSubject,
        dimension: Dimension,
        period: StatsPeriod,
        limit: u32,
    ) -> Result<Vec<TopEntry>, StoreError> {
        let source = dimension.source(period);
        let slice = Slice { source, ..Slice::rows(period) };
        let (country, region) = dimension.place();
        let (programs, order) = match dimension {
            Dimension::Bots | Dimension::BotReasons => (" AND bot", "total"),
            _ => ("", "human"),
        };
        let sql = format!(
            "SELECT toString(fact) AS value, toString(within) AS country, toString(part) AS region, total, human FROM (\
             SELECT {} AS fact, {country} AS within, {region} AS part, count() AS total, countIf(NOT bot) AS human {}{programs} \
             GROUP BY fact, within, part HAVING fact != '' ORDER BY {order} DESC, total DESC, fact LIMIT {{limit:UInt32}}{})",
            dimension.expression(),
            rows(subject, &slice),
            source.settings()
        );
        let query = bounded(subject.bind(workspace, self.query(&sql))).param("limit", limit);
        let found: Vec<EntryRow> = self.timed(query.fetch_all()).await?;
        let conversions = match dimension.conversion_column() {
            Some(column) => Some(self.conversions_by(workspace, subject, column, &found, period).await?),
            None => None,
        };
        let fact = |text: String| (!text.is_empty()).then_some(text);
        let entries = found.into_iter().map(|row| TopEntry {
            conversions: conversions.as_ref().map(|counts| counts.get(&row.value).copied().unwrap_or_default()),
            value: row.value,
            country: fact(row.country),
            region: fact(row.region),
            total: row.total,
            human: row.human,
        });
        Ok(entries.collect())
    }

    /// Returns the conversions that stand, by the values of a column.
    async fn conversions_by(
        &self,
        workspace: &WorkspaceId,
        subject: &StatsSubject,
        column: &str,
        found: &[EntryRow],
        period: StatsPeriod,
    ) -> Result<HashMap<String, u64>, StoreError> {
        let values: Vec<&str> = found.iter().map(|row| row.value.as_str()).collect();
        let sql = format!(
            "SELECT toString({column}) AS value, count() AS conversions {} AND {} AND value IN {{values:Array(String)}} \
             GROUP BY value",
            current(subject, period),
            standing()
        );
        let query = bounded(subject.bind(workspace, self.query(&sql))).param("values", values);
        let counted: Vec<(String, u64)> = self.timed(query.fetch_all()).await?;
        Ok(counted.into_iter().collect())
    }
}
