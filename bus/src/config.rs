//! How every Kafka client of the project is set up. Each setting that differs
//! from librdkafka's default stands here with its reason.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use schemas::Topics;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{partition_counts::SharedCounts, stopped::StoppedPartitions, topic_settings::LARGEST_RECORD};

/// Where Kafka is and how this installation uses it: `[kafka]` in the
/// configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// Bootstrap brokers, `host:port`, separated by commas.
    pub brokers: String,
    /// The prefix of every topic, group and transactional id.
    pub prefix: String,
    /// Partitions of every shared topic when it is made; the topics may have more by now.
    pub partitions: u16,
    /// Replicas of every topic.
    pub replication: u16,
    /// A name that no other running process of the same role has. A process that was
    /// killed and is started again under its name gets its partitions back at once;
    /// without a name it waits until the old process's session has ended (6 s). A
    /// process that is told to stop gives its partitions to the others either way.
    pub instance: Option<String>,
    /// Settings of topics that are left to Kafka, such as `segment.ms`, for providers that
    /// refuse some.
    pub unset_topic_settings: Vec<String>,
    /// Further librdkafka settings for every client, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
    /// The file that the configuration was read from, for the commands in errors.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            prefix: "clickhook".to_owned(),
            partitions: 4,
            replication: 1,
            instance: None,
            unset_topic_settings: Vec::new(),
            properties: BTreeMap::new(),
            file: None,
        }
    }
}

/// A handle on the installation's Kafka, which makes every client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus {
    config: Arc<BusConfig>,
    topics: Arc<Topics>,
    fetch_min_bytes: u32,
    clients: Arc<watch::Sender<()>>,
    pub(crate) counts: SharedCounts,
    pub(crate) stopped: StoppedPartitions,
}

/// A token that a thread holds for as long as it has a client.
pub(crate) type Alive = watch::Receiver<()>;

/// How long a member of a group may be silent before its partitions are given
/// to another.
const SESSION: Duration = Duration::from_secs(6);
/// How often a member of a group asks whether the group rebalances.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);
/// The same of a member that hands its partitions over: those of one that leaves, or is to
/// get some, wait until every other member has asked.
pub(crate) const QUICK_HEARTBEAT: Duration = Duration::from_millis(100);
/// How long a consumer may go without a poll before its partitions are given to another
/// member: librdkafka's default.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);
/// How often a client asks for the partitions and their leaders without another reason.
const METADATA_REFRESH: Duration = Duration::from_secs(10);
/// How long a transaction may stay open after its producer died.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for a broker. The default of a minute keeps clients with a
/// broker that is frozen, long after the others have given it up, which takes them 9 s.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(9500);
/// How long a blocking call waits for Kafka.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command waits for a group's offsets. While a transaction that has offsets of
/// the group is open, Kafka does not tell them, and one whose producer was killed stays
/// open for [`TRANSACTION_TIMEOUT`] and until Kafka looks for such ones, every 10 s.
pub(crate) const OFFSETS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a new client waits for its first broker before it goes on without.
pub(crate) const FIRST_BROKER: Duration = Duration::from_secs(2);

impl Bus {
    /// Returns a handle on the Kafka of `config`, without connecting.
    #[must_use]
    pub fn new(config: BusConfig) -> Self {
        let topics = Arc::new(Topics::new(&config.prefix));
        Self {
            config: Arc::new(config),
            topics,
            fetch_min_bytes: 1,
            clients: Arc::new(watch::Sender::new(())),
            counts: SharedCounts::default(),
            stopped: StoppedPartitions::default(),
        }
    }

    /// Waits about a second until the clients of all dropped producers and tables of
    /// this handle and its clones are gone. If Kafka stops earlier, those clients
    /// log errors.
    pub async fn clients_gone(&self) {
        self.clients.closed().await;
    }

    pub(crate) fn alive(&self) -> Alive {
        self.clients.subscribe()
    }

