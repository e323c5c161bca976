//! The enricher on a real Kafka: every click becomes one committed event,
//! whatever happens to the enrichers, and what cannot be enriched goes to `dead`
//! alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bus::{Bus, BusConfig, Outgoing};
use enricher::Config;
use schemas::{ClickClass, ClickId, Dead, Envelope, Event, LinkFacts, LinkId, Timestamp, Topic, click::Visit};
use service::{Health, Metrics, Process, Shutdown};
use store::{Store, StoreConfig};
use tokio::task::JoinHandle;

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1";

/// A ClickHouse that is asked for nothing where no conversion is reported.
fn store() -> Store {
    Store::new(StoreConfig { url: testbed::clickhouse(), ..StoreConfig::default() }).unwrap()
}

struct Running {
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), enricher::Error>>,
}

impl Running {
    async fn start(bus: &Bus) -> Self {
        Self::start_with(bus, Config::default()).await
    }

    async fn start_with(bus: &Bus, config: Config) -> Self {
        let process = Process::default();
        let Process { metrics, health, shutdown } = process.clone();
        // The role's own part, named before it starts, so that it is waited for.
        let _ = health.part("enricher");
        let role = enricher::run(config, bus.clone(), store(), process);
        let task = tokio::spawn(role);
        health.ready().await;
        Self { metrics, health, shutdown, task }
    }

    /// The numbers of transactions: of all, and of those that collected records for at
    /// most a second.
    fn transactions(&self) -> (u64, u64) {
        let name = "clickhook_enricher_transaction_seconds";
        (self.metric(&format!("{name}_count")), self.metric(&format!("{name}_bucket{{le=\"1.0\"}}")))
    }

    fn restarts(&self) -> u64 {
        self.metric("clickhook_enricher_restarts_total")
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }

    async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap().unwrap();
    }
}

