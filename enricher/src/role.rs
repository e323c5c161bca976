//! The enricher as a role of a process: it builds the work on clicks and runs it
//! on a thread until told to stop.

use std::{sync::Arc, thread, time::Duration};

use bus::{Bus, BusError};
use schemas::{ConsumerGroup, Topic};
use service::{ConfigError, Process, Shutdown};
use store::Store;
use tokio::sync::oneshot;
use tracing::info;

use crate::{
    clicks::{
        ClickWork, Counts, address_data::AddressFiles, agent::AgentReader, day_keys::DayKeys, enrich::Enrich,
        enriching::BundleEnricher, lines::LineEnricher, query::Parameters,
    },
    config::Config,
    conversions::{ConversionMetrics, ConversionRules, ConversionWork},
    member::{Member, RecordWork},
};

/// Why the enricher stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kafka cannot be used.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The tables of user agents cannot be built.
    #[error("the tables of user agents: {0}")]
    Agents(String),
    /// A thread cannot be started, or died.
    #[error("the enricher's thread: {0}")]
    Thread(String),
}

/// Runs until told to stop, and then commits the open transactions.
///
/// # Errors
/// When the configuration is wrong, or reading on could lose or double clicks.
/// While brokers are unavailable the enricher retries.
pub async fn run(config: Config, bus: Bus, store: Store, process: Process) -> Result<(), Error> {
    let Process { metrics, health, shutdown } = process;
    config.validate()?;
    let part = health.part("enricher");
    let conversions_part = health.part("conversions");
    let clickhouse = health.part("conversions.clickhouse");
    let day_keys = DayKeys::follow(&bus)?;
    let files = config.clone();
    let addresses = tokio::task::spawn_blocking(move || AddressFiles::open(&files))
        .await
        .map_err(|error| Error::Thread(error.to_string()))?
        .map_err(|error| Error::Thread(error.to_string()))?;
    tokio::select! {
        () = day_keys.caught_up() => {}
        () = shutdown.wait() => return Ok(()),
    }
    let day_keys = Arc::new(day_keys);
    let parameters = Parameters::new(&config.parameters);
    let enrich = Enrich { addresses, parameters, ip_mode: config.ip_mode, datacentre: config.datacentre };
    // Two processes must never share a transactional id: a process without an
    // instance name uses a random one.
    let instance = bus.config().instance.clone().unwrap_or_else(|| hex::encode(rand::random::<[u8; 8]>()));
    let window = Duration::from_millis(config.window_ms);
    // A member that fails stops the other one, and both stop when the process does.
    let stop = Shutdown::new();
    let conversions = Member {
        bus: bus.clone(),
        group: ConsumerGroup::Conversions.name(),
        topics: ConsumerGroup::Conversions.topics(),
        output: None,
        id: format!("conversions.{instance}"),
        window,
        max_lines: config.max_clicks,
        restarts: metrics.counter(
            "clickhook_enricher_conversions_restarts",
            "Times that work on conversions was forgotten and read again",
        ),
        transaction_seconds: metrics.histogram(
            "clickhook_enricher_conversions_transaction_seconds",
            "How long transactions collected conversions before they were committed",
            [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0],
        ),
        part: conversions_part,
        shutdown: stop.clone(),
    };
    let rules = ConversionRules {
        hold: Duration::from_secs(config.conversion_hold_s),
        window: Duration::from_secs(config.conversion_window_days * 86_400),
        customer_click: config.attribution,
    };
    let conversion_work = ConversionWork::new(bus.clone(), store, rules, ConversionMetrics::new(&metrics), clickhouse)
        .map_err(no_thread)?;
    let member = Member {
        bus: bus.clone(),
        group: ConsumerGroup::Enricher.name(),
        topics: ConsumerGroup::Enricher.topics(),
        output: Some(Topic::Clicks),
        id: format!("enricher.{instance}"),
        window,
        max_lines: config.max_clicks,
        restarts: metrics.counter("clickhook_enricher_restarts", "Times that work was forgotten and read again"),
        transaction_seconds: metrics.histogram(
            "clickhook_enricher_transaction_seconds",
            "How long transactions collected clicks before they were committed",
            [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0],
        ),
        part,
        shutdown: stop.clone(),
    };
    let proposing = tokio::spawn(Arc::clone(&day_keys).propose_forever());
    let agents = AgentReader::new().map_err(|error| Error::Agents(error.to_string()))?;
    let enricher = BundleEnricher { lines: LineEnricher { enrich, agents }, day_keys };
    let click_work = ClickWork::new(bus, enricher, config.workers(), Counts::new(&metrics)).map_err(no_thread)?;
    let mut clicks = spawn("enricher", member, click_work)?;
    let mut conversions = spawn("conversions", conversions, conversion_work)?;
    let stopping = tokio::spawn({
        let stop = stop.clone();
        async move {
            shutdown.wait().await;
            stop.trigger();
        }
    });
    let (first, other) = tokio::select! {
        ended = &mut clicks => (ended, conversions),
        ended = &mut conversions => (ended, clicks),
    };
    stop.trigger();
    let other = other.await;
    stopping.abort();
    proposing.abort();
    for ended in [first, other] {
        ended.map_err(|_| Error::Thread("it died".to_owned()))??;
    }
    info!("enricher drained");
    Ok(())
}

/// Runs a member on a thread of its own.
fn spawn(
    name: &str,
    member: Member,
    mut work: impl RecordWork + Send + 'static,
) -> Result<oneshot::Receiver<Result<(), BusError>>, Error> {
    let (sender, ended) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || drop(sender.send(member.run(&mut work))))
        .map_err(no_thread)?;
    Ok(ended)
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn no_thread(error: std::io::Error) -> Error {
    Error::Thread(error.to_string())
}
