//! A real Kafka and a real ClickHouse as supervised children of this process,
//! for `clickhook up`, the tests and the benches: what passes on a laptop is
//! what runs in a cluster.
//!
//! [`Engines::start`] starts both in parallel on free loopback ports, waits
//! until they answer, restarts them when they die and stops them on
//! [`Engines::shutdown`]. Everything lives in one data directory, which one
//! process at a time may use. `make engines` installs what is started here.
//!
//! ```text
//! data_dir/lock         held while the engines run, contains the holder's pid
//! data_dir/ports.json   preferred again at the next start
//! data_dir/run/*.json   which child processes are ours (see `record`)
//! data_dir/logs/*.log   what the children print
//! data_dir/kafka        Kafka's configuration and logs (the records)
//! data_dir/kafka-2      the second broker's, if there are several
//! data_dir/clickhouse   ClickHouse's configuration and tables
//! ```

pub mod clickhouse;
mod data_dir;
mod engine;
mod error;
mod exec;
mod install;
mod kafka;
mod log_file;
mod ports;
mod probe;
mod record;
mod secure_listeners;
mod supervisor;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use data_dir::DataDir;
pub use engine::Engine;
pub use error::Error;
pub use exec::exec;
pub use install::{
    ENGINES_DIR_ENV, GEO_CITY_ATTRIBUTION, Installed, geo_city, geo_city_ipv6, geo_country, network_ranges,
};
use ports::{BrokerPorts, Listening, Ports};
pub use probe::PartitionReplicas;
pub use secure_listeners::SecureListeners;
use secure_listeners::SecurePorts;
use supervisor::{Spec, Supervised};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Where tests and benches find the brokers that [`exec`] started for them.
pub const TEST_KAFKA_ENV: &str = "CLICKHOOK_TEST_KAFKA";
/// Where tests and benches find the ClickHouse that [`exec`] started for them.
pub const TEST_CLICKHOUSE_ENV: &str = "CLICKHOOK_TEST_CLICKHOUSE";

/// How often it is looked whether replicas are in sync.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How to start the engines.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept; created if it is missing.
    pub data_dir: PathBuf,
    /// The folder that `make engines` installed into; `None` looks for it, see [`Installed::locate`].
    pub engines_dir: Option<PathBuf>,
    /// Brokers to use in place of a Kafka of our own (`host:port,host:port`).
    pub kafka: Option<String>,
    /// How many brokers a Kafka of our own has: one, or a cluster of several for
    /// those who take some of them away. Fixed when the data directory is made.
    pub brokers: u16,
    /// The heap of each broker in MB; `None` is enough for one installation's topics.
    pub kafka_heap_mb: Option<u16>,
    /// Listeners with TLS of a Kafka of our own, beside the plain one.
    pub secure: Option<SecureListeners>,
    /// A ClickHouse to use in place of one of our own (its HTTP URL).
    pub clickhouse: Option<String>,
    /// The program that becomes ClickHouse by calling [`clickhouse::run_child`];
    /// `None` is the running one.
    pub exe: Option<PathBuf>,
    /// The arguments that make that program do so, before those it passes on.
    pub clickhouse_args_prefix: Vec<OsString>,
    /// A child's log is moved aside (one old file is kept) past this size.
    pub log_max_bytes: u64,
}

impl Options {
    /// Both engines of our own in `data_dir`, everything else by default.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            engines_dir: None,
            kafka: None,
            brokers: 1,
            kafka_heap_mb: None,
            secure: None,
            clickhouse: None,
            exe: None,
            clickhouse_args_prefix: vec![clickhouse::SUBCOMMAND.into()],
            log_max_bytes: 16 << 20,
        }
    }
}

/// The process ids of the children that run now, for measuring them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pids {
    /// Kafka, unless it is external or being restarted.
    pub kafka: Option<u32>,
    /// ClickHouse, unless it is external or being restarted.
    pub clickhouse: Option<u32>,
}

/// A broker of a Kafka of our own.
#[derive(Debug)]
enum Broker {
    Running(Supervised),
    /// Killed by [`Engines::kill_broker`]; what starts it again.
    Killed(Spec),
    /// It cannot be started again.
    Lost,
}

/// Running engines. Dropping this without [`Engines::shutdown`] also ends the
/// children, but nobody waits for them and they are killed with the runtime.
#[derive(Debug)]
pub struct Engines {
    kafka_brokers: String,
    clickhouse_url: String,
    /// The ports of the secure listeners of each broker.
    secure: Vec<SecurePorts>,
    brokers: Vec<Broker>,
    clickhouse: Option<Supervised>,
    // Last: the next holder may come only when the children are gone.
    data_dir: DataDir,
}

impl Engines {
    /// Starts what is not external and returns when it answers.
    ///
    /// # Errors
    /// When the engines are not installed, the data directory is in use by
    /// another process or cannot be written, or a child does not come up; the
    /// message says what to do. No child is left running.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let data_dir = DataDir::lock(&options.data_dir, options.log_max_bytes)?;
        record::end_orphans(&data_dir.run()).await?;

