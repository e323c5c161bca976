//! `bench outage full-spool`: Kafka is away until neither the disk nor memory takes
//! clicks, and for a while longer. Every redirect must be one click in ClickHouse
//! afterwards, and every other visit a 503; or, where the redirector redirects all the
//! same, as many clicks must be missing as it counts.

use std::{
    collections::BTreeSet,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde::Serialize;
use service::Shutdown;
use tokio::task::spawn_blocking;

use super::{
    proof::{self, Proof},
    rig::{ONE_OF_EACH, Rig},
};
use crate::{
    context::{BenchContext, say},
    goal::{self, Goal},
    load::{self, Clicks, LoadEnd, Redirectors, Target, Why},
    machine::Machine,
    summary::Latency,
    table::table,
};

/// The longest time until neither the disk nor memory takes clicks.
const FILLING: Duration = Duration::from_secs(1200);
/// The interval at which the redirector's metrics are read.
const LOOK: Duration = Duration::from_millis(500);
/// The time for which the load goes on once Kafka is back.
const AFTER: Duration = Duration::from_secs(20);

/// The options of `bench outage full-spool`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FullSpoolArgs {
    /// The size of the spool, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    spool_mib: u64,
    /// Clicks a second
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Seconds for which Kafka stays away once nothing takes clicks [default: 60]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    beyond_s: Option<u64>,
    /// The answer to clicks that nothing takes: refuse or redirect
    #[arg(long, value_name = "ANSWER", default_value = "refuse", value_parser = ["refuse", "redirect"])]
    when_full: String,
}

/// The moments of the outage, in seconds since its beginning, and the sizes at them.
#[derive(Debug, Serialize)]
struct Filling {
    /// When the spool took no more clicks.
    spool_full_after_s: f64,
    /// Clicks that were on disk then, and their bytes.
    spooled_clicks: f64,
    spooled_bytes: f64,
    /// The size of the spool's file then.
    file_bytes: u64,
    /// When memory took no more clicks either.
    memory_full_after_s: f64,
    /// When Kafka came back.
    over_after_s: f64,
}

/// The outcome of the run.
#[derive(Debug, Serialize)]
pub(crate) struct FullSpoolReport {
    machine: Machine,
    spool_mib: u64,
    rate_per_s: u32,
    when_full: String,
    filling: Filling,
    /// Visits that were redirected.
    redirected: usize,
    /// Visits that were answered with 503.
    refused: usize,
    /// Visits that failed otherwise.
    failed: usize,
    /// The redirector's own count of clicks that it redirected and lost.
    counted_as_lost: f64,
    /// The latency of redirects while Kafka was away.
    outage_latency: Latency,
    proof: Proof,
    goals: Vec<Goal>,
}

