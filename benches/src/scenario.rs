//! The scenario: what is measured, in which order.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use service::Shutdown;

use crate::{
    Plan, idle, limits,
    limits::Limits,
    load,
    machine::Machine,
    phase::Phases,
    pipeline::Pipeline,
    process::Who,
    report::{Report, Settings},
};

/// Measures everything, or stops everything when told to.
pub(crate) async fn run(plan: &Plan, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let machine = Machine::look();
    if machine.was_busy() {
        say(&format!(
            "this machine is busy (load average {:.2}): latencies and rates will be worse than it can do, and only ratios can be compared",
            machine.load_before
        ));
    }
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

async fn pipeline_and_limits(
    plan: &Plan,
    pipeline: &mut Pipeline,
) -> anyhow::Result<(Vec<crate::phase::Phase>, Limits)> {
    let (rate, connections, saturate) = (plan.rate, plan.connections, plan.saturate);
    let mut phases = Phases::new(pipeline);
    say(&format!("warming up: {rate} clicks/s for {} s", plan.warm_up.as_secs()));
    let during = plan.warm_up;
    phases.run("warm-up", move |target| load::open(target, rate, during)).await?;

    say(&format!("steady: {rate} clicks/s for {} s", plan.steady.as_secs()));
    let during = plan.steady;
    let steady = phases.run("steady", move |target| load::open(target, rate, during)).await?;

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
    let null_hop = limits::null_hop(pipeline.brokers(), kafka, plan.limit).await?;
    Ok((vec![steady, sustained, burst], Limits { bare_steady, bare, null_hop }))
}

async fn watch_idle(plan: &Plan, dir: &Path) -> anyhow::Result<idle::Idle> {
    say(&format!("idle: `clickhook up`, started twice, watched for {} s", plan.idle.as_secs()));
    idle::watch(plan, dir).await
}

/// What happens, for those who watch; the report alone goes to standard output.
fn say(what: &str) {
    eprintln!("bench: {what}");
}
