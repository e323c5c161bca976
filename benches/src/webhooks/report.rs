//! The report of `bench webhooks`, and which of its goals were met.

use std::fmt::Write;

use serde::Serialize;

use super::{
    bare::BarePosts,
    parts::{AtRate, DeadEndpoint, IsolationRun, ManyEndpoints, Overload, ThroughputRun},
    stand::{DeliveryCost, StreamOutcome},
};
use crate::{
    goal::{self, Goal},
    machine::Machine,
    summary::Latency,
    table::{megabytes, table},
};

/// Everything that was measured. A part that was not chosen is none.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    #[serde(flatten)]
    parts: Parts,
    goals: Vec<Goal>,
}

/// The parts of a run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Parts {
    pub(super) throughput: Option<ThroughputRun>,
    pub(super) endpoints: Option<Vec<ManyEndpoints>>,
    pub(super) latency: Option<Vec<AtRate>>,
    pub(super) isolation: Option<Vec<IsolationRun>>,
    pub(super) dead: Option<DeadEndpoint>,
    pub(super) overload: Option<Overload>,
}

impl Report {
    pub(super) fn new(machine: Machine, parts: Parts) -> Self {
        let goals = goals(&parts);
        Self { machine, parts, goals }
    }
}

impl ThroughputRun {
    /// Returns the mean of the bare client's two runs.
    fn bare(&self) -> BarePosts {
        let mean = |of: fn(&BarePosts) -> f64| self.bare.iter().map(of).sum::<f64>() / self.bare.len() as f64;
        BarePosts { posts_per_s: mean(|posts| posts.posts_per_s), cpu_us_per_post: mean(|posts| posts.cpu_us_per_post) }
    }
}

fn goals(parts: &Parts) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(throughput) = &parts.throughput {
        let (ours, bare) = (&throughput.ours, throughput.bare());
        let rate = bare.posts_per_s / ours.deliveries_per_s;
        goals.push(Goal::at_most("the bare client's posts a second, to deliveries", rate, 2.0, "times"));
        let cpu = ours.cpu_us / bare.cpu_us_per_post;
        goals.push(Goal::at_most("CPU a delivery, to the bare client's", cpu, 2.0, "times"));
        let batched = ours.deliveries_per_s / throughput.batched.deliveries_per_s;
        goals.push(Goal::at_most("events a second, to those in batches", batched, 0.1, "times"));
    }
    if let Some(many) = &parts.endpoints
        && let Some(one) = many.iter().find(|many| many.endpoints == 1)
        && let Some(all) = many.iter().find(|many| many.endpoints > 1_000 && many.matching == 1)
    {
        let cost = all.cpu_us_per_event / one.cpu_us_per_event;
        goals.push(Goal::at_most("CPU an event for one of 10,000 endpoints, to one of one", cost, 1.3, "times"));
    }
    for AtRate { per_s, outcome } in parts.latency.iter().flatten().filter(|rate| rate.per_s >= 2_000) {
        let Latency { p50_ms, p99_ms, .. } = outcome.latency;
        goals.push(Goal::at_most(format!("median at {per_s} a second"), p50_ms, 8.0, "ms"));
        goals.push(Goal::at_most(format!("p99 at {per_s} a second"), p99_ms, 25.0, "ms"));
    }
    for IsolationRun { sick, alone, beside, .. } in parts.isolation.iter().flatten() {
        let late = beside.latency.p99_ms / alone.latency.p99_ms.max(0.001);
        goals.push(Goal::at_most(format!("p99 beside {sick} that are ill, to alone"), late, 1.5, "times"));
        goals.push(Goal::at_most(format!("events that are late beside {sick}"), beside.missing as f64, 0.0, ""));
    }
    if let Some(overload) = &parts.overload {
        let spilled = overload.spilled_percent;
        goals.push(Goal::at_most("deliveries to healthy endpoints that are spilled", spilled, 1.0, "%"));
    }
    goals
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, parts, goals } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(&machine.title(), "  webhooks: a dispatcher alone on its Kafka, and a receiver that takes everything");
    if let Some(throughput) = &parts.throughput {
        section(
            "A backlog for one endpoint, and a bare client that posts the same bytes",
            &throughput_table(throughput),
        );
    }
    if let Some(many) = &parts.endpoints {
        section("A backlog where many endpoints exist", &endpoints_table(many));
    }
    if let Some(rates) = &parts.latency {
        let rows = rates.iter().map(|AtRate { per_s, outcome }| stream_row(format!("{per_s}/s"), outcome));
        section("From Kafka to the receiver, ms", &table(STREAM, rows));
    }
    if let Some(isolation) = &parts.isolation {
        section("A healthy endpoint at 1,000 events/s, ms", &isolation_table(isolation));
    }
    if let Some(dead) = &parts.dead {
        section("An endpoint that refuses connections", &dead_table(dead));
    }
    if let Some(overload) = &parts.overload {
        section("More deliveries to healthy endpoints than the machine makes", &overload_table(overload));
    }
    section("Goals", &goal::table_of(goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  compare the ratios, not the numbers.");
    }
    out
}

