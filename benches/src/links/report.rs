//! The report of `bench links`, and which of its goals were met.

use std::fmt::Write;

use serde::Serialize;

use super::lookups::Lookups;
use crate::{
    catalogue,
    goal::{self, Goal},
    machine::Machine,
    table::{megabytes, table},
    turn::{Load, Plan},
};

/// Fewer links say nothing about the bytes of one.
const ENOUGH: u64 = 10_000;

/// A redirector that knows all its links.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Known {
    /// From its start until `/readyz` said so.
    pub(crate) ready_s: f64,
    /// Its memory then.
    pub(crate) rss_bytes: u64,
    /// The most that it had until then.
    pub(crate) peak_bytes: u64,
}

/// The measurements with one number of links.
#[derive(Debug, Serialize)]
pub(crate) struct Size {
    pub(crate) links: u64,
    /// How long writing them to Kafka took.
    pub(crate) written_s: f64,
    /// Started with nothing but Kafka.
    pub(crate) from_topic: Known,
    /// Started again, with the snapshot that it left.
    pub(crate) from_snapshot: Known,
    /// As many redirects to random links as it takes.
    pub(crate) load: Load,
    /// The table by itself.
    pub(crate) lookups: Lookups,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    connections: u16,
    rounds: u16,
    seconds: u64,
    /// A redirector without links.
    empty: Known,
    /// The bytes of strings that a redirector keeps of a link on average: the part that a click copies, and the location.
    string_bytes: f64,
    sizes: Vec<Size>,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn new(machine: Machine, plan: Plan, (empty, sizes): (Known, Vec<Size>)) -> Self {
        let string_bytes = catalogue::mean_string_bytes();
        let goals = goals(&empty, string_bytes, &sizes);
        let seconds = plan.turn.as_secs();
        Self { machine, connections: plan.connections, rounds: plan.rounds, seconds, empty, string_bytes, sizes, goals }
    }
}

/// Bytes that a link takes beyond its strings.
fn beyond_strings(known: &Known, empty: &Known, links: u64, string_bytes: f64) -> Option<f64> {
    let taken = known.rss_bytes.saturating_sub(empty.rss_bytes) as f64;
    (links >= ENOUGH).then(|| taken / links as f64 - string_bytes)
}

fn goals(empty: &Known, string_bytes: f64, sizes: &[Size]) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(million) = sizes.iter().find(|size| size.links == 1_000_000) {
        goals.push(Goal::at_most("ready with 1 M links, from the topic", million.from_topic.ready_s, 5.0, "s"));
        goals.push(Goal::at_most("ready with 1 M links, from the snapshot", million.from_snapshot.ready_s, 5.0, "s"));
        if let Some(bytes) = beyond_strings(&million.from_topic, empty, million.links, string_bytes) {
            goals.push(Goal::at_most("memory a link beyond its strings, 1 M links", bytes, 200.0, "bytes"));
        }
    }
    if let (Some(few), Some(many)) = (sizes.first(), sizes.last())
        && many.links > few.links
    {
        let what = format!("CPU a redirect with {} links, to that with {}", short(many.links), short(few.links));
        goals.push(Goal::at_most(what, many.load.cpu_us_per_request / few.load.cpu_us_per_request, 1.15, "times"));
    }
    goals
}

/// A number of links as people write it.
fn short(links: u64) -> String {
    match links {
        1_000_000.. if links.is_multiple_of(100_000) => format!("{} M", links as f64 / 1e6),
        1000.. if links.is_multiple_of(100) => format!("{} k", links as f64 / 1e3),
        _ => links.to_string(),
    }
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, connections, rounds, seconds, empty, string_bytes, sizes, goals } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(
        &machine.title(),
        &format!(
            "  links: a redirector of each size; strings are {string_bytes:.0} bytes a link, on average\n  \
               load: {connections} visitors who follow random links, {rounds} turns of {seconds} s of each size"
        ),
    );
    section("Until all links are known", &starts(empty, *string_bytes, sizes));
    section("As many redirects to random links as it takes", &loads(sizes));
    section("Goals", &goal::table_of(goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  compare the ratios, not the numbers.");
    }
    out
}

fn starts(empty: &Known, string_bytes: f64, sizes: &[Size]) -> String {
    let header = [
        "links",
        "written to Kafka, s",
        "ready, s",
        "links/s",
        "RSS MB",
        "at most",
        "bytes a link beyond its strings",
        "ready from the snapshot, s",
    ];
    let row = |links: u64, written_s: f64, known: &Known, again: Option<&Known>| {
        let beyond = beyond_strings(known, empty, links, string_bytes);
        vec![
            short(links),
            format!("{written_s:.2}"),
            format!("{:.2}", known.ready_s),
            format!("{:.0}", links as f64 / known.ready_s),
            megabytes(known.rss_bytes),
            megabytes(known.peak_bytes),
            beyond.map_or_else(String::new, |bytes| format!("{bytes:.0}")),
            again.map_or_else(String::new, |again| format!("{:.2}", again.ready_s)),
        ]
    };
    let none = row(0, 0.0, empty, None);
    let rows = sizes.iter().map(|size| row(size.links, size.written_s, &size.from_topic, Some(&size.from_snapshot)));
    table(&header, std::iter::once(none).chain(rows))
}

fn loads(sizes: &[Size]) -> String {
    let header = [
        "links",
        "redirects/s",
        "failed",
        "CPU µs a redirect",
        "of each turn",
        "to the fewest's",
        "Kafka's µs",
        "p50 ms",
        "p99 ms",
        "M lookups/s, one core",
        "all cores",
    ];
    let fewest = sizes.first().map_or(1.0, |size| size.load.cpu_us_per_request);
    let rows = sizes.iter().map(|Size { links, load, lookups, .. }| {
        let turns: Vec<_> = load.turns_cpu_us_per_request.iter().map(|us| format!("{us:.1}")).collect();
        vec![
            short(*links),
            format!("{:.0}", load.requests_per_s),
            load.failed.to_string(),
            format!("{:.2}", load.cpu_us_per_request),
            turns.join(" "),
            format!("{:.2}", load.cpu_us_per_request / fewest),
            format!("{:.2}", load.kafka_us_per_request),
            format!("{:.2}", load.latency.p50_ms),
            format!("{:.2}", load.latency.p99_ms),
            format!("{:.1}", lookups.one_core_m_per_s),
            format!("{:.1}", lookups.all_cores_m_per_s),
        ]
    });
    table(&header, rows)
}
