//! `bench pipeline`: clicks at a steady rate through the whole pipeline, then as
//! many as it takes, and beside them, in the same run, the limits of the machine.

mod idle;
mod limits;
mod phase;
mod plan;
mod report;
mod running;

use std::sync::Arc;

use anyhow::{Context, bail};
use service::Shutdown;

pub(crate) use self::report::{Report, text};
use self::{limits::Limits, phase::Phases, plan::Plan, report::Settings, running::Pipeline};
use crate::{
    context::{BenchContext, say},
    load::{self, LoadEnd},
    machine::Machine,
    null_hop,
    process::Who,
};

/// The options of `bench pipeline`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Clicks a second of the steady load; they come at random moments.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// Seconds of the steady load [default: 30]
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Seconds of load before anything is measured [default: 10]
    #[arg(long, value_name = "S")]
    warm_up: Option<u64>,
    /// Seconds of each load that brings the machine to its limit [default: 10]
    #[arg(long, value_name = "S")]
    saturate: Option<u64>,
    /// Visitors of those loads: each has a connection and follows the link again
    /// as soon as it was answered.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Clicks that may be without their webhook in the sustained load.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    under_way: u32,
    /// Seconds of each of the machine's limits [default: 5]
    #[arg(long, value_name = "S")]
    limit_seconds: Option<u64>,
    /// Seconds for which `clickhook up` is watched doing nothing; 0 leaves it out [default: 20]
    #[arg(long, value_name = "S")]
    idle: Option<u64>,
}

impl Args {
    fn plan(&self, common: &BenchContext) -> Plan {
        let seconds = |given, full, short| common.seconds(given, full, short);
        Plan {
            rate: self.rate,
            steady: seconds(self.seconds, 30, 5),
            warm_up: seconds(self.warm_up, 10, 2),
            saturate: seconds(self.saturate, 10, 3),
            connections: self.connections,
            under_way: self.under_way,
            limit: seconds(self.limit_seconds, 5, 2),
            settle: seconds(None, 15, 4),
            idle: seconds(self.idle, 20, 5),
            binary: common.binary.clone(),
        }
    }
}

/// Measures the pipeline, or stops everything when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let plan = &args.plan(common);
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka, ClickHouse and the roles");
    let mut pipeline = tokio::select! {
        pipeline = Pipeline::start(&plan.binary, dir.path()) => pipeline?,
        () = shutdown.wait() => bail!("interrupted"),
    };
    let measured = tokio::select! {
        measured = pipeline_and_limits(plan, &mut pipeline) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    pipeline.shutdown().await;
    let (phases, limits) = measured?;
    let idle = if plan.idle.is_zero() {
        None
    } else {
        tokio::select! {
            idle = watch_idle(plan, dir.path()) => Some(idle?),
            () = shutdown.wait() => bail!("interrupted"),
        }
    };
    Ok(Report { machine, settings: Settings::of(plan), phases, limits, idle })
}

async fn pipeline_and_limits(plan: &Plan, pipeline: &mut Pipeline) -> anyhow::Result<(Vec<phase::Phase>, Limits)> {
    let (rate, connections, saturate) = (plan.rate, plan.connections, plan.saturate);
    let mut phases = Phases::new(pipeline);
    say(&format!("warming up: {rate} clicks/s for {} s", plan.warm_up.as_secs()));
    let during = plan.warm_up;
    phases.run("warm-up", move |target| load::open(target, rate, LoadEnd::After(during))).await?;

    say(&format!("steady: {rate} clicks/s for {} s", plan.steady.as_secs()));
    let during = plan.steady;
    let steady = phases.run("steady", move |target| load::open(target, rate, LoadEnd::After(during))).await?;

    say(&format!("sustained: as many clicks as get their webhooks, for {} s", saturate.as_secs()));
    let limit = Some((plan.under_way, Arc::clone(&phases.pipeline.receiver.arrivals)));
    let sustained = phases.run("sustained", move |target| load::closed(target, connections, saturate, limit)).await?;

    say(&format!("burst: as many clicks as are answered, for {} s, and until all is caught up", saturate.as_secs()));
    let burst = phases.run("burst", move |target| load::closed(target, connections, saturate, None)).await?;

    say("limits: a bare server, and records through Kafka in transactions");
    pipeline.stop_roles().await;
    let (bare_steady, bare) = limits::bare(plan).await?;
    let processes = pipeline.processes();
    let kafka: Option<Who> = processes.iter().find(|(name, _)| *name == "Kafka").map(|(_, who)| *who);
    let null_hop = null_hop::measure(pipeline.brokers(), kafka, plan.limit).await?;
    Ok((vec![steady, sustained, burst], Limits { bare_steady, bare, null_hop }))
}

async fn watch_idle(plan: &Plan, dir: &std::path::Path) -> anyhow::Result<idle::Idle> {
    say(&format!("idle: `clickhook up`, started twice, watched for {} s", plan.idle.as_secs()));
    idle::watch(plan, dir).await
}
