//! `bench outage dispatchers`: two dispatchers under a load for a healthy endpoint and for
//! endpoints that are ill. They are restarted in order, and killed again and again, and then
//! each webhook must be accounted for (`clickhook audit`).

use std::time::Duration;

use anyhow::bail;
use tokio::time::sleep;

use super::{
    rig::{ONE_OF_EACH, Rig, RigSize},
    steps::{LoadReport, StepKind, SteppedLoad},
};
use crate::{context::say, goal::Goal, receiver::Receiver, sick::SickEndpoints};

pub(super) const TWO_OF_EACH: RigSize = RigSize { at_start: 2, at_most: 2, ..ONE_OF_EACH };
/// Retries come 20 times as early, so that a run has many of them.
pub(super) const SETTINGS: [(&str, &str); 1] = [("CLICKHOOK_WEBHOOK_RETRY_SPEEDUP", "20")];
/// How long a dispatcher that was killed is away.
const AWAY: Duration = Duration::from_millis(500);
/// The kills after which the dispatchers are restarted in order, and the audit is asked.
const ROUND: u16 = 5;
/// The share of webhooks that may come again where dispatchers are restarted in order, in
/// percent.
const AGAIN_PERCENT: f64 = 1.0;

/// The options of `bench outage dispatchers`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DispatchersArgs {
    /// kill -9 of a dispatcher, so often [default: 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) kills: Option<u16>,
    /// Clicks a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
}

/// The outcome of restarts and kills.
pub(super) struct DispatchersRun {
    pub(super) load: LoadReport,
    /// The audits that did not balance.
    unbalanced: usize,
}

/// Restarts and kills the dispatchers. `between` passes before each.
pub(super) async fn run(
    args: &DispatchersArgs,
    kills: u16,
    between: Duration,
    rig: &mut Rig,
    receiver: &Receiver,
) -> anyhow::Result<DispatchersRun> {
    let sick = SickEndpoints::start()?;
    for address in [sick.hanging, sick.refusing, sick.slow] {
        rig.add_endpoint_at(&format!("http://{address}/")).await?;
    }
    let dispatchers = rig.members_of("dispatcher");
    let [first, second] = dispatchers[..] else { bail!("there are not two dispatchers") };
    let mut unbalanced = 0;
    let mut load = SteppedLoad::start(rig, args.rate);
    load.step("before", StepKind::Settled);
    load.pass(rig, 2 * between).await?;
    for round in 0..kills.div_ceil(ROUND) {
        load.step("restarted in order", StepKind::Restart);
        for member in [first, second] {
            rig.restart(member).await?;
            load.pass(rig, between).await?;
        }
        load.step(format!("killed, round {}", round + 1), StepKind::Settled);
        for kill in round * ROUND..kills.min((round + 1) * ROUND) {
            let member = if kill % 2 == 0 { first } else { second };
            rig.kill(member).await?;
            sleep(AWAY).await;
            rig.start_again(member).await?;
            load.pass(rig, between).await?;
        }
        // Also while everything goes on.
        unbalanced += usize::from(!audit(rig).await?);
    }
    load.step("after", StepKind::Settled);
    load.pass(rig, 2 * between).await?;
    let load =
        load.finish("Two dispatchers, restarted and killed beside endpoints that are ill", rig, receiver).await?;
    unbalanced += usize::from(!audit(rig).await?);
    Ok(DispatchersRun { load, unbalanced })
}

async fn audit(rig: &Rig) -> anyhow::Result<bool> {
    let audit = rig.audit().await?;
    say(if audit.is_balanced { "the audit balances" } else { "THE AUDIT DOES NOT BALANCE" });
    if !audit.is_balanced {
        say(&audit.told);
    }
    Ok(audit.is_balanced)
}

/// The goals beyond exactness.
pub(super) fn goals(run: &DispatchersRun) -> Vec<Goal> {
    let restarts = run.load.steps.iter().filter(|step| step.kind == StepKind::Restart);
    let (answered, again) =
        restarts.fold((0, 0), |(answered, again), step| (answered + step.answered, again + step.webhooks_again));
    let share = 100.0 * again as f64 / answered.max(1) as f64;
    vec![
        Goal::at_most("audits that do not balance", run.unbalanced as f64, 0.0, ""),
        Goal::at_most("webhooks that come again around restarts in order", share, AGAIN_PERCENT, "%"),
    ]
}
