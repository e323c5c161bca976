//! Topics on a real Kafka: how they are made, compared, altered and widened, and where
//! groups begin to read them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, BusConfig, BusError, Consumer, Isolation, LogEnd, Membership, OffsetScope, Outgoing, Partition};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};
use schemas::{ConsumerGroup, Topic, topics::Spread};

/// A client of a program that is not clickhook.
fn other(bus: &Bus) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &bus.config().brokers);
    client
}

fn admin(bus: &Bus) -> AdminClient<DefaultClientContext> {
    other(bus).create().unwrap()
}

fn click(partition: i32) -> Outgoing<'static> {
    Outgoing { partition: Some(partition), ..Outgoing::keyed(Topic::ClicksRaw, b"k", Some(b"v")) }
}

async fn produce(bus: &Bus, partition: i32) {
    bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap().produce(&click(partition)).await.unwrap();
}

fn member(bus: &Bus, group: &str, membership: Membership) -> Consumer {
    bus.consumer(group, &[Topic::ClicksRaw], Isolation::Committed, membership, Arc::new(())).unwrap()
}

/// Reads until `partition` gives a record. A member that is told to joins again.
fn read_from(bus: &Bus, consumer: &mut Consumer, group: &str, membership: Membership, partition: i32) {
    let deadline = Instant::now() + testbed::PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nothing came from partition {partition}");
        match consumer.poll(Duration::from_millis(50)) {
            Ok(Some(record)) if record.partition().index == partition => return,
            Ok(_) => {}
            Err(BusError::PartitionReadable { .. } | BusError::PartitionsChanged { .. }) => {
                *consumer = member(bus, group, membership);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_once_and_never_altered() {
    let bus = Bus::new(testbed::bus_config());
    let error = bus.check_topics(&Topic::ALL).await.unwrap_err().to_string();
    assert!(error.contains("clicks.raw") && error.contains("clickhook migrate"), "{error}");
    let (one, other) = tokio::join!(bus.migrate(), bus.migrate());
    one.unwrap();
    other.unwrap();
    assert!(bus.migrate().await.unwrap().created.is_empty());
    assert_eq!(bus.check_topics(&Topic::ALL).await.unwrap(), Vec::<String>::new());
    // Two roles of a process may rely on the same topic.
    bus.check_topics(&[Topic::Clicks, Topic::Clicks]).await.unwrap();
    let wider = Bus::new(BusConfig { partitions: 5, ..bus.config().clone() });
    let error = wider.migrate().await.unwrap_err();
    assert!(matches!(error, BusError::TooFewPartitions { found: 4, configured: 5, .. }), "{error}");
    assert!(error.to_string().contains("clickhook partitions widen --to 5"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_loses_records_stops_only_who_relies_on_it_and_is_set_right() {
    let bus = testbed::bus().await;
    let name = bus.topics().name(Topic::Clicks);
    let change = AlterConfig::new(ResourceSpecifier::Topic(&name))
        .set("cleanup.policy", "compact")
        .set("unclean.leader.election.enable", "true")
        .set("file.delete.delay.ms", "12345");
    admin(&bus).alter_configs([&change], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    // A broker learns of a changed setting a moment later.
    let error = testbed::eventually("the settings are changed", async || {
        bus.check_topics(&[Topic::Clicks]).await.err().map(|error| error.to_string())
    })
    .await;
    assert!(error.contains("cleanup.policy = compact instead of delete"), "{error}");
    assert!(error.contains("clickhook migrate --alter-topics"), "{error}");
    assert_eq!(bus.check_topics(&[Topic::ClicksRaw]).await.unwrap(), Vec::<String>::new());

    let altered = bus.alter_topics().await.unwrap();
    assert!(altered.iter().all(|altered| altered.contains(&name)), "{altered:?}");
    testbed::eventually("the settings are right", async || {
        bus.check_topics(&[Topic::Clicks]).await.ok().filter(Vec::is_empty)
    })
    .await;
    // What is none of clickhook's business has stayed.
    let described =
        admin(&bus).describe_configs([&ResourceSpecifier::Topic(&name)], &AdminOptions::new()).await.unwrap().remove(0);
    assert_eq!(described.unwrap().get("file.delete.delay.ms").unwrap().value.as_deref(), Some("12345"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_has_an_offset_in_every_partition_of_a_new_topic() {
    let bus = testbed::bus().await;
    tokio::task::spawn_blocking(move || {
        for group in ConsumerGroup::ALL {
            for topic in group.topics() {
                let set = bus.set_offsets(group.name(), *topic, LogEnd::Earliest, OffsetScope::Missing).unwrap();
                assert_eq!(set, [], "{group:?} {topic:?}");
            }
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_offset_stops_its_partition_alone_until_a_person_has_decided() {
    let bus = testbed::bus().await;
    produce(&bus, 0).await;
    produce(&bus, 1).await;
    tokio::task::spawn_blocking(move || {
        let committing: BaseConsumer = other(&bus).set("group.id", bus.topics().group("g")).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in [0, 2, 3] {
            let name = bus.topics().name(Topic::ClicksRaw);
            list.add_partition_offset(&name, partition, Offset::Offset(0)).unwrap();
        }
        committing.commit(&list, CommitMode::Sync).unwrap();

        let mut consumer = member(&bus, "g", Membership::Dynamic);
        read_from(&bus, &mut consumer, "g", Membership::Dynamic, 0);
        let stopped = bus.stopped_partitions();
        let reason = stopped.borrow().get("g clicks.raw[1]").cloned().unwrap();
        assert!(reason.contains("offsets set --group g --topic clicks.raw --to earliest"), "{reason}");
        assert_eq!(stopped.borrow().len(), 1);
        // The member runs meanwhile.
        let set = bus.set_offsets("g", Topic::ClicksRaw, LogEnd::Earliest, OffsetScope::Missing).unwrap();
        assert_eq!(set, [(1, 0)]);
        read_from(&bus, &mut consumer, "g", Membership::Dynamic, 1);
        assert!(stopped.borrow().is_empty());
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_before_they_were_read_stop_their_partition_alone() {
    let bus = testbed::bus().await;
    for partition in [0, 1, 1] {
        produce(&bus, partition).await;
    }
    let mut delete = TopicPartitionList::new();
    delete.add_partition_offset(&bus.topics().name(Topic::ClicksRaw), 1, Offset::Offset(1)).unwrap();
    admin(&bus).delete_records(&delete, &AdminOptions::new()).await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut list = TopicPartitionList::new();
        let committing: BaseConsumer = other(&bus).set("group.id", bus.topics().group("g")).create().unwrap();
        for partition in 0..4 {
            let name = bus.topics().name(Topic::ClicksRaw);
            list.add_partition_offset(&name, partition, Offset::Offset(0)).unwrap();
        }
        committing.commit(&list, CommitMode::Sync).unwrap();
        let mut consumer = member(&bus, "g", Membership::Dynamic);
        read_from(&bus, &mut consumer, "g", Membership::Dynamic, 0);
        let stopped = bus.stopped_partitions();
        let deadline = Instant::now() + testbed::PATIENCE;
        while stopped.borrow().is_empty() {
            assert!(Instant::now() < deadline, "nothing is stopped");
            assert!(consumer.poll(Duration::from_millis(50)).unwrap().is_none());
        }
        let reason = stopped.borrow().get("g clicks.raw[1]").cloned().unwrap();
        assert!(reason.contains("from offset 0, but the log holds 1 to 2"), "{reason}");
        let set = bus.set_offsets("g", Topic::ClicksRaw, LogEnd::Earliest, OffsetScope::Missing).unwrap();
        assert_eq!(set, [(1, 1)]);
        read_from(&bus, &mut consumer, "g", Membership::Dynamic, 1);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn running_members_find_new_partitions_and_so_does_one_that_was_away() {
    const GROUP: &str = ConsumerGroup::Enricher.name();
    let named = |instance: &str| BusConfig { instance: Some(instance.to_owned()), ..testbed::bus_config() };
    let bus = Bus::new(named("a"));
    bus.migrate().await.unwrap();
    produce(&bus, 3).await;
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Handle::current();
        let mut running = member(&bus, GROUP, Membership::Static);
        read_from(&bus, &mut running, GROUP, Membership::Static, 3);
        let widened: BTreeMap<String, (u16, u16)> = runtime
            .block_on(bus.widen(6))
            .unwrap()
            .into_iter()
            .map(|topic| (topic.name, (topic.before, topic.now)))
            .collect();
        let shared = Topic::ALL.into_iter().filter(|topic| topic.spread() == Spread::Shared).count();
        assert_eq!(widened.len(), shared, "{widened:?}");
        assert_eq!(widened[&bus.topics().name(Topic::ClicksRaw)], (4, 6));
        runtime.block_on(produce(&bus, 5));
        read_from(&bus, &mut running, GROUP, Membership::Static, 5);
        // A static member that is away keeps its assignment for its session.
        drop(running);
        runtime.block_on(bus.widen(7)).unwrap();
        runtime.block_on(produce(&bus, 6));
        let restarted = Bus::new(bus.config().clone());
        restarted.refresh_partitions().unwrap();
        let mut consumer = member(&restarted, GROUP, Membership::Static);
        read_from(&restarted, &mut consumer, GROUP, Membership::Static, 6);
        // A process that does not know yet that there are more partitions finds them, too.
        drop(consumer);
        runtime.block_on(bus.widen(8)).unwrap();
        runtime.block_on(produce(&bus, 7));
        let mut consumer = member(&restarted, GROUP, Membership::Static);
        read_from(&restarted, &mut consumer, GROUP, Membership::Static, 7);
        assert!(bus.stopped_partitions().borrow().is_empty());
        assert!(restarted.stopped_partitions().borrow().is_empty());

        assert_eq!(runtime.block_on(bus.widen(8)).unwrap(), []);
        let error = runtime.block_on(bus.widen(5)).unwrap_err();
        assert!(matches!(error, BusError::Narrower { found: 8, .. }), "{error}");
        assert!(error.to_string().contains("clickhook partitions widen --to 8"), "{error}");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_leaves_gives_its_partitions_to_the_others() {
    const GROUP: &str = ConsumerGroup::Enricher.name();
    let first = Bus::new(BusConfig { instance: Some("first".to_owned()), ..testbed::bus_config() });
    first.migrate().await.unwrap();
    let second = Bus::new(BusConfig { instance: Some("second".to_owned()), ..first.config().clone() });
    tokio::task::spawn_blocking(move || {
        let stays = member(&first, GROUP, Membership::Handover);
        let leaves = member(&second, GROUP, Membership::Handover);
        let until_owned = |of: [usize; 2]| {
            let deadline = Instant::now() + testbed::PATIENCE;
            while [&stays, &leaves].map(|consumer| consumer.assignment().unwrap().len()) != of {
                assert!(Instant::now() < deadline, "the partitions are not shared {of:?}");
                stays.poll(Duration::from_millis(10)).unwrap();
                if of[1] > 0 {
                    leaves.poll(Duration::from_millis(10)).unwrap();
                }
            }
        };
        until_owned([2, 2]);
        leaves.leave();
        // Its client lives, and would keep the session of a member that has not left.
        until_owned([4, 0]);
        // Alone, a member stays: the group would be empty without it.
        stays.leave();
        assert_eq!(stays.assignment().unwrap().len(), 4);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_were_lost_are_not_taken_for_a_beginning() {
    let bus = testbed::bus().await;
    produce(&bus, 0).await;
    let group = bus.topics().group(ConsumerGroup::Enricher.name());
    let deleted = admin(&bus).delete_groups(&[&group], &AdminOptions::new()).await.unwrap();
    deleted.into_iter().for_each(|deleted| drop(deleted.unwrap()));
    // Where nothing was ever written, nothing can be done twice.
    bus.commit_missing_offsets().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let consumer = member(&bus, ConsumerGroup::Enricher.name(), Membership::Dynamic);
        let stopped = bus.stopped_partitions();
        let deadline = Instant::now() + testbed::PATIENCE;
        while stopped.borrow().is_empty() {
            assert!(Instant::now() < deadline, "nothing is stopped");
            assert!(consumer.poll(Duration::from_millis(50)).unwrap().is_none());
        }
        let names: Vec<String> = stopped.borrow().keys().cloned().collect();
        assert_eq!(names, ["enricher clicks.raw[0]"]);
        let expected: Vec<Partition> = (1..4).map(|index| Partition { topic: Topic::ClicksRaw, index }).collect();
        assert_eq!(consumer.assignment().unwrap(), expected);
    })
    .await
    .unwrap();
}
