//! `bench outage scaling`: every role grows from one process to several and shrinks back, as
//! Kubernetes has it, with the arguments of the pods, on three brokers that are spoken to by
//! TLS with a login; and how much the installation takes with one, two and three of each.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    rig::{KafkaDoor, Rig, RigRole, RigSize, SCALED_ROLES},
    steps::{LoadReport, StepKind, SteppedLoad},
    steps_report::worst,
};
use crate::{
    goal::Goal,
    load::{self, Clicks, Redirectors, Target},
    receiver::Receiver,
    table::table,
};

pub(super) const CLUSTER: RigSize =
    RigSize { brokers: 3, replication: 3, roles: SCALED_ROLES, at_start: 1, at_most: 3, door: KafkaDoor::Login };
/// The most processes of the roles that need fewer than the others.
const FEW: u16 = 2;
/// The visitors who click again as soon as they were answered.
const VISITORS: u16 = 64;
/// How long brokers and roles that have just started have, until what they do is measured.
const WARM_UP: Duration = Duration::from_secs(15);
/// The marker of the first click beyond a load, far from those of the load.
const BEYOND: u32 = 1 << 20;

/// The options of `bench outage scaling`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ScalingArgs {
    /// Clicks a second
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
}

/// The clicks that an installation took with some processes of each role.
#[derive(Debug, Serialize)]
pub(crate) struct Sustained {
    processes: u16,
    seconds: f64,
    answered: usize,
    failed: usize,
    /// From the last click until all were delivered.
    caught_up_after_s: f64,
    /// Clicks a second, from the first click until the last was delivered.
    delivered_per_s: f64,
}

/// Returns how many processes of a role there are at the most.
fn most(role: RigRole) -> u16 {
    if matches!(role.name, "control" | "warehouse") { FEW } else { CLUSTER.at_most }
}

/// Grows and shrinks every role under a load, and lets `between` pass after each change.
pub(super) async fn run(
    rate: u32,
    between: Duration,
    rig: &mut Rig,
    receiver: &Receiver,
) -> anyhow::Result<LoadReport> {
    let mut load = SteppedLoad::start(rig, rate);
    load.step("warming up", StepKind::WarmUp);
    load.pass(rig, WARM_UP).await?;
    load.step("one of each role", StepKind::Settled);
    load.pass(rig, 2 * between).await?;
    for role in SCALED_ROLES {
        for number in 2..=most(*role) {
            load.step(format!("{} {number} starts", role.name), StepKind::Settled);
            rig.scale_out(*role).await?;
            load.pass(rig, between).await?;
        }
    }
    load.step("all of every role", StepKind::Settled);
    load.pass(rig, 2 * between).await?;
    for role in SCALED_ROLES {
        for number in (2..=most(*role)).rev() {
            load.step(format!("{} {number} stops", role.name), StepKind::Settled);
            rig.scale_in(*role).await?;
            load.pass(rig, between).await?;
        }
    }
    load.step("one of each role again", StepKind::Settled);
    load.pass(rig, 2 * between).await?;
    let report = load.finish("Every role grows and shrinks", rig, receiver).await?;
    // Exact, from Kafka's records and the tables.
    let audit = rig.audit().await?;
    anyhow::ensure!(audit.is_balanced, "the audit does not balance: {}", audit.told);
    Ok(report)
}

/// Measures how much is taken with one, two and three processes of each role.
pub(super) async fn sustained(during: Duration, rig: &mut Rig, receiver: &Receiver) -> anyhow::Result<Vec<Sustained>> {
    let mut seen = Vec::new();
    for processes in 1..=CLUSTER.at_most {
        for role in SCALED_ROLES {
            while rig.members_of(role.name).len() < usize::from(processes.min(most(*role))) {
                rig.scale_out(*role).await?;
            }
        }
        crate::context::say(&format!("as many clicks as {processes} of each role take"));
        let first_marker = BEYOND + u32::from(processes) * (1 << 18);
        let target = Target { redirectors: Redirectors::clone(&rig.redirectors), slug: rig.slug, first_marker };
        let clicks: Clicks =
            spawn_blocking(move || load::closed(&target, VISITORS, during, None)).await?.context("the load")?;
        let waited = std::time::Instant::now();
        let markers: Vec<u32> = clicks.answered.iter().map(|click| click.marker).collect();
        rig.until("all are delivered", async |_| {
            receiver.arrivals.of(markers.iter().copied()).iter().all(Option::is_some)
        })
        .await?;
        let (took, caught_up) = (clicks.took.as_secs_f64(), waited.elapsed().as_secs_f64());
        seen.push(Sustained {
            processes,
            seconds: took,
            answered: markers.len(),
            failed: clicks.failures.len(),
            caught_up_after_s: caught_up,
            delivered_per_s: markers.len() as f64 / (took + caught_up),
        });
    }
    Ok(seen)
}

/// The goals beyond exactness.
pub(super) fn goals(load: &LoadReport) -> Vec<Goal> {
    let p99 = worst(load, &[StepKind::Settled], |step| step.webhook.p99_ms);
    vec![Goal::at_most("p99 of click → webhook, the worst step", p99, 500.0, "ms")]
}

/// Writes what was sustained as a table.
pub(super) fn text(sustained: &[Sustained]) -> String {
    let rows = sustained.iter().map(|with| {
        vec![
            with.processes.to_string(),
            format!("{:.1}", with.seconds),
            with.answered.to_string(),
            with.failed.to_string(),
            format!("{:.0}", with.answered as f64 / with.seconds),
            format!("{:.1}", with.caught_up_after_s),
            format!("{:.0}", with.delivered_per_s),
        ]
    });
    table(&["of each role", "s", "clicks", "failed", "redirects/s", "delivered after s", "delivered/s"], rows)
}
