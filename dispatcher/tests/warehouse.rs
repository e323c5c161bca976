//! The warehouse on a real Kafka and a real ClickHouse: every row is present once,
//! whatever breaks in between, and only records that make no row are on `dead`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bus::{Bus, Outgoing, Producer};
use clickhouse::Client;
use dispatcher::warehouse::{Config, Error, run};
use schemas::{
    Attempt, AttemptId, AttemptedEvent, BatchId, ClickId, Dead, EndpointId, Envelope, Event, EventId, EventName,
    Outcome, Timestamp, Topic, WorkspaceId, sample,
};
use service::{Health, Shutdown};
use store::{Store, StoreConfig};
use testbed::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The state of the connections to ClickHouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Wire {
    Open,
    /// No request arrives.
    Cut,
    /// Every request arrives, and no answer comes back.
    Mute,
}

/// A proxy in front of ClickHouse whose connections can be cut.
#[derive(Clone)]
struct Proxy {
    at: SocketAddr,
    wire: Arc<AtomicU8>,
}

impl Proxy {
    async fn start(wire: Wire) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { at: listener.local_addr().unwrap(), wire: Arc::new(AtomicU8::new(wire as u8)) };
        let target = testbed::clickhouse().trim_start_matches("http://").to_owned();
        let wire = Arc::clone(&proxy.wire);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target.clone(), Arc::clone(&wire)));
            }
        });
        proxy
    }

    fn set(&self, wire: Wire) {
        self.wire.store(wire as u8, Ordering::SeqCst);
    }
}

async fn carry(mut near: TcpStream, target: String, wire: Arc<AtomicU8>) {
    let is = |state: Wire| wire.load(Ordering::SeqCst) == state as u8;
    if is(Wire::Cut) {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let mut asked = vec![0; 65536];
    let mut answered = vec![0; 65536];
    loop {
        tokio::select! {
            Ok(read) = near.read(&mut asked) => {
                if read == 0 || is(Wire::Cut) || far.write_all(&asked[..read]).await.is_err() {
                    return;
                }
            }
            Ok(read) = far.read(&mut answered) => {
                if read == 0 || is(Wire::Cut) || (!is(Wire::Mute) && near.write_all(&answered[..read]).await.is_err()) {
                    return;
                }
            }
            else => return,
        }
    }
}

/// An installation with topics and a database of its own.
struct Bed {
    bus: Bus,
    config: StoreConfig,
    producer: Producer,
    client: Client,
}

impl Bed {
    async fn new() -> Self {
        let bus = testbed::bus().await;
        let config = StoreConfig {
            url: testbed::clickhouse(),
            database: testbed::unique("t"),
            insert_timeout_ms: 1000,
            query_timeout_ms: 5000,
            // Samples may be older than any retention.
            clicks_days: 0,
            deliveries_days: 0,
            ..StoreConfig::default()
        };
        Store::new(config.clone()).unwrap().migrate().await.unwrap();
        let client = Client::default().with_url(&config.url).with_database(&config.database);
        let producer = bus.producer("test", std::time::Duration::ZERO, testbed::PATIENCE).unwrap();
        Self { bus, config, producer, client }
    }

    async fn produce(&self, topic: Topic, value: &[u8]) {
        self.producer.produce(&Outgoing::keyed(topic, value, Some(value))).await.unwrap();
    }

    /// Produces clicks, each with `slug`, spread over the partitions.
    async fn clicks(&self, count: u64, slug: &str) {
        for nth in 0..count {
            self.produce(Topic::Clicks, &click(nth, slug)).await;
        }
    }

    async fn count(&self, what: &str) -> u64 {
        self.client.query(&format!("SELECT {what}")).fetch_one().await.unwrap()
    }

    async fn run(&self, sql: &str) {
        self.client.query(sql).execute().await.unwrap();
    }

    /// Waits until `clicks` has `expected` rows, then checks that each is present once.
    async fn has_clicks(&self, expected: u64) {
        eventually("every click has a row", async || {
            (self.count("uniqExact(id) FROM clicks").await >= expected).then_some(())
        })
        .await;
        assert_eq!(self.count("count() FROM clicks").await, expected);
        assert_eq!(self.count("uniqExact(id) FROM clicks").await, expected);
    }

    fn start(&self, config: Config) -> Running {
        self.start_at(config, &self.config.url)
    }

    fn start_at(&self, config: Config, url: &str) -> Running {
        let process = service::Process::default();
        let service::Process { health, shutdown, .. } = process.clone();
        let store = Store::new(StoreConfig { url: url.to_owned(), ..self.config.clone() }).unwrap();
        let role = run(config, self.bus.clone(), store, process);
        Running { shutdown, health, task: tokio::spawn(role) }
    }

    fn start_behind(&self, proxy: &Proxy, config: Config) -> Running {
        self.start_at(config, &format!("http://{}", proxy.at))
    }
}

struct Running {
    shutdown: Shutdown,
    health: Health,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until the warehouse waits for ClickHouse, and so has recorded the ranges that
    /// it wants to insert.
    async fn waits(&self) {
        eventually("the warehouse waits for ClickHouse", async || {
            self.health.waiting().get("warehouse").filter(|why| why.contains("ClickHouse")).map(drop)
        })
        .await;
    }
}

fn quick() -> Config {
    Config { max_wait_ms: 50, ..Config::default() }
}

fn event(nth: u64, slug: &str) -> Event<'static> {
    let at = Timestamp::from_millis(1_770_301_425_120 + nth.cast_signed());
    let mut event = sample::event(EventName::LinkClicked, at);
    let id = ClickId::new(at, nth as u16, rand::random());
    event.id = EventId::of("default", event.event, &id.to_string(), "", at);
    event.click.as_mut().unwrap().id = id;
    event.link.as_mut().unwrap().slug = slug.to_owned().into();
    event
}