        let installed = match (&options.kafka, &options.clickhouse) {
            (Some(_), Some(_)) => None,
            _ => Some(Installed::locate(options.engines_dir.as_deref())?),
        };
        let exe = match options.exe {
            Some(exe) => exe,
            None => std::env::current_exe()
                .map_err(|source| Error::io("find the running program", "/proc/self/exe", source))?,
        };
        let installed = installed.as_ref();
        let remembered = Ports::load(&data_dir.ports_file());

        let kafka = async {
            let (Some(installed), None) = (installed, &options.kafka) else { return Ok(None) };
            let asked = usize::from(options.brokers.max(1));
            let mut preferred = remembered.brokers();
            if !preferred.is_empty() && preferred.len() != asked {
                return Err(Error::Brokers { dir: data_dir.path().to_owned(), found: preferred.len(), asked });
            }
            preferred.resize(asked, BrokerPorts::default());
            let secure = options.secure.as_ref();
            let choose = || {
                let plain = BrokerPorts::choose(&preferred)?;
                if secure.is_some() { BrokerPorts::with_secure(plain) } else { Ok(plain) }
            };
            let prepare =
                |ports: &Vec<BrokerPorts>| kafka::prepare(&data_dir, installed, ports, options.kafka_heap_mb, secure);
            let (brokers, ports) = start_on_free_ports(choose, prepare).await?;
            if let Some(secure) = secure {
                let made = secure.make_user(installed, &format!("127.0.0.1:{}", ports[0].clients)).await;
                if let Err(error) = made {
                    stop_all(brokers).await;
                    return Err(error);
                }
            }
            Ok(Some((brokers, ports)))
        };
        let clickhouse = async {
            let (Some(installed), None) = (installed, &options.clickhouse) else { return Ok(None) };
            let choose = || Ok(ports::choose(&[remembered.clickhouse])?[0]);
            let prefix = &options.clickhouse_args_prefix;
            let prepare = |port: &u16| Ok(vec![clickhouse::prepare(&data_dir, installed, &exe, prefix, *port)?]);
            start_on_free_ports(choose, prepare).await.map(Some)
        };
        // Not try_join: the one that did start must be stopped before we return.
        let (kafka, clickhouse) = match tokio::join!(kafka, clickhouse) {
            (Ok(kafka), Ok(clickhouse)) => (kafka, clickhouse),
            (kafka, clickhouse) => {
                let (kafka, clickhouse) = (stop_started(kafka).await, stop_started(clickhouse).await);
                return Err(kafka.err().or(clickhouse.err()).unwrap_or(Error::Stopped));
            }
        };

        let mut ports = remembered.clone();
        if let Some((_, chosen)) = &kafka
            && let Some((first, more)) = chosen.split_first()
        {
            ports.first_broker = *first;
            ports.more_brokers = more.to_vec();
        }
        if let Some((_, http)) = &clickhouse {
            ports.clickhouse = *http;
        }
        ports.save(&data_dir.ports_file())?;

