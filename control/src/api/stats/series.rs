//! The visits and conversions of a subject over time, with the intervals that have none.

use axum::{http::HeaderMap, response::Response};
use schemars::JsonSchema;
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use service::problem::Problem;
use store::{LinkClicks, SeriesPoint};

use crate::api::stats::{
    answer::{CsvRow, RowFormat, write},
    request::{StatsRequest, unanswered},
    summary::Comparison,
    time::{Interval, PeriodView, TimeQuery},
};

/// The window of a series that names none.
const DEFAULT_WINDOW: &str = "7d";

/// The query of a series.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeriesQuery {
    /// A window that ends now, such as `24h` or `30d`; `7d` by default. The first interval is whole.
    window: Option<String>,
    /// The first moment: RFC 3339, or a date or a local time in the time zone.
    since: Option<String>,
    /// The moment before which the period ends; now by default.
    until: Option<String>,
    /// The time zone of dates, days, weeks and months, such as `Asia/Kolkata`; UTC by default.
    timezone: Option<String>,
    /// The length of the intervals; one that suits the period by default. At most 1000 intervals.
    interval: Option<Interval>,
    /// The intervals that are told beside these.
    compare: Option<Comparison>,
    /// The format of the answer; by default what `Accept` names, else JSON.
    format: Option<RowFormat>,
}

/// The visits of a subject over time.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Series {
    /// The time from the beginning of the first interval to the end of the last.
    period: PeriodView,
    /// The length of the intervals.
    interval: Interval,
    /// The intervals, the oldest first.
    data: Vec<IntervalStats>,
    /// As many intervals before, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Vec<IntervalStats>>,
    /// The time of the workspace's newest click that is counted; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_click: Option<Timestamp>,
}

/// The visits and conversions of an interval.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IntervalStats {
    /// The beginning of the interval.
    start: Timestamp,
    /// The visits by the short address.
    clicks: IntervalVisits,
    /// The visits by the QR code.
    scans: IntervalVisits,
    /// Conversions that stand, by the time of their first report.
    conversions: u64,
}

/// The visits of an interval, clicks or scans.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IntervalVisits {
    /// Every visit, programs included.
    total: u64,
    /// Visits by people.
    human: u64,
    /// People's sessions; told where all intervals are whole UTC days, of links, campaigns and
    /// the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<u64>,
}

impl CsvRow for IntervalStats {
    const COLUMNS: &'static [&'static str] = &[
        "start",
        "clicks_total",
        "clicks_human",
        "clicks_unique",
        "scans_total",
        "scans_human",
        "scans_unique",
        "conversions",
    ];

    fn cells(&self) -> Vec<String> {
        let unique = |visits: &IntervalVisits| visits.unique.map(|unique| unique.to_string()).unwrap_or_default();
        vec![
            self.start.to_string(),
            self.clicks.total.to_string(),
            self.clicks.human.to_string(),
            unique(&self.clicks),
            self.scans.total.to_string(),
            self.scans.human.to_string(),
            unique(&self.scans),
            self.conversions.to_string(),
        ]
    }
}

/// Answers with the series.
pub(super) async fn answer(
    request: &StatsRequest<'_>,
    query: &SeriesQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let time = TimeQuery {
        window: query.window.as_deref(),
        since: query.since.as_deref(),
        until: query.until.as_deref(),
        timezone: query.timezone.as_deref(),
    };
    let period = time.period(Some(DEFAULT_WINDOW), Timestamp::now())?;
    let zone = time.zone()?;
    let interval = query.interval.unwrap_or_else(|| Interval::suiting(period));
    let edges = interval.edges(period, &zone)?;
    let before = match query.compare {
        Some(Comparison::Previous) => Some(interval.edges_before(&edges, &zone)?),
        None => None,
    };
    let previous = async {
        match &before {
            Some(before) => points(request, before).await.map(Some),
            None => Ok(None),
        }
    };
    let (data, previous, newest_click) = tokio::try_join!(points(request, &edges), previous, request.newest_click())
        .map_err(|error| unanswered(&error))?;
    let until = edges.last().copied().unwrap_or(period.asked_at);
    let period = PeriodView { since: edges.first().copied(), until };
    let series = Series { period, interval, data, previous, newest_click };
    write(RowFormat::wanted(query.format, headers), &series, &series.data)
}

async fn points(request: &StatsRequest<'_>, edges: &[Timestamp]) -> Result<Vec<IntervalStats>, store::StoreError> {
    let has_sessions = request.subject.has_sessions(edges);
    let visits = |visits: LinkClicks| IntervalVisits {
        total: visits.total,
        human: visits.human,
        unique: has_sessions.then_some(visits.unique),
    };
    let points = request.api.store.visit_series(&request.caller.workspace, &request.subject, edges).await?;
    let interval = |point: SeriesPoint| IntervalStats {
        start: point.start,
        clicks: visits(point.clicks),
        scans: visits(point.scans),
        conversions: point.conversions,
    };
    Ok(points.into_iter().map(interval).collect())
}
