//! `bench redirect`: what a redirect costs whose click Kafka has acknowledged,
//! beside nginx that writes an access log and a bare server that does nothing, all
//! under the same visitors, in turns in one run, so that whatever else the machine
//! does meanwhile hits all three.

mod nginx;
mod report;
mod servers;
mod stand;

use std::path::Path;

use anyhow::Context;
use service::Shutdown;
use tokio::task::spawn_blocking;

pub(crate) use self::report::{Report, text};
use self::{
    report::Loads,
    servers::{GENTLE, LINKS},
    stand::{Share, Stand},
};
use crate::{
    catalogue,
    context::{BenchContext, say},
    kafka::Kafka,
    machine::Machine,
    turn::{Load, Plan},
    visitors::Pace,
};

/// The options of `bench redirect`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench redirect                              all loads, about four minutes
  bench redirect --only-saturated --rounds 5  CPU a request alone
  bench redirect --connections 64 --json      fewer visitors, for programs")]
pub(crate) struct Args {
    /// Visitors, each with a connection of its own that it keeps.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Turns of each server under each load [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Seconds of each turn [default: 5]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Leave out all but the saturating load on all cores.
    #[arg(long)]
    only_saturated: bool,
}

/// Measures the servers, or stops them when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    let plan = Plan {
        connections: args.connections,
        rounds: args.rounds.unwrap_or(if common.quick { 1 } else { 3 }),
        turn: common.seconds(args.seconds, 5, 2),
    };
    say("starting Kafka");
    let kafka = Kafka::start(dir.path()).await?;
    let measured = tokio::select! {
        loads = measure(args, plan, &common.binary, dir.path(), &kafka) => loads,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    kafka.shutdown().await;
    Ok(Report::new(machine, plan, measured?))
}

async fn measure(args: &Args, plan: Plan, binary: &Path, dir: &Path, kafka: &Kafka) -> anyhow::Result<Loads> {
    let bus = kafka.bus("redirect").await?;
    let links = bus.clone();
    spawn_blocking(move || catalogue::fill(&links, 0..LINKS)).await??;
    let stand = Stand::start(binary, &dir.join("all"), kafka, &bus, Share::Everything).await?;
    let seconds = plan.turn.as_secs();
    say(&format!("warming up, {seconds} s each"));
    stand.loads(Plan { rounds: 1, ..plan }, [Pace::Saturating; 3]).await?;
    say(&format!("as many requests as they take: {} turns of {seconds} s each", plan.rounds));
    let saturated = stand.loads(plan, [Pace::Saturating; 3]).await?;
    let mut loads = Loads { saturated, half: None, gentle: None, one_core: None };
    if !args.only_saturated {
        say("half of that");
        let half = |load: &Load| Pace::PerSecond((load.requests_per_s / 2.0) as u32);
        loads.half = Some(stand.loads(plan, loads.saturated.each_ref().map(half)).await?);
        say(&format!("{GENTLE} a second"));
        loads.gentle = Some(stand.loads(plan, [Pace::PerSecond(GENTLE); 3]).await?);
    }
    stand.stop().await;
    if !args.only_saturated && std::thread::available_parallelism()?.get() > 1 {
        say("as many as they take on one core");
        let stand = Stand::start(binary, &dir.join("one"), kafka, &bus, Share::OneCore).await?;
        stand.loads(Plan { rounds: 1, ..plan }, [Pace::Saturating; 3]).await?;
        loads.one_core = Some(stand.loads(plan, [Pace::Saturating; 3]).await?);
        stand.stop().await;
    }
    Ok(loads)
}