/// Runs the bench, or stops everything when told to.
pub(crate) async fn run(
    args: &FullSpoolArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<FullSpoolReport> {
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka, ClickHouse and the roles");
    let settings = [
        ("CLICKHOOK_INGEST_SPOOL_MAX_BYTES", (args.spool_mib << 20).to_string()),
        ("CLICKHOOK_INGEST_WHEN_FULL", args.when_full.clone()),
    ];
    let mut rig = tokio::select! {
        rig = Rig::start(&common.binary, dir.path(), ONE_OF_EACH, &settings) => rig?,
        () = shutdown.wait() => anyhow::bail!("interrupted"),
    };
    let done = tokio::select! {
        done = outage(args, common, machine, &mut rig) => done,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    if done.is_err() {
        rig.last_words();
    }
    rig.shutdown().await;
    done
}

async fn outage(
    args: &FullSpoolArgs,
    common: &BenchContext,
    machine: Machine,
    rig: &mut Rig,
) -> anyhow::Result<FullSpoolReport> {
    let target = Target { redirectors: Redirectors::clone(&rig.redirectors), slug: rig.slug, first_marker: 1 };
    let stop = Arc::new(AtomicBool::new(false));
    let (rate, end) = (args.rate, LoadEnd::Told(Arc::clone(&stop)));
    let load = spawn_blocking(move || load::open(&target, rate, end));
    rig.pass(common.seconds(None, 5, 3)).await?;
    rig.signal_kafka(Signal::STOP)?;
    let begun = Instant::now();
    let filled = fill(common.seconds(args.beyond_s, 60, 5), begun, rig).await;
    let over = Instant::now();
    rig.signal_kafka(Signal::CONT)?;
    let filled = match filled {
        Ok(filling) => rig.pass(AFTER).await.map(|()| filling),
        Err(error) => Err(error),
    };
    stop.store(true, Ordering::Relaxed);
    let clicks = load.await?.context("the load")?;
    let filling = filled?;

    let answered: BTreeSet<u32> = clicks.answered.iter().map(|click| click.marker).collect();
    let sent = u32::try_from(clicks.answered.len() + clicks.failures.len()).context("count clicks")?;
    let counted_as_lost = rig.ingest("clickhook_ingest_lost_clicks_total").await.unwrap_or_default();
    say("waiting until every redirect is in ClickHouse");
    let (proof, _) = proof::of(rig, &answered, 1..sent + 2, counted_as_lost as usize).await?;
    let refused = clicks.failures.iter().filter(|failure| failure.why == Why::Status(503)).count();
    let failed = clicks.failures.len() - refused;
    let goals = goals(&proof, failed, counted_as_lost);
    Ok(FullSpoolReport {
        machine,
        spool_mib: args.spool_mib,
        rate_per_s: args.rate,
        when_full: args.when_full.clone(),
        filling,
        redirected: clicks.answered.len(),
        refused,
        failed,
        counted_as_lost,
        outage_latency: latency(&clicks, begun, over),
        proof,
        goals,
    })
}

/// Waits until neither the disk nor memory takes clicks, and then for `beyond`.
async fn fill(beyond: Duration, begun: Instant, rig: &mut Rig) -> anyhow::Result<Filling> {
    until(rig, "the spool is full", async |rig| rig.ingest("clickhook_ingest_spool_full").await == Some(1.0)).await?;
    let spool_full_after_s = begun.elapsed().as_secs_f64();
    say(&format!("the spool was full after {spool_full_after_s:.0} s"));
    let spooled_clicks = rig.ingest("clickhook_ingest_spooled_clicks_total").await.unwrap_or_default();
    let spooled_bytes = rig.ingest("clickhook_ingest_spool_bytes").await.unwrap_or_default();
    let file_bytes = std::fs::metadata(rig.spool()).context("look at the spool's file")?.len();
    until(rig, "memory is full", async |rig| {
        let refused = rig.ingest("clickhook_ingest_refused_clicks_total").await.unwrap_or_default();
        let lost = rig.ingest("clickhook_ingest_lost_clicks_total").await.unwrap_or_default();
        refused + lost > 0.0
    })
    .await?;
    let memory_full_after_s = begun.elapsed().as_secs_f64();
    say(&format!("memory was full after {memory_full_after_s:.0} s"));
    rig.pass(beyond).await?;
    Ok(Filling {
        spool_full_after_s,
        spooled_clicks,
        spooled_bytes,
        file_bytes,
        memory_full_after_s,
        over_after_s: begun.elapsed().as_secs_f64(),
    })
}

async fn until(rig: &mut Rig, what: &str, mut condition: impl AsyncFnMut(&Rig) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + FILLING;
    while !condition(rig).await {
        if Instant::now() > deadline {
            bail!("gave up after {} s waiting until {what}", FILLING.as_secs());
        }
        rig.pass(LOOK).await?;
    }
    Ok(())
}

fn latency(clicks: &Clicks, begun: Instant, over: Instant) -> Latency {
    let outage = clicks.answered.iter().filter(|click| (begun..over).contains(&click.due));
    Latency::of(outage.map(|click| click.latency).collect())
}

fn goals(proof: &Proof, failed: usize, counted_as_lost: f64) -> Vec<Goal> {
    let uncounted = (proof.lost as f64 - counted_as_lost).abs();
    vec![
        Goal::at_most("redirected clicks that are not in ClickHouse, and not counted as lost", uncounted, 0.0, ""),
        Goal::at_most("clicks that are there twice", proof.doubled as f64, 0.0, ""),
        Goal::at_most("clicks that are there and were answered with 503", proof.unanswered as f64, 0.0, ""),
        Goal::at_most("visits that were answered with neither a redirect nor 503", failed as f64, 0.0, ""),
    ]
}

/// Writes the report as tables.
pub(crate) fn text(report: &FullSpoolReport) -> String {
    let FullSpoolReport { machine, spool_mib, rate_per_s, when_full, filling, outage_latency: latency, .. } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(
        &machine.title(),
        &format!("  a spool of {spool_mib} MiB, {rate_per_s} clicks/s, Kafka frozen, when_full = \"{when_full}\""),
    );
    let seconds = |seconds: f64| format!("{seconds:.0} s");
    let rows = [
        ("the spool was full after", seconds(filling.spool_full_after_s)),
        ("memory was full after", seconds(filling.memory_full_after_s)),
        ("Kafka came back after", seconds(filling.over_after_s)),
        ("bytes a click on disk", format!("{:.0}", filling.spooled_bytes / filling.spooled_clicks)),
        ("bytes of the file for each of them", format!("{:.2}", filling.file_bytes as f64 / filling.spooled_bytes)),
    ];
    section("The outage", &table(&["", ""], rows.map(|(what, value)| vec![what.to_owned(), value])));
    let row = vec![
        report.redirected.to_string(),
        report.refused.to_string(),
        report.failed.to_string(),
        format!("{:.0}", report.counted_as_lost),
        report.proof.lost.to_string(),
        report.proof.doubled.to_string(),
        report.proof.unanswered.to_string(),
        format!("{:.1}", latency.p50_ms),
        format!("{:.1}", latency.p99_ms),
        format!("{:.1}", latency.max_ms),
    ];
    let header = [
        "redirected",
        "503",
        "failed",
        "counted as lost",
        "lost",
        "doubled",
        "503 and there",
        "p50 ms of redirects",
        "p99",
        "max",
    ];
    section("Visits, and what became of their clicks", &table(&header, [row]));
    section("Goals", &goal::table_of(&report.goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  latencies are worse than it can do.");
    }
    out
}
