//! `bench recovery`: how long an enricher and a warehouse that were killed need until
//! they go on, and how long a bundle that may be a second copy waits, with a short log
//! and with one ten times as long. None of it may grow with the log.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, BusConfig, LogReader, Outgoing, Partition, Producer};
use engines::Engines;
use schemas::{
    ClickClass, ClickId, Timestamp, Topic,
    click::{AFTER_HEADER, AGAIN_HEADER, BUNDLE_COUNT_HEADER, BUNDLE_HEADER, Visit, link_tail},
};
use serde::Serialize;
use service::Shutdown;
use tokio::{task::spawn_blocking, time::sleep};
use uuid::Uuid;

use crate::{
    catalogue,
    context::{BenchContext, say},
    goal::{self, Goal},
    machine::Machine,
    produce,
    role::Role,
    table::table,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The clicks of a bundle.
const CLICKS_A_BUNDLE: u64 = 100;
/// The times that each is measured; the report has the middle one.
const TIMES: usize = 5;
/// How many times as long the longer log is.
const TIMES_AS_LONG: u64 = 10;
/// The clicks that a warehouse is killed in the middle of.
const SETTLED_CLICKS: u64 = 20_000;

/// The options of `bench recovery`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench recovery                     with 200,000 clicks, and with 2 million
  bench recovery --clicks 1000000")]
pub(crate) struct Args {
    /// Clicks in the shorter log; the longer one has ten times as many [default: 200000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    clicks: Option<u64>,
}

/// The measurements with one length of the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Length {
    clicks: u64,
    /// From the start of an enricher after kill -9 until a waiting click is an event.
    rebalance_s: f64,
    /// From the acknowledgement of a bundle that says `again` until it is an event.
    look_back_s: f64,
    /// From the start of a warehouse after kill -9 until all rows are there, once.
    settle_s: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    lengths: Vec<Length>,
    goals: Vec<Goal>,
}

/// Measures, or stops everything when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    let clicks = args.clicks.unwrap_or(if common.quick { 20_000 } else { 200_000 });
    say("starting Kafka, ClickHouse, an enricher and a warehouse");
    let mut options = engines::Options::new(dir.path().join("engines"));
    options.exe = Some(common.binary.clone());
    let engines = Engines::start(options).await?;
    let measured = tokio::select! {
        measured = measure(&common.binary, dir.path(), &engines, clicks) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    engines.shutdown().await;
    let lengths = measured?;
    let goals = goals(&lengths);
    Ok(Report { machine, lengths, goals })
}

async fn measure(binary: &Path, dir: &Path, engines: &Engines, clicks: u64) -> anyhow::Result<Vec<Length>> {
    let mut rig = RecoveryRig::start(binary, dir, engines).await?;
    let mut lengths = Vec::new();
    for goal in [clicks, TIMES_AS_LONG * clicks] {
        say(&format!("a log of {goal} clicks"));
        rig.grow(goal).await?;
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..TIMES {
            times[0].push(rig.rebalance().await?);
            times[1].push(rig.look_back().await?);
            times[2].push(rig.go_on_inserting().await?);
        }
        let [rebalance_s, look_back_s, settle_s] = times.map(middle);
        lengths.push(Length { clicks: goal, rebalance_s, look_back_s, settle_s });
    }
    rig.stop().await;
    Ok(lengths)
}

fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64)
}

/// Whether a bundle says that it may be a second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BundleSays {
    First,
    Again,
}

