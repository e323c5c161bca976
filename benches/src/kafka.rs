//! A Kafka of the bench's own, without the rest of the pipeline, and one role on
//! it.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use bus::{Bus, BusConfig};
use engines::{Engines, PartitionReplicas, SecureListeners};
use rustix::process::{Pid, Signal, kill_process};
use service::vault::Vault;
use testbed::free_address;

use crate::role::Role;

/// It stays as long as this is not shut down.
pub(crate) struct Kafka(Engines);

impl Kafka {
    /// Starts a Kafka of one broker with its data in `dir`.
    pub(crate) async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_cluster(dir, 1, None).await
    }

    /// Starts a Kafka of several brokers with its data in `dir`.
    pub(crate) async fn start_cluster(
        dir: &Path,
        brokers: u16,
        secure: Option<SecureListeners>,
    ) -> anyhow::Result<Self> {
        let mut options = engines::Options::new(dir.join("engines"));
        options.brokers = brokers;
        options.secure = secure;
        // Given one, it starts none; nobody asks it anything.
        options.clickhouse = Some("http://127.0.0.1:9".to_owned());
        Ok(Self(Engines::start(options).await?))
    }

    /// A topic prefix of one's own, topics made.
    pub(crate) async fn bus(&self, prefix: &str) -> anyhow::Result<Bus> {
        let config = BusConfig { brokers: self.0.kafka_brokers(), prefix: prefix.to_owned(), ..BusConfig::default() };
        let bus = Bus::new(config);
        bus.migrate().await.context("create the topics")?;
        Ok(bus)
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.0.pids().kafka.context("Kafka has ended")
    }

    /// The brokers.
    pub(crate) fn brokers(&self) -> String {
        self.0.kafka_brokers()
    }

    /// The brokers' listeners where clients log in.
    pub(crate) fn brokers_by_login(&self) -> String {
        self.0.kafka_by_login()
    }

    /// Stops it in its tracks, or lets it go on: SIGSTOP, SIGCONT.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.signal_broker(0, signal)
    }

    /// Stops a broker in its tracks, or lets it go on.
    pub(crate) fn signal_broker(&self, broker: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = self.0.broker_pid(broker).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.context("the broker has no process id")?, signal).context("send a broker a signal")
    }

    /// kill -9 of a broker.
    pub(crate) async fn kill_broker(&mut self, broker: usize) {
        self.0.kill_broker(broker).await;
    }

    /// Starts a broker again that was killed.
    pub(crate) async fn start_broker(&mut self, broker: usize) -> anyhow::Result<()> {
        Ok(self.0.start_broker(broker).await?)
    }

    /// The replicas of every partition.
    pub(crate) async fn partitions(&self) -> anyhow::Result<Vec<PartitionReplicas>> {
        Ok(self.0.partitions().await?)
    }

    /// Waits until all replicas are in sync.
    pub(crate) async fn until_in_sync(&self, within: Duration) -> anyhow::Result<()> {
        Ok(self.0.wait_until_in_sync(within).await?)
    }

    /// kill -9, and nobody starts it again.
    pub(crate) async fn kill(self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.shutdown().await;
        Ok(())
    }

    pub(crate) async fn shutdown(self) {
        self.0.shutdown().await;
    }
}

/// A redirector in a process of its own.
pub(crate) struct Ingest {
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
}

impl Ingest {
    /// Starts it on the Kafka and prefix of `bus`; its log goes into `dir`.
    pub(crate) fn start(binary: &Path, dir: &Path, bus: &Bus) -> anyhow::Result<Self> {
        let address = free_address();
        let settings = [
            ("CLICKHOOK_KAFKA_BROKERS", bus.config().brokers.clone()),
            ("CLICKHOOK_KAFKA_PREFIX", bus.config().prefix.clone()),
            // Its host answers links without a domain, whatever domains there are.
            ("CLICKHOOK_LINKS_SHORT_URL_BASE", "http://go.acme.example".to_owned()),
            ("CLICKHOOK_INGEST_LISTEN", address.to_string()),
            ("CLICKHOOK_INGEST_INTAKE_LISTEN", "127.0.0.1:0".to_owned()),
            // So that the visitors' addresses differ.
            ("CLICKHOOK_INGEST_TRUSTED_PROXIES", "[\"127.0.0.0/8\"]".to_owned()),
        ];
        let role = Role::start(binary, dir, &settings, "ingest", &["ingest"])?;
        Ok(Self { role, address })
    }
}

/// The API in a process of its own.
pub(crate) struct Control {
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
    pub(crate) admin_key: String,
}

impl Control {
    /// Starts it on the Kafka and prefix of `bus`; its log goes into `dir`.
    pub(crate) fn start(binary: &Path, dir: &Path, bus: &Bus) -> anyhow::Result<Self> {
        let address = free_address();
        let admin_key = hex::encode(rand::random::<[u8; 16]>());
        let settings = [
            ("CLICKHOOK_KAFKA_BROKERS", bus.config().brokers.clone()),
            ("CLICKHOOK_KAFKA_PREFIX", bus.config().prefix.clone()),
            ("CLICKHOOK_LINKS_SHORT_URL_BASE", "http://go.acme.example".to_owned()),
            ("CLICKHOOK_CONTROL_LISTEN", address.to_string()),
            // One key writes as fast as it can.
            ("CLICKHOOK_CONTROL_RATE_PER_S", "0".to_owned()),
            ("CLICKHOOK_ADMIN_KEY", admin_key.clone()),
            ("CLICKHOOK_INSTALLATION_KEY", Vault::generate().to_string()),
        ];
        let role = Role::start(binary, dir, &settings, "control", &["control"])?;
        Ok(Self { role, address, admin_key })
    }
}
