//! Making topics, widening them, and comparing those that exist with what clickhook
//! relies on. An existing topic is altered only where a person asks for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewPartitions, NewTopic,
        OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
    },
    config::FromClientConfigAndContext,
    consumer::BaseConsumer,
    error::KafkaError,
    metadata::Metadata,
    types::RDKafkaErrorCode,
};
use schemas::{Topic, topics::Spread};

use crate::{
    Bus, BusError, Partition,
    client::QuietContext,
    client_errors,
    config::CALL_TIMEOUT,
    internal_topics::InternalTopics,
    partition_follower::counts_in,
    topic_settings::{Difference, Severity, compare, wanted},
};

/// How long it is looked for the reason why no broker is reached: for a handshake.
const REASON_WITHIN: Duration = Duration::from_secs(3);

/// The result of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigratedTopics {
    /// Full names of the topics that were created.
    pub created: Vec<String>,
    /// Full names of the topics that existed already.
    pub standing: Vec<String>,
}

/// A topic whose number of partitions was raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WidenedTopic {
    /// Its full name.
    pub name: String,
    /// The number of partitions that it had.
    pub before: u16,
    /// The number of partitions that it has.
    pub now: u16,
}

/// The topics that exist, with their numbers of partitions and replicas.
pub(crate) struct StandingTopics {
    partitions: BTreeMap<Topic, u16>,
    replicas: BTreeMap<Topic, u16>,
    internal: InternalTopics,
}

impl StandingTopics {
    fn missing(&self) -> Vec<Topic> {
        Topic::ALL.into_iter().filter(|topic| !self.partitions.contains_key(topic)).collect()
    }

    /// Returns the shared topics that exist, with their numbers of partitions.
    fn shared(&self) -> impl Iterator<Item = (Topic, u16)> {
        self.partitions.iter().map(|(topic, count)| (*topic, *count)).filter(|(topic, _)| is_shared(*topic))
    }

    /// Compares the settings of a topic with those that clickhook relies on.
    fn differences(&self, topic: Topic, resource: &ConfigResource) -> Vec<Difference> {
        let replicas = self.replicas.get(&topic).copied().unwrap_or(1);
        compare(topic, replicas, |name| resource.get(name)?.value.as_deref())
    }

    fn widest(&self) -> Option<(Topic, u16)> {
        self.shared().max_by_key(|(_, count)| *count)
    }
}

fn is_shared(topic: Topic) -> bool {
    topic.spread() == Spread::Shared
}

