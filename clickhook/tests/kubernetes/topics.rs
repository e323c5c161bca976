//! The topics as resources of Strimzi: `topics.yaml` is what the code says. With
//! `CLICKHOOK_WRITE=1` this test writes the file again.

use std::fmt::Write as _;
use std::fs;

use schemas::{Topic, Topics, topics::Spread};

use crate::manifests::repository;

/// The numbers of `overlays/production`.
const PARTITIONS: u16 = 12;
const REPLICAS: u16 = 3;

fn expected() -> String {
    let mut text = "# Written by clickhook/tests/kubernetes/topics.rs from the code: do not edit it.\n".to_owned();
    let topics = Topics::new("clickhook");
    for topic in Topic::ALL {
        let name = topics.name(topic);
        // Kubernetes' names have no underscore.
        let object = name.replace('_', "-");
        let partitions = match topic.spread() {
            Spread::One => 1,
            Spread::Shared => PARTITIONS,
        };
        let separator = if topic == Topic::ALL[0] { "" } else { "---\n" };
        write!(
            text,
            "{separator}apiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\nmetadata:\n  name: {object}\n  labels:\n    \
             strimzi.io/cluster: clickhook\nspec:\n  topicName: {name}\n  partitions: {partitions}\n  replicas: \
             {REPLICAS}\n  config:\n"
        )
        .unwrap();
        for (setting, value) in bus::topic_settings(topic, REPLICAS) {
            writeln!(text, "    {setting}: \"{value}\"").unwrap();
        }
    }
    text
}

#[test]
fn the_topics_of_strimzi_are_those_of_the_code() {
    let file = repository().join("k8s/components/strimzi/topics.yaml");
    if std::env::var_os("CLICKHOOK_WRITE").is_some() {
        fs::write(&file, expected()).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(written, expected(), "run this test with CLICKHOOK_WRITE=1");
}
