//! Creating topics, and checking existing topics against the configuration. An
//! existing topic is never altered.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfig,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    metadata::Metadata,
    types::RDKafkaErrorCode,
};
use schemas::{
    Topic,
    topics::{Cleanup, Spread},
};

use crate::{Bus, BusError, Partition, config::CALL_TIMEOUT, consumer::to_list};

/// The result of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigratedTopics {
    /// Full names of the topics that were created.
    pub created: Vec<String>,
    /// Full names of the topics that existed already.
    pub standing: Vec<String>,
}

impl Bus {
    /// Creates the missing topics. Several processes may run this at once.
    ///
    /// # Errors
    /// When Kafka does not answer, refuses, or a topic exists with
    /// another number of partitions than configured.
    pub async fn migrate(&self) -> Result<MigratedTopics, BusError> {
        let client = self.admin()?;
        let missing = self.missing(&client)?;
        let names: Vec<(Topic, String)> = missing.iter().map(|topic| (*topic, self.topics().name(*topic))).collect();
        let configs: Vec<Vec<(&str, String)>> = names.iter().map(|(topic, _)| topic_config(*topic)).collect();
        let new: Vec<NewTopic<'_>> = names
            .iter()
            .zip(&configs)
            .map(|((topic, name), config)| {
                let replication = TopicReplication::Fixed(i32::from(self.config().replication));
                let new = NewTopic::new(name, i32::from(self.partitions(*topic)), replication);
                config.iter().fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        if !new.is_empty() {
            let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT)).request_timeout(Some(CALL_TIMEOUT));
            let results = client.create_topics(&new, &options).await.map_err(BusError::new("create topics"))?;
            for result in results {
                match result {
                    // Another process may have been quicker.
                    Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((name, code)) => {
                        return Err(BusError::Create { topic: name, source: KafkaError::AdminOp(code) });
                    }
                }
            }
        }
        self.wait_until_known(&client).await?;
        let created: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
        let standing =
            Topic::ALL.iter().map(|topic| self.topics().name(*topic)).filter(|name| !created.contains(name)).collect();
        Ok(MigratedTopics { created, standing })
    }

    /// Checks that every topic exists as configured.
    ///
    /// # Errors
    /// When Kafka does not answer, a topic is missing, or one has another number
    /// of partitions.
    pub fn check_topics(&self) -> Result<(), BusError> {
        let missing = self.missing(&self.admin()?)?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(BusError::MissingTopics { names: missing.iter().map(|topic| self.topics().name(*topic)).collect() })
    }

    /// Sets the committed offsets of `group` in the partitions of `topic` that
    /// `scope` selects to the log's end `to`. The group must have no running
    /// member. Returns the offsets that were set, by partition.
    ///
    /// # Errors
    /// When Kafka does not answer, or the group has a running member.
    pub fn set_offsets(
        &self,
        group: &str,
        topic: Topic,
        to: LogEnd,
        scope: OffsetScope,
    ) -> Result<Vec<(i32, i64)>, BusError> {
        let consumer: BaseConsumer =
            self.group_config(group, false).create().map_err(BusError::new("make a consumer"))?;
        let name = self.topics().name(topic);
        let mut offsets = Vec::new();
        let all = (0..i32::from(self.partitions(topic))).map(|index| (Partition { topic, index }, 0, None));
        let committed = consumer
            .committed_offsets(to_list(self.topics(), all), CALL_TIMEOUT)
            .map_err(BusError::new("fetch committed offsets"))?;
        for index in 0..i32::from(self.partitions(topic)) {
            let (start, end) =
                consumer.fetch_watermarks(&name, index, CALL_TIMEOUT).map_err(BusError::new("fetch a log's ends"))?;
            let current = committed.find_partition(&name, index).map(|element| element.offset());
            let is_good = matches!(current, Some(Offset::Offset(offset)) if (start..=end).contains(&offset));
            if is_good && scope == OffsetScope::Missing {
                continue;
            }
            offsets.push((index, if to == LogEnd::Earliest { start } else { end }));
        }
        if offsets.is_empty() {
            return Ok(offsets);
        }
        let list = to_list(
            self.topics(),
            offsets.iter().map(|(index, offset)| (Partition { topic, index: *index }, *offset, None)),
        );
        consumer.commit(&list, CommitMode::Sync).map_err(BusError::new("commit offsets"))?;
        Ok(offsets)
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, BusError> {
        AdminClient::from_config(&self.admin_config()).map_err(BusError::new("make an admin client"))
    }

    fn missing(&self, client: &AdminClient<DefaultClientContext>) -> Result<Vec<Topic>, BusError> {
        let metadata = fetch_metadata(client)?;
        let mut missing = Vec::new();
        for topic in Topic::ALL {
            let name = self.topics().name(topic);
            let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else {
                missing.push(topic);
                continue;
            };
            let (found, configured) = (found.partitions().len(), usize::from(self.partitions(topic)));
            if found != configured && topic.spread() == Spread::Shared {
                return Err(BusError::Partitions { topic: name, found, configured });
            }
        }
        Ok(missing)
    }

    /// Waits until the brokers know all topics: a new topic takes a moment.
    async fn wait_until_known(&self, client: &AdminClient<DefaultClientContext>) -> Result<(), BusError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        loop {
            let missing = self.missing(client)?;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(BusError::MissingTopics {
                    names: missing.iter().map(|topic| self.topics().name(*topic)).collect(),
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// An end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// The first record that the log still has.
    Earliest,
    /// Behind the last record.
    Latest,
}

/// The partitions whose offset is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetScope {
    /// Partitions without a committed offset, or with an offset outside the log.
    Missing,
    /// All partitions: records are processed again, or skipped.
    All,
}

fn fetch_metadata(client: &AdminClient<DefaultClientContext>) -> Result<Metadata, BusError> {
    client.inner().fetch_metadata(None, CALL_TIMEOUT).map_err(BusError::new("ask which topics there are"))
}

fn topic_config(topic: Topic) -> Vec<(&'static str, String)> {
    // Tables are compacted early, so that a start reads few outdated records.
    let mut config = match topic.cleanup() {
        Cleanup::After(retention) => vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention.as_millis().to_string()),
            ("segment.ms", topic.segment().as_millis().to_string()),
        ],
        Cleanup::Compact => vec![
            ("cleanup.policy", "compact".to_owned()),
            // A table's snapshot may be half as old (`MAX_AGE_MS`).
            ("delete.retention.ms", "86400000".to_owned()),
            ("min.cleanable.dirty.ratio", "0.2".to_owned()),
            ("segment.ms", topic.segment().as_millis().to_string()),
        ],
        Cleanup::CompactFor(retention) => vec![
            ("cleanup.policy", "compact,delete".to_owned()),
            ("retention.ms", retention.as_millis().to_string()),
            ("segment.ms", topic.segment().as_millis().to_string()),
        ],
    };
    config.push(("max.message.bytes", "4194304".to_owned()));
    // Retention must not depend on a producer's clock.
    if !matches!(topic.cleanup(), Cleanup::Compact) {
        config.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    config
}
