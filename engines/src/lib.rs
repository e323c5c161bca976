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
mod supervisor;

use std::ffi::OsString;
use std::path::PathBuf;

use data_dir::DataDir;
pub use engine::Engine;
pub use error::Error;
pub use exec::exec;
pub use install::{ENGINES_DIR_ENV, GEO_CITY_ATTRIBUTION, Installed, geo_city, geo_city_ipv6, geo_country};
use ports::Ports;
use supervisor::{Spec, Supervised};

/// Where tests and benches find the brokers that [`exec`] started for them.
pub const TEST_KAFKA_ENV: &str = "CLICKHOOK_TEST_KAFKA";
/// Where tests and benches find the ClickHouse that [`exec`] started for them.
pub const TEST_CLICKHOUSE_ENV: &str = "CLICKHOOK_TEST_CLICKHOUSE";

/// How to start the engines.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept; created if it is missing.
    pub data_dir: PathBuf,
    /// The folder that `make engines` installed into; `None` looks for it, see [`Installed::locate`].
    pub engines_dir: Option<PathBuf>,
    /// Brokers to use in place of a Kafka of our own (`host:port,host:port`).
    pub kafka: Option<String>,
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

/// Running engines. Dropping this without [`Engines::shutdown`] also ends the
/// children, but nobody waits for them and they are killed with the runtime.
#[derive(Debug)]
pub struct Engines {
    kafka_brokers: String,
    clickhouse_url: String,
    kafka: Option<Supervised>,
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
            let found = start_on_free_ports([remembered.kafka, remembered.kafka_controller], |[broker, controller]| {
                kafka::prepare(&data_dir, installed, broker, controller)
            });
            found.await.map(Some)
        };
        let clickhouse = async {
            let (Some(installed), None) = (installed, &options.clickhouse) else { return Ok(None) };
            let found = start_on_free_ports([remembered.clickhouse], |[port]| {
                clickhouse::prepare(&data_dir, installed, &exe, &options.clickhouse_args_prefix, port)
            });
            found.await.map(Some)
        };
        // Not try_join: the one that did start must be stopped before we return.
        let (kafka, clickhouse) = match tokio::join!(kafka, clickhouse) {
            (Ok(kafka), Ok(clickhouse)) => (kafka, clickhouse),
            (kafka, clickhouse) => {
                let (kafka, clickhouse) = (stop_started(kafka).await, stop_started(clickhouse).await);
                return Err(kafka.err().or(clickhouse.err()).unwrap_or(Error::Stopped));
            }
        };

        let mut ports = remembered;
        if let Some((_, [broker, controller])) = &kafka {
            (ports.kafka, ports.kafka_controller) = (*broker, *controller);
        }
        if let Some((_, [http])) = &clickhouse {
            ports.clickhouse = *http;
        }
        ports.save(&data_dir.ports_file())?;

        Ok(Self {
            kafka_brokers: options.kafka.unwrap_or_else(|| format!("127.0.0.1:{}", ports.kafka)),
            clickhouse_url: options.clickhouse.unwrap_or_else(|| format!("http://127.0.0.1:{}", ports.clickhouse)),
            kafka: kafka.map(|(kafka, _)| kafka),
            clickhouse: clickhouse.map(|(clickhouse, _)| clickhouse),
            data_dir,
        })
    }

    /// The brokers to connect to, as `bootstrap.servers` wants them.
    pub fn kafka_brokers(&self) -> String {
        self.kafka_brokers.clone()
    }

    /// The URL of ClickHouse's HTTP interface, without a trailing slash unless
    /// an external one was given with it.
    pub fn clickhouse_url(&self) -> String {
        self.clickhouse_url.clone()
    }

    /// The children's process ids at this moment.
    pub fn pids(&self) -> Pids {
        Pids {
            kafka: self.kafka.as_ref().and_then(Supervised::pid),
            clickhouse: self.clickhouse.as_ref().and_then(Supervised::pid),
        }
    }

    /// Where the children's logs are.
    pub fn logs_dir(&self) -> PathBuf {
        self.data_dir.logs()
    }

    /// Stops the children and frees the data directory. Call it when nothing
    /// uses them any more: a client of a stopped broker retries and complains.
    pub async fn shutdown(self) {
        let stop = |child: Option<Supervised>| async {
            if let Some(child) = child {
                child.stop().await;
            }
        };
        tokio::join!(stop(self.clickhouse), stop(self.kafka));
        drop(self.data_dir);
    }
}

async fn stop_started<P>(started: Result<Option<(Supervised, P)>, Error>) -> Result<(), Error> {
    if let Some((child, _)) = started? {
        child.stop().await;
    }
    Ok(())
}

/// Starts a child on the `preferred` ports where they are free, on others where
/// not. Somebody may take a port between our look and the child's bind, so a
/// child that failed while one of its ports is taken gets another chance.
async fn start_on_free_ports<const N: usize>(
    preferred: [u16; N],
    prepare: impl Fn([u16; N]) -> Result<Spec, Error>,
) -> Result<(Supervised, [u16; N]), Error> {
    let mut attempts_left = 3;
    loop {
        let ports = ports::choose(preferred)?;
        attempts_left -= 1;
        match Supervised::start(prepare(ports)?).await {
            Ok(child) => return Ok((child, ports)),
            Err(error) if attempts_left > 0 && !ports.iter().all(|port| ports::is_free(*port)) => {
                tracing::warn!(%error, ?ports, "a port was taken by somebody else, trying others");
            }
            Err(error) => return Err(error),
        }
    }
}
