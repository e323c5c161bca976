//! The values of a fact with the most visits: top sources, countries, devices and others.

use axum::{http::HeaderMap, response::Response};
use schemars::JsonSchema;
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use service::problem::{FieldError, Problem};
use store::{Dimension, TopEntry};

use crate::api::stats::{
    answer::{CsvRow, RowFormat, write},
    request::{StatsRequest, unanswered},
    time::{PeriodView, TimeQuery},
};

const DEFAULT_LIMIT: u32 = 10;
const MAX_LIMIT: u32 = 1000;

/// The query of a top list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopQuery {
    /// A window that ends now, such as `1h`, `24h` or `7d`. Without it and without `since`, all clicks count.
    window: Option<String>,
    /// The first moment: RFC 3339, or a date or a local time in the time zone.
    since: Option<String>,
    /// The moment before which the period ends; now by default.
    until: Option<String>,
    /// The time zone of dates and local times, such as `Asia/Kolkata`; UTC by default.
    timezone: Option<String>,
    /// The most values; 10 by default.
    #[schemars(range(min = 1, max = MAX_LIMIT))]
    limit: Option<u32>,
    /// The format of the answer; by default what `Accept` names, else JSON.
    format: Option<RowFormat>,
}

/// The values of a fact with the most visits.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TopList {
    /// The time that is covered.
    period: PeriodView,
    /// The values, the most visits by people first; of `bots` and `bot_reasons` the most visits.
    data: Vec<TopValue>,
    /// The time of the workspace's newest click that is counted; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_click: Option<Timestamp>,
}

/// A value with its visits, clicks and scans together.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TopValue {
    /// The value.
    value: String,
    /// The country of a region or city.
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<String>,
    /// The region of a city.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// Every visit, programs included.
    total: u64,
    /// Visits by people.
    human: u64,
    /// Conversions that stand; absent where conversions do not have the fact.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversions: Option<u64>,
}

impl From<TopEntry> for TopValue {
    fn from(entry: TopEntry) -> Self {
        let TopEntry { value, country, region, total, human, conversions } = entry;
        Self { value, country, region, total, human, conversions }
    }
}

impl CsvRow for TopValue {
    const COLUMNS: &'static [&'static str] = &["value", "country", "region", "total", "human", "conversions"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.value.clone(),
            self.country.clone().unwrap_or_default(),
            self.region.clone().unwrap_or_default(),
            self.total.to_string(),
            self.human.to_string(),
            self.conversions.map(|conversions| conversions.to_string()).unwrap_or_default(),
        ]
    }
}

/// Returns the dimension of a name.
pub(super) fn dimension(name: &str) -> Result<Dimension, Problem> {
    Dimension::ALL.iter().copied().find(|dimension| dimension.as_str() == name).ok_or_else(|| {
        let known: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).collect();
        Problem::invalid(vec![FieldError::new("dimension", format!("must be one of {}", known.join(", ")))])
    })
}

/// Answers with the top list.
pub(super) async fn answer(
    request: &StatsRequest<'_>,
    dimension: Dimension,
    query: &TopQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let reason = format!("is {limit}, must be 1 to {MAX_LIMIT}");
        return Err(Problem::invalid(vec![FieldError::new("limit", reason)]));
    }
    let time = TimeQuery {
        window: query.window.as_deref(),
        since: query.since.as_deref(),
        until: query.until.as_deref(),
        timezone: query.timezone.as_deref(),
    };
    let period = time.period(None, Timestamp::now())?;
    let (workspace, subject) = (&request.caller.workspace, &request.subject);
    let (entries, newest_click) =
        tokio::try_join!(request.api.store.top(workspace, subject, dimension, period, limit), request.newest_click())
            .map_err(|error| unanswered(&error))?;
    let data = entries.into_iter().map(TopValue::from).collect();
    let list = TopList { period: period.into(), data, newest_click };
    write(RowFormat::wanted(query.format, headers), &list, &list.data)
}