    /// Returns a handle whose consumers prefer throughput to latency: a fetch waits
    /// up to half a second for 100 kB. At 500 clicks/s that spares the warehouse
    /// and the broker three fetches in four.
    #[must_use]
    pub fn unhurried(&self) -> Self {
        Self { fetch_min_bytes: 100_000, ..self.clone() }
    }

    /// Whether clickhook decides on a setting of its topics.
    pub(crate) fn sets(&self, setting: &str) -> bool {
        !self.config.unset_topic_settings.iter().any(|unset| unset == setting)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &BusConfig {
        &self.config
    }

    /// The installation's topic names.
    #[must_use]
    pub fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    /// Returns a `clickhook` command that a person can paste into a shell, so that it
    /// reaches this Kafka.
    #[must_use]
    pub fn command(&self, arguments: &str) -> String {
        let default = BusConfig::default();
        let mut command = String::new();
        for (variable, value, default) in [
            ("CLICKHOOK_KAFKA_BROKERS", &self.config.brokers, &default.brokers),
            ("CLICKHOOK_KAFKA_PREFIX", &self.config.prefix, &default.prefix),
        ] {
            if value != default {
                command.push_str(&format!("{variable}={} ", quoted(value)));
            }
        }
        command.push_str("clickhook ");
        command.push_str(arguments);
        if let Some(file) = &self.config.file {
            command.push_str(&format!(" --config {}", quoted(&file.display().to_string())));
        }
        command
    }

    /// The settings of every client.
    fn client(&self, role: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.config.brokers)
            .set("client.id", self.topics.group(role))
            // Reconnects within a second after an outage; the default is ten.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.timeout.ms", REQUEST_TIMEOUT.as_millis().to_string())
            .set("socket.keepalive.enable", "true")
            // The default of 5 minutes would leave new partitions unread for that long.
            .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH.as_millis().to_string())
            // Nagle's algorithm would delay a small produce request.
            .set("socket.nagle.disable", "true")
            .set("allow.auto.create.topics", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        for (key, value) in &self.config.properties {
            client.set(key, value);
        }
        trust_public_authorities(&mut client);
        client
    }

    pub(crate) fn admin_config(&self) -> ClientConfig {
        self.client("admin")
    }

    pub(crate) fn producer_config(&self, role: &str, linger: Duration) -> ClientConfig {
        let mut client = self.client(role);
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", linger.as_millis().to_string())
            // The partitioner of Kafka's Java clients, so that a data team's
            // producer chooses the same partition for the same key.
            .set("partitioner", "murmur2_random")
            .set("message.max.bytes", LARGEST_RECORD.to_string());
        client
    }

    pub(crate) fn transactional_config(&self, id: &str, linger: Duration) -> ClientConfig {
        let mut client = self.producer_config(id, linger);
        client
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
            // A commit tells that all records were taken.
            .set("delivery.report.only.error", "true");
        client
    }

    fn reader_config(&self, role: &str) -> ClientConfig {
        let mut client = self.client(role);
        client
            // Offsets are committed explicitly, when the work is done.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // `latest`, the default, pair a long outage into silent loss.
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.min.bytes", self.fetch_min_bytes.to_string())
            .set("fetch.message.max.bytes", "4000000")
            // The fetcher's pause when its queue is full: the default of a second
            // would show as a stall.
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.error.backoff.ms", "100")
            // The size of prefetched records of a consumer, all its partitions together.
            // The fetches under way, one a broker, may exceed it by 8 MiB each.
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.max.bytes", "8388608");
        client
    }

