//! The bus on a real Kafka: topics, tables, transactions and where reading starts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bus::{
    Bus, BusConfig, BusError, Change, CommitStart, Consumer, Isolation, LogEnd, Membership, OffsetScope, Outgoing,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, Producer as _},
};
use schemas::Topic;
use tokio::time::timeout;

const CLICK: Outgoing<'_> = Outgoing { partition: Some(0), ..Outgoing::keyed(Topic::ClicksRaw, b"k", Some(b"v")) };

/// Reads the next `count` offsets, waiting for them.
fn offsets(consumer: &Consumer, count: usize) -> Vec<i64> {
    let deadline = Instant::now() + testbed::PATIENCE;
    let mut offsets = Vec::new();
    while offsets.len() < count {
        assert!(Instant::now() < deadline, "gave up reading: {offsets:?}");
        if let Some(record) = consumer.poll(Duration::from_millis(50)).unwrap() {
            offsets.push(record.offset());
        }
    }
    offsets
}

/// A member of the group `g`, which begins at the topic's beginning.
fn raw(bus: &Bus) -> Consumer {
    bus.set_offsets("g", Topic::ClicksRaw, LogEnd::Earliest, OffsetScope::Missing).unwrap();
    join(bus)
}

fn join(bus: &Bus) -> Consumer {
    bus.consumer("g", &[Topic::ClicksRaw], Isolation::Committed, Membership::Dynamic, Arc::new(())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_tells_what_is_and_then_what_changes() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let put = |key: &'static [u8], value: Option<&'static [u8]>| Outgoing::keyed(Topic::Links, key, value);
    producer.produce(&put(b"a", Some(b"1"))).await.unwrap();
    producer.produce(&put(b"b", Some(b"1"))).await.unwrap();
    producer.produce(&put(b"a", None)).await.unwrap();

    let state = Arc::<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>::default();
    let told = Arc::clone(&state);
    let table = bus
        .table("test", Topic::Links, None, move |change| {
            let mut state = told.lock().unwrap();
            match change {
                Change::Put { key, value } => drop(state.insert(key.to_vec(), value.to_vec())),
                Change::Delete { key } => drop(state.remove(key)),
                Change::Coming { .. } | Change::CaughtUp => {}
            }
        })
        .unwrap();
    table.caught_up().await;
    assert_eq!(*state.lock().unwrap(), BTreeMap::from([(b"b".to_vec(), b"1".to_vec())]));
    producer.produce(&put(b"c", Some(b"2"))).await.unwrap();
    testbed::eventually("the change is told", async || state.lock().unwrap().contains_key(&b"c"[..]).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_left_open_is_neither_seen_nor_read_past() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    for _ in 0..6 {
        producer.produce(&CLICK).await.unwrap();
    }
    let worker = bus.clone();
    tokio::task::spawn_blocking(move || {
        let consumer = raw(&worker);
        let mut pair = worker.transaction_pair("w", Duration::ZERO).unwrap();
        let copy = |pair: &mut bus::TransactionPair, offset: i64| {
            let value = offset.to_string();
            pair.send(&Outgoing::keyed(Topic::Clicks, b"k", Some(value.as_bytes()))).unwrap();
        };
        // Two transactions are committed, one after the other.
        for read in [[0, 1], [2, 3]] {
            assert_eq!(offsets(&consumer, 2), read);
            for offset in read {
                copy(&mut pair, offset);
            }
            pair.read_up_to(bus::Partition { topic: Topic::ClicksRaw, index: 0 }, read[1] + 1).unwrap();
            while pair.try_commit(|| consumer.group_metadata()).unwrap() == CommitStart::Busy {}
        }
        pair.commit_all(|| consumer.group_metadata()).unwrap();
        // A third is left open, as by a crash; its successor takes over.
        assert_eq!(offsets(&consumer, 2), [4, 5]);
        copy(&mut pair, 666);
        drop((pair, consumer));
        let mut pair = worker.transaction_pair("w", Duration::ZERO).unwrap();
        let consumer = raw(&worker);
        for offset in offsets(&consumer, 2) {
            copy(&mut pair, offset);
        }
        pair.read_up_to(bus::Partition { topic: Topic::ClicksRaw, index: 0 }, 6).unwrap();
        pair.commit_all(|| consumer.group_metadata()).unwrap();
    })
    .await
    .unwrap();
    let clicks = testbed::read(&bus, Topic::Clicks, |clicks| clicks.len() >= 6).await;
    // The two producers write at the same time, so only what they wrote is certain.
    let mut values: Vec<&str> = clicks.iter().map(|click| click.value.as_str()).collect();
    values.sort_unstable();
    assert_eq!(values, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_transaction_of_the_same_id_is_fenced_off() {
    let bus = testbed::bus().await;
    tokio::task::spawn_blocking(move || {
        let old = bus.transaction("leader", Duration::ZERO).unwrap();
        old.begin().unwrap();
        old.send(&Outgoing::keyed(Topic::Links, b"a", Some(b"old"))).unwrap();
        let new = bus.transaction("leader", Duration::ZERO).unwrap();
        let error = old.commit(&[], None).unwrap_err();
        assert!(matches!(error, BusError::Fenced { .. }), "{error}");
        assert!(!error.is_transient());
        new.begin().unwrap();
        new.send(&Outgoing::keyed(Topic::Links, b"a", Some(b"new"))).unwrap();
        new.commit(&[], None).unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_where_a_person_set_them() {
    let bus = testbed::bus().await;
    let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    for _ in 0..3 {
        producer.produce(&CLICK).await.unwrap();
    }
    tokio::task::spawn_blocking(move || {
        let set = |to, which| bus.set_offsets("g", Topic::ClicksRaw, to, which).unwrap();
        assert_eq!(set(LogEnd::Latest, OffsetScope::Missing)[0], (0, 3));
        // Nobody has lost anything now, and what stands is left as it is.
        assert_eq!(set(LogEnd::Earliest, OffsetScope::Missing), []);
        assert_eq!(set(LogEnd::Earliest, OffsetScope::All)[0], (0, 0));
        assert_eq!(set(LogEnd::Latest, OffsetScope::All)[0], (0, 3));
        tokio::runtime::Handle::current().block_on(producer.produce(&CLICK)).unwrap();
        assert_eq!(offsets(&raw(&bus), 1), [3]);
    })
    .await
    .unwrap();
}

/// The keys that a table has told of when it is caught up.
async fn known(bus: &Bus) -> Vec<String> {
    let keys = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&keys);
    let table = bus.table("test", Topic::Links, None, move |change| {
        if let Change::Put { key, .. } = change {
            told.lock().unwrap().push(String::from_utf8_lossy(key).into_owned());
        }
    });
    table.unwrap().caught_up().await;
    let keys = keys.lock().unwrap();
    keys.clone()
}

/// Why a leader settles its topics before it reads them: a transaction of another
/// producer that is still open hides what was committed behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_behind_an_open_transaction_is_told_once_the_topic_is_settled() {
    let bus = testbed::bus().await;
    let begin = {
        let bus = bus.clone();
        move |id: &'static str| {
            let transaction = bus.transaction(id, Duration::ZERO).unwrap();
            transaction.begin().unwrap();
            transaction.send(&Outgoing::keyed(Topic::Links, id.as_bytes(), Some(b"{}"))).unwrap();
            transaction
        }
    };
    testbed::begin_group(&bus, "any", Topic::Links);
    let seen = bus.consumer("any", &[Topic::Links], Isolation::Uncommitted, Membership::Dynamic, Arc::new(())).unwrap();
    let slow = tokio::task::spawn_blocking(move || {
        let slow = begin("slow");
        assert_eq!(offsets(&seen, 1), [0]);
        begin("quick").commit(&[], None).unwrap();
        slow
    });
    let slow = slow.await.unwrap();
    assert_eq!(known(&bus).await, Vec::<String>::new(), "a record that was committed lies behind the end");

    let settling = {
        let bus = bus.clone();
        tokio::task::spawn_blocking(move || bus.wait_for_open_transactions("test", &[Topic::Links]))
    };
    tokio::task::spawn_blocking(move || slow.abort().unwrap()).await.unwrap();
    settling.await.unwrap().unwrap();
    assert_eq!(known(&bus).await, ["quick"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_a_transaction_keeps_open_are_told_from_a_kafka_that_is_away() {
    let bus = testbed::bus().await;
    tokio::task::spawn_blocking(move || {
        testbed::begin_group(&bus, "g", Topic::ClicksRaw);
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &bus.config().brokers)
            .set("group.id", bus.topics().group("g"))
            .set("transactional.id", bus.topics().group("open"))
            .set("transaction.timeout.ms", "120000");
        let (producer, member): (BaseProducer, BaseConsumer) = (client.create().unwrap(), client.create().unwrap());
        producer.init_transactions(testbed::PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        let mut read = TopicPartitionList::new();
        read.add_partition_offset(&bus.topics().name(Topic::ClicksRaw), 0, Offset::Offset(0)).unwrap();
        let group = member.group_metadata().unwrap();
        producer.send_offsets_to_transaction(&read, &group, testbed::PATIENCE).unwrap();

        // A command waits longer than a member, which asks again.
        let command = {
            let bus = bus.clone();
            thread::spawn(move || bus.set_offsets("g", Topic::ClicksRaw, LogEnd::Latest, OffsetScope::Missing))
        };
        let consumer = join(&bus);
        let error = loop {
            if let Err(error) = consumer.poll(Duration::from_millis(50)) {
                break error;
            }
        };
        assert!(matches!(error, BusError::OffsetsPending { .. }), "{error}");
        assert!(error.is_transient());
        drop(consumer);
        producer.abort_transaction(testbed::PATIENCE).unwrap();
        assert_eq!(command.join().unwrap().unwrap(), []);
        let consumer = join(&bus);
        while consumer.assignment().unwrap().is_empty() {
            assert!(consumer.poll(Duration::from_millis(50)).unwrap().is_none());
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_gone_once_they_were_dropped() {
    // Nobody needs to listen there.
    let bus = Bus::new(BusConfig { brokers: testbed::free_address().to_string(), ..BusConfig::default() });
    bus.clients_gone().await;
    let producer = bus.clone().producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let table = bus.table("test", Topic::Links, None, |_| {}).unwrap();
    for client in [Box::new(producer) as Box<dyn Any>, Box::new(table)] {
        assert!(timeout(Duration::ZERO, bus.clients_gone()).await.is_err());
        drop(client);
    }
    bus.clients_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_failed_for_good_is_replaced() {
    let bus = testbed::bus().await;
    let mut config = bus.config().clone();
    // A record that Kafka refuses is then fatal to the client.
    config.properties.insert("enable.gapless.guarantee".to_owned(), "true".to_owned());
    let producer = Bus::new(config).producer("test", Duration::ZERO, Duration::ZERO).unwrap();
    let keyless = Outgoing { topic: Topic::Links, partition: Some(0), key: None, value: Some(b"1"), headers: &[] };
    producer.produce(&keyless).await.unwrap_err();
    testbed::eventually("the client is replaced", async || match producer.produce(&CLICK).await {
        Ok(_) => Some(()),
        Err(error) => {
            assert!(matches!(error, BusError::ClientFailed { .. }), "{error}");
            assert!(error.is_transient());
            None
        }
    })
    .await;
}
