//! Clicks while Kafka is frozen, on a Kafka of this test's own: on disk, beyond
//! what the disk and memory take, produced again by the next process, and in the modes
//! that do without a disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bus::{Bus, BusConfig};
use common::{KeptConnection, get, link, status, write};
use engines::Engines;
use futures_util::future::join_all;
use ingest::{Config, Durability, ReplayedSpool, RunningRedirector, WhenFull};
use schemas::Topic;
use service::{Metrics, Process, Shutdown};
use testbed::{PATIENCE, Read, eventually};

struct FreezableKafka(Engines);

impl FreezableKafka {
    async fn start(dir: &Path) -> Self {
        let mut options = engines::Options::new(dir);
        // Given one, it starts none.
        options.clickhouse = Some("http://127.0.0.1:9".to_owned());
        Self(Engines::start(options).await.unwrap())
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.pids().kafka.unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    async fn bus(&self) -> Bus {
        let config =
            BusConfig { brokers: self.0.kafka_brokers(), prefix: testbed::unique("t"), ..BusConfig::default() };
        let bus = Bus::new(config);
        bus.migrate().await.unwrap();
        let sale = link("sale");
        write(&bus, sale.id, Some(&sale)).await;
        bus
    }
}

struct OutageRedirector {
    running: RunningRedirector,
    metrics: Metrics,
    shutdown: Shutdown,
}

async fn start(bus: &Bus, dir: &Path, config: Config) -> OutageRedirector {
    let process = Process::default();
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        intake_listen: "127.0.0.1:0".parse().unwrap(),
        threads: 2,
        data_dir: dir.to_owned(),
        // All visits here come from one address.
        marked_per_min: 0,
        refused_per_min: 0,
        ..config
    };
    let running = ingest::start(config, bus.clone(), process.clone()).await.unwrap();
    let Process { metrics, health, shutdown } = process;
    tokio::time::timeout(PATIENCE, health.ready()).await.unwrap();
    OutageRedirector { running, metrics, shutdown }
}

impl OutageRedirector {
    fn address(&self) -> SocketAddr {
        self.running.local_addr()
    }

    /// Returns the value of a metric without labels.
    fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn until(&self, metric: &str, holds: impl Fn(f64) -> bool) {
        eventually(metric, async || holds(self.metric(metric)).then_some(())).await;
    }

    async fn visits(&self, markers: std::ops::Range<usize>, agent: &str) {
        for marker in markers {
            let answer = get(self.address(), &format!("/sale?n={marker}"), &format!("User-Agent: {agent}\r\n")).await;
            assert_eq!(status(&answer), 302, "{answer}");
        }
    }

    async fn stop(self) {
        self.shutdown.trigger();
        tokio::time::timeout(PATIENCE, self.running.wait()).await.unwrap().unwrap();
    }
}

/// Returns the markers of the clicks in records, in their order.
fn markers(records: &[Read]) -> Vec<usize> {
    let lines = records.iter().flat_map(|record| record.value.lines());
    let marker = |line: &str| {
        let click: serde_json::Value = serde_json::from_str(line).unwrap();
        let query = click["query"].as_str()?;
        Some(query.strip_prefix("n=")?.split('&').next()?.parse().unwrap())
    };
    let mut markers: Vec<usize> = lines.filter_map(marker).collect();
    markers.sort_unstable();
    markers
}

/// Waits for `count` clicks in `clicks.raw`, and that no more come.
async fn recorded(bus: &Bus, count: usize) -> Vec<Read> {
    testbed::read(bus, Topic::ClicksRaw, move |records| {
        records.iter().map(|record| record.value.lines().count()).sum::<usize>() >= count
    })
    .await
}

async fn is_recorded_once(bus: &Bus, count: usize) {
    let markers = markers(&recorded(bus, count).await);
    let distinct: BTreeSet<&usize> = markers.iter().collect();
    assert_eq!((markers.len(), distinct.len()), (count, count));
}

#[tokio::test(flavor = "multi_thread")]
async fn clicks_of_an_outage() {
    let dir = tempfile::tempdir().unwrap();
    let kafka = FreezableKafka::start(&dir.path().join("engines")).await;
    on_disk(&kafka).await;
    beyond_what_the_disk_takes(&kafka).await;
    beyond_what_memory_takes(&kafka, WhenFull::Refuse).await;
    beyond_what_memory_takes(&kafka, WhenFull::Redirect).await;
    produced_again(&kafka).await;
    emptied_before_the_end(&kafka).await;
    replayed_without_a_redirector(&kafka).await;
    without_a_disk(&kafka).await;
    kafka.0.shutdown().await;
}

