//! The common parts of the integration tests and the bench: the engines that
//! `make test` started, a topic prefix and a database of one's own, and waiting for a
//! condition instead of sleeping.

pub mod broker;
pub mod certificates;
pub mod mutate;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bus::{Bus, BusConfig, Isolation, LogEnd, Membership, OffsetScope};
use schemas::Topic;

/// The time after which a test gives up waiting.
pub const PATIENCE: Duration = Duration::from_secs(60);

fn engine(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: start the engines with `make test`, or `clickhook engines exec -- cargo test --release`")
    })
}

/// The test run's Kafka.
#[must_use]
pub fn kafka() -> String {
    engine("CLICKHOOK_TEST_KAFKA")
}

/// The test run's ClickHouse.
#[must_use]
pub fn clickhouse() -> String {
    engine("CLICKHOOK_TEST_CLICKHOUSE")
}

/// A name that no other test has: for a topic prefix or a database.
#[must_use]
pub fn unique(what: &str) -> String {
    format!("{what}_{}", hex::encode(rand::random::<[u8; 6]>()))
}

/// An address on this machine that nothing listens on. Its port is below those
/// that the system gives to clients, so that no connection takes it meanwhile,
/// and this process is told of it once.
///
/// # Panics
/// When no port is free.
#[must_use]
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let port = (0..10_000)
        .map(|_| rand::random_range(10_000..20_000))
        .find(|port| !given.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("of ten thousand ports one is free");
    given.insert(port);
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A Kafka configuration of one's own.
#[must_use]
pub fn bus_config() -> BusConfig {
    BusConfig { brokers: kafka(), prefix: unique("t"), ..BusConfig::default() }
}

/// A Kafka of one's own, topics made.
pub async fn bus() -> Bus {
    let bus = Bus::new(bus_config());
    bus.migrate().await.expect("the test run's Kafka makes topics");
    bus
}

/// Lets a group of one's own read a topic from its beginning. Blocks.
///
/// # Panics
/// When Kafka does not take its offsets.
pub fn begin_group(bus: &Bus, group: &str, topic: Topic) {
    let deadline = Instant::now() + PATIENCE;
    // A Kafka that was just started may not know its partitions yet.
    while let Err(error) = bus.set_offsets(group, topic, LogEnd::Earliest, OffsetScope::All) {
        assert!(Instant::now() < deadline, "a new group does not take offsets: {error}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until `condition` gives something.
///
/// # Panics
/// When it has not within [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The partition's number.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key, as text.
    pub key: String,
    /// Its value, as text.
    pub value: String,
    /// The values of the headers `traceparent`, `bundle` and `count`, where they exist.
    pub headers: BTreeMap<&'static str, String>,
}

/// Reads a topic from its beginning, committed records only, until `enough` says
/// so, and then on until nothing more comes for a while.
///
/// # Panics
/// When `enough` has not said so within [`PATIENCE`].
pub async fn read(bus: &Bus, topic: Topic, enough: impl Fn(&[Read]) -> bool + Send + 'static) -> Vec<Read> {
    let bus = bus.clone();
    tokio::task::spawn_blocking(move || {
        let group = unique("reader");
        begin_group(&bus, &group, topic);
        let consumer = bus
            .consumer(&group, &[topic], Isolation::Committed, Membership::Dynamic, Arc::new(()))
            .expect("a consumer is made");
        let deadline = Instant::now() + PATIENCE;
        let mut records = Vec::new();
        let mut quiet = Instant::now();
        while !(enough(&records) && quiet.elapsed() > Duration::from_millis(500)) {
            assert!(
                Instant::now() < deadline,
                "gave up reading {}: {} records, the last of them {:#?}",
                topic.suffix(),
                records.len(),
                &records[records.len().saturating_sub(5)..]
            );
            if let Some(record) = consumer.poll(Duration::from_millis(50)).expect("the topic is readable") {
                quiet = Instant::now();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                records.push(Read {
                    partition: record.partition().index,
                    offset: record.offset(),
                    key: text(record.key()),
                    value: text(record.value().unwrap_or_default()),
                    headers: ["traceparent", "bundle", "count"]
                        .into_iter()
                        .filter_map(|name| Some((name, text(record.header(name)?))))
                        .collect(),
                });
            }
        }
        records
    })
    .await
    .expect("the reading thread lives")
}
