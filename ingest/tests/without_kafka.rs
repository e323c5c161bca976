//! The redirector while Kafka is away: what it knows, and what becomes of clicks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bus::Bus;
use common::{get, link, status, write};
use ingest::{Config, RunningRedirector};
use schemas::Topic;
use service::{Process, Shutdown};
use testbed::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_redirector_starts_without_kafka_from_its_snapshot_and_not_without_one() {
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let data = tempfile::tempdir().unwrap();
    let away = Bus::new(bus::BusConfig { brokers: testbed::free_address().to_string(), ..bus.config().clone() });
    let start = async |bus: &Bus| {
        let process = Process::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config { listen: any, intake_listen: any, data_dir: data.path().to_owned(), ..Config::default() };
        // The one before may hold its spool for a moment.
        let running = eventually("the redirector starts", async || {
            ingest::start(config.clone(), bus.clone(), process.clone()).await.ok()
        })
        .await;
        let Process { metrics, health, shutdown } = process;
        (running, metrics, health, shutdown)
    };
    let stop = async |running: RunningRedirector, shutdown: Shutdown| {
        shutdown.trigger();
        tokio::time::timeout(PATIENCE, running.wait()).await.unwrap().unwrap();
    };

    let (running, _, health, shutdown) = start(&away).await;
    assert_eq!(status(&get(running.local_addr(), "/sale", "").await), 503);
    assert!(!health.is_ready());
    stop(running, shutdown).await;

    let (running, metrics, health, shutdown) = start(&bus).await;
    tokio::time::timeout(PATIENCE, health.ready()).await.unwrap();
    eventually("the topic was read", async || {
        metrics.text().contains("clickhook_ingest_links_from_snapshot 0").then_some(())
    })
    .await;
    eventually("the snapshot is there", async || {
        metrics.text().contains("clickhook_ingest_links_snapshot 1").then_some(())
    })
    .await;
    stop(running, shutdown).await;

    let (running, metrics, health, shutdown) = start(&away).await;
    tokio::time::timeout(PATIENCE, health.ready()).await.unwrap();
    assert_eq!(status(&get(running.local_addr(), "/sale", "").await), 302);
    assert_eq!(status(&get(running.local_addr(), "/nothing", "").await), 404);
    assert!(metrics.text().contains("clickhook_ingest_links_from_snapshot 1"), "{}", metrics.text());
    stop(running, shutdown).await;

    // What it answered without Kafka is there once Kafka is.
    let (running, _, health, shutdown) = start(&bus).await;
    tokio::time::timeout(PATIENCE, health.ready()).await.unwrap();
    let clicks = testbed::read(&bus, Topic::ClicksRaw, |bundles| !bundles.is_empty()).await;
    let lines = clicks.iter().flat_map(|bundle| bundle.value.lines());
    assert_eq!(lines.filter(|line| line.contains("\"class\":\"click\"")).count(), 1, "{clicks:?}");
    stop(running, shutdown).await;
}
