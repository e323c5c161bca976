//! `bench outage brokers`: three brokers with three replicas of everything, each killed
//! and frozen in turn; then one replica of everything, and one broker away.

use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use super::{
    rig::{ONE_OF_EACH, Rig, RigSize},
    steps::{LoadReport, StepKind, SteppedLoad},
    steps_report::worst,
};
use crate::{goal::Goal, receiver::Receiver};

pub(super) const IN_TURN: RigSize = RigSize { brokers: 3, replication: 3, ..ONE_OF_EACH };
pub(super) const ONE_REPLICA: RigSize = RigSize { brokers: 3, ..ONE_OF_EACH };
/// How long brokers may take to be in sync.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the load runs between two faults.
const BETWEEN: Duration = Duration::from_secs(5);
/// The size of a redirector's spool unless it is configured.
const SPOOL_BYTES: f64 = (2_u64 << 30) as f64;

/// The options of `bench outage brokers`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BrokersArgs {
    /// Rounds, in each of which every broker is killed and frozen [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) rounds: Option<u16>,
    /// Seconds without a broker once others lead its partitions [default: 15]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) away_s: Option<u64>,
    /// Clicks a second
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
}

/// The rounds, and the load under them.
#[derive(Clone, Copy, Debug)]
pub(super) struct BrokersPlan {
    pub(super) rounds: u16,
    pub(super) rate: u32,
    /// How long each broker is away once others lead its partitions.
    pub(super) away: Duration,
    /// How long one is away where there is one replica.
    pub(super) away_alone: Duration,
}

/// The way in which a broker goes away.
#[derive(Clone, Copy, Debug)]
enum BrokerFault {
    Killed,
    Frozen,
}

impl BrokerFault {
    const fn what(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
        }
    }

    async fn begin(self, rig: &mut Rig, broker: usize) -> anyhow::Result<()> {
        match self {
            Self::Killed => rig.kafka()?.kill_broker(broker).await,
            Self::Frozen => rig.kafka()?.signal_broker(broker, Signal::STOP)?,
        }
        Ok(())
    }

    async fn end(self, rig: &mut Rig, broker: usize) -> anyhow::Result<()> {
        match self {
            Self::Killed => rig.kafka()?.start_broker(broker).await,
            Self::Frozen => rig.kafka()?.signal_broker(broker, Signal::CONT),
        }
    }
}

/// Takes each broker away in turn.
pub(super) async fn in_turn(plan: BrokersPlan, rig: &mut Rig, receiver: &Receiver) -> anyhow::Result<LoadReport> {
    rig.kafka()?.until_in_sync(PATIENCE).await?;
    let mut load = SteppedLoad::start(rig, plan.rate);
    load.step("all brokers", StepKind::Settled);
    load.pass(rig, BETWEEN).await?;
    for round in 1..=plan.rounds {
        for fault in [BrokerFault::Killed, BrokerFault::Frozen] {
            for broker in 0..usize::from(IN_TURN.brokers) {
                let name = format!("{round}: broker {} {}", broker + 1, fault.what());
                load.step(format!("{name}: election"), StepKind::Election);
                fault.begin(rig, broker).await?;
                until_given_up(&mut load, rig, broker).await?;
                load.step(format!("{name}: away"), StepKind::Settled);
                load.pass(rig, plan.away).await?;
                load.step(format!("{name}: returns"), StepKind::Election);
                fault.end(rig, broker).await?;
                rig.kafka()?.until_in_sync(PATIENCE).await?;
                load.step(format!("{name}: back"), StepKind::Settled);
                load.pass(rig, BETWEEN).await?;
            }
        }
    }
    load.finish("Three replicas, each broker away in turn", rig, receiver).await
}

/// Waits until no partition counts on a broker.
async fn until_given_up(load: &mut SteppedLoad, rig: &mut Rig, broker: usize) -> anyhow::Result<()> {
    let look = Duration::from_millis(100);
    for _ in 0..PATIENCE.as_millis() / look.as_millis() {
        let partitions = rig.kafka()?.partitions().await?;
        if partitions.iter().all(|partition| partition.leader.is_some() && !partition.in_sync.contains(&broker)) {
            return Ok(());
        }
        load.pass(rig, look).await?;
    }
    anyhow::bail!("broker {} is away, and still counted on after {} s", broker + 1, PATIENCE.as_secs())
}

/// Takes the broker away that leads a partition of `clicks.raw`.
pub(super) async fn one_replica(plan: BrokersPlan, rig: &mut Rig, receiver: &Receiver) -> anyhow::Result<LoadReport> {
    let mut load = SteppedLoad::start(rig, plan.rate);
    load.step("all brokers", StepKind::Settled);
    load.pass(rig, BETWEEN).await?;
    let partitions = rig.kafka()?.partitions().await?;
    let first = partitions.iter().find(|partition| partition.topic.ends_with(".clicks.raw"));
    let broker = first.and_then(|partition| partition.leader).context("find a broker with clicks")?;
    load.step(format!("broker {} killed: the first 10 s", broker + 1), StepKind::Election);
    BrokerFault::Killed.begin(rig, broker).await?;
    load.pass(rig, Duration::from_secs(10)).await?;
    load.step(format!("broker {} killed: away", broker + 1), StepKind::Settled);
    load.pass(rig, plan.away_alone).await?;
    load.step(format!("broker {} killed: returns", broker + 1), StepKind::Election);
    BrokerFault::Killed.end(rig, broker).await?;
    rig.kafka()?.until_in_sync(PATIENCE).await?;
    load.step("all brokers again", StepKind::Settled);
    load.pass(rig, BETWEEN).await?;
    load.finish("One replica, one of three brokers away", rig, receiver).await
}

/// The goals beyond exactness.
pub(super) fn goals(in_turn: &LoadReport, one_replica: &LoadReport) -> Vec<Goal> {
    let settled = [StepKind::Settled];
    let p99 = |load| worst(load, &settled, |step| step.redirect.p99_ms);
    vec![
        Goal::at_most("p99 of redirects outside elections, three replicas, the worst", p99(in_turn), 60.0, "ms"),
        Goal::at_most("p99 of redirects, one replica, the worst", p99(one_replica), 60.0, "ms"),
        Goal::at_most("most on disk, of a spool's size", 100.0 * one_replica.spool_peak_bytes / SPOOL_BYTES, 10.0, "%"),
    ]
}
