//! `bench warehouse`: a dispatcher's warehouse alone works off a backlog of clicks, and beside it, in
//! the same run, the limit: the bytes of the same rows inserted into a table of the same form by
//! nothing but HTTP.

mod backlog;

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::Bus;
use serde::Serialize;
use service::Shutdown;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    clickhouse::{ClickHouse, post},
    context::{BenchContext, say},
    goal::{self, Goal},
    kafka::Kafka,
    machine::Machine,
    process::{self, Who},
    role::Role,
    table::table,
};

/// The rows of a raw insert: as many as the warehouse puts into one.
const ROWS_AT_ONCE: u64 = 50_000;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// The options of `bench warehouse`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench warehouse                    a backlog of a million clicks
  bench warehouse --clicks 5000000")]
pub(crate) struct WarehouseArgs {
    /// Clicks in the backlog [default: 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    clicks: Option<u64>,
}

/// Rows that were inserted, and what that took.
#[derive(Debug, Serialize)]
pub(crate) struct InsertedRows {
    rows: u64,
    rows_per_s: f64,
    /// CPU time of ClickHouse until the last row was there.
    clickhouse_us_per_row: f64,
    /// CPU time of the client: the dispatcher, or this bench.
    client_us_per_row: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct WarehouseReport {
    machine: Machine,
    bytes_per_row: f64,
    warehouse: InsertedRows,
    raw: InsertedRows,
    goals: Vec<Goal>,
}

/// Measures the warehouse and the raw inserts, or stops everything when told to.
pub(crate) async fn run(
    args: &WarehouseArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<WarehouseReport> {
    let machine = Machine::look();
    let clicks = args.clicks.unwrap_or(if common.quick { 100_000 } else { 1_000_000 });
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka and ClickHouse");
    let kafka = Kafka::start(dir.path()).await?;
    let clickhouse = match ClickHouse::start(&common.binary, dir.path()).await {
        Ok(clickhouse) => clickhouse,
        Err(error) => {
            kafka.shutdown().await;
            return Err(error);
        }
    };
    let measured = tokio::select! {
        measured = measure(&common.binary, dir.path(), &kafka, &clickhouse, clicks) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    clickhouse.shutdown().await;
    kafka.shutdown().await;
    let (bytes_per_row, warehouse, raw) = measured?;
    let goals = goals(&warehouse, &raw);
    Ok(WarehouseReport { machine, bytes_per_row, warehouse, raw, goals })
}

async fn measure(
    binary: &Path,
    dir: &Path,
    kafka: &Kafka,
    clickhouse: &ClickHouse,
    clicks: u64,
) -> anyhow::Result<(f64, InsertedRows, InsertedRows)> {
    clickhouse.store().await?;
    let bus = kafka.bus("warehouse").await?;
    say(&format!("filling the backlog with {clicks} clicks"));
    let filling = bus.clone();
    spawn_blocking(move || backlog::fill(&filling, clicks)).await??;

    say("the warehouse works the backlog off");
    let args = ["dispatcher", "--only", "warehouse"];
    let mut role = Role::start(binary, dir, &settings(&bus, clickhouse), "warehouse", &args)?;
    let warehouse = work_off(&role, clickhouse, clicks).await;
    let warehouse = warehouse.with_context(|| role.last_words());
    if role.has_ended() {
        bail!("the warehouse ended: {}", role.last_words());
    }
    role.stop().await;
    clickhouse.until_quiet().await?;

    say("the same rows, inserted raw");
    let (bytes, raw) = insert_raw(clickhouse, clicks).await?;
    Ok((bytes as f64 / clicks as f64, warehouse?, raw))
}

fn settings(bus: &Bus, clickhouse: &ClickHouse) -> Vec<(&'static str, String)> {
    vec![
        ("CLICKHOOK_KAFKA_BROKERS", bus.config().brokers.clone()),
        ("CLICKHOOK_KAFKA_PREFIX", bus.config().prefix.clone()),
        ("CLICKHOOK_CLICKHOUSE_URL", clickhouse.url()),
    ]
}

/// Waits until all rows are there. The measurement begins with the first look that sees rows: the
/// start and the joining of the group are not the warehouse's work.
async fn work_off(role: &Role, clickhouse: &ClickHouse, clicks: u64) -> anyhow::Result<InsertedRows> {
    let ours = Who::Process(role.pid().context("the warehouse has ended")?);
    let cpu = || anyhow::Ok((process::cpu_of(&[clickhouse.process()?])?, process::cpu_of(&[ours])?));
    let deadline = Instant::now() + PATIENCE;
    let mut first = None;
    loop {
        let rows = clickhouse.number("SELECT count() FROM clicks").await?;
        let now = Instant::now();
        if rows > 0 && first.is_none() {
            first = Some((now, rows, cpu()?));
        }
        if rows >= clicks {
            let (begun, before, (theirs_before, ours_before)) = first.context("there was no first look")?;
            let done = rows - before;
            if done == 0 {
                bail!("the backlog of {clicks} clicks is too short to be measured: choose a longer one with --clicks");
            }
            let (theirs, ours) = cpu()?;
            let each = |used: Duration| used.as_secs_f64() * 1e6 / done as f64;
            return Ok(InsertedRows {
                rows: done,
                rows_per_s: done as f64 / (now - begun).as_secs_f64(),
                clickhouse_us_per_row: each(theirs.saturating_sub(theirs_before)),
                client_us_per_row: each(ours.saturating_sub(ours_before)),
            });
        }
        if now > deadline {
            bail!("only {rows} of {clicks} rows came within {} s", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Inserts the rows once more, into a table of the same form; returns how many bytes they have, too.
async fn insert_raw(clickhouse: &ClickHouse, clicks: u64) -> anyhow::Result<(u64, InsertedRows)> {
    clickhouse.run("CREATE TABLE clicks_raw AS clicks").await?;
    let url = format!("{}/?database=clickhook", clickhouse.url());
    let mut blocks = Vec::new();
    for first in (0..clicks).step_by(usize::try_from(ROWS_AT_ONCE)?) {
        let sql = format!(
            "SELECT * FROM clicks ORDER BY kafka_offset, kafka_partition LIMIT {ROWS_AT_ONCE} OFFSET {first} \
             SETTINGS max_block_size = {ROWS_AT_ONCE} FORMAT Native"
        );
        let url = url.clone();
        blocks.push(spawn_blocking(move || post(&url, sql.as_bytes())).await??);
    }
    let bytes = blocks.iter().map(|block| block.len() as u64).sum();
    clickhouse.until_quiet().await?;
    let theirs = process::cpu_of(&[clickhouse.process()?])?;
    let insert = format!("{url}&async_insert=0&query=INSERT%20INTO%20clicks_raw%20FORMAT%20Native");
    let (took, ours) = spawn_blocking(move || {
        let (began, cpu) = (Instant::now(), process::cpu_of_this_thread());
        for block in &blocks {
            post(&insert, block)?;
        }
        anyhow::Ok((began.elapsed(), process::cpu_of_this_thread().saturating_sub(cpu)))
    })
    .await??;
    let theirs = process::cpu_of(&[clickhouse.process()?])?.saturating_sub(theirs);
    let rows = clickhouse.number("SELECT count() FROM clicks_raw").await?;
    if rows != clicks {
        bail!("{rows} of {clicks} rows were inserted raw");
    }
    let each = |used: Duration| used.as_secs_f64() * 1e6 / clicks as f64;
    let raw = InsertedRows {
        rows,
        rows_per_s: rows as f64 / took.as_secs_f64(),
        clickhouse_us_per_row: each(theirs),
        client_us_per_row: each(ours),
    };
    Ok((bytes, raw))
}

fn goals(warehouse: &InsertedRows, raw: &InsertedRows) -> Vec<Goal> {
    vec![
        Goal::at_most("raw rows a second, to the warehouse's", raw.rows_per_s / warehouse.rows_per_s, 2.0, "times"),
        Goal::at_most(
            "ClickHouse's CPU, to that of raw inserts",
            warehouse.clickhouse_us_per_row / raw.clickhouse_us_per_row,
            1.5,
            "times",
        ),
        Goal::at_most("CPU of the warehouse", warehouse.client_us_per_row, 12.0, "µs a row"),
    ]
}

/// The report as tables.
pub(crate) fn text(report: &WarehouseReport) -> String {
    let WarehouseReport { machine, bytes_per_row, warehouse, raw, goals } = report;
    let row = |name: &str, inserted: &InsertedRows| {
        vec![
            name.to_owned(),
            inserted.rows.to_string(),
            format!("{:.0}", inserted.rows_per_s),
            format!("{:.2}", inserted.clickhouse_us_per_row),
            format!("{:.2}", inserted.client_us_per_row),
        ]
    };
    let header = ["", "rows", "a second", "ClickHouse's CPU µs each", "the client's CPU µs each"];
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "\n{}\n  a backlog of clicks of {bytes_per_row:.0} bytes a row (Native)\n\n{}\n\nGoals\n{}\n",
        machine.title(),
        table(&header, [row("raw HTTP", raw), row("warehouse", warehouse)]),
        goal::table_of(goals)
    );
    out
}
