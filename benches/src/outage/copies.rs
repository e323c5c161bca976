//! `bench outage copies`: a redirector that was cut off for hours produces bundles again
//! that Kafka may have, with gigabytes of clicks between the copies. The enricher looks
//! for the first copies, while the bundles of others go through.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, BusConfig, BusError, Isolation, LogEnd, Membership, OffsetScope, Outgoing, Producer};
use schemas::{
    ClickClass, ClickId, Timestamp, Topic,
    click::{AFTER_HEADER, AGAIN_HEADER, BUNDLE_HEADER, Visit},
};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    catalogue,
    connection::PHONE,
    context::{BenchContext, say},
    goal::{self, Goal},
    kafka::Kafka,
    load,
    machine::Machine,
    process, produce,
    role::Role,
    summary::Latency,
    table::{megabytes, table},
};

/// The group that the enricher reads with.
const GROUP: &str = "enricher";
/// The partition of the redirector that was cut off.
const CUT_OFF: i32 = 0;
/// How many bundles it produces again; Kafka has the first copy of every second one.
const AGAIN: usize = 100;
/// Clicks in a bundle of the log, about 128 KiB.
const FILL_CLICKS: usize = 200;
/// Ordinary bundles a second, of one click each, while copies are looked for.
const RATE: u32 = 200;
/// How long ordinary bundles go through before the first copy, and after the last.
const AROUND: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// The outcome with one length of the log.
#[derive(Debug, Serialize)]
struct CopiesRun {
    /// The bytes of clicks between the copies, of all partitions.
    log_bytes: u64,
    /// From the start of the enricher to its first committed click.
    first_click_s: f64,
    /// From a bundle's acknowledgement to its committed click, where nobody was cut off.
    others: Latency,
    /// The same in the partition of the redirector that was cut off.
    cut_off: Latency,
    transactions: f64,
    /// Transactions that collected clicks for longer than a second.
    slow_transactions: f64,
    /// The enricher's memory before the copies came, and the most it ever had.
    memory_bytes: u64,
    memory_peak_bytes: u64,
    lost: usize,
    doubled: usize,
}

/// Everything that was seen.
#[derive(Debug, Serialize)]
pub(crate) struct CopiesReport {
    machine: Machine,
    runs: Vec<CopiesRun>,
    goals: Vec<Goal>,
}

/// Runs with a log of a tenth of the full length, and of the full length.
pub(super) async fn run(common: &BenchContext) -> anyhow::Result<CopiesReport> {
    let bytes: u64 = if common.quick { 100 << 20 } else { 2 << 30 };
    let machine = Machine::look();
    let mut runs = Vec::new();
    for bytes in [bytes / 10, bytes] {
        let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
        let kafka = Kafka::start(dir.path()).await?;
        let outcome = with_log(&common.binary, dir.path(), &kafka, bytes).await;
        kafka.shutdown().await;
        runs.push(outcome?);
    }
    let goals = goals(&runs);
    Ok(CopiesReport { machine, runs, goals })
}

fn goals(runs: &[CopiesRun]) -> Vec<Goal> {
    let sum = |of: fn(&CopiesRun) -> f64| runs.iter().map(of).sum::<f64>();
    let grown = |run: &CopiesRun| run.memory_peak_bytes.saturating_sub(run.memory_bytes) as f64 / 1e6;
    let mut goals = vec![
        Goal::at_most(
            "transactions that collected clicks for over a second",
            sum(|run| run.slow_transactions),
            0.0,
            "",
        ),
        Goal::at_most("clicks that were lost", sum(|run| run.lost as f64), 0.0, ""),
        Goal::at_most("clicks that were committed twice", sum(|run| run.doubled as f64), 0.0, ""),
    ];
    if let [short, long] = runs {
        goals.push(Goal::at_most("memory that the longer log took more", grown(long) - grown(short), 20.0, "MB"));
        let ratio = long.first_click_s / short.first_click_s.max(0.1);
        goals.push(Goal::at_most("first click after a start, to that with a tenth of the log", ratio, 2.0, "times"));
    }
    goals
}

