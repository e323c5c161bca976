//! The numbers of clicks, scans and sessions of a subject, in one question.

use clickhouse::Row;
use schemars::JsonSchema;
use schemas::{Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::{
    Store, StoreError,
    roll_ups::RollUp,
    stats::{
        bounds::bounded,
        period::{Slice, StatsPeriod},
        subject::{ClickSource, StatsSubject},
    },
};

const HOUR_MS: i64 = 3_600_000;
const FIVE_MINUTES_MS: i64 = 300_000;

/// The visits of one kind, clicks or scans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Row, Serialize, Deserialize, JsonSchema)]
pub struct LinkClicks {
    /// Every visit, programs included.
    pub total: u64,
    /// Visits by people.
    pub human: u64,
    /// People's sessions: one address and user agent on one UTC day. Exact up to some hundred a
    /// day, then within 2 %.
    pub unique: u64,
}

/// The clicks and scans of a subject.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SubjectCounts {
    /// Visits by the short address.
    pub clicks: LinkClicks,
    /// Visits by the QR code.
    pub scans: LinkClicks,
    /// The rate of the visits; absent where the period has no length.
    pub per_hour: Option<HourlyClicks>,
}

/// The rate of people's visits, scans included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct HourlyClicks {
    /// The visits of an average hour of the period. Without a beginning the period counts from the
    /// first visit, and as one hour at least.
    pub average: f64,
    /// The visits of the last hour; absent where the period has an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

/// The answer to the question.
#[derive(Row, Deserialize)]
struct CountRow {
    clicks_total: u64,
    clicks_human: u64,
    clicks_unique: u64,
    scans_total: u64,
    scans_human: u64,
    scans_unique: u64,
    first_ms: i64,
    last_hour: u64,
}

impl Store {
    /// Returns the clicks, scans and sessions of a subject in a period.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or the question is beyond its bounds.
    pub async fn visit_counts(
        &self,
        workspace: &WorkspaceId,
        subject: &StatsSubject,
        period: StatsPeriod,
    ) -> Result<SubjectCounts, StoreError> {
        let sql = format!(
            "SELECT sumIf(total, kind = 'click') AS clicks_total, sumIf(human, kind = 'click') AS clicks_human, \
             sumIf(unique, kind = 'click') AS clicks_unique, sumIf(total, kind = 'scan') AS scans_total, \
             sumIf(human, kind = 'scan') AS scans_human, sumIf(unique, kind = 'scan') AS scans_unique, \
             minIf(first, first > 0) AS first_ms, sum(last) AS last_hour FROM ({})",
            branches(subject, period).join(" UNION ALL ")
        );
        let query = bounded(subject.bind(workspace, self.query(&sql)));
        let row: CountRow = self.timed(query.fetch_one()).await?;
        let clicks = LinkClicks { total: row.clicks_total, human: row.clicks_human, unique: row.clicks_unique };
        let scans = LinkClicks { total: row.scans_total, human: row.scans_human, unique: row.scans_unique };
        let human = clicks.human + scans.human;
        let first = Timestamp::from_millis(row.first_ms);
        let since_first = period.until.unwrap_or(period.asked_at).since(first).as_secs_f64() / 3600.0;
        let hours = period.hours().or((row.first_ms > 0).then(|| since_first.max(1.0)));
        // Far below 2^53, where a float stops to be exact.
        let average = hours.filter(|hours| *hours > 0.0).map(|hours| human as f64 / hours);
        let last = period.until.is_none().then_some(row.last_hour);
        Ok(SubjectCounts { clicks, scans, per_hour: average.map(|average| HourlyClicks { average, last }) })
    }
}

