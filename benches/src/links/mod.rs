//! `bench links`: how soon a redirector knows a thousand links and five million,
//! from their topic and from its snapshot, what they take of memory, and whether
//! a redirect costs more then. The redirectors of all sizes run side by side and
//! are loaded by turns.

mod lookups;
mod report;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::Bus;
use service::Shutdown;
use tokio::{task::spawn_blocking, time::sleep};

use self::report::{Known, Size};
pub(crate) use self::report::{Report, text};
use crate::{
    catalogue,
    context::{BenchContext, say},
    cores::Cores,
    kafka::{Ingest, Kafka},
    machine::Machine,
    process::{self, Who},
    turn::{self, Plan, Server},
    visitors::Pace,
};

/// The room that a link may take on disk (in Kafka, compressed, and in a snapshot) and in
/// memory while it is measured, amply.
const DISK_BYTES: u64 = 1000;
const MEMORY_BYTES: u64 = 1500;
/// How long a redirector may take to know a million links before it is given up.
const PATIENCE_A_MILLION: Duration = Duration::from_secs(60);

/// The options of `bench links`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench links                         1 k, 100 k, 1 M and 5 M links: some minutes, 6 GB of disk, 10 GB of memory
  bench links --links 1000,1000000    these two
  bench links --quick                 1 k and 100 k, shorter")]
pub(crate) struct Args {
    /// How many links, several with commas between [default: 1000,100000,1000000,5000000]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    links: Vec<u64>,
    /// Visitors, each with a connection of its own that it keeps.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Turns of each size [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Seconds of each turn [default: 5]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
}

impl Args {
    /// The sizes, smallest first.
    fn sizes(&self, common: &BenchContext) -> Vec<u64> {
        let mut sizes = match (self.links.as_slice(), common.quick) {
            ([], true) => vec![1000, 100_000],
            ([], false) => vec![1000, 100_000, 1_000_000, 5_000_000],
            (given, _) => given.to_vec(),
        };
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// Measures all sizes, or stops when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let sizes = args.sizes(common);
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    check_room(dir.path(), sizes.iter().sum())?;
    let plan = Plan {
        connections: args.connections,
        rounds: args.rounds.unwrap_or(if common.quick { 1 } else { 3 }),
        turn: common.seconds(args.seconds, 5, 2),
    };
    say("starting Kafka");
    let kafka = Kafka::start(dir.path()).await?;
    let measured = tokio::select! {
        measured = measure(&sizes, plan, &common.binary, dir.path(), &kafka) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    kafka.shutdown().await;
    Ok(Report::new(machine, plan, measured?))
}

/// Says so before minutes of work, not after them.
fn check_room(dir: &Path, links: u64) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(dir).with_context(|| format!("ask how full the disk of {} is", dir.display()))?;
    let (free, needed) = (disk.f_bavail * disk.f_frsize, links * DISK_BYTES);
    if free < needed {
        bail!(
            "{links} links need about {:.1} GB in {}, and {:.1} GB are free: free some, set TMPDIR to another disk, or \
             measure fewer with --links",
            needed as f64 / 1e9,
            dir.display(),
            free as f64 / 1e9
        );
    }
    let (free, needed) = (process::memory_available()?, links * MEMORY_BYTES);
    if free < needed {
        bail!(
            "{links} links need about {:.1} GB of memory, and {:.1} GB are available: measure fewer with --links",
            needed as f64 / 1e9,
            free as f64 / 1e9
        );
    }
    Ok(())
}

async fn measure(
    sizes: &[u64],
    plan: Plan,
    binary: &Path,
    dir: &Path,
    kafka: &Kafka,
) -> anyhow::Result<(Known, Vec<Size>)> {
    let empty = Started::on(binary, dir, &kafka.bus("links-0").await?, 0).await?;
    let nothing = empty.known;
    empty.ingest.role.stop().await;
    let (mut written, mut started) = (Vec::new(), Vec::new());
    for links in sizes.iter().copied() {
        let bus = kafka.bus(&format!("links-{links}")).await?;
        say(&format!("{links} links: writing them to Kafka"));
        let (filling, began) = (bus.clone(), Instant::now());
        spawn_blocking(move || catalogue::fill(&filling, 0..links)).await??;
        written.push(began.elapsed());
        say(&format!("{links} links: starting a redirector"));
        started.push(Started::on(binary, dir, &bus, links).await?);
    }
    for started in &started {
        started.until_kept().await?;
    }
    let servers: Vec<Server> = started
        .iter()
        .zip(sizes)
        .map(|(started, links)| {
            let (whose, kafka) = (vec![Who::Process(started.pid)], Some(Who::Process(kafka.pid()?)));
            Ok(Server { address: started.ingest.address, whose, kafka, links: *links })
        })
        .collect::<anyhow::Result<_>>()?;
    let paces = vec![Pace::Saturating; servers.len()];
    say(&format!("warming up, {} s each", plan.turn.as_secs()));
    turn::by_turns(&servers, &paces, Plan { rounds: 1, ..plan }, Cores::All).await?;
    say(&format!("random links: {} turns of {} s each", plan.rounds, plan.turn.as_secs()));
    let loads = turn::by_turns(&servers, &paces, plan, Cores::All).await?;
    let mut measured = Vec::new();
    for (((links, started), load), written) in sizes.iter().copied().zip(started).zip(loads).zip(written) {
        let Started { ingest, known: from_topic, bus, .. } = started;
        // Its snapshot is whole by then.
        ingest.role.stop().await;
        say(&format!("{links} links: starting a redirector from its snapshot"));
        let again = Started::on(binary, dir, &bus, links).await?;
        again.ingest.role.stop().await;
        say(&format!("{links} links: looking them up"));
        let lookups = spawn_blocking(move || lookups::measure(links, plan.turn)).await??;
        let from_snapshot = again.known;
        measured.push(Size { links, written_s: written.as_secs_f64(), from_topic, from_snapshot, load, lookups });
    }
    Ok((nothing, measured))
}

/// A redirector that knows its links.
struct Started {
    ingest: Ingest,
    pid: u32,
    known: Known,
    bus: Bus,
}

impl Started {
    /// Waits until its snapshot is written: that is no part of what a redirect costs.
    async fn until_kept(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE_A_MILLION * 5;
        while self.ingest.role.metric("clickhook_ingest_links_snapshot").await != Some(1.0) {
            if Instant::now() > deadline {
                bail!("the snapshot of links is not written after {} s", PATIENCE_A_MILLION.as_secs() * 5);
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn on(binary: &Path, dir: &Path, bus: &Bus, links: u64) -> anyhow::Result<Self> {
        let dir = dir.join(format!("ingest-{links}"));
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let patience = PATIENCE_A_MILLION.mul_f64(1.0 + links as f64 / 1e6);
        let began = Instant::now();
        let mut ingest = Ingest::start(binary, &dir, bus)?;
        ingest.role.ready_within(patience).await?;
        let ready = began.elapsed();
        let pid = ingest.role.pid().context("ingest has ended")?;
        let memory = process::memory(pid)?;
        let peak_bytes = process::peak(pid)?;
        let known = Known { ready_s: ready.as_secs_f64(), rss_bytes: memory.rss_bytes, peak_bytes };
        Ok(Self { ingest, pid, known, bus: bus.clone() })
    }
}