/// Redirects go on, and each click is in Kafka once when it is back.
async fn on_disk(kafka: &FreezableKafka) {
    let (bus, dir) = (kafka.bus().await, tempfile::tempdir().unwrap());
    let redirector = start(&bus, dir.path(), Config::default()).await;
    redirector.visits(0..20, "a").await;
    kafka.signal("-STOP");
    redirector.visits(20..120, "a").await;
    assert_eq!(redirector.metric("clickhook_ingest_kafka_late"), 1.0);
    assert!(redirector.metric("clickhook_ingest_spooled_clicks_total") >= 100.0);
    kafka.signal("-CONT");
    redirector.until("clickhook_ingest_spool_bundles", |bundles| bundles == 0.0).await;
    redirector.until("clickhook_ingest_kafka_late", |late| late == 0.0).await;
    redirector.visits(120..140, "a").await;
    is_recorded_once(&bus, 140).await;
    redirector.stop().await;
}

/// A full spool sheds no redirect.
async fn beyond_what_the_disk_takes(kafka: &FreezableKafka) {
    let (bus, dir) = (kafka.bus().await, tempfile::tempdir().unwrap());
    let redirector = start(&bus, dir.path(), Config { spool_max_bytes: 1 << 20, ..Config::default() }).await;
    let agent = "x".repeat(1000);
    kafka.signal("-STOP");
    let mut sent = 0;
    while redirector.metric("clickhook_ingest_spool_full") == 0.0 {
        assert!(sent < 5000, "a megabyte holds all of them");
        redirector.visits(sent..sent + 50, &agent).await;
        sent += 50;
    }
    redirector.visits(sent..sent + 50, &agent).await;
    sent += 50;
    assert!(redirector.metric("clickhook_ingest_shed_clicks_total") >= 50.0);
    assert!(redirector.metric("clickhook_ingest_spool_bytes") <= f64::from(1 << 20));
    kafka.signal("-CONT");
    redirector.until("clickhook_ingest_spool_bundles", |bundles| bundles == 0.0).await;
    // The process lives: what was shed was in its memory.
    is_recorded_once(&bus, sent).await;
    kafka.signal("-STOP");
    redirector.visits(sent..sent + 10, "a").await;
    redirector.until("clickhook_ingest_spool_full", |full| full == 0.0).await;
    kafka.signal("-CONT");
    is_recorded_once(&bus, sent + 10).await;
    redirector.stop().await;
}

/// How many visits come at once.
const VISITORS: usize = 32;
/// How many visits come when nothing takes clicks any more.
const BEYOND: f64 = 300.0;

/// Once Kafka, the disk and memory take no clicks, visits are refused: each redirect is
/// one click in Kafka afterwards, and each other visit is none. Where the redirector was
/// told to redirect all the same, as many clicks are missing as it counts.
async fn beyond_what_memory_takes(kafka: &FreezableKafka, when_full: WhenFull) {
    let (bus, dir) = (kafka.bus().await, tempfile::tempdir().unwrap());
    let config = Config { spool_max_bytes: 1 << 20, when_full, ..Config::default() };
    let redirector = start(&bus, dir.path(), config).await;
    let not_taken = match when_full {
        WhenFull::Refuse => "clickhook_ingest_refused_clicks_total",
        WhenFull::Redirect => "clickhook_ingest_lost_clicks_total",
    };
    kafka.signal("-STOP");
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let visitors = join_all((0..VISITORS).map(|_| visit_until(&redirector, &next, &stop)));
    let outage = async {
        redirector.until(not_taken, |clicks| clicks >= BEYOND).await;
        // They come on while Kafka comes back.
        kafka.signal("-CONT");
        redirector.until("clickhook_ingest_kafka_late", |late| late == 0.0).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (answers, ()) = tokio::join!(visitors, outage);
    redirector.until("clickhook_ingest_spool_bundles", |bundles| bundles == 0.0).await;
    redirector.until("clickhook_ingest_memory_bytes", |bytes| bytes == 0.0).await;

    let (redirected, others): (Vec<_>, Vec<_>) = answers.into_iter().flatten().partition(|(_, status)| *status == 302);
    assert!(others.iter().all(|(_, status)| *status == 503), "{others:?}");
    let lost = redirector.metric("clickhook_ingest_lost_clicks_total") as usize;
    let refused = redirector.metric("clickhook_ingest_refused_clicks_total") as usize;
    match when_full {
        WhenFull::Refuse => assert_eq!((lost, refused), (0, others.len())),
        WhenFull::Redirect => assert_eq!((refused, others.len()), (0, 0)),
    }
    let recorded = markers(&recorded(&bus, redirected.len() - lost).await);
    let distinct: BTreeSet<&usize> = recorded.iter().collect();
    assert_eq!(recorded.len(), distinct.len(), "no click is there twice");
    assert_eq!(recorded.len(), redirected.len() - lost);
    let redirected: BTreeSet<usize> = redirected.into_iter().map(|(marker, _)| marker).collect();
    assert!(recorded.iter().all(|marker| redirected.contains(marker)), "no refused click is there");
    redirector.stop().await;
}

/// The query of a visit that makes a line as long as lines get.
fn query(marker: usize) -> String {
    format!("n={marker}&{}", "q".repeat(4000))
}

/// Visits again and again on one connection; returns the marker and status of each visit.
async fn visit_until(redirector: &OutageRedirector, next: &AtomicUsize, stop: &AtomicBool) -> Vec<(usize, u16)> {
    let mut connection = KeptConnection::open(redirector.address()).await;
    let headers = format!("User-Agent: {}\r\nReferer: https://a.example/{}\r\n", "a".repeat(1000), "r".repeat(2000));
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let marker = next.fetch_add(1, Ordering::Relaxed);
        answers.push((marker, connection.get(&format!("/sale?{}", query(marker)), &headers).await));
    }
    answers
}