fn envelope(event: Event<'static>, endpoint: Option<EndpointId>) -> Vec<u8> {
    serde_json::to_vec(&Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint, event }).unwrap()
}

fn click(nth: u64, slug: &str) -> Vec<u8> {
    envelope(event(nth, slug), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_becomes_its_row_or_is_buried() {
    let bed = Bed::new().await;
    let running = bed.start(quick());
    bed.clicks(300, "sale").await;
    let link_event = sample::event(EventName::LinkUpdated, Timestamp::from_millis(5));
    let body = serde_json::to_string(&link_event).unwrap();
    bed.produce(Topic::Events, &envelope(link_event, None)).await;
    bed.produce(
        Topic::Events,
        &envelope(sample::event(EventName::WebhookTest, Timestamp::now()), Some(EndpointId::mint())),
    )
    .await;
    bed.produce(Topic::Clicks, &envelope(event(1, "test"), Some(EndpointId::mint()))).await;
    bed.produce(Topic::Clicks, b"{not json").await;
    for nth in 0..20 {
        let mut converted = sample::event(EventName::LinkConverted, Timestamp::from_millis(1_770_301_425_120));
        converted.id = EventId::of("default", converted.event, &nth.to_string(), "", converted.timestamp);
        bed.produce(Topic::Events, &envelope(converted, None)).await;
    }
    bed.produce(Topic::Attempts, &attempt()).await;
    bed.has_clicks(300).await;
    eventually("the other tables have their rows", async || {
        let rows = bed.count("count() FROM link_events").await + bed.count("count() FROM deliveries").await;
        let converted = bed.count("count() FROM conversions").await;
        ((rows, converted) == (1 + 3, 20)).then_some(())
    })
    .await;
    assert_eq!(bed.count("uniqExact(id) FROM conversions").await, 20);
    assert_eq!(bed.count("toUInt64(sum(value)) FROM conversions_current").await, 12_950);
    assert_eq!(bed.count("uniqExact(id, event_id) FROM deliveries WHERE startsWith(webhook_id, 'bat_')").await, 3);
    assert_eq!(bed.count("count() FROM deliveries WHERE outcome = 'retrying' AND error != ''").await, 1);
    let stored: String = bed.client.query("SELECT body FROM link_events").fetch_one().await.unwrap();
    assert_eq!(stored, body);
    let dead = testbed::read(&bed.bus, Topic::Dead, |dead| dead.len() == 1).await;
    let dead: Dead = serde_json::from_str(&dead[0].value).unwrap();
    assert!(dead.reason.contains("not a row of a table"), "{dead:?}");
    assert_eq!(dead.payload.as_deref(), Some("{not json"));
    running.stop().await;
    // What is done is not done again.
    let running = bed.start(quick());
    bed.clicks(10, "sale").await;
    bed.has_clicks(310).await;
    running.stop().await;
    assert_eq!(testbed::read(&bed.bus, Topic::Dead, |dead| !dead.is_empty()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_makes_rows_wait() {
    let bed = Bed::new().await;
    let proxy = Proxy::start(Wire::Cut).await;
    let running = bed.start_behind(&proxy, quick());
    bed.clicks(50, "sale").await;
    running.waits().await;
    bed.clicks(50, "sale").await;
    proxy.set(Wire::Open);
    bed.has_clicks(100).await;
    eventually("the warehouse is ready again", async || running.health.is_ready().then_some(())).await;
    // An answer that never comes is settled by the same process.
    proxy.set(Wire::Mute);
    bed.clicks(50, "sale").await;
    running.waits().await;
    proxy.set(Wire::Open);
    bed.has_clicks(150).await;
    running.stop().await;
    let late = bed.start(quick());
    bed.clicks(1, "sale").await;
    bed.has_clicks(151).await;
    late.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_and_never_sent_is_inserted_by_the_next() {
    let bed = Bed::new().await;
    let proxy = Proxy::start(Wire::Cut).await;
    bed.clicks(200, "sale").await;
    let running = bed.start_behind(&proxy, Config { max_rows: 7, ..quick() });
    running.waits().await;
    running.stop().await;
    assert_eq!(bed.count("count() FROM clicks").await, 0);
    bed.clicks(100, "sale").await;
    let next = bed.start(Config { max_rows: 11, ..quick() });
    bed.has_clicks(300).await;
    next.stop().await;
}

/// Stores a click, and then leaves rows of 199 others in the table whose insert was never
/// answered, and their ranges recorded; returns the number of rows.
async fn unanswered(bed: &Bed) -> u64 {
    let proxy = Proxy::start(Wire::Open).await;
    let running = bed.start_behind(&proxy, Config { max_rows: 20, ..quick() });
    bed.clicks(1, "first").await;
    bed.has_clicks(1).await;
    proxy.set(Wire::Mute);
    bed.clicks(199, "sale").await;
    running.waits().await;
    running.stop().await;
    bed.count("count() FROM clicks").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_inserted_and_never_answered_is_found_by_the_next() {
    let bed = Bed::new().await;
    // Tokens are of no help here.
    bed.run("ALTER TABLE clicks MODIFY SETTING non_replicated_deduplication_window = 0").await;
    let left = unanswered(&bed).await;
    assert!((2..200).contains(&left), "{left} rows: not some of them");
    bed.clicks(100, "sale").await;
    let next = bed.start(Config { max_rows: 1000, ..quick() });
    bed.has_clicks(300).await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_stands_for_nothing_is_not_believed() {
    let bed = Bed::new().await;
    assert!(unanswered(&bed).await > 1);
    bed.run("ALTER TABLE clicks DELETE WHERE slug = 'sale' SETTINGS mutations_sync = 1").await;
    assert_eq!(bed.count("count() FROM clicks").await, 1);
    let next = bed.start(quick());
    bed.has_clicks(200).await;
    next.stop().await;
}

/// Returns what puts `clicks` into a state in which it takes no rows, what puts it right
/// again, and a word that the reason has.
fn ways_to_break_clicks() -> Vec<(&'static str, &'static str, &'static str)> {
    vec![
        (
            "ALTER TABLE clicks ADD CONSTRAINT no_sale CHECK slug != 'sale'",
            "ALTER TABLE clicks DROP CONSTRAINT no_sale",
            "no_sale",
        ),
        (
            "ALTER TABLE clicks MODIFY SETTING table_readonly = 1",
            "ALTER TABLE clicks MODIFY SETTING table_readonly = 0",
            "readonly",
        ),
        (
            "ALTER TABLE clicks DROP COLUMN utm_term",
            "ALTER TABLE clicks ADD COLUMN utm_term String",
            "ADD COLUMN utm_term String",
        ),
        (
            "ALTER TABLE clicks MODIFY COLUMN utm_content Nullable(String)",
            "ALTER TABLE clicks MODIFY COLUMN utm_content String DEFAULT ''",
            "MODIFY COLUMN utm_content String DEFAULT ''",
        ),
        ("DETACH TABLE clicks", "ATTACH TABLE clicks", "clicks"),
    ]
}

impl Running {
    /// Waits until the warehouse waits because of a table, for a reason that has a word.
    async fn waits_for(&self, table: &str, word: &str) {
        eventually(&format!("the warehouse waits for {table} and says {word}"), async || {
            let why = self.health.waiting().remove("warehouse")?;
            (why.starts_with(&format!("{table}: ")) && why.contains(word)).then_some(())
        })
        .await;
    }
}

/// Returns the record of an attempt of three events, of which one failed.
fn attempt() -> Vec<u8> {
    let attempted =
        |key: &str, outcome| AttemptedEvent { id: event(1, key).id, event: EventName::LinkClicked, outcome };
    let attempt = Attempt {
        v: 2,
        id: AttemptId::mint(),
        endpoint: EndpointId::mint(),
        workspace: WorkspaceId::default(),
        batch: Some(BatchId::from_bits(9)),
        events: vec![attempted("a", None), attempted("b", None), attempted("c", Some(Outcome::Retrying))],
        attempt: 1,
        at: Timestamp::now(),
        duration_ms: 7,
        outcome: Outcome::Delivered,
        status: Some(200),
        error: None,
        response: None,
    };
    serde_json::to_vec(&attempt).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_takes_no_rows_waits_alone_until_it_is_put_right() {
    let bed = Bed::new().await;
    let running = bed.start(quick());
    let mut rounds = 0;
    for (broken, mended, word) in ways_to_break_clicks() {
        bed.run(broken).await;
        rounds += 1;
        bed.clicks(10, "sale").await;
        running.waits_for("clicks", word).await;
        // Nothing else waits for it.
        bed.produce(Topic::Attempts, &attempt()).await;
        eventually("another table takes its rows", async || {
            (bed.count("count() FROM deliveries").await == 3 * rounds).then_some(())
        })
        .await;
        bed.run(mended).await;
        bed.has_clicks(rounds * 10).await;
        eventually("the warehouse is ready again", async || running.health.is_ready().then_some(())).await;
    }
    running.stop().await;
    bed.clicks(1, "sale").await;
    assert!(testbed::read(&bed.bus, Topic::Dead, |_| true).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_fails_is_named_and_doubles_nothing() {
    let bed = Bed::new().await;
    bed.run("CREATE TABLE sizes (id String, n UInt32) ENGINE = MergeTree ORDER BY id").await;
    bed.run("CREATE MATERIALIZED VIEW sizes_mv TO sizes AS SELECT id, toUInt32(slug) AS n FROM clicks").await;
    let running = bed.start(quick());
    for slug in ["1", "300x250", "2"] {
        bed.clicks(20, slug).await;
    }
    running.waits_for("clicks", &format!("the view {}.sizes_mv fails", bed.config.database)).await;
    bed.has_clicks(60).await;
    bed.run("DROP VIEW sizes_mv").await;
    bed.clicks(20, "3").await;
    bed.has_clicks(80).await;
    eventually("the warehouse is ready again", async || running.health.is_ready().then_some(())).await;
    running.stop().await;
    assert!(testbed::read(&bed.bus, Topic::Dead, |_| true).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_back_is_not_stored() {
    let bed = Bed::new().await;
    let bus = bed.bus.clone();
    tokio::task::spawn_blocking(move || {
        let transaction = bus.transaction("test", std::time::Duration::ZERO).unwrap();
        for round in 0..4 {
            transaction.begin().unwrap();
            for nth in 0..10 {
                let value = click(nth, if round % 2 == 0 { "kept" } else { "taken-back" });
                transaction.send(&Outgoing::keyed(Topic::Clicks, &value, Some(&value))).unwrap();
            }
            if round % 2 == 0 { transaction.commit(&[], None).unwrap() } else { transaction.abort().unwrap() }
        }
    })
    .await
    .unwrap();
    let running = bed.start(quick());
    bed.has_clicks(20).await;
    running.stop().await;
    assert_eq!(bed.count("countIf(slug != 'kept') FROM clicks").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_change_hands_in_the_middle_of_it() {
    let bed = Bed::new().await;
    let first = bed.start(Config { max_rows: 13, ..quick() });
    bed.clicks(300, "sale").await;
    let second = bed.start(Config { max_rows: 17, ..quick() });
    bed.clicks(300, "sale").await;
    first.stop().await;
    bed.clicks(300, "sale").await;
    bed.has_clicks(900).await;
    second.stop().await;
}

/// The environment variable for a child of [`killed_and_stalled_owners_leave_every_row_once`].
const CHILD: &str = "CLICKHOOK_TEST_WAREHOUSE";

/// A warehouse as a process of its own, so that it can be killed and stopped.
struct Process(std::process::Child);

impl Process {
    fn start(bed: &Bed, instance: &str) -> Self {
        let what = [&bed.bus.config().prefix, &bed.config.database, instance].join(" ");
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "a_child"])
            .env(CHILD, what)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL, which a stopped process gets as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that another test starts"]
async fn a_child() {
    let what = std::env::var(CHILD).expect("started by another test");
    let [prefix, database, instance] = what.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let config = bus::BusConfig {
        brokers: testbed::kafka(),
        prefix: prefix.to_owned(),
        instance: Some(instance.to_owned()),
        ..bus::BusConfig::default()
    };
    let store = StoreConfig { url: testbed::clickhouse(), database: database.to_owned(), ..StoreConfig::default() };
    let config =
        (Config { max_rows: 25, max_wait_ms: 10, ..Config::default() }, Bus::new(config), Store::new(store).unwrap());
    run(config.0, config.1, config.2, service::Process::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_stalled_owners_leave_every_row_once() {
    let bed = Bed::new().await;
    let mut left = Process::start(&bed, "left");
    let right = Process::start(&bed, "right");
    let mut produced = 0;
    let mut broken = ways_to_break_clicks().into_iter();
    let mut mend = None;
    for round in 0..12 {
        if let Some(mended) = mend.take() {
            bed.run(mended).await;
        } else if round < 8
            && let Some((breaks, mended, _)) = broken.next()
        {
            bed.run(breaks).await;
            mend = Some(mended);
        }
        bed.clicks(200, "sale").await;
        produced += 200;
        if round % 2 == 0 {
            drop(left);
            left = Process::start(&bed, "left");
        }
        if round == 5 {
            right.signal("-STOP");
        }
        if round == 11 {
            // Its partitions are the other's by now.
            bed.has_clicks(produced).await;
            right.signal("-CONT");
        }
    }
    bed.clicks(200, "sale").await;
    bed.has_clicks(produced + 200).await;
    // Also not after the last of them is gone.
    drop((left, right));
    bed.has_clicks(produced + 200).await;
    assert!(testbed::read(&bed.bus, Topic::Dead, |_| true).await.is_empty());
}