async fn with_log(binary: &Path, dir: &Path, kafka: &Kafka, bytes: u64) -> anyhow::Result<CopiesRun> {
    let bus = Bus::new(BusConfig { brokers: kafka.brokers(), ..BusConfig::default() });
    bus.migrate().await.context("create the topics")?;
    say(&format!("filling the log with {} MB", megabytes(bytes)));
    let filling = bus.clone();
    let bundles: Vec<String> = (0..AGAIN).map(|_| bundle_id()).collect();
    let first_copies = bundles.clone();
    spawn_blocking(move || fill(&filling, &first_copies, bytes)).await??;

    let visible = Arc::<Visible>::default();
    let reader = visible.read(&bus)?;
    let settings = [("CLICKHOOK_KAFKA_BROKERS", kafka.brokers())];
    let begun = Instant::now();
    let mut enricher = Role::start(binary, dir, &settings, "enricher", &["enricher"])?;
    enricher.ready().await?;
    let producing = bus.clone();
    let first = spawn_blocking(move || SentClick::one(&producing)).await??;
    until("the first click is committed", async || visible.has(&first.id)).await?;
    let first_click_s = begun.elapsed().as_secs_f64();

    let pid = enricher.pid().context("the enricher has ended")?;
    let memory = process::memory(pid).context("read the enricher's memory")?;
    say("the redirector that was cut off comes back");
    let producing = bus.clone();
    let sent = spawn_blocking(move || produce(&producing, &bundles)).await??;
    until("the ordinary clicks are committed", async || {
        sent.iter().all(|click| !click.counts || visible.has(&click.id))
    })
    .await?;
    // A second copy that was not dropped comes by then.
    sleep(Duration::from_secs(2)).await;
    visible.stop.store(true, Ordering::Relaxed);
    spawn_blocking(move || reader.join()).await?.map_err(|_| anyhow::anyhow!("the reader panicked"))??;

    let transactions = "clickhook_enricher_transaction_seconds_count";
    let quick = "clickhook_enricher_transaction_seconds_bucket{le=\"1.0\"}";
    let transactions = enricher.metric(transactions).await.context("the enricher counts transactions")?;
    let quick = enricher.metric(quick).await.context("the enricher counts transactions")?;
    let memory_peak_bytes = process::peak(pid).context("read the enricher's memory")?;
    enricher.stop().await;
    let clicks = visible.clicks.lock();
    let latencies = |is_wanted: fn(i32) -> bool| {
        let wanted = sent.iter().filter(|click| click.counts && is_wanted(click.partition));
        Latency::of(wanted.filter_map(|click| Some(clicks.get(&click.id)?.0 - click.at)).collect())
    };
    Ok(CopiesRun {
        log_bytes: bytes,
        first_click_s,
        others: latencies(|partition| partition != CUT_OFF),
        cut_off: latencies(|partition| partition == CUT_OFF),
        transactions,
        slow_transactions: transactions - quick,
        memory_bytes: memory.rss_bytes,
        memory_peak_bytes,
        lost: sent.iter().filter(|click| click.counts && !clicks.contains_key(&click.id)).count(),
        doubled: clicks.values().filter(|(_, times)| *times > 1).count()
            + sent.iter().filter(|click| !click.counts && clicks.contains_key(&click.id)).count(),
    })
}

/// A click that was produced and acknowledged.
struct SentClick {
    id: String,
    partition: i32,
    at: Instant,
    /// Whether it is to be counted: it is in no second copy.
    counts: bool,
}

impl SentClick {
    /// Produces one bundle of one click, to another partition than that of the copies.
    fn one(bus: &Bus) -> anyhow::Result<Self> {
        let producer = bus.producer("copies", Duration::ZERO, PATIENCE)?;
        let click = Self::produce(&producer, CUT_OFF + 1, &bundle_id(), &[])?;
        produce::until_taken(&producer, PATIENCE)?;
        Ok(click)
    }

    fn produce(producer: &Producer, partition: i32, bundle: &str, headers: &[(&str, &[u8])]) -> anyhow::Result<Self> {
        let mut lines = Vec::new();
        let id = line(partition, &mut lines)?.to_string();
        send(producer, partition, bundle, headers, &lines)?;
        Ok(Self { id, partition, at: Instant::now(), counts: true })
    }
}

fn bundle_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

fn send(
    producer: &Producer,
    partition: i32,
    bundle: &str,
    headers: &[(&str, &[u8])],
    lines: &[u8],
) -> anyhow::Result<()> {
    let headers = [&[(BUNDLE_HEADER, bundle.as_bytes())], headers].concat();
    let out = Outgoing {
        topic: Topic::ClicksRaw,
        partition: Some(partition),
        key: None,
        value: Some(lines),
        headers: &headers,
    };
    produce::send(producer, &out)
}

/// Appends the line of a click whose partition is `partition`, and returns its id.
fn line(partition: i32, lines: &mut Vec<u8>) -> anyhow::Result<ClickId> {
    let id = ClickId::new(Timestamp::now(), u16::try_from(partition)?, rand::random());
    let visit = Visit {
        id,
        class: ClickClass::Click,
        rate_limited: false,
        ip: load::address_of(rand::random()).into(),
        user_agent: Some(PHONE),
        referer: None,
        query: Some("utm_source=newsletter&utm_medium=email"),
        hints: schemas::hints::Hints::default(),
        traceparent: None,
    };
    let link = catalogue::link(0);
    visit.write_line(&schemas::click::link_tail(link.workspace.as_str(), &link.facts())?, lines);
    Ok(id)
}