/// Returns the parts of the question, each with the same columns.
fn branches(subject: &StatsSubject, period: StatsPeriod) -> Vec<String> {
    let sessions = period.session_slices(subject);
    let counts = period.count_slices(subject);
    let mut branches: Vec<String> =
        counts.iter().map(|slice| count(subject, slice, sessions.contains(slice))).collect();
    branches
        .extend(sessions.iter().filter(|slice| !counts.contains(slice)).map(|slice| count_sessions(subject, slice)));
    if period.until.is_none() {
        branches.push(count_last_hour(subject, period.asked_at));
    }
    branches
}

/// Returns the question for the visits of a slice, and for their sessions if `with_sessions`.
fn count(subject: &StatsSubject, slice: &Slice, with_sessions: bool) -> String {
    let source = slice.source;
    let rows = rows(subject, slice);
    match source {
        // The first quarter of an hour with a visit is found on the way.
        ClickSource::RollUp(RollUp::LinkQuarters | RollUp::CampaignQuarters | RollUp::DestinationQuarters)
            if slice.since.is_none() =>
        {
            format!(
                "SELECT kind, sum(visits) AS total, sum(people) AS human, toUInt64(0) AS unique, \
                 toInt64(toUnixTimestamp(min(quarter))) * 1000 AS first, toUInt64(0) AS last FROM (\
                 SELECT kind, toStartOfFifteenMinutes(timestamp) AS quarter, count() AS visits, countIf(NOT bot) AS people \
                 {rows} GROUP BY kind, quarter{}) GROUP BY kind",
                source.settings()
            )
        }
        _ => {
            let unique = if with_sessions { "uniqIf(session_id, NOT bot)" } else { "toUInt64(0)" };
            let first = match source {
                ClickSource::RollUp(RollUp::Totals) => "toUnixTimestamp64Milli(min(timestamp))",
                _ => "toInt64(0)",
            };
            format!(
                "SELECT kind, count() AS total, countIf(NOT bot) AS human, {unique} AS unique, {first} AS first, \
                 toUInt64(0) AS last {rows} GROUP BY kind{}",
                source.settings()
            )
        }
    }
}

/// Returns the question for the sessions of a slice alone.
fn count_sessions(subject: &StatsSubject, slice: &Slice) -> String {
    let source = slice.source;
    let rows = rows(subject, slice);
    let nothing = "toUInt64(0) AS total, toUInt64(0) AS human";
    match (source, subject.days()) {
        (ClickSource::RollUp(_), Some((_, state))) => format!(
            "SELECT kind, {nothing}, sum(sessions) AS unique, toInt64(0) AS first, toUInt64(0) AS last FROM (\
             SELECT kind, toDate(timestamp) AS day, {state} AS sessions {rows} GROUP BY kind, day{}) GROUP BY kind",
            source.settings()
        ),
        _ => format!(
            "SELECT kind, {nothing}, uniqIf(session_id, NOT bot) AS unique, toInt64(0) AS first, toUInt64(0) AS last \
             {rows} GROUP BY kind"
        ),
    }
}

/// Returns the question for people's visits of the last hour.
fn count_last_hour(subject: &StatsSubject, asked_at: Timestamp) -> String {
    let since = asked_at.as_millis() - HOUR_MS;
    let slice = match subject {
        StatsSubject::Campaign(_) | StatsSubject::Product(_) | StatsSubject::Workspace => Slice {
            source: ClickSource::RollUp(RollUp::ByTime),
            since: Some(since.div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS),
            until: None,
        },
        _ => Slice { source: ClickSource::Rows, since: Some(since), until: None },
    };
    format!(
        "SELECT kind, toUInt64(0) AS total, toUInt64(0) AS human, toUInt64(0) AS unique, toInt64(0) AS first, \
         countIf(NOT bot) AS last {} GROUP BY kind{}",
        rows(subject, &slice),
        slice.source.settings()
    )
}

/// Returns the part of a question that says which rows it is about.
pub(super) fn rows(subject: &StatsSubject, slice: &Slice) -> String {
    format!("FROM clicks WHERE {}{}", subject.condition(slice.source), slice.condition())
}
