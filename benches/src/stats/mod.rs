//! `bench stats`: how long the calls of the statistics take, and what ClickHouse reads for them,
//! over ten thousand links of which some are clicked much more often than others.

mod calls;
mod fill;

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;
use service::Shutdown;
use store::Store;

use self::calls::{Call, CallGroup};
use crate::{
    clickhouse::ClickHouse,
    context::{BenchContext, say},
    goal::{self, Goal},
    machine::Machine,
    process,
    summary::Latency,
    table::table,
};

/// The options of `bench stats`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench stats                        a million rows, in a minute
  bench stats --rows 100000000       what large installations have; needs 25 GB of disk")]
pub(crate) struct StatsBenchArgs {
    /// Rows of the table of clicks [default: 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10_000..=1_000_000_000))]
    rows: Option<u64>,
    /// How often each call is made [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(5..=10_000))]
    calls: Option<u32>,
}

/// A call that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct MeasuredCall {
    name: &'static str,
    group: CallGroup,
    latency: Latency,
    /// The rows that ClickHouse read for one call, those of roll-ups included.
    rows_read: u64,
    bytes_read: u64,
    /// CPU time of ClickHouse for one call.
    cpu_ms: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct StatsReport {
    machine: Machine,
    rows: u64,
    parts: u64,
    bytes_on_disk: u64,
    calls: Vec<MeasuredCall>,
    goals: Vec<Goal>,
}

/// Measures the calls, or stops when told to.
pub(crate) async fn run(
    args: &StatsBenchArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<StatsReport> {
    let machine = Machine::look();
    let rows = args.rows.unwrap_or(if common.quick { 100_000 } else { 1_000_000 });
    let repeats = args.calls.unwrap_or(if common.quick { 10 } else { 100 });
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting ClickHouse");
    let clickhouse = ClickHouse::start(&common.binary, dir.path()).await?;
    let measured = tokio::select! {
        measured = measure(&clickhouse, rows, repeats) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    clickhouse.shutdown().await;
    let (parts, bytes_on_disk, calls) = measured?;
    let goals = goals(&calls);
    Ok(StatsReport { machine, rows, parts, bytes_on_disk, calls, goals })
}

async fn measure(clickhouse: &ClickHouse, rows: u64, repeats: u32) -> anyhow::Result<(u64, u64, Vec<MeasuredCall>)> {
    let store = clickhouse.store().await?;
    say(&format!("filling the table with {rows} clicks of {} links", fill::LINKS));
    fill::fill(clickhouse, rows).await?;
    say("waiting until ClickHouse has merged them");
    // Parts have roll-ups from their first merge on, which comes in seconds where clicks come all the time.
    if let Err(error) = clickhouse.run("OPTIMIZE TABLE clicks FINAL").await {
        say(&format!("not all parts were merged, and some have no roll-ups: {error:#}"));
    }
    clickhouse.until_quiet().await?;
    let parts = "SELECT count() FROM system.parts WHERE database = 'clickhook' AND table = 'clicks' AND active";
    let parts = clickhouse.number(parts).await?;
    let bytes =
        "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = 'clickhook' AND table = 'clicks' AND active";
    let bytes = clickhouse.number(bytes).await?;
    let mut measured = Vec::new();
    for call in calls::all() {
        say(call.name);
        measured.push(measure_call(clickhouse, &store, &call, repeats).await.with_context(|| call.name)?);
    }
    Ok((parts, bytes, measured))
}

async fn measure_call(
    clickhouse: &ClickHouse,
    store: &Store,
    call: &Call,
    repeats: u32,
) -> anyhow::Result<MeasuredCall> {
    for _ in 0..3 {
        call.make(store).await?;
    }
    let (rows_before, bytes_before) = read_so_far(clickhouse).await?;
    let cpu_before = process::cpu_of(&[clickhouse.process()?])?;
    let mut latencies: Vec<Duration> = Vec::new();
    for _ in 0..repeats {
        let began = Instant::now();
        call.make(store).await?;
        latencies.push(began.elapsed());
    }
    let cpu = process::cpu_of(&[clickhouse.process()?])?.saturating_sub(cpu_before);
    let (rows, bytes) = read_so_far(clickhouse).await?;
    let each = |before: u64, after: u64| after.saturating_sub(before) / u64::from(repeats);
    Ok(MeasuredCall {
        name: call.name,
        group: call.group,
        latency: Latency::of(latencies),
        rows_read: each(rows_before, rows),
        bytes_read: each(bytes_before, bytes),
        cpu_ms: cpu.as_secs_f64() * 1000.0 / f64::from(repeats),
    })
}

/// Returns the rows and bytes that queries have read since ClickHouse started.
async fn read_so_far(clickhouse: &ClickHouse) -> anyhow::Result<(u64, u64)> {
    let event = |name: &str| format!("SELECT sum(value) FROM system.events WHERE event = '{name}'");
    Ok((clickhouse.number(event("SelectedRows")).await?, clickhouse.number(event("SelectedBytes")).await?))
}

fn goals(calls: &[MeasuredCall]) -> Vec<Goal> {
    let slowest = |group: CallGroup| {
        let medians = calls.iter().filter(|call| call.group == group).map(|call| call.latency.p50_ms);
        medians.fold(0.0, f64::max)
    };
    vec![
        Goal::at_most("median of the slowest count", slowest(CallGroup::Counts), 100.0, "ms"),
        Goal::at_most("median of the slowest series", slowest(CallGroup::Series), 150.0, "ms"),
        Goal::at_most("median of the slowest top list", slowest(CallGroup::Top), 300.0, "ms"),
        Goal::at_most("median of the slowest question of the watch", slowest(CallGroup::Watch), 150.0, "ms"),
    ]
}

/// The report as tables.
pub(crate) fn text(report: &StatsReport) -> String {
    let StatsReport { machine, rows, parts, bytes_on_disk, calls, goals } = report;
    let row = |call: &MeasuredCall| {
        vec![
            call.name.to_owned(),
            format!("{:.1}", call.latency.p50_ms),
            format!("{:.1}", call.latency.p99_ms),
            format!("{:.1}", call.cpu_ms),
            call.rows_read.to_string(),
            format!("{:.2}", call.bytes_read as f64 / 1e6),
        ]
    };
    let header = ["", "p50 ms", "p99 ms", "CPU ms", "rows read", "MB read"];
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "\n{}\n  {rows} clicks of {} links in {parts} parts, {:.0} bytes a click on disk\n\n{}\n\nGoals\n{}\n",
        machine.title(),
        fill::LINKS,
        *bytes_on_disk as f64 / *rows as f64,
        table(&header, calls.iter().map(row)),
        goal::table_of(goals)
    );
    out
}
