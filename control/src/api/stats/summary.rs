//! The summary of a subject: clicks, scans, conversions and revenue of a period.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use service::problem::Problem;
use store::{AdStats, ConversionCounts, HourlyClicks, LinkClicks, Revenue, StatsPeriod, StatsSubject, StoreError};

use crate::api::stats::{
    request::{StatsRequest, unanswered},
    time::{PeriodView, TimeQuery},
};

/// The query of a summary.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SummaryQuery {
    /// A window that ends now, such as `1h`, `24h` or `7d`. Without it and without `since`, all clicks count.
    window: Option<String>,
    /// The first moment: RFC 3339, or a date or a local time in the time zone.
    since: Option<String>,
    /// The moment before which the period ends; now by default.
    until: Option<String>,
    /// The time zone of dates and local times, such as `Asia/Kolkata`; UTC by default.
    timezone: Option<String>,
    /// The period that is told beside this one.
    compare: Option<Comparison>,
}

/// A period beside the one that is asked for.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "StatsComparison")]
pub(crate) enum Comparison {
    /// The period of the same length before.
    Previous,
}

/// The counts of a subject.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SubjectStats {
    #[serde(flatten)]
    counts: PeriodCounts,
    /// The ads with the most clicks, up to 20; of a link only.
    #[serde(skip_serializing_if = "Option::is_none")]
    ads: Option<Vec<AdStats>>,
    /// The counts of the period before, if they were asked for and the period has a beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<PeriodCounts>,
    /// The time of the workspace's newest click that is counted; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_click: Option<Timestamp>,
}

/// The counts of a period.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PeriodCounts {
    /// The visits by the short address.
    clicks: LinkClicks,
    /// The visits by the QR code.
    scans: LinkClicks,
    /// The conversions that these visits led to.
    conversions: ConversionStats,
    /// The rate of people's visits, scans included; absent without visits.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_hour: Option<HourlyClicks>,
    /// The time that is covered.
    period: PeriodView,
}

/// The conversions of a subject, each counted once and in its current status.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConversionStats {
    #[serde(flatten)]
    counts: ConversionCounts,
    /// Conversions that stand for each visit by a person, scans included; absent without visits.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    /// The sums of the conversions that stand, by currency.
    revenue: Vec<Revenue>,
}

/// Answers with the summary.
pub(super) async fn answer(request: &StatsRequest<'_>, query: &SummaryQuery) -> Result<Response, Problem> {
    let time = TimeQuery {
        window: query.window.as_deref(),
        since: query.since.as_deref(),
        until: query.until.as_deref(),
        timezone: query.timezone.as_deref(),
    };
    let period = time.period(None, Timestamp::now())?;
    let before = query.compare.and_then(|Comparison::Previous| period.previous());
    ask(request, period, before).await.map(|stats| Json(stats).into_response()).map_err(|error| unanswered(&error))
}

async fn ask(
    request: &StatsRequest<'_>,
    period: StatsPeriod,
    before: Option<StatsPeriod>,
) -> Result<SubjectStats, StoreError> {
    let ads = async {
        match request.subject {
            StatsSubject::Link(id) => request.api.store.link_ads(&request.caller.workspace, id, period).await.map(Some),
            _ => Ok(None),
        }
    };
    let previous = async {
        match before {
            Some(before) => counts(request, before).await.map(Some),
            None => Ok(None),
        }
    };
    let (counts, previous, ads, newest_click) =
        tokio::try_join!(counts(request, period), previous, ads, request.newest_click())?;
    Ok(SubjectStats { counts, ads, previous, newest_click })
}

async fn counts(request: &StatsRequest<'_>, period: StatsPeriod) -> Result<PeriodCounts, StoreError> {
    let (store, workspace, subject) = (&request.api.store, &request.caller.workspace, &request.subject);
    let (visits, (counts, revenue)) = tokio::try_join!(
        store.visit_counts(workspace, subject, period),
        store.conversion_counts(workspace, subject, period),
    )?;
    let people = visits.clicks.human + visits.scans.human;
    // Both numbers are far below 2^53, where a float stops to be exact.
    let rate = (people > 0).then(|| counts.total as f64 / people as f64);
    Ok(PeriodCounts {
        clicks: visits.clicks,
        scans: visits.scans,
        conversions: ConversionStats { counts, rate, revenue },
        per_hour: visits.per_hour,
        period: period.covered(subject).into(),
    })
}
