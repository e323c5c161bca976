//! The report of `bench outage`, and which of its goals were met.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{
    plan::{ACK_BUDGET_MS, ALLOWANCE_MS, Plan},
    proof::Rows,
    trial::Trial,
};
use crate::{
    goal::{self, Goal},
    machine::Machine,
    table::table,
};

/// Everything that was seen.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: u16,
    outage_s: u64,
    rate_per_s: u32,
    trials: Vec<Trial>,
    /// The table in the end.
    rows: Rows,
    /// Roles that ended by themselves and were started again.
    restarts: BTreeMap<&'static str, u64>,
    goals: Vec<Goal>,
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        plan: Plan,
        trials: Vec<Trial>,
        rows: Rows,
        restarts: BTreeMap<&'static str, u64>,
    ) -> Self {
        let goals = goals(&trials, rows);
        let Plan { rounds, outage, rate, .. } = plan;
        Self { machine, rounds, outage_s: outage.as_secs(), rate_per_s: rate, trials, rows, restarts, goals }
    }
}

fn goals(trials: &[Trial], rows: Rows) -> Vec<Goal> {
    let sum = |of: fn(&Trial) -> usize| trials.iter().map(of).sum::<usize>() as f64;
    let worst = trials.iter().map(|trial| trial.outage_latency.p99_ms).fold(0.0, f64::max);
    let limit = (ACK_BUDGET_MS + ALLOWANCE_MS) as f64;
    vec![
        Goal::at_most("redirects that failed, while a redirector was there", sum(|trial| trial.failed), 0.0, ""),
        Goal::at_most("answered clicks that are not in ClickHouse", sum(|trial| trial.proof.lost), 0.0, ""),
        Goal::at_most("clicks that are there twice", sum(|trial| trial.proof.doubled), 0.0, ""),
        Goal::at_most("rows beyond one an id", (rows.rows - rows.ids) as f64, 0.0, ""),
        Goal::at_most("p99 of redirects during an outage, the worst", worst, limit, "ms"),
    ]
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, rounds, outage_s, rate_per_s, trials, rows, restarts, goals } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(
        &machine.title(),
        &format!("  outages: {rounds} rounds of three, {outage_s} s each, under {rate_per_s} clicks/s"),
    );
    section("Redirects", &redirects(trials));
    section("What became of their clicks", &clicks(trials));
    section(
        "In the end",
        &format!("  ClickHouse holds {} rows of {} clicks with {} markers", rows.rows, rows.ids, rows.markers),
    );
    if !restarts.is_empty() {
        let list: Vec<String> = restarts.iter().map(|(name, times)| format!("{name} {times} times")).collect();
        section("Roles that ended by themselves and were started again", &format!("  {}", list.join(", ")));
    }
    section("Goals", &goal::table_of(goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  latencies are worse than it can do.");
    }
    out
}

fn name(trial: &Trial) -> String {
    format!("{}: {}", trial.round, trial.outage.what())
}

fn redirects(trials: &[Trial]) -> String {
    let rows = trials.iter().map(|trial| {
        let latency = trial.outage_latency;
        let mut row = vec![name(trial), trial.answered.to_string(), trial.failed.to_string()];
        row.extend([latency.p50_ms, latency.p99_ms, latency.p999_ms, latency.max_ms].map(|ms| format!("{ms:.1}")));
        row.extend([
            format!("{:.1}", trial.slowest_sync_ms),
            format!("{:.1}", trial.latency.p99_ms),
            trial.failed_without_ingest.to_string(),
            trial.without_ingest_ms.to_string(),
        ]);
        row
    });
    let header = [
        "",
        "answered",
        "failed",
        "p50 ms",
        "p99",
        "p99.9",
        "max",
        "the disk's slowest sync",
        "p99 with the return",
        "failed without ingest",
        "which was for ms",
    ];
    let failures = trials.iter().filter(|trial| !trial.failures.is_empty());
    let failures: Vec<String> = failures.map(|trial| format!("  {}: {:?}", name(trial), trial.failures)).collect();
    [vec![table(&header, rows)], failures].concat().join("\n")
}

fn clicks(trials: &[Trial]) -> String {
    let rows = trials.iter().map(|trial| {
        vec![
            name(trial),
            trial.proof.lost.to_string(),
            trial.proof.doubled.to_string(),
            trial.proof.unanswered.to_string(),
            format!("{:.0}", trial.spooled),
            format!("{:.0}", trial.shed),
            format!("{:.1}", trial.caught_up_after_s),
        ]
    });
    table(&["", "lost", "doubled", "unanswered", "put on disk, since its start", "shed", "all there after s"], rows)
}
