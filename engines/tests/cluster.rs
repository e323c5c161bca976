//! Three real brokers: one is killed, the others go on, and it catches up when it
//! is back.

#![allow(clippy::unwrap_used, reason = "in a test it says what must hold")]

mod support;

use engines::{Engines, Error, Options};
use support::{append, create_topic, end_of_log, eventually, in_sync, leader, options};

fn cluster(dir: &std::path::Path) -> Options {
    // Nobody asks the ClickHouse anything.
    Options { brokers: 3, clickhouse: Some("http://127.0.0.1:9".into()), ..options(dir) }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_brokers_take_records_and_the_third_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut engines = Engines::start(cluster(dir.path())).await.unwrap();
    let list = engines.kafka_brokers();
    let brokers: Vec<&str> = list.split(',').collect();
    assert_eq!(brokers.len(), 3);
    create_topic(brokers[0], "kept", 3);
    eventually("all replicas are in sync", || (in_sync(&brokers, "kept").len() == 3).then_some(()));
    append(&brokers, "kept", b"before");

    let leader = leader(&brokers, "kept").unwrap();
    let killed = usize::try_from(leader).unwrap() - 1;
    let others: Vec<&str> = brokers.iter().copied().filter(|broker| *broker != brokers[killed]).collect();
    engines.kill_broker(killed).await;
    assert_eq!(engines.broker_pid(killed), None);
    append(&others, "kept", b"without the leader");
    eventually("the dead one is given up", || (!in_sync(&others, "kept").contains(&leader)).then_some(()));

    engines.start_broker(killed).await.unwrap();
    assert_ne!(engines.broker_pid(killed), None);
    eventually("it is in sync again", || in_sync(&brokers, "kept").contains(&leader).then_some(()));
    append(&brokers, "kept", b"with all");
    assert_eq!(end_of_log(&brokers, "kept"), 3);
    engines.shutdown().await;

    let mut alone = cluster(dir.path());
    alone.brokers = 1;
    let refused = Engines::start(alone).await.unwrap_err();
    assert!(matches!(refused, Error::Brokers { found: 3, asked: 1, .. }), "{refused}");

    let engines = Engines::start(cluster(dir.path())).await.unwrap();
    assert_eq!(engines.kafka_brokers(), list);
    eventually("everything is there", || (end_of_log(&brokers, "kept") == 3).then_some(()));
    engines.shutdown().await;
}
