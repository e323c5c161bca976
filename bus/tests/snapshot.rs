//! Tables that start from their snapshots on a real Kafka: with it, without it,
//! and where the snapshot is wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::{Bus, BusConfig, Change, Outgoing, Producer, Table, TableProgress};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use schemas::Topic;

type State = BTreeMap<String, String>;

/// A table, and what it was told.
struct Followed {
    table: Table,
    state: Arc<Mutex<State>>,
    /// How many rows were announced, each time.
    coming: Arc<Mutex<Vec<u64>>>,
}

fn follow(bus: &Bus, dir: &Path) -> Followed {
    let (state, coming) = (Arc::<Mutex<State>>::default(), Arc::<Mutex<Vec<u64>>>::default());
    let (told, announced) = (Arc::clone(&state), Arc::clone(&coming));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let apply = move |change: Change<'_>| {
        let mut state = told.lock().unwrap();
        match change {
            Change::Put { key, value } => drop(state.insert(text(key), text(value))),
            Change::Delete { key } => drop(state.remove(&text(key))),
            Change::Coming { rows } => announced.lock().unwrap().push(rows),
            Change::CaughtUp => {}
        }
    };
    Followed { table: bus.table("test", Topic::Links, Some(dir), apply).unwrap(), state, coming }
}

impl Followed {
    fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    fn coming(&self) -> Vec<u64> {
        self.coming.lock().unwrap().clone()
    }

    async fn until_known(&self, wanted: TableProgress) {
        testbed::eventually("the table is known", async || (self.table.progress() >= wanted).then_some(())).await;
    }

    async fn until_kept(&self, offset: i64) {
        testbed::eventually("the snapshot is whole", async || (self.table.snapshot_offset()? >= offset).then_some(()))
            .await;
    }

    async fn until(&self, expected: &State) {
        testbed::eventually("everything is told", async || (self.state() == *expected).then_some(())).await;
    }
}

/// The same installation while its Kafka does not answer.
fn without_kafka(bus: &Bus) -> Bus {
    Bus::new(BusConfig { brokers: testbed::free_address().to_string(), ..bus.config().clone() })
}

async fn put(producer: &Producer, key: &str, value: &str) -> i64 {
    producer.produce(&Outgoing::keyed(Topic::Links, key.as_bytes(), Some(value.as_bytes()))).await.unwrap().1
}

async fn delete(producer: &Producer, key: &str) -> i64 {
    producer.produce(&Outgoing::keyed(Topic::Links, key.as_bytes(), None)).await.unwrap().1
}

