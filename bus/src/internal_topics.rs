//! The replicas of the topics in which Kafka itself keeps the offsets of groups and the
//! states of transactions. Brokers make them at first use, by settings of their own. If
//! they have fewer replicas than the installation's topics, one broker may take every
//! reader's place in the log with it.

use std::collections::BTreeMap;

use rdkafka::{
    admin::{AdminClient, ResourceSpecifier},
    metadata::{Metadata, MetadataBroker},
};

use crate::{Bus, client::QuietContext};

/// The topics, each with the setting of the brokers that decides on its replicas.
const INTERNAL: [(&str, &str); 2] = [
    ("__consumer_offsets", "offsets.topic.replication.factor"),
    ("__transaction_state", "transaction.state.log.replication.factor"),
];

/// The internal topics, as the metadata of a cluster shows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct InternalTopics {
    /// The smallest number of replicas of a partition, of each topic that exists.
    replicas: BTreeMap<String, u16>,
    /// A broker, whose settings stand for those of all.
    broker: Option<i32>,
}

impl InternalTopics {
    pub(crate) fn new(metadata: &Metadata) -> Self {
        let topics = metadata.topics().iter().filter(|topic| INTERNAL.iter().any(|(name, _)| topic.name() == *name));
        let replicas = topics.filter_map(|topic| {
            let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min()?;
            Some((topic.name().to_owned(), u16::try_from(replicas).unwrap_or(u16::MAX)))
        });
        Self { replicas: replicas.collect(), broker: metadata.brokers().first().map(MetadataBroker::id) }
    }

    /// Returns a sentence for each topic that has, or will get, fewer replicas than
    /// `replication`. `setting` returns the value of a setting of the brokers.
    fn warnings(&self, replication: u16, setting: impl Fn(&str) -> Option<u16>) -> Vec<String> {
        let warning = |(name, key): &(&str, &str)| {
            let consequence = "the offsets of all readers may be lost with one broker";
            if let Some(found) = self.replicas.get(*name) {
                return (*found < replication).then(|| {
                    format!(
                        "topic {name} has {found} replicas instead of {replication} (`kafka.replication`): {consequence}. \
                         Raise them with Kafka's own `kafka-reassign-partitions.sh`, and set {key} = {replication} on \
                         the brokers"
                    )
                });
            }
            let found = setting(key).filter(|found| *found < replication)?;
            Some(format!(
                "the brokers have {key} = {found} instead of {replication} (`kafka.replication`): {consequence}. Set it \
                 right on the brokers before {name} is made, which is at its first use"
            ))
        };
        INTERNAL.iter().filter_map(warning).collect()
    }
}

impl Bus {
    /// Compares the replicas of the internal topics with those of the installation's.
    pub(crate) async fn weak_internal_topics(
        &self,
        client: &AdminClient<QuietContext>,
        internal: &InternalTopics,
    ) -> Vec<String> {
        let replication = self.config().replication;
        let mut settings = None;
        if let Some(broker) = internal.broker.filter(|_| replication > 1 && internal.replicas.len() < INTERNAL.len()) {
            // Who may not ask for a broker's settings is told once the topics exist.
            let described =
                client.describe_configs(&[ResourceSpecifier::Broker(broker)], &crate::admin::options()).await;
            settings = described.ok().and_then(|mut described| described.pop()?.ok());
        }
        internal.warnings(replication, |key| settings.as_ref()?.get(key)?.value.as_ref()?.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_counts_and_otherwise_what_brokers_would_make() {
        let replicas = BTreeMap::from([("__consumer_offsets".to_owned(), 1)]);
        let internal = InternalTopics { replicas, broker: Some(0) };
        assert_eq!(internal.warnings(1, |_| Some(1)), Vec::<String>::new());
        let warnings = internal.warnings(3, |_| Some(1));
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("topic __consumer_offsets has 1 replicas instead of 3"), "{}", warnings[0]);
        assert!(warnings[1].contains("transaction.state.log.replication.factor = 1"), "{}", warnings[1]);
        assert_eq!(internal.warnings(3, |_| Some(3)).len(), 1);
        assert_eq!(internal.warnings(3, |_| None).len(), 1, "unknown settings are no warning");
    }
}