fn line(id: ClickId) -> Vec<u8> {
    let link = LinkFacts {
        id: LinkId::from_bits(7),
        short_url: "https://go.acme.co/sale".into(),
        destination: "https://acme.com/winter-sale".into(),
        slug: "sale".into(),
        campaign: None,
        segment: None,
        tags: Vec::new(),
    };
    let mut line = Vec::new();
    let visit = Visit {
        id,
        class: ClickClass::Click,
        rate_limited: false,
        ip: "203.0.113.42".parse().unwrap(),
        user_agent: Some(PHONE),
        referer: None,
        query: Some("utm_source=x"),
        hints: schemas::hints::Hints::default(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    };
    visit.write_line(&schemas::click::link_tail("default", &link).unwrap(), &mut line);
    line
}

/// Produces a bundle of `count` clicks of one shard, with `extra` lines behind.
async fn bundle(bus: &Bus, producer: &bus::Producer, shard: u16, count: u16, extra: &[u8]) -> Vec<String> {
    let ids: Vec<ClickId> =
        (0..count).map(|n| ClickId::new(Timestamp::now(), shard, rand::random::<u64>() ^ u64::from(n))).collect();
    let mut value: Vec<u8> = ids.iter().flat_map(|id| line(*id)).collect();
    value.extend_from_slice(extra);
    let out = Outgoing {
        topic: Topic::ClicksRaw,
        partition: Some(ids[0].partition(bus.partitions(Topic::ClicksRaw))),
        key: None,
        value: Some(&value),
        headers: &[("bundle", b"b-1"), ("count", b"1")],
    };
    producer.produce(&out).await.unwrap();
    ids.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_becomes_events_and_what_cannot_goes_to_dead_alone() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let running = Running::start(&bus).await;
    let ids = bundle(&bus, &producer, 6, 3, b"{\"ip\":\"203.0.113.42\",\"v\":1}\nnot json 203.0.113.43\n").await;

    let clicks = testbed::read(&bus, Topic::Clicks, |clicks| clicks.len() >= 3).await;
    assert_eq!(clicks.iter().map(|click| click.key.clone()).collect::<Vec<_>>(), ids);
    assert!(clicks.iter().all(|click| click.partition == 2), "shard 6 of 4 partitions");
    let envelope: Envelope<'_, Event<'_>> = serde_json::from_str(&clicks[0].value).unwrap();
    let facts = envelope.event.click.unwrap();
    assert_eq!((facts.device.as_deref(), facts.ip_address.as_deref()), (Some("mobile"), Some("203.0.113.0")));
    assert!(facts.session_id.is_some() && envelope.ip_key.is_some());
    assert!(clicks[0].headers["traceparent"].starts_with("00-0af7"));

    let dead = testbed::read(&bus, Topic::Dead, |dead| dead.len() >= 2).await;
    let mut lines = BTreeMap::new();
    for record in &dead {
        let dead: Dead = serde_json::from_str(&record.value).unwrap();
        lines.insert(dead.origin.line.unwrap(), dead);
    }
    assert_eq!(lines.keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(lines[&4].payload.as_deref(), Some("not json 203.0.113.0"));
    assert_eq!(lines[&3].origin.bundle.as_deref(), Some("b-1"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_click_is_committed_once_while_enrichers_come_and_go() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let mut running = vec![Running::start(&bus).await];
    let mut sent = BTreeSet::new();
    for round in 0..6_u16 {
        match round {
            1 | 3 => running.push(Running::start(&bus).await),
            2 | 4 => running.remove(0).stop().await,
            _ => {}
        }
        for n in 0..40 {
            sent.extend(bundle(&bus, &producer, round * 40 + n, 25, b"").await);
        }
    }
    let expected = sent.len();
    let clicks = testbed::read(&bus, Topic::Clicks, move |clicks| clicks.len() >= expected).await;
    let ids: BTreeSet<String> = clicks.iter().map(|click| click.key.clone()).collect();
    assert_eq!(clicks.len(), expected, "a click was committed twice");
    assert_eq!(ids, sent);
    for running in running {
        running.stop().await;
    }
}

/// Produces a bundle of one click, with further headers.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_workers_share_is_enriched_once_and_drops_second_copies() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let id = bundle_id(0);
    let mut sent = bundle(&bus, &producer, 1, 1, b"").await;
    sent.push(copy(&producer, 9_999, &id, &[]).await);
    for round in 0..150 {
        // All are on the partition of the copies.
        sent.extend(bundle(&bus, &producer, 1, 60, b"").await);
        if round == 75 {
            copy(&producer, 9_999, &id, AGAIN_BEHIND_0).await;
        }
    }
    let running = Running::start_with(&bus, Config { workers: Some(3), ..Config::default() }).await;
    let expected = sent.len();
    let clicks = testbed::read(&bus, Topic::Clicks, move |clicks| clicks.len() >= expected).await;
    let mut read: Vec<String> = clicks.into_iter().map(|click| click.key).collect();
    read.sort_unstable();
    sent.sort_unstable();
    assert!(read == sent, "{} events of {} clicks", read.len(), sent.len());
    assert_eq!(running.metric("clickhook_enricher_doubles_total"), 1);
    running.stop().await;
}

async fn copy(producer: &bus::Producer, click: u64, bundle: &str, headers: &[(&str, &[u8])]) -> String {
    let id = ClickId::new(Timestamp::now(), 1, click);
    let headers: Vec<(&str, &[u8])> =
        [("bundle", bundle.as_bytes()), ("count", b"1")].into_iter().chain(headers.iter().copied()).collect();
    let out =
        Outgoing { topic: Topic::ClicksRaw, partition: Some(1), key: None, value: Some(&line(id)), headers: &headers };
    producer.produce(&out).await.unwrap();
    id.to_string()
}

const AGAIN: &[(&str, &[u8])] = &[("again", b"1")];
const AGAIN_BEHIND_0: &[(&str, &[u8])] = &[("again", b"1"), ("after", b"0")];

/// The ids of the clicks that were enriched, once there are `count`.
async fn enriched(bus: &Bus, count: usize) -> BTreeSet<String> {
    let clicks = testbed::read(bus, Topic::Clicks, move |clicks| clicks.len() >= count).await;
    assert_eq!(clicks.len(), count, "a bundle was counted twice");
    clicks.into_iter().map(|click| click.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_is_dropped_whichever_copy_comes_first() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let bundle = || uuid::Uuid::now_v7().to_string();
    let (kept, late, other) = (bundle(), bundle(), bundle());
    let mut expected = BTreeSet::new();
    expected.insert(copy(&producer, 1, &bundle(), &[]).await);
    let first = Running::start(&bus).await;
    expected.insert(copy(&producer, 2, &kept, &[]).await);
    // The first copy is found in the log.
    copy(&producer, 3, &kept, AGAIN).await;
    copy(&producer, 4, &kept, AGAIN_BEHIND_0).await;
    // No first copy is found: it comes later.
    expected.insert(copy(&producer, 5, &late, AGAIN_BEHIND_0).await);
    copy(&producer, 6, &late, &[]).await;
    expected.insert(copy(&producer, 7, &bundle(), &[]).await);
    assert_eq!(enriched(&bus, expected.len()).await, expected);
    first.stop().await;
    // The next enricher knows what the first has accepted.
    let second = Running::start(&bus).await;
    copy(&producer, 8, &late, &[]).await;
    copy(&producer, 9, &late, AGAIN).await;
    copy(&producer, 10, &kept, AGAIN).await;
    expected.insert(copy(&producer, 11, &other, AGAIN).await);
    copy(&producer, 12, &other, AGAIN).await;
    expected.insert(copy(&producer, 13, &bundle(), &[]).await);
    assert_eq!(enriched(&bus, expected.len()).await, expected);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bundles_that_say_again_are_each_counted_once() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let bundles: Vec<String> = (0..200).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let mut expected = BTreeSet::new();
    // Of every second bundle, Kafka had the first copy.
    for (number, bundle) in bundles.iter().enumerate().step_by(2) {
        expected.insert(copy(&producer, number as u64, bundle, &[]).await);
    }
    let running = Running::start(&bus).await;
    for (number, bundle) in bundles.iter().enumerate() {
        let id = copy(&producer, 1000 + number as u64, bundle, AGAIN).await;
        if number % 2 == 1 {
            expected.insert(id);
        }
    }
    expected.insert(copy(&producer, 5000, &uuid::Uuid::now_v7().to_string(), &[]).await);
    assert_eq!(enriched(&bus, expected.len()).await, expected);
    running.stop().await;
}

/// Two redirectors: one was cut off hours ago, and produces again what Kafka may have,
/// between the ordinary bundles of the other. Its clock is 20 minutes behind or ahead.
#[tokio::test(flavor = "multi_thread")]
async fn old_bundles_behind_much_else_hold_back_no_transaction() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let bundles: Vec<String> = [-20, 20, -180, 0].into_iter().map(bundle_id).collect();
    let mut expected = BTreeSet::new();
    expected.insert(copy(&producer, 0, &uuid::Uuid::now_v7().to_string(), &[]).await);
    // Of every second bundle, Kafka had the first copy.
    for (number, bundle) in bundles.iter().enumerate().step_by(2) {
        expected.insert(copy(&producer, number as u64 + 1, bundle, &[]).await);
    }
    let running = Running::start(&bus).await;
    for _ in 0..BETWEEN_BUNDLES {
        expected.extend(bundle(&bus, &producer, 1, BETWEEN_CLICKS, b"").await);
    }
    for (number, again) in bundles.iter().enumerate() {
        // A transaction is open when the old bundle comes, and others come behind it.
        expected.extend(bundle(&bus, &producer, 1, 3, b"").await);
        expected.extend(bundle(&bus, &producer, 2, 3, b"").await);
        let id = copy(&producer, 100 + number as u64, again, AGAIN_BEHIND_0).await;
        if number % 2 == 1 {
            expected.insert(id);
        }
        expected.extend(bundle(&bus, &producer, 1, 3, b"").await);
    }
    assert_eq!(enriched(&bus, expected.len()).await, expected);
    let (all, quick) = running.transactions();
    assert_eq!(all, quick, "transactions were open for longer than a second");
    running.stop().await;
}

/// The bundles between a first and a second copy: about 12 MB.
const BETWEEN_BUNDLES: u16 = 100;
const BETWEEN_CLICKS: u16 = 200;

/// The id of a bundle of a redirector whose clock is `minutes` ahead.
fn bundle_id(minutes: i64) -> String {
    let at = Timestamp::now().as_millis() + minutes * 60_000;
    let (seconds, millis) = ((at / 1000).cast_unsigned(), (at % 1000) as u32);
    uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, millis * 1_000_000)).to_string()
}

/// As after a mistake in a deployment: each fences the other off, and takes over.
#[tokio::test(flavor = "multi_thread")]
async fn two_enrichers_of_one_name_take_turns_in_peace() {
    let bus = Bus::new(BusConfig { instance: Some("one".to_owned()), ..testbed::bus_config() });
    bus.migrate().await.unwrap();
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let first = Running::start(&bus).await;
    let second = Running::start(&bus).await;
    let begun = Instant::now();
    let mut sent = BTreeSet::new();
    let mut was_red = false;
    testbed::eventually("both have been fenced off several times", async || {
        sent.extend(bundle(&bus, &producer, rand::random_range(0..4), 5, b"").await);
        was_red |= !first.health.is_ready();
        (first.restarts() >= 3 && second.restarts() >= 3).then_some(())
    })
    .await;
    let restarts = u32::try_from(first.restarts() + second.restarts()).unwrap();
    assert!(begun.elapsed() > restarts * Duration::from_millis(50), "{restarts} restarts in {:?}", begun.elapsed());
    assert!(was_red, "a member that fails is not ready");
    first.stop().await;
    sent.extend(bundle(&bus, &producer, 1, 5, b"").await);
    second.health.ready().await;
    let expected = sent.len();
    let clicks = testbed::read(&bus, Topic::Clicks, move |clicks| clicks.len() >= expected).await;
    assert_eq!(clicks.len(), expected, "a click was committed twice");
    assert_eq!(clicks.into_iter().map(|click| click.key).collect::<BTreeSet<_>>(), sent);
    second.stop().await;
}