fn state<const N: usize>(rows: [(&str, &str); N]) -> State {
    rows.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

async fn topics_anew(bus: &Bus) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &bus.config().brokers).create().unwrap();
    let name = bus.topics().name(Topic::Links);
    for result in admin.delete_topics(&[&name], &AdminOptions::new()).await.unwrap() {
        result.unwrap();
    }
    // The broker may show the deleted topic for a moment: then nothing is created.
    testbed::eventually("the topic is created again", async || {
        bus.migrate().await.ok().filter(|migrated| migrated.created.contains(&name))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_starts_without_kafka_and_goes_on_where_it_was() {
    let (bus, dir) = (testbed::bus().await, tempfile::tempdir().unwrap());
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1")] {
        put(&producer, key, value).await;
    }
    // Nothing is known without a snapshot and without Kafka.
    let nothing = follow(&without_kafka(&bus), dir.path());
    assert_eq!(nothing.table.progress(), TableProgress::Partial);
    drop(nothing);

    let first = follow(&bus, dir.path());
    first.table.up_to_date().await;
    assert_eq!((first.state(), first.coming()), (state([("a", "1"), ("b", "1"), ("c", "1")]), vec![3]));
    first.until_kept(3).await;
    put(&producer, "a", "2").await;
    let last = delete(&producer, "b").await;
    first.until_kept(last + 1).await;
    drop(first);

    let alone = follow(&without_kafka(&bus), dir.path());
    alone.until_known(TableProgress::Snapshot).await;
    assert_eq!((alone.state(), alone.coming()), (state([("a", "2"), ("c", "1")]), vec![2]));
    assert!(alone.table.is_caught_up());
    drop(alone);

    // What changed meanwhile is told, and what did not is not lost.
    delete(&producer, "c").await;
    put(&producer, "d", "1").await;
    let second = follow(&bus, dir.path());
    second.table.up_to_date().await;
    assert_eq!((second.state(), second.coming()), (state([("a", "2"), ("d", "1")]), vec![2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_topic_that_was_made_anew_leaves_nothing_behind() {
    let (bus, dir) = (testbed::bus().await, tempfile::tempdir().unwrap());
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")] {
        put(&producer, key, value).await;
    }
    let first = follow(&bus, dir.path());
    first.until_kept(4).await;
    drop((first, producer));
    topics_anew(&bus).await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    put(&producer, "b", "2").await;
    put(&producer, "e", "1").await;

    // It is served meanwhile, and swept in the end.
    let second = follow(&bus, dir.path());
    second.until_known(TableProgress::Topic).await;
    assert_eq!(second.state(), state([("b", "2"), ("e", "1")]));
    second.until_kept(2).await;
    drop(second);
    let alone = follow(&without_kafka(&bus), dir.path());
    alone.until_known(TableProgress::Snapshot).await;
    assert_eq!(alone.state(), state([("b", "2"), ("e", "1")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_anew_under_a_table_is_followed_all_the_same() {
    let (bus, dir) = (testbed::bus().await, tempfile::tempdir().unwrap());
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    for key in ["a", "b", "c", "d"] {
        put(&producer, key, "1").await;
    }
    let table = follow(&bus, dir.path());
    table.until_kept(4).await;
    drop(producer);
    topics_anew(&bus).await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    put(&producer, "b", "2").await;
    table.until(&state([("b", "2")])).await;
    table.until_kept(1).await;
    put(&producer, "e", "1").await;
    table.until(&state([("b", "2"), ("e", "1")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_costs_a_read_and_nothing_else() {
    let (bus, dir) = (testbed::bus().await, tempfile::tempdir().unwrap());
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    put(&producer, "a", "1").await;
    let file = dir.path().join("links.redb");
    for damage in [&b""[..], b"this is no snapshot at all"] {
        let table = follow(&bus, dir.path());
        table.until_kept(1).await;
        tokio::task::spawn_blocking(|| table.table.close()).await.unwrap();
        std::fs::write(&file, damage).unwrap();
        let table = follow(&bus, dir.path());
        table.table.up_to_date().await;
        assert_eq!(table.state(), state([("a", "1")]));
    }
}

/// More than fits between the reader and the scribe.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_by_the_thousand_is_in_the_snapshot_too() {
    const KEYS: usize = 40_000;
    let (bus, dir) = (testbed::bus().await, tempfile::tempdir().unwrap());
    let producer = bus.producer("test", Duration::from_millis(5), Duration::ZERO).unwrap();
    put(&producer, "first", "1").await;
    let table = follow(&bus, dir.path());
    table.until_kept(1).await;
    let value = "x".repeat(1000);
    let mut expected = state([("first", "1")]);
    for key in (0..KEYS).map(|number| format!("key-{number}")) {
        let out = Outgoing::keyed(Topic::Links, key.as_bytes(), Some(value.as_bytes()));
        while producer.send(&out, |_| {}).is_err() {
            tokio::task::yield_now().await;
        }
        expected.insert(key, value.clone());
    }
    let last = delete(&producer, "key-7").await;
    expected.remove("key-7");
    table.until(&expected).await;
    table.until_kept(last + 1).await;
    drop(table);
    let alone = follow(&without_kafka(&bus), dir.path());
    alone.until_known(TableProgress::Snapshot).await;
    assert!(alone.state() == expected, "{} of {} keys", alone.state().len(), expected.len());
}
