//! `bench outage`: redirects under a steady load while Kafka is frozen, or killed,
//! or killed and the redirector with it; and what else may be away. Afterwards every
//! click that was answered must be in ClickHouse, once.

mod brokers;
mod copies;
mod disk;
mod dispatchers;
mod full_spool;
mod plan;
mod proof;
mod report;
mod rig;
mod rolling;
mod scaling;
mod steps;
mod steps_report;
mod trial;

use anyhow::Context;
use serde::Serialize;
use service::Shutdown;

use self::{
    brokers::{BrokersArgs, BrokersPlan},
    copies::CopiesReport,
    dispatchers::DispatchersArgs,
    full_spool::{FullSpoolArgs, FullSpoolReport},
    plan::Plan,
    report::Report,
    rig::{ONE_OF_EACH, Rig, RigSize},
    rolling::RollingArgs,
    scaling::ScalingArgs,
    steps_report::StepsReport,
    trial::{Outage, Trial},
};
use crate::{
    context::{BenchContext, say},
    machine::Machine,
    receiver::Receiver,
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
  bench outage full-spool             until neither the disk nor memory takes clicks, and a minute longer
  bench outage brokers                each of three brokers killed and frozen, twice round: 12 minutes
  bench outage rolling                every process of every role restarted
  bench outage scaling                every role from one process to several and back, on a cluster
  bench outage dispatchers            two dispatchers beside sick endpoints, killed 30 times: five minutes
  bench outage copies                 bundles that come again, 2 GB of clicks behind their first copies",
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
    /// Each of three brokers in turn, killed and frozen; then one of three where there is one replica
    Brokers(BrokersArgs),
    /// Each of three processes of every role in turn, restarted in order
    Rolling(RollingArgs),
    /// Every role from one process to several and back, with the arguments of the pods, on three brokers with TLS
    Scaling(ScalingArgs),
    /// Two dispatchers beside endpoints that are ill, restarted in order and killed; then every webhook is accounted for
    Dispatchers(DispatchersArgs),
    /// A redirector for hours: it produces again what Kafka may have, and the enricher tells second copies
    Copies,
}

/// The report of a mode.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum OutageReport {
    Rounds(Report),
    FullSpool(FullSpoolReport),
    Steps(StepsReport),
    Copies(CopiesReport),
}

/// Writes the report as tables.
pub(crate) fn text(report: &OutageReport) -> String {
    match report {
        OutageReport::Rounds(report) => report::text(report),
        OutageReport::FullSpool(report) => full_spool::text(report),
        OutageReport::Steps(report) => steps_report::text(report),
        OutageReport::Copies(report) => copies::text(report),
    }
}

