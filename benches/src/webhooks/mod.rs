//! `bench webhooks`: what a delivery costs beside a bare HTTP client that posts the same
//! bytes, what many endpoints cost, and whether sick endpoints or too many events hurt
//! healthy endpoints. A dispatcher is alone on its Kafka: events and endpoints are written
//! as the enricher and the control plane would.

mod bare;
mod events;
mod parts;
mod report;
mod stand;

use std::cell::Cell;

use anyhow::Context;
use clap::ValueEnum;
use rustix::process::{Resource, getrlimit, setrlimit};
use service::Shutdown;

pub(crate) use self::{
    bare::{SUBCOMMAND, post},
    report::{Report, text},
};
use self::{report::Parts, stand::WebhookStand};
use crate::{
    context::{BenchContext, say},
    kafka::Kafka,
    machine::Machine,
    receiver::Receiver,
    sick::SickEndpoints,
};

/// The options of `bench webhooks`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench webhooks                       all parts: some minutes
  bench webhooks throughput latency    these two
  bench webhooks isolation --seconds 120")]
pub(crate) struct Args {
    /// The parts to run [default: all of them]
    #[arg(value_enum)]
    parts: Vec<WebhookPart>,
    /// Seconds of each steady load [default: 20]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Events of each backlog [default: 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    events: Option<u32>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WebhookPart {
    /// Deliveries to one endpoint, beside a bare client
    Throughput,
    /// 1, 100 and 10,000 endpoints, of which an event matches one or 1 %
    Endpoints,
    /// Latency at 500 and 2,000 events a second
    Latency,
    /// A healthy endpoint beside sick ones
    Isolation,
    /// An endpoint that refuses, with many deliveries that wait
    Dead,
    /// More deliveries to healthy endpoints than the machine makes
    Overload,
}

/// Measures the dispatcher, or stops everything when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    allow_sockets()?;
    say("starting Kafka");
    let kafka = Kafka::start(dir.path()).await?;
    let (receiver, sick) = (Receiver::start()?, SickEndpoints::start()?);
    let stand = WebhookStand {
        binary: &common.binary,
        dir: dir.path(),
        kafka: &kafka,
        receiver: &receiver,
        sick: &sick,
        next_marker: Cell::new(0),
    };
    let measured = tokio::select! {
        measured = measure(args, common, &stand) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    kafka.shutdown().await;
    Ok(Report::new(machine, measured?))
}

async fn measure(args: &Args, common: &BenchContext, stand: &WebhookStand<'_>) -> anyhow::Result<Parts> {
    let chosen = |part| args.parts.is_empty() || args.parts.contains(&part);
    let seconds = common.seconds(args.seconds, 20, 4);
    let events = args.events.unwrap_or(if common.quick { 10_000 } else { 100_000 });
    let mut parts = Parts::default();
    if chosen(WebhookPart::Throughput) {
        parts.throughput = Some(parts::throughput(stand, events, common.seconds(None, 5, 2)).await?);
    }
    if chosen(WebhookPart::Endpoints) {
        parts.endpoints = Some(parts::endpoints(stand, events / 2).await?);
    }
    if chosen(WebhookPart::Latency) {
        parts.latency = Some(parts::latency(stand, seconds).await?);
    }
    if chosen(WebhookPart::Isolation) {
        parts.isolation = Some(parts::isolation(stand, seconds).await?);
    }
    if chosen(WebhookPart::Dead) {
        parts.dead = Some(parts::dead(stand, events, seconds * 3).await?);
    }
    if chosen(WebhookPart::Overload) {
        parts.overload = Some(parts::overload(stand, events / 2).await?);
    }
    Ok(parts)
}

/// Lets this process, and those that it starts, have as many sockets as the machine allows:
/// sick endpoints keep thousands.
fn allow_sockets() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the limit of open files")
}
