//! `bench enrich`: an enricher alone works off a backlog of clicks that look like
//! people's, and beside it, in the same run, the limit: the same loop without the
//! enriching ([`null_hop`]).

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, LogEnd, OffsetScope, Outgoing};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schemas::{
    ClickClass, ClickId, Timestamp, Topic,
    click::{BUNDLE_COUNT_HEADER, BUNDLE_HEADER, Visit, link_tail},
};
use serde::Serialize;
use service::Shutdown;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    agents, catalogue,
    context::{BenchContext, say},
    goal::{self, Goal},
    kafka::Kafka,
    load,
    machine::Machine,
    null_hop::{self, NullHop},
    process::{self, CpuTimes, Memory, Who},
    produce,
    role::{self, Role},
    table::{megabytes, table},
};

/// The clicks of a bundle: what a busy redirector collects.
const CLICKS_A_BUNDLE: u64 = 50;
/// The links that are clicked.
const LINKS: u64 = 1_000;
/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(300);
/// The seconds of the null hop.
const NULL_HOP: Duration = Duration::from_secs(8);
/// The names of the processes in the report.
const ENRICHER: &str = "enricher";
const KAFKA: &str = "Kafka";

/// The options of `bench enrich`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench enrich                       a backlog of 2 million clicks
  bench enrich --clicks 500000")]
pub(crate) struct Args {
    /// Clicks in the backlog [default: 2000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    clicks: Option<u64>,
}

/// A backlog that was worked off.
#[derive(Debug, Serialize)]
pub(crate) struct Backlog {
    /// The clicks that were counted between the first look and the last.
    clicks: u64,
    clicks_per_s: f64,
    /// Of the enricher's process.
    cpu_us_per_click: f64,
    /// Of the broker's.
    kafka_cpu_us_per_click: f64,
    memory: Memory,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    backlog: Backlog,
    null_hop: NullHop,
    goals: Vec<Goal>,
}

/// Measures the enricher and the null hop, or stops everything when told to.
pub(crate) async fn run(args: &Args, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    let clicks = args.clicks.unwrap_or(if common.quick { 100_000 } else { 2_000_000 });
    say("starting Kafka");
    let kafka = Kafka::start(dir.path()).await?;
    let measured = tokio::select! {
        measured = measure(&common.binary, dir.path(), &kafka, clicks, common.seconds(None, NULL_HOP.as_secs(), 2)) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    kafka.shutdown().await;
    let (backlog, null_hop) = measured?;
    let goals = goals(&backlog, &null_hop);
    Ok(Report { machine, backlog, null_hop, goals })
}

fn goals(backlog: &Backlog, null_hop: &NullHop) -> Vec<Goal> {
    vec![
        Goal::at_most(
            "the null hop's records a second, to the enricher's clicks",
            null_hop.records_per_s / backlog.clicks_per_s,
            1.0 / 0.35,
            "times",
        ),
        Goal::at_most("CPU of the enricher", backlog.cpu_us_per_click, 12.0, "µs a click"),
        Goal::at_most("CPU of Kafka", backlog.kafka_cpu_us_per_click, 20.0, "µs a click"),
    ]
}

async fn measure(
    binary: &Path,
    dir: &Path,
    kafka: &Kafka,
    clicks: u64,
    null_hop_for: Duration,
) -> anyhow::Result<(Backlog, NullHop)> {
    let bus = kafka.bus("enrich").await?;
    say(&format!("filling the backlog with {clicks} clicks"));
    let filling = bus.clone();
    spawn_blocking(move || fill(&filling, clicks)).await??;
    let broker = Who::Process(kafka.pid()?);

    say("the null hop, until the broker is warm");
    null_hop::measure(kafka.brokers(), Some(broker), null_hop_for).await?;

    say("the enricher works the backlog off");
    let mut enricher = Role::start(binary, dir, &settings(&bus)?, ENRICHER, &["enricher"])?;
    let backlog = work_off(&enricher, broker, clicks).await;
    let backlog = backlog.with_context(|| enricher.last_words());
    if enricher.has_ended() {
        bail!("the enricher ended: {}", enricher.last_words());
    }
    enricher.stop().await;

    say("the null hop");
    let null_hop = null_hop::measure(kafka.brokers(), Some(broker), null_hop_for).await?;
    Ok((backlog?, null_hop))
}

/// The enricher with the geo databases, as `clickhook up` starts it.
fn settings(bus: &Bus) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut settings = vec![
        ("CLICKHOOK_KAFKA_BROKERS", bus.config().brokers.clone()),
        ("CLICKHOOK_KAFKA_PREFIX", bus.config().prefix.clone()),
    ];
    settings.extend(role::geo_settings()?);
    Ok(settings)
}