/// Runs what was asked for, or stops everything when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<OutageReport> {
    Ok(match &args.mode {
        None => OutageReport::Rounds(run_rounds(args, common, shutdown).await?),
        Some(OutageMode::FullSpool(args)) => OutageReport::FullSpool(full_spool::run(args, common, shutdown).await?),
        Some(OutageMode::Brokers(args)) => OutageReport::Steps(without_a_broker(args, common, shutdown).await?),
        Some(OutageMode::Rolling(args)) => OutageReport::Steps(rolling_restart(args, common, shutdown).await?),
        Some(OutageMode::Scaling(args)) => OutageReport::Steps(scaled(args, common, shutdown).await?),
        Some(OutageMode::Dispatchers(args)) => OutageReport::Steps(killed_dispatchers(args, common, shutdown).await?),
        Some(OutageMode::Copies) => tokio::select! {
            report = copies::run(common) => OutageReport::Copies(report?),
            () = shutdown.wait() => anyhow::bail!("interrupted"),
        },
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
    let work = async |rig: &mut Rig| {
        let (trials, rows) = rounds(plan, rig).await?;
        Ok((trials, rows, rig.restarts.clone()))
    };
    let (trials, rows, restarts) = on_a_rig(ONE_OF_EACH, &[], common, shutdown, work).await?;
    Ok(Report::new(machine, plan, trials, rows, restarts))
}

async fn without_a_broker(
    args: &BrokersArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<StepsReport> {
    let plan = BrokersPlan {
        rounds: args.rounds.unwrap_or(if common.quick { 1 } else { 2 }),
        rate: args.rate,
        away: common.seconds(args.away_s, 15, 3),
        away_alone: common.seconds(None, 120, 10),
    };
    let machine = Machine::look();
    let receiver = Receiver::start()?;
    let (in_turn, mut restarts) = on_a_rig(brokers::IN_TURN, &[], common, shutdown, async |rig| {
        rig.add_endpoint(&receiver).await?;
        Ok((brokers::in_turn(plan, rig, &receiver).await?, rig.restarts.clone()))
    })
    .await?;
    // Markers begin anew.
    let receiver = Receiver::start()?;
    let (one_replica, more) = on_a_rig(brokers::ONE_REPLICA, &[], common, shutdown, async |rig| {
        rig.add_endpoint(&receiver).await?;
        Ok((brokers::one_replica(plan, rig, &receiver).await?, rig.restarts.clone()))
    })
    .await?;
    for (name, times) in more {
        *restarts.entry(name).or_default() += times;
    }
    let goals = brokers::goals(&in_turn, &one_replica);
    Ok(StepsReport::new(machine, plan.rate, vec![in_turn, one_replica], restarts, goals))
}

async fn rolling_restart(
    args: &RollingArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<StepsReport> {
    let rate = args.rate;
    let between = common.seconds(None, 5, 2);
    let machine = Machine::look();
    let receiver = Receiver::start()?;
    let (load, restarts) = on_a_rig(rolling::THREE_OF_EACH, &[], common, shutdown, async |rig| {
        rig.add_endpoint(&receiver).await?;
        Ok((rolling::run(rate, between, rig, &receiver).await?, rig.restarts.clone()))
    })
    .await?;
    let goals = rolling::goals(&load);
    Ok(StepsReport::new(machine, rate, vec![load], restarts, goals))
}

async fn scaled(args: &ScalingArgs, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<StepsReport> {
    let rate = args.rate;
    let (between, during) = (common.seconds(None, 5, 2), common.seconds(None, 15, 4));
    let machine = Machine::look();
    let receiver = Receiver::start()?;
    let ((load, sustained), restarts) = on_a_rig(scaling::CLUSTER, &[], common, shutdown, async |rig| {
        rig.add_endpoint(&receiver).await?;
        let load = scaling::run(rate, between, rig, &receiver).await?;
        let sustained = scaling::sustained(during, rig, &receiver).await?;
        Ok(((load, sustained), rig.restarts.clone()))
    })
    .await?;
    let goals = scaling::goals(&load);
    Ok(StepsReport::new(machine, rate, vec![load], restarts, goals).with_sustained(sustained))
}

async fn killed_dispatchers(
    args: &DispatchersArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<StepsReport> {
    let kills = args.kills.unwrap_or(if common.quick { 6 } else { 30 });
    let between = common.seconds(None, 4, 2);
    let machine = Machine::look();
    let receiver = Receiver::start()?;
    let settings = dispatchers::SETTINGS.map(|(name, value)| (name, value.to_owned()));
    let (run, restarts) = on_a_rig(dispatchers::TWO_OF_EACH, &settings, common, shutdown, async |rig| {
        rig.add_endpoint(&receiver).await?;
        Ok((dispatchers::run(args, kills, between, rig, &receiver).await?, rig.restarts.clone()))
    })
    .await?;
    let goals = dispatchers::goals(&run);
    Ok(StepsReport::new(machine, args.rate, vec![run.load], restarts, goals))
}

/// Does `work` on an installation that is started for it and stopped afterwards. `settings`
/// are those beyond the usual ones.
async fn on_a_rig<T>(
    size: RigSize,
    settings: &[(&'static str, String)],
    common: &BenchContext,
    shutdown: &Shutdown,
    work: impl AsyncFnOnce(&mut Rig) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka, ClickHouse and the roles");
    let mut rig = tokio::select! {
        rig = Rig::start(&common.binary, dir.path(), size, settings) => rig?,
        () = shutdown.wait() => anyhow::bail!("interrupted"),
    };
    let done = tokio::select! {
        done = work(&mut rig) => done,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    if done.is_err() {
        rig.last_words();
    }
    rig.shutdown().await;
    done
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
