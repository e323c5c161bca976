//! The report of `bench redirect`, and which of its goals were met.

use std::fmt::Write;

use serde::Serialize;

use super::servers::{GENTLE, SERVERS};
use crate::{
    goal::{self, Goal},
    machine::Machine,
    summary::Latency,
    table::table,
    turn::{Load, Plan},
};

/// The loads, each with the servers in their order.
#[derive(Debug, Serialize)]
pub(crate) struct Loads {
    /// As many requests as they take on all cores.
    pub(crate) saturated: [Load; 3],
    /// At half of that rate.
    pub(crate) half: Option<[Load; 3]>,
    /// At a gentle rate.
    pub(crate) gentle: Option<[Load; 3]>,
    /// As many as they take on one core.
    pub(crate) one_core: Option<[Load; 3]>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    connections: u16,
    rounds: u16,
    seconds: u64,
    /// Whose numbers stand where in each load.
    servers: [&'static str; 3],
    loads: Loads,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn new(machine: Machine, plan: Plan, loads: Loads) -> Self {
        let goals = goals(&loads);
        let seconds = plan.turn.as_secs();
        Self { machine, connections: plan.connections, rounds: plan.rounds, seconds, servers: SERVERS, loads, goals }
    }
}

fn goals(loads: &Loads) -> Vec<Goal> {
    let [bare, nginx, ingest] = &loads.saturated;
    let ours = ingest.cpu_us_per_request;
    let mut goals = vec![
        Goal::at_most("CPU a redirect, to nginx's with its access log", ours / nginx.cpu_us_per_request, 1.2, "times"),
        Goal::at_most("CPU a redirect, to bare hyper's", ours / bare.cpu_us_per_request, 1.6, "times"),
        Goal::at_most("Kafka's CPU a click, of the server's", 100.0 * ingest.kafka_us_per_request / ours, 40.0, "%"),
    ];
    if let Some([.., ingest]) = &loads.gentle {
        goals.push(Goal::at_most("median at 500 a second", ingest.latency.p50_ms, 4.0, "ms"));
    }
    goals
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, connections, rounds, seconds, servers: _, loads, goals } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(
        &machine.title(),
        &format!("  redirects: {connections} visitors, {rounds} turns of {seconds} s of each server under each load"),
    );
    section("As many requests as they take", &saturated(&loads.saturated));
    if let Some(one_core) = &loads.one_core {
        section("The same with the server on one core, visitors and Kafka on the others", &saturated(one_core));
    }
    let paced = [("half load", &loads.half), ("gentle", &loads.gentle)];
    let paced: Vec<_> = paced.into_iter().filter_map(|(name, loads)| Some((name, loads.as_ref()?))).collect();
    if !paced.is_empty() {
        section(&format!("Latency at half of that rate and at {GENTLE} a second, ms"), &latencies(&paced));
    }
    section("Goals", &goal::table_of(goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  compare the ratios, not the numbers.");
    }
    out
}

fn saturated(loads: &[Load; 3]) -> String {
    let header = [
        "",
        "requests/s",
        "failed",
        "CPU µs a request",
        "of each turn",
        "to nginx's",
        "to bare hyper's",
        "Kafka's µs",
        "Kafka's, % of the server's",
        "generator's µs",
    ];
    let [bare, nginx, _] = loads;
    let rows = SERVERS.iter().zip(loads).map(|(name, load)| {
        let cpu = load.cpu_us_per_request;
        let turns: Vec<_> = load.turns_cpu_us_per_request.iter().map(|us| format!("{us:.1}")).collect();
        let kafka = |number: String| if load.kafka_us_per_request > 0.0 { number } else { String::new() };
        vec![
            (*name).to_owned(),
            format!("{:.0}", load.requests_per_s),
            load.failed.to_string(),
            format!("{cpu:.2}"),
            turns.join(" "),
            format!("{:.2}", cpu / nginx.cpu_us_per_request),
            format!("{:.2}", cpu / bare.cpu_us_per_request),
            kafka(format!("{:.2}", load.kafka_us_per_request)),
            kafka(format!("{:.0}", 100.0 * load.kafka_us_per_request / cpu)),
            format!("{:.1}", load.generator_us_per_request),
        ]
    });
    table(&header, rows)
}

fn latencies(paced: &[(&str, &[Load; 3])]) -> String {
    let rows = paced.iter().flat_map(|(name, loads)| {
        SERVERS.iter().zip(*loads).map(move |(server, load)| {
            let Latency { p50_ms, p99_ms, p999_ms, max_ms, .. } = load.latency;
            let mut row = vec![format!("{name}: {server}"), format!("{:.0}", load.requests_per_s)];
            row.extend([p50_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.2}")));
            row.extend([load.failed.to_string(), format!("{:.1}", load.cpu_us_per_request)]);
            row
        })
    });
    table(&["", "requests/s", "p50", "p99", "p99.9", "max", "failed", "CPU µs a request"], rows)
}