fn throughput_table(throughput: &ThroughputRun) -> String {
    let bare = throughput.bare();
    let DeliveryCost { deliveries_per_s, cpu_us, .. } = throughput.ours;
    let bare_row = |name: &str, posts: &BarePosts| {
        let none = String::new;
        vec![
            name.to_owned(),
            format!("{:.0}", posts.posts_per_s),
            format!("{:.1}", posts.cpu_us_per_post),
            none(),
            none(),
            none(),
        ]
    };
    let our_row = |name: &str, cost: &DeliveryCost| {
        let DeliveryCost { deliveries_per_s, cpu_us, kafka_us, receiver_us, memory, .. } = cost;
        let mut row = vec![name.to_owned(), format!("{deliveries_per_s:.0}")];
        row.extend([cpu_us, kafka_us, receiver_us].map(|us| format!("{us:.1}")));
        row.push(megabytes(memory.pss_bytes));
        row
    };
    let rows = [
        bare_row("bare client, before", &throughput.bare[0]),
        bare_row("bare client, after", &throughput.bare[1]),
        our_row("dispatcher", &throughput.ours),
        our_row("dispatcher, in batches of 100", &throughput.batched),
        vec![
            "to the bare client's".to_owned(),
            format!("{:.2}", deliveries_per_s / bare.posts_per_s),
            format!("{:.2}", cpu_us / bare.cpu_us_per_post),
            String::new(),
            String::new(),
            String::new(),
        ],
    ];
    table(&["", "events/s", "CPU µs an event", "Kafka's", "receiver's", "memory MB"], rows)
}

fn endpoints_table(many: &[ManyEndpoints]) -> String {
    let rows = many.iter().map(|many| {
        let ManyEndpoints { endpoints, matching, events_per_s, cpu_us_per_event, cost } = many;
        vec![
            format!("{endpoints} endpoints, {matching} match"),
            format!("{events_per_s:.0}"),
            format!("{:.0}", cost.deliveries_per_s),
            format!("{cpu_us_per_event:.1}"),
            format!("{:.1}", cost.cpu_us),
            megabytes(cost.memory.pss_bytes),
        ]
    });
    table(&["", "events/s", "deliveries/s", "CPU µs an event", "a delivery", "memory MB"], rows)
}

/// The columns of a stream's row.
const STREAM: &[&str] = &["", "events", "late", "p50", "p90", "p99", "p99.9", "max", "CPU µs a delivery"];

fn stream_row(name: String, outcome: &StreamOutcome) -> Vec<String> {
    let StreamOutcome { written, missing, latency, cost } = outcome;
    let Latency { p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = latency;
    let mut row = vec![name, written.to_string(), missing.to_string()];
    row.extend([p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.1}")));
    row.push(format!("{:.0}", cost.cpu_us));
    row
}

fn isolation_table(isolation: &[IsolationRun]) -> String {
    let rows = isolation.iter().flat_map(|IsolationRun { sick, alone, beside, .. }| {
        [stream_row("alone".to_owned(), alone), stream_row(format!("beside {sick}"), beside)]
    });
    let mut text = table(STREAM, rows);
    for IsolationRun { sick, memory: [alone, beside], spilled, .. } in isolation {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n  beside {sick}: memory {} MB, and {} MB alone; {spilled:.0} deliveries went to delay topics unattempted",
            megabytes(beside.pss_bytes),
            megabytes(alone.pss_bytes)
        );
    }
    text
}

fn dead_table(dead: &DeadEndpoint) -> String {
    let DeadEndpoint { waiting, watched_s, writes_per_delivery, idle_percent, memory } = dead;
    let row = vec![
        format!("{waiting} waiting, {watched_s} s"),
        format!("{writes_per_delivery:.2}"),
        format!("{idle_percent:.1}"),
        megabytes(memory.pss_bytes),
    ];
    table(&["", "records a delivery", "CPU %, last third", "memory MB"], [row])
}

fn overload_table(overload: &Overload) -> String {
    let Overload { endpoints, cost, spilled_percent } = overload;
    let row = vec![
        format!("{endpoints} endpoints"),
        format!("{:.0}", cost.deliveries_per_s),
        format!("{:.1}", cost.cpu_us),
        format!("{spilled_percent:.2}"),
        megabytes(cost.memory.pss_bytes),
    ];
    table(&["", "deliveries/s", "CPU µs a delivery", "spilled %", "memory MB"], [row])
}
