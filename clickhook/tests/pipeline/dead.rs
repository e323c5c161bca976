//! A person decides on a bundle of which nobody can tell whether it is a second copy: a
//! redirector was away for longer than Kafka keeps clicks, and produces it again.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use bus::{Bus, BusConfig, Outgoing, Producer};
use schemas::{ClickClass, ClickId, LinkFacts, LinkId, Timestamp, Topic, click::Visit};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    roles::Installation,
    support::{PHONE, eventually, folder},
};

const PARTITION: i32 = 1;

/// Produces a bundle of clicks, and returns their ids.
fn produce(runtime: &Runtime, producer: &Producer, clicks: usize, headers: &[(&str, &[u8])]) -> Vec<String> {
    let link = LinkFacts {
        id: LinkId::from_bits(7),
        short_url: "https://go.acme.co/sale".into(),
        destination: "https://acme.com/winter-sale".into(),
        slug: "sale".into(),
        campaign: None,
        segment: None,
        tags: Vec::new(),
    };
    let tail = schemas::click::link_tail("default", &link).unwrap();
    let shard = u16::try_from(PARTITION).unwrap();
    let ids: Vec<ClickId> = (0..clicks).map(|_| ClickId::new(Timestamp::now(), shard, rand::random())).collect();
    let mut lines = Vec::new();
    for id in &ids {
        let visit = Visit {
            id: *id,
            class: ClickClass::Click,
            rate_limited: false,
            ip: "203.0.113.42".parse().unwrap(),
            user_agent: Some(PHONE),
            referer: None,
            query: None,
            hints: schemas::hints::Hints::default(),
            traceparent: None,
        };
        visit.write_line(&tail, &mut lines);
    }
    let bundle = uuid::Uuid::now_v7().to_string();
    let headers = [&[("bundle", bundle.as_bytes())], headers].concat();
    let out = Outgoing {
        topic: Topic::ClicksRaw,
        partition: Some(PARTITION),
        key: None,
        value: Some(&lines),
        headers: &headers,
    };
    runtime.block_on(producer.produce(&out)).unwrap();
    ids.iter().map(ToString::to_string).collect()
}

/// Runs `clickhook dead …` with nobody at the keyboard, and returns what it prints.
fn dead(installation: &Installation, args: &[&str]) -> String {
    let output = installation.command("dead").args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_bundle_that_may_be_a_second_copy_is_counted_once_a_person_says_so() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let (brokers, prefix) = (installation.brokers.clone(), installation.prefix.clone());
    let bus = Bus::new(BusConfig { brokers, prefix, ..BusConfig::default() });
    let runtime = Runtime::new().unwrap();
    let producer = bus.producer("test", Duration::ZERO, testbed::PATIENCE).unwrap();
    let enricher = installation.start("enricher");
    let committed = |count: usize| {
        let clicks = runtime.block_on(testbed::read(&bus, Topic::Clicks, move |clicks| clicks.len() >= count));
        assert_eq!(clicks.len(), count, "a bundle was counted twice");
        // The enricher's two producers write at the same time, so the order is not certain.
        clicks.into_iter().map(|click| click.key).collect::<BTreeSet<String>>()
    };
    let mut expected: BTreeSet<String> = (0..4).flat_map(|_| produce(&runtime, &producer, 1, &[])).collect();
    assert_eq!(committed(4), expected);

    // A first copy may have been among the records that Kafka has deleted.
    testbed::broker::delete_before(&installation.brokers, &bus.topics().name(Topic::ClicksRaw), PARTITION, 3);
    let undecided = produce(&runtime, &producer, 2, &[("again", b"1"), ("after", b"0")]);
    expected.extend(produce(&runtime, &producer, 1, &[]));
    assert_eq!(committed(5), expected);

    let list = eventually("the bundle is listed", Duration::from_secs(60), || {
        Some(dead(&installation, &["ls"])).filter(|list| !list.is_empty())
    });
    assert_eq!(list.lines().count(), 1, "{list}");
    assert!(list.contains("cannot be told from a second copy"), "{list}");
    let place = list.split('\t').next().unwrap();
    let letter: Value = serde_json::from_str(&dead(&installation, &["show", place])).unwrap();
    let payload = letter["payload"].as_str().unwrap();
    assert!(undecided.iter().all(|id| payload.contains(id.as_str())), "{letter}");
    assert!(payload.contains("203.0.113.0") && !payload.contains("203.0.113.42"), "{letter}");

    assert!(dead(&installation, &["replay", place]).contains("nothing was produced"));
    // The second is that of someone who did not see that the first had succeeded.
    for _ in 0..2 {
        assert!(dead(&installation, &["replay", place, "--yes"]).contains("produced as bundle"));
    }
    expected.extend(undecided);
    expected.extend(produce(&runtime, &producer, 1, &[]));
    assert_eq!(committed(8), expected);
    assert_eq!(dead(&installation, &["ls"]), list, "a dead letter stays until Kafka deletes it");
    drop(enricher);
}