        let own_brokers = || {
            let addresses = ports.brokers();
            addresses.iter().map(|ports| format!("127.0.0.1:{}", ports.clients)).collect::<Vec<_>>().join(",")
        };
        Ok(Self {
            kafka_brokers: options.kafka.unwrap_or_else(own_brokers),
            clickhouse_url: options.clickhouse.unwrap_or_else(|| format!("http://127.0.0.1:{}", ports.clickhouse)),
            secure: ports.brokers().iter().filter_map(|ports| ports.secure).collect(),
            brokers: kafka.into_iter().flat_map(|(brokers, _)| brokers).map(Broker::Running).collect(),
            clickhouse: clickhouse.and_then(|(mut children, _)| children.pop()),
            data_dir,
        })
    }

    /// The brokers to connect to, as `bootstrap.servers` wants them.
    pub fn kafka_brokers(&self) -> String {
        self.kafka_brokers.clone()
    }

    /// The brokers' listeners that ask for a client's certificate; empty unless
    /// [`Options::secure`] asked for them.
    pub fn kafka_by_certificate(&self) -> String {
        self.secure_addresses(|ports| ports.certificates)
    }

    /// The brokers' listeners with TLS where clients log in by SASL; empty unless
    /// [`Options::secure`] asked for them.
    pub fn kafka_by_login(&self) -> String {
        self.secure_addresses(|ports| ports.logins)
    }

    fn secure_addresses(&self, port: fn(&SecurePorts) -> u16) -> String {
        let addresses = self.secure.iter().map(|ports| format!("127.0.0.1:{}", port(ports)));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// The URL of ClickHouse's HTTP interface, without a trailing slash unless
    /// an external one was given with it.
    pub fn clickhouse_url(&self) -> String {
        self.clickhouse_url.clone()
    }

    /// The children's process ids at this moment.
    pub fn pids(&self) -> Pids {
        Pids { kafka: self.broker_pid(0), clickhouse: self.clickhouse.as_ref().and_then(Supervised::pid) }
    }

    /// The process id of a broker of our own, counted from 0, while it runs.
    pub fn broker_pid(&self, broker: usize) -> Option<u32> {
        match self.brokers.get(broker)? {
            Broker::Running(broker) => broker.pid(),
            Broker::Killed(_) | Broker::Lost => None,
        }
    }

    /// Kills a broker with SIGKILL, and does not start it again before
    /// [`Engines::start_broker`].
    pub async fn kill_broker(&mut self, broker: usize) {
        let Some(broker) = self.brokers.get_mut(broker) else { return };
        if let Broker::Running(running) = std::mem::replace(broker, Broker::Lost) {
            *broker = running.kill().await.map_or(Broker::Lost, Broker::Killed);
        }
    }

    /// Starts a broker again that was killed, on its data and its ports, and returns
    /// when it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_broker(&mut self, broker: usize) -> Result<(), Error> {
        let Some(broker) = self.brokers.get_mut(broker) else { return Ok(()) };
        match std::mem::replace(broker, Broker::Lost) {
            Broker::Killed(spec) => *broker = Broker::Running(Supervised::start(spec).await?),
            other => *broker = other,
        }
        Ok(())
    }

    /// Returns the replicas of every partition, as the first broker says that answers.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn partitions(&self) -> Result<Vec<PartitionReplicas>, Error> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in self.kafka_brokers.split(',') {
            match probe::partitions(address).await {
                Ok(partitions) => return Ok(partitions),
                Err(error) => last = error,
            }
        }
        Err(Error::NoBroker { brokers: self.kafka_brokers(), source: last })
    }

    /// Waits until all brokers say that every partition has a leader and all its
    /// replicas are in sync: then any broker may be taken away.
    ///
    /// # Errors
    /// When a broker does not answer, or a replica is not in sync, after `within`.
    pub async fn wait_until_in_sync(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        for address in self.kafka_brokers.split(',') {
            loop {
                let partitions = match probe::partitions(address).await {
                    Ok(partitions) => out_of_sync(&partitions),
                    Err(error) => vec![format!("all, as {address} does not answer ({error})")],
                };
                if partitions.is_empty() {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Error::OutOfSync { within, partitions });
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Where the children's logs are.
    pub fn logs_dir(&self) -> PathBuf {
        self.data_dir.logs()
    }

    /// Stops the children and frees the data directory. Call it when nothing
    /// uses them any more: a client of a stopped broker retries and complains.
    pub async fn shutdown(self) {
        let brokers = self.brokers.into_iter().filter_map(|broker| match broker {
            Broker::Running(broker) => Some(broker),
            Broker::Killed(_) | Broker::Lost => None,
        });
        // At once: a broker that stops hands over to those that are still there.
        stop_all(brokers.chain(self.clickhouse)).await;
        drop(self.data_dir);
    }
}

fn out_of_sync(partitions: &[PartitionReplicas]) -> Vec<String> {
    let lagging = partitions.iter().filter(|partition| !partition.is_in_sync());
    lagging.map(|partition| format!("{}[{}]", partition.topic, partition.index)).collect()
}

async fn stop_all(children: impl IntoIterator<Item = Supervised>) {
    let mut stopping = JoinSet::new();
    for child in children {
        stopping.spawn(child.stop());
    }
    stopping.join_all().await;
}

async fn stop_started<P>(started: Result<Option<(Vec<Supervised>, P)>, Error>) -> Result<(), Error> {
    if let Some((children, _)) = started? {
        stop_all(children).await;
    }
    Ok(())
}

/// Starts children on ports that are free. Somebody may take a port between our
/// look and a child's bind, so children that failed while one of their ports is
/// taken get another chance.
async fn start_on_free_ports<P: Listening + std::fmt::Debug>(
    choose: impl Fn() -> Result<P, Error>,
    prepare: impl Fn(&P) -> Result<Vec<Spec>, Error>,
) -> Result<(Vec<Supervised>, P), Error> {
    let mut attempts_left = 3;
    loop {
        let ports = choose()?;
        attempts_left -= 1;
        match start_all(prepare(&ports)?).await {
            Ok(children) => return Ok((children, ports)),
            Err(error) if attempts_left > 0 && ports.is_taken() => {
                tracing::warn!(%error, ?ports, "a port was taken by somebody else, trying others");
            }
            Err(error) => return Err(error),
        }
    }
}

/// Starts children side by side: a controller of several waits for the others. Of
/// children that do not all come up none is left. In the order of `specs`.
async fn start_all(specs: Vec<Spec>) -> Result<Vec<Supervised>, Error> {
    let mut starting = JoinSet::new();
    for (at, spec) in specs.into_iter().enumerate() {
        starting.spawn(async move { (at, Supervised::start(spec).await) });
    }
    let mut started = starting.join_all().await;
    started.sort_unstable_by_key(|(at, _)| *at);
    let mut children = Vec::new();
    let mut failed = None;
    for (_, outcome) in started {
        match outcome {
            Ok(child) => children.push(child),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        None => Ok(children),
        Some(error) => {
            stop_all(children).await;
            Err(error)
        }
    }
}