/// A Kafka, a ClickHouse, an enricher and a warehouse.
struct RecoveryRig {
    binary: PathBuf,
    dir: PathBuf,
    settings: Vec<(&'static str, String)>,
    clickhouse: String,
    bus: Bus,
    /// None while it is killed.
    enricher: Option<Role>,
    /// None while it is killed.
    warehouse: Option<Role>,
    /// The clicks that were produced.
    clicks: u64,
}

const ENRICHER: &[&str] = &["enricher"];
const WAREHOUSE: &[&str] = &["dispatcher", "--only", "warehouse"];

impl RecoveryRig {
    async fn start(binary: &Path, dir: &Path, engines: &Engines) -> anyhow::Result<Self> {
        let settings = vec![
            ("CLICKHOOK_KAFKA_BROKERS", engines.kafka_brokers()),
            ("CLICKHOOK_CLICKHOUSE_URL", engines.clickhouse_url()),
            // A restarted process has its partitions back at once, as in a stateful set.
            ("CLICKHOOK_KAFKA_INSTANCE", "bench".to_owned()),
        ];
        Role::start(binary, dir, &settings, "migrate", &["migrate"])?.finished().await?;
        let mut enricher = Role::start(binary, dir, &settings, "enricher", ENRICHER)?;
        let mut warehouse = Role::start(binary, dir, &settings, "warehouse", WAREHOUSE)?;
        enricher.ready().await?;
        warehouse.ready().await?;
        Ok(Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            settings,
            clickhouse: engines.clickhouse_url(),
            bus: Bus::new(BusConfig { brokers: engines.kafka_brokers(), ..BusConfig::default() }),
            enricher: Some(enricher),
            warehouse: Some(warehouse),
            clicks: 0,
        })
    }

    /// Produces clicks until there are `goal`, and waits until all are rows.
    async fn grow(&mut self, goal: u64) -> anyhow::Result<()> {
        let bundles = goal.saturating_sub(self.clicks).div_ceil(CLICKS_A_BUNDLE);
        let bus = self.bus.clone();
        spawn_blocking(move || produce(&bus, bundles)).await??;
        self.clicks += bundles * CLICKS_A_BUNDLE;
        self.until_rows().await
    }

    async fn until_rows(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let url = format!("{}/?database=clickhook", self.clickhouse);
        loop {
            let url = url.clone();
            let asked = spawn_blocking(move || -> anyhow::Result<Vec<u64>> {
                let text =
                    ureq::post(&url).send("SELECT count(), uniqExact(id) FROM clicks")?.body_mut().read_to_string()?;
                text.split_ascii_whitespace().map(|number| Ok(number.parse()?)).collect()
            });
            let counts = asked.await??;
            if counts.iter().any(|count| *count > self.clicks) {
                bail!("{} clicks were produced, and ClickHouse has {counts:?}", self.clicks);
            }
            if counts.iter().all(|count| *count == self.clicks) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} clicks were produced, and ClickHouse has {counts:?}", self.clicks);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn role(&self, name: &'static str, args: &[&str]) -> anyhow::Result<Role> {
        Role::start(&self.binary, &self.dir, &self.settings, name, args)
    }

    /// An enricher is killed, and a click waits for the next one.
    async fn rebalance(&mut self) -> anyhow::Result<Duration> {
        self.enricher.take().context("no enricher runs")?.kill().await?;
        let begun = Instant::now();
        self.enricher = Some(self.role("enricher", ENRICHER)?);
        self.one_bundle(BundleSays::First).await?;
        let took = begun.elapsed();
        self.until_rows().await?;
        Ok(took)
    }

    /// A bundle says `again`, as a redirector produces it after kill -9.
    async fn look_back(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.one_bundle(BundleSays::Again).await?;
        let took = begun.elapsed();
        self.until_rows().await?;
        Ok(took)
    }

    /// A warehouse is killed while it inserts.
    async fn go_on_inserting(&mut self) -> anyhow::Result<Duration> {
        let bus = self.bus.clone();
        spawn_blocking(move || produce(&bus, SETTLED_CLICKS / CLICKS_A_BUNDLE)).await??;
        self.clicks += SETTLED_CLICKS;
        self.warehouse.take().context("no warehouse runs")?.kill().await?;
        let begun = Instant::now();
        self.warehouse = Some(self.role("warehouse", WAREHOUSE)?);
        self.until_rows().await?;
        Ok(begun.elapsed())
    }

