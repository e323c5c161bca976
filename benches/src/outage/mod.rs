//! `bench outage`: redirects under a steady load while Kafka is frozen, or killed,
//! or killed and the redirector with it; and whether every click that was answered
//! is in ClickHouse afterwards, once.

mod disk;
mod full_spool;
mod plan;
mod proof;
mod report;
mod rig;
mod trial;

use anyhow::Context;
use serde::Serialize;
use service::Shutdown;

use self::{
    full_spool::{FullSpoolArgs, FullSpoolReport},
    plan::Plan,
    report::Report,
    rig::Rig,
    trial::{Outage, Trial},
};
use crate::{
    context::{BenchContext, say},
    machine::Machine,
};

/// The options of `bench outage`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "\
Examples:
  bench outage                        ten rounds of three outages of a minute: three quarters of an hour
  bench outage --rounds 1             one round
  bench outage --quick                one round, outages of a few seconds
  bench outage --rounds 3 --rate 2000 --outage-s 120
  bench outage full-spool             until neither the disk nor memory takes clicks, and a minute longer",
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    mode: Option<OutageMode>,
    /// Rounds, each of three outages: frozen, killed, killed together with the redirector [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Seconds without Kafka [default: 60]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    outage_s: Option<u64>,
    /// Clicks a second.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

/// Another outage than the rounds.
#[derive(Clone, Debug, clap::Subcommand)]
enum OutageMode {
    /// Kafka away until neither the disk nor memory takes clicks: which are refused, and whether all others are there
    FullSpool(FullSpoolArgs),
}

/// The report of a mode.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum OutageReport {
    Rounds(Report),
    FullSpool(FullSpoolReport),
}

/// Writes the report as tables.
pub(crate) fn text(report: &OutageReport) -> String {
    match report {
        OutageReport::Rounds(report) => report::text(report),
        OutageReport::FullSpool(report) => full_spool::text(report),
    }
}

/// Runs what was asked for, or stops everything when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<OutageReport> {
    Ok(match &args.mode {
        None => OutageReport::Rounds(run_rounds(args, common, shutdown).await?),
        Some(OutageMode::FullSpool(args)) => OutageReport::FullSpool(full_spool::run(args, common, shutdown).await?),
    })
}

async fn run_rounds(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let plan = Plan {
        rounds: args.rounds.unwrap_or(if common.quick { 1 } else { 10 }),
        outage: common.seconds(args.outage_s, 60, 5),
        rate: args.rate,
        before: common.seconds(None, 5, 3),
        after: common.seconds(None, 15, 8),
    };
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka, ClickHouse and the roles");
    let mut rig = tokio::select! {
        rig = Rig::start(&common.binary, dir.path(), &[]) => rig?,
        () = shutdown.wait() => anyhow::bail!("interrupted"),
    };
    let done = tokio::select! {
        done = rounds(plan, &mut rig) => done,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    if done.is_err() {
        rig.last_words();
    }
    let restarts = rig.restarts.clone();
    rig.shutdown().await;
    let (trials, rows) = done?;
    Ok(Report::new(machine, plan, trials, rows, restarts))
}

async fn rounds(plan: Plan, rig: &mut Rig) -> anyhow::Result<(Vec<Trial>, proof::Rows)> {
    let mut trials = Vec::new();
    let mut marker = 1;
    for round in 1..=plan.rounds {
        for outage in [Outage::Frozen, Outage::Killed, Outage::BothKilled] {
            say(&format!("round {round} of {}: {}, {} s", plan.rounds, outage.what(), plan.outage.as_secs()));
            let trial = trial::run(plan, rig, round, outage, marker).await?;
            say(&format!(
                "{} redirects, {} failed; {} lost, {} doubled",
                trial.answered, trial.failed, trial.proof.lost, trial.proof.doubled
            ));
            marker = trial.next_marker;
            trials.push(trial);
        }
    }
    // Whatever came late in a round is seen here.
    let rows = proof::rows(rig).await?;
    Ok((trials, rows))
}
