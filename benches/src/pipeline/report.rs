//! The report: JSON for programs, and tables for people.

use std::fmt::Write;

use serde::Serialize;

use super::{
    idle::{Idle, Start},
    limits::Limits,
    phase::{Phase, Used},
    plan::Plan,
};
use crate::{
    machine::Machine,
    process::Memory,
    summary::Latency,
    table::{megabytes, table},
};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    /// The loads, in their order.
    pub(crate) phases: Vec<Phase>,
    pub(crate) limits: Limits,
    pub(crate) idle: Option<Idle>,
}

/// The options of the run.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) rate_per_s: u32,
    pub(crate) steady_s: u64,
    pub(crate) saturate_s: u64,
    pub(crate) connections: u16,
    pub(crate) under_way: u32,
}

impl Settings {
    pub(super) const fn of(plan: &Plan) -> Self {
        Self {
            rate_per_s: plan.rate,
            steady_s: plan.steady.as_secs(),
            saturate_s: plan.saturate.as_secs(),
            connections: plan.connections,
            under_way: plan.under_way,
        }
    }
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, settings, phases, limits, idle } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(&machine.title(), &loads_note(settings));
    section("Latency, ms", &latencies(phases, limits));
    section("Clicks", &clicks(phases, limits));
    section("CPU, µs a click", &cpu(phases));
    section("Beside the limits", &ratios(phases, limits));
    section("Memory after each load, MB (PSS)", &memory(phases));
    if let Some(idle) = idle {
        section("`clickhook up`", &idling(idle));
    }
    if machine.was_busy() || phases.iter().any(|phase| phase.others_percent + phase.stolen_percent > 20.0) {
        section("This machine was not idle:", "  compare the ratios, not the numbers.");
    }
    out
}

fn loads_note(settings: &Settings) -> String {
    format!(
        "  steady     {} clicks/s at random moments for {} s; latency counts from those moments\n  \
           sustained  {} visitors for {} s, at most {} clicks without their webhook\n  \
           burst      {} visitors for {} s, without that bound",
        settings.rate_per_s,
        settings.steady_s,
        settings.connections,
        settings.saturate_s,
        settings.under_way,
        settings.connections,
        settings.saturate_s,
    )
}

