//! The report of `bench api`.

use std::fmt::Write;

use serde::Serialize;

use crate::{machine::Machine, summary::Latency, table::table};

/// The measurements of a number of writers; each makes its next link when the last one is made.
#[derive(Debug, Serialize)]
pub(crate) struct Writers {
    pub(crate) writers: u16,
    pub(crate) writes: usize,
    /// Answers other than 201, and none at all.
    pub(crate) failed: u64,
    pub(crate) writes_per_s: f64,
    /// The same records straight to Kafka, as many a transaction as there are writers.
    pub(crate) limit_per_s: f64,
    pub(crate) cpu_us_per_write: f64,
    pub(crate) kafka_us_per_write: f64,
    pub(crate) latency: Latency,
}

/// How an import went.
#[derive(Debug, Serialize)]
pub(crate) struct Imported {
    pub(crate) lines: u32,
    pub(crate) lines_per_s: f64,
    pub(crate) cpu_us_per_line: f64,
    /// The same records straight to Kafka, many a transaction.
    pub(crate) limit_per_s: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) seconds: u64,
    pub(crate) writers: Vec<Writers>,
    /// None if the API does not import.
    pub(crate) import: Option<Imported>,
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, seconds, writers, import } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(&machine.title(), &format!("  the API: writers who make links one by one, {seconds} s each"));
    section("Links made one by one", &writes(writers));
    let imported = import.as_ref().map_or_else(|| "  not there: the API does not import".to_owned(), imported);
    section("Links imported", &imported);
    if machine.was_busy() {
        section("This machine was not idle:", "  compare the ratios, not the numbers.");
    }
    out
}

fn writes(writers: &[Writers]) -> String {
    let header = [
        "writers",
        "links/s",
        "failed",
        "straight to Kafka/s",
        "of that",
        "p50 ms",
        "p99 ms",
        "CPU µs a link",
        "Kafka's µs",
    ];
    let rows = writers.iter().map(|seen| {
        vec![
            seen.writers.to_string(),
            format!("{:.0}", seen.writes_per_s),
            seen.failed.to_string(),
            format!("{:.0}", seen.limit_per_s),
            format!("{:.0} %", 100.0 * seen.writes_per_s / seen.limit_per_s),
            format!("{:.1}", seen.latency.p50_ms),
            format!("{:.1}", seen.latency.p99_ms),
            format!("{:.0}", seen.cpu_us_per_write),
            format!("{:.0}", seen.kafka_us_per_write),
        ]
    });
    table(&header, rows)
}

fn imported(import: &Imported) -> String {
    let row = vec![
        import.lines.to_string(),
        format!("{:.0}", import.lines_per_s),
        format!("{:.0}", import.limit_per_s),
        format!("{:.0} %", 100.0 * import.lines_per_s / import.limit_per_s),
        format!("{:.1}", import.cpu_us_per_line),
    ];
    table(&["lines", "lines/s", "straight to Kafka/s", "of that", "CPU µs a line"], [row])
}
