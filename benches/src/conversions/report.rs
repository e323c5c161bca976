//! The report of `bench conversions`, and its goals.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    goal::{self, Goal},
    machine::Machine,
    summary::Latency,
    table::table,
};

/// A steady load, whose conversions have clicks that are rows.
#[derive(Debug, Serialize)]
pub(super) struct Steady {
    /// From the visit until its event is committed.
    pub(super) click: Latency,
    /// From the report until its event is committed.
    pub(super) report: Latency,
}

/// The comparison of everything that was told with everything that was produced.
#[derive(Debug, Default, Serialize)]
pub(super) struct AfterKills {
    pub(super) kills: u16,
    pub(super) clicks: usize,
    pub(super) clicks_missing: usize,
    pub(super) clicks_doubled: usize,
    /// Told, and never produced.
    pub(super) clicks_unknown: usize,
    pub(super) conversions: usize,
    pub(super) conversions_missing: usize,
    pub(super) conversions_doubled: usize,
    pub(super) conversions_unattributed: usize,
    /// Told with another click than their own.
    pub(super) conversions_of_others: usize,
}

/// Conversions whose click never comes.
#[derive(Debug, Serialize)]
pub(super) struct WaitingReports {
    pub(super) count: u32,
    /// The most that waited at once.
    pub(super) most_waiting: f64,
    /// From the visit until its event is committed, before.
    pub(super) click_without: Latency,
    /// The same while they wait.
    pub(super) click: Latency,
    /// How often ClickHouse was asked for the click of each.
    pub(super) lookups_each: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct ConversionsReport {
    machine: Machine,
    steady: Steady,
    after_kills: AfterKills,
    waiting: WaitingReports,
    goals: Vec<Goal>,
}

/// How much later a click may be told while conversions wait: what a run differs by.
const SLOWER_MS: f64 = 50.0;

impl ConversionsReport {
    pub(super) fn new(machine: Machine, steady: Steady, after_kills: AfterKills, waiting: WaitingReports) -> Self {
        let AfterKills {
            kills: _,
            clicks: _,
            clicks_missing,
            clicks_doubled,
            clicks_unknown,
            conversions: _,
            conversions_missing,
            conversions_doubled,
            conversions_unattributed,
            conversions_of_others,
        } = after_kills;
        let none = |what: &str, count: usize| Goal::at_most(what, count as f64, 0.0, "");
        let slower = waiting.click.p99_ms - waiting.click_without.p99_ms;
        let goals = vec![
            Goal::at_most("report → event, where the click is a row, p99", steady.report.p99_ms, 400.0, "ms"),
            none("clicks that are no event", clicks_missing),
            none("clicks that are several events", clicks_doubled),
            none("events of no click", clicks_unknown),
            none("conversions without an outcome", conversions_missing),
            none("conversions with several outcomes", conversions_doubled),
            none("conversions told without their click", conversions_unattributed),
            none("conversions told with another click", conversions_of_others),
            Goal::at_most("click → event, p99, later while conversions wait by", slower, SLOWER_MS, "ms"),
            Goal::at_most("lookups of a conversion that waits in vain", waiting.lookups_each, 5.0, ""),
        ];
        Self { machine, steady, after_kills, waiting, goals }
    }
}

impl AfterKills {
    /// Returns the numbers in a line.
    pub(super) fn summary(&self) -> String {
        format!("{self:?}")
    }
}

/// The report as tables.
pub(crate) fn text(report: &ConversionsReport) -> String {
    let ConversionsReport { machine, steady, after_kills, waiting, goals } = report;
    let latency = |what: &str, latency: &Latency| {
        let mut row = vec![what.to_owned()];
        row.extend([latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms].map(|ms| format!("{ms:.0}")));
        row
    };
    let latencies = [
        latency("click → event, steady", &steady.click),
        latency("report → event, the click is a row", &steady.report),
        latency("click → event, before conversions wait", &waiting.click_without),
        latency("click → event, while they wait", &waiting.click),
    ];
    let row = |what: &str, [all, missing, doubled, wrong]: [usize; 4]| {
        [what.to_owned()].into_iter().chain([all, missing, doubled, wrong].map(|count| count.to_string())).collect()
    };
    let told: [Vec<String>; 2] = [
        row("clicks", {
            let kills = after_kills;
            [kills.clicks, kills.clicks_missing, kills.clicks_doubled, kills.clicks_unknown]
        }),
        row("conversions", {
            let kills = after_kills;
            let wrong = kills.conversions_unattributed + kills.conversions_of_others;
            [kills.conversions, kills.conversions_missing, kills.conversions_doubled, wrong]
        }),
    ];
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "\n{}\n\n{}\n\n{} kills of two enrichers\n{}\n\n{} conversions waited in vain, {:.1} lookups each\n\nGoals\n{}\n",
        machine.title(),
        table(&["ms", "p50", "p90", "p99", "max"], latencies),
        after_kills.kills,
        table(&["", "produced", "missing", "doubled", "wrong"], told),
        waiting.most_waiting,
        waiting.lookups_each,
        goal::table_of(goals)
    );
    out
}