/// Waits until all clicks are counted. The measurement begins with the first look that
/// sees clicks: the start and the joining of the group are not the enricher's work.
async fn work_off(enricher: &Role, broker: Who, clicks: u64) -> anyhow::Result<Backlog> {
    let pid = enricher.pid().context("the enricher has ended")?;
    let cpu = || process::cpu_times(&[(ENRICHER, Who::Process(pid)), (KAFKA, broker)]);
    let deadline = Instant::now() + PATIENCE;
    let mut first: Option<(Instant, u64, CpuTimes)> = None;
    loop {
        let enriched = enricher.metric("clickhook_enricher_clicks_total").await.unwrap_or_default() as u64;
        let now = Instant::now();
        if enriched > 0 && first.is_none() {
            first = Some((now, enriched, cpu()?));
        }
        if enriched >= clicks {
            let (begun, before, cpu_before) = first.context("the clicks were enriched before the first look")?;
            let done = enriched - before;
            if done == 0 {
                bail!("the backlog of {clicks} clicks is too short to be measured: choose a longer one with --clicks");
            }
            let cpu_after = cpu()?;
            let per_click = |name| {
                let used = cpu_after.get(name).copied().unwrap_or_default()
                    - cpu_before.get(name).copied().unwrap_or_default();
                used.as_secs_f64() * 1e6 / done as f64
            };
            return Ok(Backlog {
                clicks: done,
                clicks_per_s: done as f64 / (now - begun).as_secs_f64(),
                cpu_us_per_click: per_click(ENRICHER),
                kafka_cpu_us_per_click: per_click(KAFKA),
                memory: process::memory(pid).context("read the enricher's memory")?,
            });
        }
        if now > deadline {
            bail!("only {enriched} of {clicks} clicks were enriched within {} s", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The pages that visitors come from, as often as they stand here.
const REFERRERS: &[Option<&str>] = &[
    None,
    None,
    None,
    Some("https://l.instagram.com/"),
    Some("https://www.google.com/"),
    Some("https://t.co/"),
    Some("https://m.facebook.com/"),
    Some("https://news.acme-outdoor.example/stories/2026/alpine-shell-review"),
    Some("android-app://com.google.android.gm/"),
    Some("https://www.linkedin.com/feed/"),
];

/// The queries of visits, as often as they stand here.
const QUERIES: &[Option<&str>] = &[
    None,
    None,
    None,
    Some("utm_source=newsletter&utm_medium=email&utm_campaign=winter-sale"),
    Some(
        "fbclid=IwAR0d3Xq7yT1mB5cZ8kLrVvWnE2sJpUoHgFaQeRtYiOxNbMcKlPzDwSvCu4g&utm_source=instagram&utm_medium=paid_social\
         &utm_campaign=winter-sale&utm_content=story-7",
    ),
    Some("gclid=EAIaIQobChMI8dK9r7XaiAMVd5RQBh0kWgJ2EAAYASAAEgKZ0PD_BwE"),
];

/// Produces the clicks of the backlog; the enricher begins with the first.
fn fill(bus: &Bus, clicks: u64) -> anyhow::Result<()> {
    let producer = bus.producer("bench-clicks", Duration::from_millis(5), PATIENCE)?;
    let mut random = StdRng::seed_from_u64(clicks);
    let tails = (0..LINKS).map(|number| {
        let link = catalogue::link(number);
        link_tail(link.workspace.as_str(), &link.facts())
    });
    let tails: Vec<Vec<u8>> = tails.collect::<Result<_, _>>()?;
    let partitions = u64::from(bus.partitions(Topic::ClicksRaw));
    let mut lines = Vec::new();
    for (number, first) in (0..clicks).step_by(CLICKS_A_BUNDLE as usize).enumerate() {
        lines.clear();
        let partition = number as u64 % partitions;
        let count = CLICKS_A_BUNDLE.min(clicks - first);
        for click in first..first + count {
            // Squared, so that some links are clicked much more often than others.
            let link = (random.random::<f64>().powi(2) * LINKS as f64) as usize;
            Visit {
                id: ClickId::new(Timestamp::now(), u16::try_from(partition)?, random.random()),
                class: ClickClass::Click,
                rate_limited: false,
                ip: load::address_of(click as u32).into(),
                user_agent: Some(agents::agent(random.random())),
                referer: REFERRERS[random.random_range(0..REFERRERS.len())],
                query: QUERIES[random.random_range(0..QUERIES.len())],
                hints: schemas::hints::Hints::default(),
                traceparent: None,
            }
            .write_line(&tails[link], &mut lines);
        }
        let bundle = hex::encode(random.random::<[u8; 16]>());
        let count = count.to_string();
        let headers = [(BUNDLE_HEADER, bundle.as_bytes()), (BUNDLE_COUNT_HEADER, count.as_bytes())];
        let out = Outgoing {
            topic: Topic::ClicksRaw,
            partition: Some(i32::try_from(partition)?),
            key: None,
            value: Some(&lines),
            headers: &headers,
        };
        produce::send(&producer, &out)?;
    }
    produce::until_taken(&producer, PATIENCE)?;
    bus.set_offsets("enricher", Topic::ClicksRaw, LogEnd::Earliest, OffsetScope::All)?;
    Ok(())
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, backlog, null_hop, goals } = report;
    let row = |name: &str, items: u64, rate: f64, cpu: f64, kafka: f64, memory: String| {
        vec![
            name.to_owned(),
            items.to_string(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / null_hop.records_per_s),
            format!("{cpu:.2}"),
            format!("{kafka:.2}"),
            memory,
        ]
    };
    let rows = [
        row(
            "null hop",
            null_hop.records,
            null_hop.records_per_s,
            null_hop.cpu_us_per_record,
            null_hop.kafka_cpu_us_per_record,
            String::new(),
        ),
        row(
            ENRICHER,
            backlog.clicks,
            backlog.clicks_per_s,
            backlog.cpu_us_per_click,
            backlog.kafka_cpu_us_per_click,
            megabytes(backlog.memory.rss_bytes),
        ),
    ];
    let header = ["", "records", "a second", "to the null hop's", "CPU µs each", "Kafka's CPU µs each", "RSS MB"];
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "\n{}\n  a backlog of clicks, {CLICKS_A_BUNDLE} a bundle\n\n{}\n\nGoals\n{}\n",
        machine.title(),
        table(&header, rows),
        goal::table_of(goals)
    );
    out
}