/// Produces the first copies, and `bytes` of other bundles behind them. The enricher
/// begins behind all of that.
fn fill(bus: &Bus, bundles: &[String], bytes: u64) -> anyhow::Result<()> {
    let producer = bus.producer("copies", Duration::from_millis(5), PATIENCE)?;
    SentClick::produce(&producer, CUT_OFF, &bundle_id(), &[])?;
    for bundle in bundles.iter().step_by(2) {
        SentClick::produce(&producer, CUT_OFF, bundle, &[])?;
    }
    produce::until_taken(&producer, PATIENCE)?;
    let partitions = i32::from(bus.partitions(Topic::ClicksRaw));
    let mut filled = 0;
    for number in 0_i32.. {
        if filled >= bytes {
            break;
        }
        let mut lines = Vec::new();
        for _ in 0..FILL_CLICKS {
            line(number % partitions, &mut lines)?;
        }
        filled += lines.len() as u64;
        send(&producer, number % partitions, &bundle_id(), &[], &lines)?;
    }
    produce::until_taken(&producer, PATIENCE)?;
    bus.set_offsets(GROUP, Topic::ClicksRaw, LogEnd::Latest, OffsetScope::All)?;
    Ok(())
}

/// Produces ordinary bundles to all partitions, and the bundles of the redirector that
/// was cut off between them.
fn produce(bus: &Bus, bundles: &[String]) -> anyhow::Result<Vec<SentClick>> {
    let producer = bus.producer("copies", Duration::ZERO, PATIENCE)?;
    let partitions = i32::from(bus.partitions(Topic::ClicksRaw));
    let mut sent = Vec::new();
    let ordinary = |count: u32, sent: &mut Vec<SentClick>| {
        for _ in 0..count {
            let partition = rand::random_range(0..partitions);
            sent.push(SentClick::produce(&producer, partition, &bundle_id(), &[])?);
            thread::sleep(Duration::from_secs(1) / RATE);
        }
        anyhow::Ok(())
    };
    let around = RATE * u32::try_from(AROUND.as_secs())?;
    ordinary(around, &mut sent)?;
    for (number, bundle) in bundles.iter().enumerate() {
        // The record before the first copies is the last that had been acknowledged.
        let again: &[(&str, &[u8])] = &[(AGAIN_HEADER, b"1"), (AFTER_HEADER, b"0")];
        let copy = SentClick::produce(&producer, CUT_OFF, bundle, again)?;
        sent.push(SentClick { counts: number % 2 == 1, ..copy });
        ordinary(2, &mut sent)?;
    }
    ordinary(around, &mut sent)?;
    produce::until_taken(&producer, PATIENCE)?;
    Ok(sent)
}

/// The clicks that are committed: when each was seen first, and how often.
#[derive(Default)]
struct Visible {
    clicks: parking_lot::Mutex<BTreeMap<String, (Instant, u32)>>,
    stop: AtomicBool,
}

impl Visible {
    fn has(&self, id: &str) -> bool {
        self.clicks.lock().contains_key(id)
    }

    /// Reads committed clicks on a thread of its own.
    fn read(self: &Arc<Self>, bus: &Bus) -> anyhow::Result<thread::JoinHandle<Result<(), BusError>>> {
        let visible = Arc::clone(self);
        bus.set_offsets("copies", Topic::Clicks, LogEnd::Earliest, OffsetScope::All)?;
        let consumer =
            bus.consumer("copies", &[Topic::Clicks], Isolation::Committed, Membership::Dynamic, Arc::new(()))?;
        let read = move || {
            while !visible.stop.load(Ordering::Relaxed) {
                if let Some(record) = consumer.poll(Duration::from_millis(50))? {
                    let id = String::from_utf8_lossy(record.key()).into_owned();
                    visible.clicks.lock().entry(id).or_insert_with(|| (Instant::now(), 0)).1 += 1;
                }
            }
            Ok(())
        };
        Ok(thread::Builder::new().name("reader".to_owned()).spawn(read)?)
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        if Instant::now() > deadline {
            bail!("gave up after {} s waiting until {what}", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The report as tables.
pub(crate) fn text(report: &CopiesReport) -> String {
    let CopiesReport { machine, runs, goals } = report;
    let rows = runs.iter().map(|run| {
        let mut row = vec![format!("{} MB", megabytes(run.log_bytes)), format!("{:.2}", run.first_click_s)];
        row.extend(
            [run.others.p50_ms, run.others.max_ms, run.cut_off.p50_ms, run.cut_off.max_ms].map(|ms| format!("{ms:.0}")),
        );
        row.extend([run.transactions, run.slow_transactions].map(|count| format!("{count:.0}")));
        row.extend([run.memory_bytes, run.memory_peak_bytes].map(megabytes));
        row.extend([run.lost, run.doubled].map(|count| count.to_string()));
        row
    });
    let header = [
        "log between the copies",
        "first click after s",
        "others: p50 ms",
        "max",
        "cut off: p50 ms",
        "max",
        "transactions",
        "over 1 s",
        "RSS MB",
        "at most",
        "lost",
        "doubled",
    ];
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "\n{}\n  {AGAIN} bundles again, {RATE} ordinary bundles/s\n{}\n\nGoals\n{}\n",
        machine.title(),
        table(&header, rows),
        goal::table_of(goals)
    );
    out
}
