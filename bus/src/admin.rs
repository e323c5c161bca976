//! Making the topics, and checking that those that stand are what the
//! configuration says. What stands is never altered.

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

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Full names of the topics that it made.
    pub created: Vec<String>,
    /// Full names of those that stood already.
    pub standing: Vec<String>,
}

impl Bus {
    /// Makes the topics that are missing. Safe to run from several processes at once.
    ///
    /// # Errors
    /// When Kafka does not answer, refuses, or a topic that stands has another
    /// number of partitions than configured.
    pub async fn migrate(&self) -> Result<Migrated, BusError> {
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
        Ok(Migrated { created, standing })
    }

    /// Checks that every topic stands as configured.
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

    /// Sets where `group` reads next in `topic`, at the first record that the log
    /// still has, or behind the last: in the partitions where it has no offset that
    /// is in the log, or in all of them. The group must have no running member.
    /// Gives back the offsets that were set.
    ///
    /// # Errors
    /// When Kafka does not answer, or the group has a running member.
    pub fn set_offsets(&self, group: &str, topic: Topic, to: Edge, which: Which) -> Result<Vec<(i32, i64)>, BusError> {
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
            let stands = committed.find_partition(&name, index).map(|element| element.offset());
            let is_good = matches!(stands, Some(Offset::Offset(offset)) if (start..=end).contains(&offset));
            if is_good && which == Which::Lost {
                continue;
            }
            offsets.push((index, if to == Edge::Earliest { start } else { end }));
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

    /// A topic that was just made is not known to every broker at once.
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
pub enum Edge {
    /// The first record that it still has.
    Earliest,
    /// Behind the last.
    Latest,
}

/// Of which partitions an offset is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Where there is none, or none that is in the log.
    Lost,
    /// All of them: what was done is done again, or what was not is left out.
    All,
}

fn fetch_metadata(client: &AdminClient<DefaultClientContext>) -> Result<Metadata, BusError> {
    client.inner().fetch_metadata(None, CALL_TIMEOUT).map_err(BusError::new("ask which topics there are"))
}

fn topic_config(topic: Topic) -> Vec<(&'static str, String)> {
    // Tables are compacted soon, so that a start reads little more than what is.
    let mut config = match topic.cleanup() {
        Cleanup::After(retention) => vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention.as_millis().to_string()),
            ("segment.ms", topic.segment().as_millis().to_string()),
        ],
        Cleanup::Compact => vec![
            ("cleanup.policy", "compact".to_owned()),
            // A snapshot that is older than half of it is not read on from.
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
    // A record's time is the broker's where retention must hold whatever a
    // producer's clock says.
    if !matches!(topic.cleanup(), Cleanup::Compact) {
        config.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    config
}
