//! `bench api`: how many links a second can be made through the API, one by one
//! by several writers and imported at once, beside what Kafka takes of the same
//! records in transactions of the same size.

mod limit;
mod report;
mod writes;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use service::Shutdown;
use tokio::task::spawn_blocking;

use self::report::{Imported, Writers};
pub(crate) use self::{
    report::{Report, text},
    writes::Writes,
};
use crate::{
    context::{BenchContext, say},
    kafka::{Control, Kafka},
    machine::Machine,
    process::{self, Who},
    summary::Latency,
    visitors::{self, Pace},
};

/// How many writers there are, in turn.
const WRITERS: [u16; 2] = [16, 64];
/// Records a transaction beside the import: as many as the API puts into one.
const GROUP: u16 = 1000;
/// How long the import may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// The options of `bench api`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench api                        about two minutes
  bench api --import-lines 1000000 import a million links
  bench api --quick                shorter")]
pub(crate) struct Args {
    /// Seconds of each load [default: 10]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Links that are imported at once [default: 300000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    import_lines: Option<u32>,
}

struct Plan {
    turn: Duration,
    lines: u32,
}

/// Measures the API, or stops it when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let plan = Plan {
        turn: common.seconds(args.seconds, 10, 3),
        lines: args.import_lines.unwrap_or(if common.quick { 20_000 } else { 300_000 }),
    };
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka and the API");
    let kafka = Kafka::start(dir.path()).await?;
    let measured = tokio::select! {
        measured = measure(&plan, &common.binary, dir.path(), &kafka) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    kafka.shutdown().await;
    let (writers, import) = measured?;
    Ok(Report { machine, seconds: plan.turn.as_secs(), writers, import })
}

async fn measure(
    plan: &Plan,
    binary: &Path,
    dir: &Path,
    kafka: &Kafka,
) -> anyhow::Result<(Vec<Writers>, Option<Imported>)> {
    let mut control = Control::start(binary, dir, &kafka.bus("api").await?)?;
    control.role.ready().await?;
    let limits = kafka.bus("limit").await?;
    let mut next = 0;
    say("warming up");
    next += write(&control, kafka, 16, plan.turn / 2, next).await?.sent;
    let mut measured = Vec::new();
    for writers in WRITERS {
        say(&format!("{writers} writers for {} s, and the same records straight to Kafka", plan.turn.as_secs()));
        let writes = write(&control, kafka, writers, plan.turn, next).await?;
        next += writes.sent;
        let limit = at_most(&limits, writers, plan.turn).await?;
        measured.push(Writers { writers, limit_per_s: limit, ..writes.seen });
    }
    say(&format!("importing {} links, and the same records straight to Kafka", plan.lines));
    let began = process::cpu_of(&whose(&control)?)?;
    let import = match import(&control, next, plan.lines).await? {
        Some(took) => {
            let cpu = process::cpu_of(&whose(&control)?)?.saturating_sub(began);
            let lines = f64::from(plan.lines);
            Some(Imported {
                lines: plan.lines,
                lines_per_s: lines / took.as_secs_f64(),
                cpu_us_per_line: cpu.as_secs_f64() * 1e6 / lines,
                limit_per_s: at_most(&limits, GROUP, plan.turn).await?,
            })
        }
        None => None,
    };
    control.role.stop().await;
    Ok((measured, import))
}

fn whose(control: &Control) -> anyhow::Result<[Who; 1]> {
    Ok([Who::Process(control.role.pid().context("control has ended")?)])
}

/// The latencies that writers saw, and the number of writes.
struct Written {
    seen: Writers,
    sent: u64,
}

async fn write(
    control: &Control,
    kafka: &Kafka,
    writers: u16,
    during: Duration,
    first: u64,
) -> anyhow::Result<Written> {
    let (address, mut script) = (control.address, Writes::new(&control.admin_key, first));
    let (ours, kafkas) = (whose(control)?, [Who::Process(kafka.pid()?)]);
    let (before, kafka_before) = (process::cpu_of(&ours)?, process::cpu_of(&kafkas)?);
    let visits = spawn_blocking(move || {
        let visits = visitors::visit(address, writers, Pace::Saturating, during, &mut script);
        visits.map(|visits| (visits, script.next_number() - first))
    });
    let (visits, sent) = visits.await?.context("write through the API")?;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / visits.latencies.len().max(1) as f64;
    let seen = Writers {
        writers,
        writes: visits.latencies.len(),
        failed: visits.refused + visits.broken,
        writes_per_s: visits.latencies.len() as f64 / visits.took.as_secs_f64(),
        cpu_us_per_write: each(process::cpu_of(&ours)?.saturating_sub(before)),
        kafka_us_per_write: each(process::cpu_of(&kafkas)?.saturating_sub(kafka_before)),
        limit_per_s: 0.0,
        latency: Latency::of(visits.latencies),
    };
    Ok(Written { seen, sent })
}

async fn at_most(bus: &bus::Bus, group: u16, during: Duration) -> anyhow::Result<f64> {
    let bus = bus.clone();
    spawn_blocking(move || limit::per_second(&bus, group, during)).await?
}

/// Imports links; how long that took, or nothing if the API cannot.
async fn import(control: &Control, first: u64, lines: u32) -> anyhow::Result<Option<Duration>> {
    let url = format!("http://{}/v1/links/import", control.address);
    let key = format!("Bearer {}", control.admin_key);
    spawn_blocking(move || {
        let body: Vec<u8> = (first..first + u64::from(lines)).flat_map(writes::line).collect();
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false);
        let agent: ureq::Agent = config.build().into();
        let post = |body: &[u8]| {
            let post = agent.post(&url).header("authorization", &key).content_type("application/x-ndjson");
            post.send(body).context("import links")
        };
        // Asked with nothing first: a server that refuses does not wait for millions of lines.
        if matches!(post(&[])?.status().as_u16(), 404 | 405) {
            return Ok(None);
        }
        let began = Instant::now();
        let mut answer = post(&body)?;
        let text = answer.body_mut().read_to_string().context("read what the import answered")?;
        if !answer.status().is_success() {
            bail!("{url} answered {}: {text}", answer.status());
        }
        Ok(Some(began.elapsed()))
    })
    .await?
}