impl Bus {
    /// Creates the missing topics, and commits the first offsets in them of the groups
    /// that read them. Several processes may run this at once.
    ///
    /// # Errors
    /// When Kafka does not answer, refuses, or the topics have fewer partitions than
    /// configured.
    pub async fn migrate(&self) -> Result<MigratedTopics, BusError> {
        let client = self.admin()?;
        let standing = self.standing(&client)?;
        let missing = standing.missing();
        // A topic that is new in this version gets as many partitions as the others.
        let shared = standing.widest().map_or(self.config().partitions, |(_, count)| count);
        let names: Vec<(Topic, String)> = missing.iter().map(|topic| (*topic, self.topics().name(*topic))).collect();
        let replicas = self.config().replication;
        let configs: Vec<Vec<(&str, String)>> = names
            .iter()
            .map(|(topic, _)| wanted(*topic, replicas))
            .map(|settings| settings.into_iter().filter(|(setting, _)| self.sets(setting)).collect())
            .collect();
        let new: Vec<NewTopic<'_>> = names
            .iter()
            .zip(&configs)
            .map(|((topic, name), config)| {
                let partitions = if is_shared(*topic) { shared } else { 1 };
                let new = NewTopic::new(name, i32::from(partitions), TopicReplication::Fixed(i32::from(replicas)));
                config.iter().fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        if !new.is_empty() {
            let results = client.create_topics(&new, &options()).await.map_err(BusError::new("create topics"))?;
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
        let known = self.wait_until_known(&client, 1).await?;
        let created = known.partitions.iter().filter(|(topic, _)| missing.contains(topic));
        let created: BTreeSet<Partition> =
            created.flat_map(|(topic, count)| (0..*count).map(|index| partition(*topic, index))).collect();
        if !created.is_empty() {
            self.begin_groups(created).await?;
        }
        self.check_counts(&known)?;
        let created: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
        let standing =
            Topic::ALL.iter().map(|topic| self.topics().name(*topic)).filter(|name| !created.contains(name)).collect();
        Ok(MigratedTopics { created, standing })
    }

    /// Raises the number of partitions of all shared topics to `to`, and commits the
    /// first offsets of the groups that read them. Running processes go on: members of
    /// groups find the new partitions, and producers use them, within seconds. After an
    /// error it can be called again.
    ///
    /// # Errors
    /// When Kafka does not answer or refuses, topics are missing, or one has more
    /// partitions than `to`.
    pub async fn widen(&self, to: u16) -> Result<Vec<WidenedTopic>, BusError> {
        let client = self.admin()?;
        let standing = self.standing(&client)?;
        self.check_missing(&standing.missing())?;
        if let Some((topic, found)) = standing.widest().filter(|(_, count)| *count > to) {
            let command = self.widen_command(found);
            return Err(BusError::Narrower { topic: self.topics().name(topic), found, command });
        }
        let widened: Vec<(Topic, WidenedTopic)> = standing
            .shared()
            .filter(|(_, count)| *count < to)
            .map(|(topic, before)| (topic, WidenedTopic { name: self.topics().name(topic), before, now: to }))
            .collect();
        if !widened.is_empty() {
            // Producers choose a new partition only once all topics have it, so the order
            // in which Kafka makes them does not matter.
            let new: Vec<NewPartitions<'_>> =
                widened.iter().map(|(_, topic)| NewPartitions::new(&topic.name, usize::from(to))).collect();
            let results = client.create_partitions(&new, &options()).await.map_err(BusError::new("widen topics"))?;
            for result in results {
                if let Err((topic, code)) = result {
                    return Err(BusError::Widen { topic, source: KafkaError::AdminOp(code) });
                }
            }
        }
        self.wait_until_known(&client, to).await?;
        let created = widened
            .iter()
            .flat_map(|(topic, WidenedTopic { before, now, .. })| (*before..*now).map(|index| partition(*topic, index)))
            .collect();
        self.begin_groups(created).await?;
        Ok(widened.into_iter().map(|(_, topic)| topic).collect())
    }

    /// Commits the first offsets that are still missing: of topics that a version made
    /// which did not commit any, or that a process made which was killed then. Returns
    /// the number of offsets.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn commit_missing_offsets(&self) -> Result<usize, BusError> {
        self.begin_groups(BTreeSet::new()).await
    }

    /// Returns the command that widens all shared topics to `to` partitions.
    fn widen_command(&self, to: u16) -> String {
        self.command(&format!("partitions widen --to {to}"))
    }

    async fn begin_groups(&self, created: BTreeSet<Partition>) -> Result<usize, BusError> {
        let bus = self.clone();
        let begun = tokio::task::spawn_blocking(move || bus.commit_first_offsets(&created)).await;
        begun.unwrap_or(Err(BusError::Gone { what: "commit first offsets" }))
    }

    /// Compares the topics `relied` with what clickhook relies on. Returns a sentence for
    /// each difference that takes a failure to lose records.
    ///
    /// # Errors
    /// When Kafka does not answer, topics are missing or have too few partitions, or have
    /// settings under which records are lost or stuck in normal operation.
    pub async fn check_topics(&self, relied: &[Topic]) -> Result<Vec<String>, BusError> {
        let client = self.admin()?;
        let standing = self.standing(&client)?;
        self.check_missing(&standing.missing())?;
        self.check_counts(&standing)?;
        let mut warnings = Vec::new();
        warnings.extend(self.uneven(&standing));
        warnings.extend(self.weak_internal_topics(&client, &standing.internal).await);
        let mut problems = Vec::new();
        for (topic, differences) in self.differences(&client, &standing, relied).await? {
            for difference in differences {
                let Difference { severity, setting, found, wanted, consequence } = difference;
                let name = self.topics().name(topic);
                let sentence = format!("topic {name} has {setting} = {found} instead of {wanted}: {consequence}");
                match severity {
                    Severity::Error => problems.push(sentence),
                    Severity::Warning => {
                        warnings.push(format!("{sentence}. Set it right with `{}`", self.alter_command()));
                    }
                }
            }
        }
        if problems.is_empty() {
            return Ok(warnings);
        }
        Err(BusError::TopicSettings { problems, command: self.alter_command() })
    }

    fn alter_command(&self) -> String {
        self.command("migrate --alter-topics")
    }

    /// Sets the settings of existing topics that differ from what clickhook relies on.
    /// Returns a sentence for each. Other settings of the topics stay.
    ///
    /// # Errors
    /// When Kafka does not answer or refuses, or topics are missing.
    pub async fn alter_topics(&self) -> Result<Vec<String>, BusError> {
        let client = self.admin()?;
        let standing = self.standing(&client)?;
        self.check_missing(&standing.missing())?;
        let mut altered = Vec::new();
        for (topic, resource) in self.configs(&client, &Topic::ALL).await? {
            let differences = self.own(standing.differences(topic, &resource));
            if differences.is_empty() {
                continue;
            }
            let name = self.topics().name(topic);
            // Kafka resets what a request does not name.
            let kept = resource.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
            let kept = kept.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)));
            let config = kept
                .fold(AlterConfig::new(ResourceSpecifier::Topic(&name)), |config, (key, value)| config.set(key, value));
            let config = differences.iter().fold(config, |config, found| config.set(found.setting, &found.wanted));
            let results = client
                .alter_configs([&config], &options())
                .await
                .map_err(BusError::new("change a topic's settings"))?;
            if let Some(Err((_, code))) = results.into_iter().next() {
                return Err(BusError::AlterTopic { topic: name, source: KafkaError::AdminOp(code) });
            }
            altered.extend(differences.into_iter().map(|Difference { setting, found, wanted, .. }| {
                format!("topic {name}: {setting} = {wanted} (was {found})")
            }));
        }
        Ok(altered)
    }

    async fn differences(
        &self,
        client: &AdminClient<QuietContext>,
        standing: &StandingTopics,
        topics: &[Topic],
    ) -> Result<Vec<(Topic, Vec<Difference>)>, BusError> {
        let configs = self.configs(client, topics).await?;
        Ok(configs
            .into_iter()
            .map(|(topic, resource)| (topic, self.own(standing.differences(topic, &resource))))
            .collect())
    }

    /// Leaves out the settings that are Kafka's to decide.
    fn own(&self, differences: Vec<Difference>) -> Vec<Difference> {
        differences.into_iter().filter(|found| self.sets(found.setting)).collect()
    }

    /// Asks for the settings of topics.
    async fn configs(
        &self,
        client: &AdminClient<QuietContext>,
        topics: &[Topic],
    ) -> Result<Vec<(Topic, ConfigResource)>, BusError> {
        // Kafka refuses a request that names a topic twice.
        let names: BTreeSet<String> = topics.iter().map(|topic| self.topics().name(*topic)).collect();
        let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let failed = || BusError::new("ask for the topics' settings");
        let described = client.describe_configs(&resources, &options()).await.map_err(failed())?;
        let mut configs = Vec::new();
        for resource in described {
            let resource = resource.map_err(|code| failed()(KafkaError::AdminOp(code)))?;
            let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
            configs.extend(self.topics().parse(name).map(|topic| (topic, resource)));
        }
        Ok(configs)
    }

    pub(crate) fn admin(&self) -> Result<AdminClient<QuietContext>, BusError> {
        AdminClient::from_config_and_context(&self.admin_config(), QuietContext)
            .map_err(BusError::new("make an admin client"))
    }

    /// Connects once more, by a client that is asked for what it logs: an admin client never
    /// is, and so does not say why it reaches no broker.
    fn look_for_a_reason(&self) {
        let client: Result<BaseConsumer<QuietContext>, _> = self.admin_config().create_with_context(QuietContext);
        let Ok(client) = client else { return };
        let deadline = Instant::now() + REASON_WITHIN;
        while !client_errors::has_reason() && Instant::now() < deadline {
            let _ = client.poll(Duration::from_millis(100));
        }
    }

    /// Asks which topics there are.
    pub(crate) fn standing(&self, client: &AdminClient<QuietContext>) -> Result<StandingTopics, BusError> {
        let metadata = client.inner().fetch_metadata(None, CALL_TIMEOUT).map_err(|error| {
            self.look_for_a_reason();
            BusError::new("ask which topics there are")(error)
        })?;
        let partitions = counts_in(&metadata, self.topics());
        self.counts.set(partitions.clone());
        let internal = InternalTopics::new(&metadata);
        Ok(StandingTopics { replicas: self.replicas(&metadata), partitions, internal })
    }

    /// Returns the smallest number of replicas of a partition of each topic.
    fn replicas(&self, metadata: &Metadata) -> BTreeMap<Topic, u16> {
        let found = metadata.topics().iter();
        found
            .filter_map(|found| {
                let replicas = found.partitions().iter().map(|partition| partition.replicas().len()).min()?;
                Some((self.topics().parse(found.name())?, u16::try_from(replicas).unwrap_or(u16::MAX)))
            })
            .collect()
    }

    fn check_missing(&self, missing: &[Topic]) -> Result<(), BusError> {
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.iter().map(|topic| self.topics().name(*topic)).collect();
        Err(BusError::MissingTopics { names, command: self.command("migrate") })
    }

    fn check_counts(&self, standing: &StandingTopics) -> Result<(), BusError> {
        for (topic, found) in &standing.partitions {
            if !is_shared(*topic) && *found != 1 {
                return Err(BusError::Divided { topic: self.topics().name(*topic), found: *found });
            }
        }
        let configured = self.config().partitions;
        let Some(found) = standing.shared().map(|(_, count)| count).min().filter(|found| *found < configured) else {
            return Ok(());
        };
        let widest = standing.widest().map_or(configured, |(_, count)| count);
        let command = self.widen_command(widest.max(configured));
        Err(BusError::TooFewPartitions { found, configured, command })
    }

    /// Returns a sentence where shared topics differ in their numbers of partitions.
    fn uneven(&self, standing: &StandingTopics) -> Option<String> {
        let (widest, most) = standing.widest()?;
        let (narrowest, least) = standing.shared().min_by_key(|(_, count)| *count)?;
        (least < most).then(|| {
            format!(
                "topic {} has {most} partitions, and {} has {least}: all shared topics must have the same number. Widen them \
                 with `{}`",
                self.topics().name(widest),
                self.topics().name(narrowest),
                self.widen_command(most)
            )
        })
    }

    /// Waits until the brokers know all topics, the shared ones with at least
    /// `partitions`: a new topic or partition takes a moment.
    async fn wait_until_known(
        &self,
        client: &AdminClient<QuietContext>,
        partitions: u16,
    ) -> Result<StandingTopics, BusError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        loop {
            let standing = self.standing(client)?;
            let missing = standing.missing();
            if missing.is_empty() && standing.shared().all(|(_, count)| count >= partitions) {
                return Ok(standing);
            }
            if Instant::now() > deadline {
                self.check_missing(&missing)?;
                return Ok(standing);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT)).request_timeout(Some(CALL_TIMEOUT))
}

fn partition(topic: Topic, index: u16) -> Partition {
    Partition { topic, index: i32::from(index) }
}