fn latencies(phases: &[Phase], limits: &Limits) -> String {
    let row = |name: String, latency: &Latency| {
        let Latency { p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = latency;
        let mut row = vec![name];
        row.extend([p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.1}")));
        row
    };
    let mut rows = Vec::new();
    for phase in phases {
        rows.push(row(format!("{}: click → webhook", phase.load), &phase.webhook));
        rows.push(row(format!("{}: click → redirect", phase.load), &phase.redirect));
    }
    rows.push(row("bare server, steady load".to_owned(), &limits.bare_steady.latency));
    rows.push(row("bare server, burst".to_owned(), &limits.bare.latency));
    table(&["", "p50", "p90", "p99", "p99.9", "max"], rows)
}

fn clicks(phases: &[Phase], limits: &Limits) -> String {
    let header = [
        "",
        "clicks",
        "failed",
        "redirects/s",
        "clicks/s",
        "caught up after",
        "webhooks missing",
        "again",
        "rows",
        "distinct",
    ];
    let rows = phases.iter().map(|phase| {
        vec![
            phase.load.to_owned(),
            phase.clicks.to_string(),
            (phase.refused + phase.broken).to_string(),
            format!("{:.0}", phase.redirects_per_s),
            format!("{:.0}", phase.clicks_per_s),
            format!("{:.2} s", phase.caught_up_after_s),
            phase.webhooks_missing.to_string(),
            phase.webhooks_again.to_string(),
            phase.rows.to_string(),
            phase.rows_distinct.to_string(),
        ]
    });
    let bare = &limits.bare;
    let bare =
        vec!["bare server".to_owned(), bare.requests.to_string(), String::new(), format!("{:.0}", bare.requests_per_s)];
    table(&header, rows.chain([bare]))
}

fn cpu(phases: &[Phase]) -> String {
    let mut header = vec![""];
    for phase in phases {
        header.extend([phase.load, "% of a core"]);
    }
    let mut rows =
        by_process(phases, |used| vec![format!("{:.1}", used.cpu_us_per_click), format!("{:.1}", used.cpu_percent)]);
    let mut sums = vec!["in all".to_owned()];
    let mut others = vec!["others on the machine".to_owned()];
    for phase in phases {
        let sum = |of: fn(&Used) -> f64| phase.processes.iter().map(of).sum::<f64>();
        sums.extend([
            format!("{:.1}", sum(|used| used.cpu_us_per_click)),
            format!("{:.1}", sum(|used| used.cpu_percent)),
        ]);
        others.extend([String::new(), format!("{:.1}", phase.others_percent + phase.stolen_percent)]);
    }
    rows.extend([sums, others]);
    table(&header, rows)
}

fn memory(phases: &[Phase]) -> String {
    let header: Vec<&str> = [""].into_iter().chain(phases.iter().map(|phase| phase.load)).collect();
    let mut rows =
        by_process(phases, |used| vec![used.memory.map_or_else(String::new, |memory| megabytes(memory.pss_bytes))]);
    rows.retain(|row| row.iter().skip(1).any(|cell| !cell.is_empty()));
    let all =
        |phase: &Phase| phase.processes.iter().filter_map(|used| used.memory).map(|memory| memory.pss_bytes).sum();
    rows.push(["in all".to_owned()].into_iter().chain(phases.iter().map(|phase| megabytes(all(phase)))).collect());
    table(&header, rows)
}

/// A row a process, with `cells` for each load.
fn by_process(phases: &[Phase], cells: impl Fn(&Used) -> Vec<String>) -> Vec<Vec<String>> {
    let names = phases.first().map(|phase| phase.processes.as_slice()).unwrap_or_default();
    let row = |name: &'static str| {
        let used = phases.iter().flat_map(|phase| phase.processes.iter().find(|used| used.process == name));
        [name.to_owned()].into_iter().chain(used.flat_map(&cells)).collect()
    };
    names.iter().map(|used| row(used.process)).collect()
}

fn ratios(phases: &[Phase], limits: &Limits) -> String {
    let ours = |load: &str, process: &str| {
        let phase = phases.iter().find(|phase| phase.load == load)?;
        phase.processes.iter().find(|used| used.process == process).map(|used| used.cpu_us_per_click)
    };
    let row = |what: &str, ours: Option<f64>, limit: &str, at_limit: f64| {
        let ours = ours?;
        let row = [what, &format!("{ours:.1}"), limit, &format!("{at_limit:.1}"), &format!("{:.2}", ours / at_limit)];
        Some(row.map(str::to_owned).to_vec())
    };
    let (bare, hop) = (limits.bare.cpu_us_per_request, limits.null_hop.cpu_us_per_record);
    let rows = [
        row("ingest, steady", ours("steady", "ingest"), "bare server, steady", limits.bare_steady.cpu_us_per_request),
        row("ingest, burst", ours("burst", "ingest"), "bare server", bare),
        row("enricher, burst", ours("burst", "enricher"), "null hop", hop),
    ];
    let note = format!(
        "\n  null hop: {} records of 500 bytes, {:.0}/s, Kafka's own {:.1} µs a record",
        limits.null_hop.records, limits.null_hop.records_per_s, limits.null_hop.kafka_cpu_us_per_record
    );
    table(&["", "µs a click", "limit", "µs", "ratio"], rows.into_iter().flatten()) + &note
}

fn idling(idle: &Idle) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for process in &idle.processes {
        let memory = process.memory;
        rows.push(vec![
            process.process.to_owned(),
            format!("{:.2}", process.cpu_percent),
            megabytes(memory.pss_bytes),
            megabytes(memory.rss_bytes),
        ]);
    }
    let cpu: f64 = idle.processes.iter().map(|process| process.cpu_percent).sum();
    let all = idle.processes.iter().map(|process| process.memory).fold(Memory::default(), std::ops::Add::add);
    rows.push(vec!["in all".to_owned(), format!("{cpu:.2}"), megabytes(all.pss_bytes), megabytes(all.rss_bytes)]);
    let start = |what: &str, start: Start| {
        format!(
            "  {what} start: {:.2} s, of which the engines {:.2} s and ours {:.2} s\n",
            start.all_ms as f64 / 1000.0,
            start.engines_ms as f64 / 1000.0,
            start.all_ms.saturating_sub(start.engines_ms) as f64 / 1000.0
        )
    };
    format!("{}{}", start("first", idle.first_start), start("second", idle.second_start))
        + &format!("  idle for {:.0} s:\n", idle.seconds)
        + &table(&["", "% of a core", "PSS MB", "RSS MB"], rows)
}
