//! `bench outage rolling`: three processes of every role, all of which are restarted one
//! after another, as an upgrade does.

use std::time::Duration;

use super::{
    rig::{ONE_OF_EACH, Rig, RigRole, RigSize},
    steps::{LoadReport, StepKind, SteppedLoad},
    steps_report::worst,
};
use crate::{goal::Goal, receiver::Receiver};

pub(super) const THREE_OF_EACH: RigSize = RigSize { at_start: 3, at_most: 3, ..ONE_OF_EACH };

/// The options of `bench outage rolling`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RollingArgs {
    /// Clicks a second
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
}

/// Restarts every process, and lets `between` pass after each.
pub(super) async fn run(
    rate: u32,
    between: Duration,
    rig: &mut Rig,
    receiver: &Receiver,
) -> anyhow::Result<LoadReport> {
    let mut load = SteppedLoad::start(rig, rate);
    load.step("before", StepKind::Settled);
    load.pass(rig, 2 * between).await?;
    for RigRole { name, .. } in THREE_OF_EACH.roles {
        for (number, member) in (1..).zip(rig.members_of(name)) {
            load.step(format!("{name} {number} restarts"), StepKind::Settled);
            rig.restart(member).await?;
            load.pass(rig, between).await?;
        }
    }
    load.step("after", StepKind::Settled);
    load.pass(rig, 2 * between).await?;
    load.finish("Every process restarted, one after another", rig, receiver).await
}

/// The goals beyond exactness.
pub(super) fn goals(load: &LoadReport) -> Vec<Goal> {
    let p99 = worst(load, &[StepKind::Settled], |step| step.webhook.p99_ms);
    vec![Goal::at_most("p99 of click → webhook, the worst step", p99, 500.0, "ms")]
}