/// A process that was killed in the outage, as its successor finds its disk: what
/// Kafka had all the same comes once more, byte for byte, under the bundle's id.
async fn produced_again(kafka: &FreezableKafka) {
    let (bus, dir, copy) = (kafka.bus().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let redirector = start(&bus, dir.path(), Config::default()).await;
    kafka.signal("-STOP");
    redirector.visits(0..50, "a").await;
    std::fs::copy(dir.path().join("spool.redb"), copy.path().join("spool.redb")).unwrap();
    kafka.signal("-CONT");
    is_recorded_once(&bus, 50).await;
    redirector.stop().await;

    let successor = start(&bus, copy.path(), Config::default()).await;
    successor.until("clickhook_ingest_spool_bundles", |bundles| bundles == 0.0).await;
    assert!(successor.metric("clickhook_ingest_replayed_bundles_total") > 0.0);
    let mut copies: BTreeMap<String, Vec<Read>> = BTreeMap::new();
    for record in recorded(&bus, 100).await {
        copies.entry(record.headers["bundle"].clone()).or_default().push(record);
    }
    let both = copies.values().flatten().map(|record| record.value.lines().count()).sum::<usize>();
    assert_eq!(both, 100);
    for copies in copies.values() {
        let [first, second] = copies.as_slice() else { panic!("{copies:?}") };
        assert_eq!((first.partition, &first.value), (second.partition, &second.value));
        assert_eq!(first.headers, second.headers);
    }
    successor.stop().await;
}

/// A redirector that is told to stop hands Kafka what is on its disk, if Kafka comes back in
/// time.
async fn emptied_before_the_end(kafka: &FreezableKafka) {
    let (bus, dir) = (kafka.bus().await, tempfile::tempdir().unwrap());
    let config = Config { drain_spool_ms: 60_000, ..Config::default() };
    let redirector = start(&bus, dir.path(), config).await;
    kafka.signal("-STOP");
    redirector.visits(0..50, "a").await;
    let OutageRedirector { running, metrics, shutdown } = redirector;
    let stopped = tokio::spawn(running.wait());
    shutdown.trigger();
    kafka.signal("-CONT");
    stopped.await.unwrap().unwrap();
    assert!(metrics.text().lines().any(|line| line == "clickhook_ingest_spool_bundles 0"), "{}", metrics.text());
    is_recorded_once(&bus, 50).await;
}

/// Nothing but its disk is left of a redirector.
async fn replayed_without_a_redirector(kafka: &FreezableKafka) {
    let (bus, dir, lost) = (kafka.bus().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let redirector = start(&bus, dir.path(), Config::default()).await;
    redirector.visits(0..20, "a").await;
    kafka.signal("-STOP");
    redirector.visits(20..60, "a").await;
    std::fs::copy(dir.path().join("spool.redb"), lost.path().join("spool.redb")).unwrap();
    kafka.signal("-CONT");
    is_recorded_once(&bus, 60).await;
    redirector.stop().await;

    // Kafka may have had them: each bundle says so, and the enricher drops the second copy.
    let config = Config { data_dir: lost.path().to_owned(), ..Config::default() };
    let outcome = ingest::replay_spool(config.clone(), bus.clone(), Process::default()).await.unwrap();
    assert!(outcome.replayed > 0);
    assert_eq!(outcome.left, 0);
    recorded(&bus, 100).await;
    let again = ingest::replay_spool(config, bus.clone(), Process::default()).await.unwrap();
    assert_eq!(again, ReplayedSpool { replayed: 0, left: 0 });
}

/// `acked` promises nothing that it does not have, `async` does not wait.
async fn without_a_disk(kafka: &FreezableKafka) {
    for durability in [Durability::Acked, Durability::Async] {
        let (bus, dir) = (kafka.bus().await, tempfile::tempdir().unwrap());
        let config = Config { durability, ack_timeout_ms: 300, ..Config::default() };
        let redirector = start(&bus, dir.path(), config).await;
        redirector.visits(0..5, "a").await;
        kafka.signal("-STOP");
        let answer = get(redirector.address(), "/sale?n=5", "").await;
        let expected = if durability == Durability::Acked { 503 } else { 302 };
        assert_eq!(status(&answer), expected, "{durability:?}: {answer}");
        redirector.until("clickhook_ingest_kafka_late", |late| late == 1.0).await;
        kafka.signal("-CONT");
        // It may have been recorded although it was answered with 503.
        recorded(&bus, 6).await;
        redirector.until("clickhook_ingest_kafka_late", |late| late == 0.0).await;
        redirector.visits(6..10, "a").await;
        is_recorded_once(&bus, 10).await;
        redirector.stop().await;
    }
}
