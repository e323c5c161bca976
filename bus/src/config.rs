//! How every Kafka client of the project is set up. Each setting that differs
//! from librdkafka's default stands here with its reason.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use schemas::{Topic, Topics, topics::Spread};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where Kafka is and how this installation uses it: `[kafka]` in the
/// configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// Bootstrap brokers, `host:port`, separated by commas.
    pub brokers: String,
    /// What every topic, group and transactional id begins with.
    pub prefix: String,
    /// Partitions of every topic that is spread; fixed when the topics are made.
    pub partitions: u16,
    /// Replicas of every topic.
    pub replication: u16,
    /// A name that no other process of the same role has while it runs. With
    /// one, a restarted process gets its partitions back at once; without one it
    /// waits for the dead one's session to end (6 s).
    pub instance: Option<String>,
    /// Further librdkafka settings for every client, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            prefix: "clickhook".to_owned(),
            partitions: 4,
            replication: 1,
            instance: None,
            properties: BTreeMap::new(),
        }
    }
}

/// A handle on the installation's Kafka: cheap to clone, and where every client
/// is made.
#[derive(Clone, Debug)]
pub struct Bus {
    config: Arc<BusConfig>,
    topics: Arc<Topics>,
    fetch_min_bytes: u32,
    clients: Arc<watch::Sender<()>>,
}

/// What a thread with a client holds until it has let go of the client.
pub(crate) type Alive = watch::Receiver<()>;

/// How long a member of a group may be silent before its partitions are given
/// to another.
const SESSION: Duration = Duration::from_secs(6);
/// How long a transaction may stay open after its producer died.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a blocking call waits for Kafka.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

impl Bus {
    /// The Kafka of `config`. Nothing is connected yet.
    #[must_use]
    pub fn new(config: BusConfig) -> Self {
        let topics = Arc::new(Topics::new(&config.prefix));
        Self { config: Arc::new(config), topics, fetch_min_bytes: 1, clients: Arc::new(watch::Sender::new(())) }
    }

    /// Waits until the clients are gone of all producers and tables that were made
    /// here, or of a clone, and have been dropped: a second or so. A Kafka that is
    /// stopped before is complained of.
    pub async fn clients_gone(&self) {
        self.clients.closed().await;
    }

    pub(crate) fn alive(&self) -> Alive {
        self.clients.subscribe()
    }

    /// The same Kafka for a reader to whom records by the thousand matter more
    /// than milliseconds: its consumers let Kafka wait, half a second at most,
    /// until it has 100 kB for them. At 500 clicks/s that spares the warehouse
    /// and the broker three fetches in four.
    #[must_use]
    pub fn unhurried(&self) -> Self {
        Self { fetch_min_bytes: 100_000, ..self.clone() }
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

    /// How many partitions `topic` has.
    #[must_use]
    pub fn partitions(&self, topic: Topic) -> u16 {
        match topic.spread() {
            Spread::One => 1,
            Spread::Shared => self.config.partitions,
        }
    }

    /// What every client has in common.
    fn client(&self, role: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.config.brokers)
            .set("client.id", self.topics.group(role))
            // A broker that comes back is found within a second, not ten.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            // Nagle would hold a small produce request back.
            .set("socket.nagle.disable", "true")
            .set("allow.auto.create.topics", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        for (key, value) in &self.config.properties {
            client.set(key, value);
        }
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
            // producer finds the same partition for the same key.
            .set("partitioner", "murmur2_random")
            .set("message.max.bytes", "4000000");
        client
    }

    pub(crate) fn transactional_config(&self, id: &str, linger: Duration) -> ClientConfig {
        let mut client = self.producer_config(id, linger);
        client.set("transactional.id", id).set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
        client
    }

    fn reader_config(&self, role: &str) -> ClientConfig {
        let mut client = self.client(role);
        client
            // Offsets are committed when the work is done, by us.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // `latest`, the default, turns a long outage into silent loss.
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.min.bytes", self.fetch_min_bytes.to_string())
            .set("fetch.message.max.bytes", "4000000")
            // How long the fetcher rests when its queue is full: the default of
            // a second would show as a stall.
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.error.backoff.ms", "100")
            // What is prefetched and not yet processed, per partition.
            .set("queued.max.messages.kbytes", "8192");
        client
    }

    pub(crate) fn group_config(&self, group: &str, member: bool) -> ClientConfig {
        let mut client = self.reader_config(group);
        client
            .set("group.id", self.topics.group(group))
            .set("session.timeout.ms", SESSION.as_millis().to_string())
            .set("heartbeat.interval.ms", "2000")
            // Co-partitioned topics must land on the same member.
            .set("partition.assignment.strategy", "range");
        if let (true, Some(instance)) = (member, &self.config.instance) {
            client.set("group.instance.id", self.topics.group(&format!("{group}.{instance}")));
        }
        client
    }

    pub(crate) fn table_config(&self, role: &str) -> ClientConfig {
        let mut client = self.reader_config(role);
        client
            // Required by librdkafka; nothing is ever committed under it.
            .set("group.id", self.topics.group(&format!("{role}.table")))
            .set("enable.partition.eof", "true")
            // The end is told by an answer without records, which the broker
            // holds back for this long: what a start waits for at least.
            .set("fetch.wait.max.ms", "100")
            // A record is applied as it comes: more in advance is memory alone.
            .set("queued.max.messages.kbytes", "2048")
            // So little is applied in a moment, and more must be there then.
            .set("fetch.queue.backoff.ms", "2")
            .set("isolation.level", "read_committed");
        client
    }
}