    /// The settings of a client of `group`, which is a static member if it has a name.
    pub(crate) fn group_config(&self, group: &str, member: Option<&str>) -> ClientConfig {
        let mut client = self.reader_config(group);
        client
            .set("group.id", self.topics.group(group))
            .set("session.timeout.ms", SESSION.as_millis().to_string())
            .set("max.poll.interval.ms", MAX_POLL_INTERVAL.as_millis().to_string())
            .set("heartbeat.interval.ms", HEARTBEAT.as_millis().to_string())
            // Co-partitioned topics must land on the same member.
            .set("partition.assignment.strategy", "range");
        if let Some(member) = member {
            client.set("group.instance.id", self.topics.group(&format!("{group}.{member}")));
        }
        client
    }

    pub(crate) fn table_config(&self, role: &str) -> ClientConfig {
        let mut client = self.reader_config(role);
        client
            // Required by librdkafka; nothing is ever committed under it.
            .set("group.id", self.topics.group(&format!("{role}.table")))
            .set("enable.partition.eof", "true")
            // The end shows in a fetch without records, which the broker delays by
            // this long: every start waits for it.
            .set("fetch.wait.max.ms", "100")
            // Records are applied at once: prefetching more would only cost memory.
            .set("queued.max.messages.kbytes", "2048")
            // The small queue above is applied quickly and must be refilled soon.
            .set("fetch.queue.backoff.ms", "2")
            .set("isolation.level", "read_committed");
        client
    }
}

/// Lets a client that is not told whom to trust look for the system's authorities where
/// distributions keep them: OpenSSL alone looks where it was built for, and a container
/// image may have no such folder.
fn trust_public_authorities(client: &mut ClientConfig) {
    let is = |client: &ClientConfig, key: &str, with: fn(&str) -> bool| {
        client.get(key).is_some_and(|value| with(&value.to_ascii_lowercase()))
    };
    let to_brokers = is(client, "security.protocol", |protocol| protocol.ends_with("ssl"));
    let for_tokens = is(client, "sasl.oauthbearer.token.endpoint.url", |url| url.starts_with("https:"));
    for (kind, used) in [("ssl", to_brokers), ("https", for_tokens)] {
        let [location, pem] = ["location", "pem"].map(|form| format!("{kind}.ca.{form}"));
        if used && client.get(&location).is_none() && client.get(&pem).is_none() {
            client.set(location, "probe");
        }
    }
}

/// Quotes a word for a shell, if it needs it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_looked_for_unless_they_are_named() {
        let of = |properties: &[(&str, &str)]| {
            let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let client = Bus::new(BusConfig { properties, ..BusConfig::default() }).admin_config();
            ["ssl.ca.location", "https.ca.location"].map(|key| client.get(key).map(ToOwned::to_owned))
        };
        let probe = || Some("probe".to_owned());
        assert_eq!(of(&[]), [None, None]);
        assert_eq!(of(&[("security.protocol", "sasl_plaintext")]), [None, None]);
        assert_eq!(of(&[("security.protocol", "SASL_SSL")]), [probe(), None]);
        let named = [("security.protocol", "ssl"), ("ssl.ca.location", "/ca.pem")];
        assert_eq!(of(&named), [Some("/ca.pem".to_owned()), None]);
        assert_eq!(of(&[("security.protocol", "ssl"), ("ssl.ca.pem", "PEM")]), [None, None]);
        let tokens = [("sasl.oauthbearer.token.endpoint.url", "https://login.example/token")];
        assert_eq!(of(&tokens), [None, probe()]);
    }

    #[test]
    fn a_command_names_what_it_cannot_know() {
        let command = |config: BusConfig| Bus::new(config).command("migrate");
        assert_eq!(command(BusConfig::default()), "clickhook migrate");
        let file = Some(PathBuf::from("/etc/o'clock; rm.toml"));
        let config =
            BusConfig { brokers: "a:1,b:2".to_owned(), prefix: "acme.x".to_owned(), file, ..BusConfig::default() };
        let expected = r"CLICKHOOK_KAFKA_BROKERS=a:1,b:2 CLICKHOOK_KAFKA_PREFIX=acme.x clickhook migrate --config '/etc/o'\''clock; rm.toml'";
        assert_eq!(command(config), expected);
    }
}
