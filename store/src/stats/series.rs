//! The clicks of a subject over time, in intervals that the caller has chosen. Intervals without
//! clicks are there, too.

use std::collections::HashMap;

use clickhouse::Row;
use schemas::{Timestamp, WorkspaceId};
use serde::Deserialize;

use crate::{
    Store, StoreError,
    stats::{
        bounds::bounded,
        conversions::{current, standing},
        counts::{LinkClicks, rows},
        period::{DAY, Slice, StatsPeriod},
        subject::{ClickSource, StatsSubject},
    },
};

/// The visits of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesPoint {
    /// The beginning of the interval.
    pub start: Timestamp,
    /// Visits by the short address. Sessions are 0 where they are not known.
    pub clicks: LinkClicks,
    /// Visits by the QR code.
    pub scans: LinkClicks,
    /// Conversions that stand.
    pub conversions: u64,
}

#[derive(Row, Deserialize)]
struct PointRow {
    at: i64,
    clicks_total: u64,
    clicks_human: u64,
    clicks_unique: u64,
    scans_total: u64,
    scans_human: u64,
    scans_unique: u64,
}

#[derive(Row, Deserialize)]
struct ConversionPoint {
    at: i64,
    conversions: u64,
}

impl StatsSubject {
    /// Tells whether a series of these intervals has sessions: they are known of whole UTC days.
    #[must_use]
    pub fn has_sessions(&self, edges: &[Timestamp]) -> bool {
        self.days().is_some() && edges.iter().all(|edge| edge.as_millis() % DAY == 0)
    }
}

impl Store {
    /// Returns the visits of a subject between each two of the `edges`, which ascend and lie on
    /// quarters of an hour.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or the question is beyond its bounds.
    pub async fn visit_series(
        &self,
        workspace: &WorkspaceId,
        subject: &StatsSubject,
        edges: &[Timestamp],
    ) -> Result<Vec<SeriesPoint>, StoreError> {
        let [starts @ .., end] = edges else { return Ok(Vec::new()) };
        let Some(first) = starts.first() else { return Ok(Vec::new()) };
        let seconds: Vec<i64> = starts.iter().map(|start| start.as_secs()).collect();
        let (since, until) = (Some(first.as_millis()), Some(end.as_millis()));
        let sql = visits_sql(subject, edges, since, until);
        let visits = bounded(subject.bind(workspace, self.query(&sql))).param("starts", &seconds);
        let period = StatsPeriod { since: Some(*first), until: Some(*end), asked_at: *end };
        let sql = format!(
            "SELECT toInt64(roundDown(toUnixTimestamp(timestamp), {{starts:Array(UInt32)}})) AS at, count() AS conversions \
             {} AND {} GROUP BY at",
            current(subject, period),
            standing()
        );
        let converted = bounded(subject.bind(workspace, self.query(&sql))).param("starts", &seconds);
        let (visits, converted): (Vec<PointRow>, Vec<ConversionPoint>) =
            tokio::try_join!(self.timed(visits.fetch_all()), self.timed(converted.fetch_all()))?;
        let visits: HashMap<i64, PointRow> = visits.into_iter().map(|row| (row.at, row)).collect();
        let converted: HashMap<i64, u64> = converted.into_iter().map(|row| (row.at, row.conversions)).collect();
        let point = |start: &Timestamp| {
            let at = start.as_secs();
            let row = visits.get(&at);
            let kind = |total: fn(&PointRow) -> LinkClicks| row.map_or_else(LinkClicks::default, total);
            SeriesPoint {
                start: *start,
                clicks: kind(|row| LinkClicks {
                    total: row.clicks_total,
                    human: row.clicks_human,
                    unique: row.clicks_unique,
                }),
                scans: kind(|row| LinkClicks {
                    total: row.scans_total,
                    human: row.scans_human,
                    unique: row.scans_unique,
                }),
                conversions: converted.get(&at).copied().unwrap_or_default(),
            }
        };
        Ok(starts.iter().map(point).collect())
    }
}

/// Returns the question for the visits of each interval.
fn visits_sql(subject: &StatsSubject, edges: &[Timestamp], since: Option<i64>, until: Option<i64>) -> String {
    let (source, moment) = match subject.quarters() {
        Some(quarters) => (ClickSource::RollUp(quarters), "toStartOfFifteenMinutes(timestamp)"),
        None => (ClickSource::Rows, "timestamp"),
    };
    let mut branches = vec![format!(
        "SELECT kind, roundDown(toUnixTimestamp({moment}), {{starts:Array(UInt32)}}) AS start, count() AS total, \
         countIf(NOT bot) AS human, toUInt64(0) AS unique {} GROUP BY kind, start{}",
        rows(subject, &Slice { source, since, until }),
        source.settings()
    )];
    if let Some((days, state)) = subject.days().filter(|_| subject.has_sessions(edges)) {
        let source = ClickSource::RollUp(days);
        branches.push(format!(
            "SELECT kind, roundDown(toUInt32(toUInt32(day) * 86400), {{starts:Array(UInt32)}}) AS start, \
             toUInt64(0) AS total, toUInt64(0) AS human, sum(sessions) AS unique FROM (\
             SELECT kind, toDate(timestamp) AS day, {state} AS sessions {} GROUP BY kind, day{}) GROUP BY kind, start",
            rows(subject, &Slice { source, since, until }),
            source.settings()
        ));
    }
    format!(
        "SELECT toInt64(start) AS at, sumIf(total, kind = 'click') AS clicks_total, \
         sumIf(human, kind = 'click') AS clicks_human, sumIf(unique, kind = 'click') AS clicks_unique, \
         sumIf(total, kind = 'scan') AS scans_total, sumIf(human, kind = 'scan') AS scans_human, \
         sumIf(unique, kind = 'scan') AS scans_unique FROM ({}) GROUP BY at",
        branches.join(" UNION ALL ")
    )
}
