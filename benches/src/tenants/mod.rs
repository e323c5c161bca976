//! `bench tenants`: what a tenant sees while four of fifty others take what they can. One imports
//! to its quota, one opens connections that send nothing, one asks for whatever costs most, and
//! one lists a thousand domains. The tenant's calls and the redirects come at their own pace,
//! alone and then beside the four.

mod others;
mod report;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use bus::Bus;
use service::Shutdown;
use tokio::task::spawn_blocking;

pub(crate) use self::report::{TenantsReport, text};
use self::{
    others::{Others, Tenants},
    report::{AnswersSeen, RoleMemory, TenantPhase},
};
use crate::{
    api::Writes,
    catalogue,
    context::{BenchContext, say},
    kafka::{Control, Ingest, Kafka},
    machine::Machine,
    process,
    requests::Requests,
    visitors::{self, Pace, Script},
};

/// The links that redirects follow.
const LINKS: u64 = 1000;
/// The calls and redirects a second.
const CALLS: u32 = 20;
const REDIRECTS: u32 = 200;
/// The connections of the tenant, and those of the visitors.
const CALLERS: u16 = 4;
const VISITORS: u16 = 32;

/// The options of `bench tenants`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench tenants              about two minutes
  bench tenants --seconds 60 longer phases, steadier percentiles")]
pub(crate) struct TenantsArgs {
    /// Seconds of each phase [default: 30]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
}

/// Measures both phases, or stops when told to.
pub(crate) async fn run(
    args: &TenantsArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<TenantsReport> {
    let machine = Machine::look();
    let phase = common.seconds(args.seconds, 30, 5);
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka, the API and a redirector");
    let kafka = Kafka::start(dir.path()).await?;
    let bus = kafka.bus("tenants").await?;
    let measured = tokio::select! {
        measured = measure(phase, &common.binary, dir.path(), &bus) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    kafka.shutdown().await;
    let (phases, memory) = measured?;
    Ok(TenantsReport::new(machine, phase.as_secs(), phases, memory))
}

async fn measure(
    phase: Duration,
    binary: &Path,
    dir: &Path,
    bus: &Bus,
) -> anyhow::Result<([TenantPhase; 2], [RoleMemory; 2])> {
    let links = bus.clone();
    spawn_blocking(move || catalogue::fill(&links, 0..LINKS)).await??;
    let mut control = Control::start(binary, dir, bus)?;
    let mut ingest = Ingest::start(binary, dir, bus)?;
    control.role.ready().await?;
    ingest.role.ready().await?;
    let pids = [control.role.pid().context("control has ended")?, ingest.role.pid().context("ingest has ended")?];
    let addresses = TenantPorts { api: control.address, redirects: ingest.address };
    say("making fifty workspaces");
    let operator = control.admin_key.clone();
    let tenants = spawn_blocking(move || Tenants::make(addresses, &operator)).await??;
    say("warming up");
    let mut next = look(addresses, &tenants.victim, phase / 4, LINKS).await?.1;
    say(&format!("alone, {} s", phase.as_secs()));
    let (alone, then) = look(addresses, &tenants.victim, phase, next).await?;
    next = then;
    let before = pids.map(|pid| process::memory(pid).map(|memory| memory.rss_bytes));
    say(&format!("beside the four, {} s", phase.as_secs()));
    let others = Others::start(addresses, &tenants)?;
    let (beside, _) = look(addresses, &tenants.victim, phase, next).await?;
    let told = spawn_blocking(move || others.stop()).await??;
    say(&told);
    let [before_control, before_ingest] = before;
    let memory = [
        RoleMemory { role: "control", before_bytes: before_control?, peak_bytes: process::peak(pids[0])? },
        RoleMemory { role: "ingest", before_bytes: before_ingest?, peak_bytes: process::peak(pids[1])? },
    ];
    control.role.stop().await;
    ingest.role.stop().await;
    Ok(([alone, beside], memory))
}

/// The addresses of the API and the redirector.
#[derive(Clone, Copy, Debug)]
struct TenantPorts {
    api: SocketAddr,
    redirects: SocketAddr,
}

/// Lets the tenant call and visitors follow links for a while, and returns what they saw, and the
/// number of the link that would be made next.
async fn look(addresses: TenantPorts, key: &str, during: Duration, first: u64) -> anyhow::Result<(TenantPhase, u64)> {
    let mut writes = Writes::new(key, first);
    let calls = spawn_blocking(move || {
        let seen = see(addresses.api, CALLERS, CALLS, during, &mut writes);
        seen.map(|seen| (seen, writes.next_number()))
    });
    let mut requests = Requests::new(LINKS);
    let redirects = spawn_blocking(move || see(addresses.redirects, VISITORS, REDIRECTS, during, &mut requests));
    let (calls, next) = calls.await?.context("call the API")?;
    let redirects = redirects.await?.context("follow links")?;
    Ok((TenantPhase { calls, redirects }, next))
}

fn see(
    address: SocketAddr,
    visitors: u16,
    per_second: u32,
    during: Duration,
    script: &mut impl Script,
) -> std::io::Result<AnswersSeen> {
    visitors::visit(address, visitors, Pace::PerSecond(per_second), during, script).map(AnswersSeen::of)
}