    /// Produces one bundle, and waits until its clicks are events.
    async fn one_bundle(&mut self, says: BundleSays) -> anyhow::Result<()> {
        let bus = self.bus.clone();
        spawn_blocking(move || {
            let events = bus.log_reader("bench")?;
            let before = end(&events, Topic::Clicks)?;
            let after = end(&events, Topic::ClicksRaw)? - 1;
            let producer = bus.producer("bench", Duration::ZERO, PATIENCE)?;
            send(&producer, 0, (says == BundleSays::Again).then_some(after))?;
            if producer.drain(PATIENCE) > 0 {
                bail!("Kafka does not take a bundle");
            }
            let deadline = Instant::now() + PATIENCE;
            while end(&events, Topic::Clicks)? < before + i64::try_from(CLICKS_A_BUNDLE)? {
                if Instant::now() > deadline {
                    bail!("a bundle did not become events");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
        .await??;
        self.clicks += CLICKS_A_BUNDLE;
        Ok(())
    }

    async fn stop(self) {
        for role in [self.enricher, self.warehouse].into_iter().flatten() {
            role.stop().await;
        }
    }
}

/// Returns the end of the committed records of the first partition.
fn end(reader: &LogReader, topic: Topic) -> anyhow::Result<i64> {
    Ok(reader.range(Partition { topic, index: 0 })?.end)
}

/// Produces bundles, spread over all partitions. Blocks.
fn produce(bus: &Bus, bundles: u64) -> anyhow::Result<()> {
    let producer = bus.producer("bench-clicks", Duration::from_millis(5), PATIENCE)?;
    for number in 0..bundles {
        let partition = u16::try_from(number % u64::from(bus.partitions(Topic::ClicksRaw)))?;
        send(&producer, partition, None)?;
    }
    produce::until_taken(&producer, PATIENCE)
}

/// Sends one bundle of clicks of `shard`, which is also its partition.
fn send(producer: &Producer, shard: u16, after: Option<i64>) -> anyhow::Result<()> {
    let link = catalogue::link(0);
    let tail = link_tail(link.workspace.as_str(), &link.facts()).context("a link's part of a line")?;
    let mut lines = Vec::new();
    for number in 0..CLICKS_A_BUNDLE {
        let visit = Visit {
            id: ClickId::new(Timestamp::now(), shard, rand::random()),
            class: ClickClass::Click,
            rate_limited: false,
            ip: std::net::Ipv4Addr::from_bits(0xcb00_7100 | u32::try_from(number)?).into(),
            user_agent: Some(
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
            ),
            referer: None,
            query: Some("utm_source=newsletter"),
            hints: schemas::hints::Hints::default(),
            traceparent: None,
        };
        visit.write_line(&tail, &mut lines);
    }
    let (id, count) = (Uuid::now_v7().to_string(), CLICKS_A_BUNDLE.to_string());
    let after = after.map(|after| after.to_string());
    let mut headers = vec![(BUNDLE_COUNT_HEADER, count.as_bytes()), (BUNDLE_HEADER, id.as_bytes())];
    if let Some(after) = &after {
        headers.push((AGAIN_HEADER, b"1"));
        headers.push((AFTER_HEADER, after.as_bytes()));
    }
    let out = Outgoing {
        topic: Topic::ClicksRaw,
        partition: Some(i32::from(shard)),
        key: None,
        value: Some(&lines),
        headers: &headers,
    };
    produce::send(producer, &out)
}

fn goals(lengths: &[Length]) -> Vec<Goal> {
    let [short, long] = lengths else { return Vec::new() };
    // Starting a process takes as long as it takes, and is noisy.
    let growth = |of: fn(&Length) -> f64| of(long) - of(short);
    vec![
        Goal::at_most(
            "an enricher goes on: later with the longer log by",
            growth(|length| length.rebalance_s),
            0.5,
            "s",
        ),
        Goal::at_most("a bundle is looked for: later by", growth(|length| length.look_back_s), 0.5, "s"),
        Goal::at_most("a warehouse has settled: later by", growth(|length| length.settle_s), 0.5, "s"),
    ]
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, lengths, goals } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    section(&machine.title(), &format!("  the middle one of {TIMES} each"));
    let rows = lengths.iter().map(|length| {
        let mut row = vec![length.clicks.to_string()];
        row.extend([length.rebalance_s, length.look_back_s, length.settle_s].map(|seconds| format!("{seconds:.2}")));
        row
    });
    let header = ["clicks in the log", "enricher goes on after s", "bundle looked for, s", "warehouse settled after s"];
    section("After kill -9", &table(&header, rows));
    section("Goals", &goal::table_of(goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  compare the two lengths, not the numbers.");
    }
    out
}
