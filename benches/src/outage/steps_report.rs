//! The report of loads under which things happen step by step, and which of its goals
//! were met.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{
    scaling::{self, Sustained},
    steps::{LoadReport, LoadStep, StepKind},
};
use crate::{
    goal::{self, Goal},
    machine::Machine,
    table::table,
};

/// Everything that was seen.
#[derive(Debug, Serialize)]
pub(crate) struct StepsReport {
    machine: Machine,
    rate_per_s: u32,
    loads: Vec<LoadReport>,
    /// Roles that ended by themselves and were started again.
    restarts: BTreeMap<&'static str, u64>,
    /// How much was taken with how many processes, where that was measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sustained: Vec<Sustained>,
    goals: Vec<Goal>,
}

impl StepsReport {
    /// A report whose goals are those of every load, and `more`.
    pub(super) fn new(
        machine: Machine,
        rate_per_s: u32,
        loads: Vec<LoadReport>,
        restarts: BTreeMap<&'static str, u64>,
        more: Vec<Goal>,
    ) -> Self {
        let goals = [exactness(&loads), more].concat();
        Self { machine, rate_per_s, loads, restarts, sustained: Vec::new(), goals }
    }

    /// Adds how much was taken with how many processes.
    pub(super) fn with_sustained(self, sustained: Vec<Sustained>) -> Self {
        Self { sustained, ..self }
    }
}

fn exactness(loads: &[LoadReport]) -> Vec<Goal> {
    let sum = |of: fn(&LoadReport) -> usize| loads.iter().map(of).sum::<usize>() as f64;
    let failed = |load: &LoadReport| load.steps.iter().map(|step| step.failed).sum();
    let extra_rows: u64 = loads.iter().map(|load| load.rows.rows - load.rows.ids).sum();
    vec![
        Goal::at_most("redirects that failed", sum(failed), 0.0, ""),
        Goal::at_most("answered clicks that are not in ClickHouse", sum(|load| load.proof.lost), 0.0, ""),
        Goal::at_most("clicks that are there twice", sum(|load| load.proof.doubled), 0.0, ""),
        Goal::at_most("rows beyond one an id", extra_rows as f64, 0.0, ""),
        Goal::at_most("clicks without a webhook", sum(|load| load.webhooks_missing), 0.0, ""),
    ]
}

/// Returns the worst of a latency over the steps of a kind.
pub(super) fn worst(load: &LoadReport, kinds: &[StepKind], latency: fn(&LoadStep) -> f64) -> f64 {
    load.steps.iter().filter(|step| kinds.contains(&step.kind)).map(latency).fold(0.0, f64::max)
}

/// The report as tables.
pub(crate) fn text(report: &StepsReport) -> String {
    let StepsReport { machine, rate_per_s, loads, restarts, sustained, goals } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(&machine.title(), &format!("  {rate_per_s} clicks/s; latencies in ms"));
    for load in loads {
        section(load.name, &steps(load));
        section("What became of its clicks", &clicks(load));
    }
    if !restarts.is_empty() {
        let list: Vec<String> = restarts.iter().map(|(name, times)| format!("{name} {times} times")).collect();
        section("Roles that ended by themselves and were started again", &format!("  {}", list.join(", ")));
    }
    if !sustained.is_empty() {
        section("As many clicks as the processes take", &scaling::text(sustained));
    }
    section("Goals", &goal::table_of(goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  latencies are worse than it can do.");
    }
    out
}

fn steps(load: &LoadReport) -> String {
    let rows = load.steps.iter().map(|step| {
        let mut row = vec![step.name.clone(), format!("{:.1}", step.seconds)];
        row.extend([step.answered, step.failed].map(|count| count.to_string()));
        let LoadStep { redirect, webhook, .. } = step;
        row.extend(
            [redirect.p50_ms, redirect.p99_ms, redirect.max_ms, webhook.p50_ms, webhook.p99_ms, webhook.max_ms]
                .map(|ms| format!("{ms:.1}")),
        );
        row.push(step.webhooks_again.to_string());
        row
    });
    let header =
        ["", "s", "answered", "failed", "redirect p50", "p99", "max", "click → webhook p50", "p99", "max", "again"];
    let failures = (!load.failures.is_empty()).then(|| format!("  failures: {:?}", load.failures));
    [vec![table(&header, rows)], failures.into_iter().collect()].concat().join("\n")
}

fn clicks(load: &LoadReport) -> String {
    let row = vec![
        String::new(),
        load.proof.lost.to_string(),
        load.proof.doubled.to_string(),
        load.proof.unanswered.to_string(),
        load.webhooks_missing.to_string(),
        load.webhooks_again.to_string(),
        load.rows.rows.to_string(),
        load.rows.ids.to_string(),
        format!("{:.1}", load.spool_peak_bytes / 1e6),
        format!("{:.1}", load.caught_up_after_s),
    ];
    let header = [
        "",
        "lost",
        "doubled",
        "unanswered",
        "webhooks missing",
        "again",
        "rows",
        "ids",
        "most on disk, MB",
        "all there after s",
    ];
    table(&header, [row])
}
