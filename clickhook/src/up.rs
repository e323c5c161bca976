//! `clickhook up`: everything on this machine. Kafka and ClickHouse as children
//! (or running ones that it is pointed at), the migrations, every role in this
//! process; drained and stopped in order.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bus::{Bus, BusError};
use clap::Args;
use engines::{Engines, Installed};
use schemas::{DEFAULT_SHORT_URL_BASE, Topic};
use service::{Process, Shutdown, telemetry, vault::Vault};
use store::Store;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{info, warn};

use crate::{
    config::{self, Config, EndpointsConfig},
    keys::{self, Kept},
    open_files,
    roles::{self, Bound, Half, PipelineRole, RoleContext},
    variables,
};

/// How long the roles may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The log lines of `up`, if `log.filter` is not set: its own output says the rest.
const FILTER: &str = "warn,librdkafka=error";
/// How long Kafka's clients may take to let go of it.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);

/// Runs everything until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = r"Examples:
  clickhook up
  clickhook up --data-dir /var/lib/clickhook --redirect 0.0.0.0:80
  clickhook up --kafka broker-1:9092,broker-2:9092 --clickhouse http://clickhouse:8123

Ctrl-C drains and stops everything. After a crash, start it again: nothing is lost.")]
pub(crate) struct UpArgs {
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = "./data", env = "CLICKHOOK_DATA_DIR")]
    data_dir: PathBuf,
    /// Where short links are answered.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "CLICKHOOK_REDIRECT")]
    redirect: SocketAddr,
    /// Where conversions are taken; the API passes them on to here.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8082", env = "CLICKHOOK_INTAKE")]
    intake: SocketAddr,
    /// Where the API is served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081", env = "CLICKHOOK_API_LISTEN")]
    api: SocketAddr,
    /// Where health and metrics are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464", env = "CLICKHOOK_METRICS_LISTEN")]
    metrics: SocketAddr,
    /// Brokers to use instead of a Kafka of its own.
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// A ClickHouse to use instead of one of its own.
    #[arg(long, value_name = "URL")]
    clickhouse: Option<String>,
    /// Say where everything is as one line of JSON, for programs.
    #[arg(long)]
    json: bool,
    /// The configuration; the flags above override it.
    #[arg(long, value_name = "FILE", env = "CLICKHOOK_CONFIG")]
    config: Option<PathBuf>,
}

/// The shutdown of each stage: what takes requests stops first, and what works
/// them off last.
struct Stages {
    front: Shutdown,
    enricher: Shutdown,
    dispatcher: Shutdown,
}

/// Runs `up`.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut config = config::load(args.config.as_deref())?;
    telemetry::init(config.log.format.into(), config.log.filter.as_deref().unwrap_or(FILTER));
    open_files::prepare(config.webhook.max_connections)?;
    let shutdown = Shutdown::on_signals().context("listen for signals")?;
    refuse_taken(&args)?;

    let mut options = engines::Options::new(&args.data_dir);
    options.kafka.clone_from(&args.kafka);
    options.clickhouse.clone_from(&args.clickhouse);
    let start = Engines::start(options);
    let engines = tokio::select! {
        engines = start => engines?,
        () = shutdown.wait() => return Ok(()),
    };
    let engines_took = begun.elapsed();

    let admin = admin_key(&args.data_dir)?;
    let installation = installation_key(&args.data_dir)?;
    adapt(&mut config, &args, &engines, &admin.key);
    let bus = Bus::new(config.kafka.clone());
    let outcome = serve(&config, &args, &bus, &installation, &shutdown, |addresses| {
        let took = Took { all: begun.elapsed(), engines: engines_took };
        if args.json {
            announce(&engines, addresses, &args.data_dir, took);
        } else {
            greet(&engines, addresses, &args.data_dir, &admin, took);
        }
    })
    .await;
    // Kafka goes after those who would complain that it is gone.
    let _ = tokio::time::timeout(LET_GO_WITHIN, bus.clients_gone()).await;
    engines.shutdown().await;
    outcome
}

/// A port that is taken is said before the engines are started.
fn refuse_taken(args: &UpArgs) -> anyhow::Result<()> {
    let asked =
        [("--redirect", args.redirect), ("--intake", args.intake), ("--api", args.api), ("--metrics", args.metrics)];
    for (flag, addr) in asked {
        std::net::TcpListener::bind(addr).with_context(|| {
            format!("cannot listen on {addr}: is another clickhook running? Give another address with {flag}")
        })?;
    }
    Ok(())
}

fn admin_key(data_dir: &Path) -> anyhow::Result<Kept> {
    match variables::get(keys::ADMIN_KEY)? {
        // Its length has been checked along with the configuration.
        Some(key) => Ok(Kept { key, fresh: false }),
        None => keys::keep(&data_dir.join("admin.key"), keys::mint_admin_key),
    }
}

fn installation_key(data_dir: &Path) -> anyhow::Result<Arc<Vault>> {
    let key = match variables::get(keys::INSTALLATION_KEY)? {
        Some(key) => key,
        None => keys::keep(&data_dir.join("installation.key"), || Vault::generate().to_string())?.key,
    };
    Ok(Arc::new(Vault::from_hex(&key)?))
}

/// Sets what `up` decides itself: its engines, its addresses, and that endpoints on
/// this machine and without TLS are allowed.
fn adapt(config: &mut Config, args: &UpArgs, engines: &Engines, admin_key: &str) {
    config.kafka.brokers = engines.kafka_brokers();
    config.clickhouse.url = engines.clickhouse_url();
    if args.kafka.is_none() {
        // The data directory is locked, and its Kafka ours: no other process is this instance.
        config.kafka.instance.get_or_insert_with(|| "up".to_owned());
    }
    config.ingest.data_dir = args.data_dir.join("ingest");
    config.ingest.listen = args.redirect;
    config.ingest.intake_listen = args.intake;
    config.control.listen = args.api;
    if args.api.ip().is_unspecified() && config.control.advertise.is_empty() {
        // It leads alone: no other instance forwards to it.
        config.control.advertise = format!("localhost:{}", args.api.port().max(1));
    }
    admin_key.clone_into(&mut config.control.admin_key);
    if config.links.short_url_base == DEFAULT_SHORT_URL_BASE && args.redirect.port() != 0 {
        config.links.short_url_base = format!("http://{}", readable(args.redirect));
    }
    config.endpoints = EndpointsConfig { allow_http: true, allow_private: true };
    config.share();
    if config.enricher.networks.is_none()
        && let Ok(installed) = Installed::locate(None)
    {
        config.enricher.networks = engines::network_ranges(installed.dir());
    }
    if config.enricher.geo_city.is_empty()
        && config.enricher.geo_country.is_empty()
        && let Ok(installed) = Installed::locate(None)
    {
        let cities = [engines::geo_city(installed.dir()), engines::geo_city_ipv6(installed.dir())];
        config.enricher.geo_city = cities.into_iter().flatten().collect();
        config.enricher.geo_country = engines::geo_country(installed.dir()).into_iter().collect();
    }
}

/// Where everything is.
#[derive(Clone, Copy)]
struct Addresses {
    redirect: SocketAddr,
    intake: SocketAddr,
    api: SocketAddr,
    metrics: SocketAddr,
}

/// Migrates, runs every role until `shutdown`, and drains them in order.
async fn serve(
    config: &Config,
    args: &UpArgs,
    bus: &Bus,
    vault: &Arc<Vault>,
    shutdown: &Shutdown,
    ready: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    let bus = bus.clone();
    let store = Store::new(config.clickhouse.clone())?;
    let own_kafka = args.kafka.is_none();
    let migrate = async {
        let (topics, tables) = tokio::join!(migrate_topics(&bus, own_kafka), store.migrate());
        topics.context("create the topics")?;
        tables.context("create the tables")?;
        anyhow::Ok(())
    };
    tokio::select! {
        migrated = migrate => migrated?,
        () = shutdown.wait() => return Ok(()),
    }
    let process = Process::default();
    let health = process.health.clone();
    let starting = health.part("start");
    let _follower = roles::follow_partitions(&bus, health.part("partitions"))?;
    let stages = Stages { front: Shutdown::new(), enricher: Shutdown::new(), dispatcher: Shutdown::new() };
    // Health and metrics are served until every stage has drained.
    let observed = process.shutdown.clone();
    let metrics =
        service::admin::serve(args.metrics, process.clone()).with_context(|| format!("listen on {}", args.metrics))?;

    let mut config = config.clone();
    let spawn = |role, config: &Config, stage: &Shutdown| -> (JoinHandle<()>, watch::Receiver<Option<Bound>>) {
        let (tell, told) = watch::channel(None);
        let process = process.stopped_by(stage);
        let shared = RoleContext { bus: bus.clone(), store: store.clone(), vault: Some(Arc::clone(vault)), process };
        (tokio::spawn(roles::supervise(role, config.clone(), shared, tell)), told)
    };
    let (ingest, mut ingest_bound) = spawn(PipelineRole::Ingest, &config, &stages.front);
    tokio::select! {
        intake = reachable_intake(args.intake, &mut ingest_bound) => {
            config.control.intake_url = intake.map(|intake| format!("http://{intake}")).unwrap_or_default();
        }
        () = shutdown.wait() => {}
    }
    let (control, mut control_bound) = spawn(PipelineRole::Control, &config, &stages.front);
    let (enricher, _) = spawn(PipelineRole::Enricher, &config, &stages.enricher);
    let (webhook, _) = spawn(PipelineRole::Dispatcher(Half::Webhook), &config, &stages.dispatcher);
    let (warehouse, _) = spawn(PipelineRole::Dispatcher(Half::Warehouse), &config, &stages.dispatcher);

    let up = async {
        let (ingest, control) = (bound(&mut ingest_bound).await, bound(&mut control_bound).await);
        starting.ready();
        health.ready().await;
        match (ingest, control) {
            (Some(Bound::Ingest { redirect, intake }), Some(Bound::Control { api })) => {
                Some(Addresses { redirect, intake, api, metrics })
            }
            _ => None,
        }
    };
    tokio::select! {
        up = tokio::time::timeout(READY_WITHIN, up) => match up {
            Ok(Some(addresses)) => ready(addresses),
            _ => warn!(waiting = ?health.waiting(), "not everything is ready yet; see above"),
        },
        () = shutdown.wait() => {}
    }
    // Members of a group look for a missing offset time after time, so the start need not
    // wait for this.
    let committed = tokio::select! {
        committed = bus.commit_missing_offsets() => committed,
        () = shutdown.wait() => Ok(0),
    };
    if let Err(error) = committed {
        warn!(%error, command = bus.command("migrate"), "missing first offsets were not committed: run the command");
    }
    shutdown.wait().await;
    if !args.json {
        say!("stopping: draining what is under way");
    }

    stages.front.trigger();
    let _ = tokio::join!(ingest, control);
    stages.enricher.trigger();
    let _ = enricher.await;
    stages.dispatcher.trigger();
    let _ = tokio::join!(webhook, warehouse);
    observed.trigger();
    info!("drained");
    Ok(())
}

/// Creates missing topics and compares the others with what clickhook relies on. A Kafka
/// of one's own is only there while `up` runs, so its topics are widened here to
/// `kafka.partitions`.
async fn migrate_topics(bus: &Bus, own_kafka: bool) -> Result<(), BusError> {
    match bus.migrate().await {
        Err(BusError::TooFewPartitions { configured, .. }) if own_kafka => {
            for topic in bus.widen(configured).await? {
                warn!(topic = topic.name, before = topic.before, now = topic.now, "topic widened");
            }
            bus.migrate().await?;
        }
        migrated => drop(migrated?),
    }
    roles::warn_of_topics(bus, &Topic::ALL).await
}

/// Where a role listens; none once it has ended.
async fn bound(told: &mut watch::Receiver<Option<Bound>>) -> Option<Bound> {
    *told.wait_for(Option::is_some).await.ok()?
}

/// Where the API passes conversions on to. A port that is left to the system is
/// known once the intake listens.
async fn reachable_intake(asked: SocketAddr, told: &mut watch::Receiver<Option<Bound>>) -> Option<SocketAddr> {
    let mut intake = asked;
    if asked.port() == 0 {
        let Some(Bound::Ingest { intake: found, .. }) = bound(told).await else { return None };
        intake = found;
    }
    match intake.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => intake.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => intake.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Some(intake)
}

/// How long the start took.
#[derive(Clone, Copy)]
struct Took {
    all: Duration,
    engines: Duration,
}

fn greet(engines: &Engines, addresses: Addresses, data_dir: &Path, admin: &Kept, took: Took) {
    let Addresses { redirect, intake, api, metrics } = addresses;
    let key = data_dir.join("admin.key");
    say!(
        "clickhook is running ({:.1} s, of which the engines {:.1} s)\n",
        took.all.as_secs_f64(),
        took.engines.as_secs_f64()
    );
    say!("  links       http://{}", readable(redirect));
    say!("  API         http://{}", readable(api));
    say!("  intake      http://{} (of conversions)", readable(intake));
    say!("  metrics     http://{}/metrics", readable(metrics));
    say!("  Kafka       {}", engines.kafka_brokers());
    say!("  ClickHouse  {}", engines.clickhouse_url());
    say!("  data        {} (logs in {})", data_dir.display(), engines.logs_dir().display());
    if admin.fresh {
        say!("  admin key   {} (kept in {})", admin.key, key.display());
    }
    say!(
        "\n{}, db-ip.com (CC BY 4.0); countries by NRO, nro.net (CC BY 4.0)\nCtrl-C drains and stops everything.",
        engines::GEO_CITY_ATTRIBUTION
    );
}

fn announce(engines: &Engines, addresses: Addresses, data_dir: &Path, took: Took) {
    let Addresses { redirect, intake, api, metrics } = addresses;
    let pids = engines.pids();
    let line = serde_json::json!({
        "redirect": redirect,
        "intake": intake,
        "api": api,
        "metrics": metrics,
        "kafka": engines.kafka_brokers(),
        "clickhouse": engines.clickhouse_url(),
        "data_dir": data_dir,
        "pids": {"clickhook": std::process::id(), "kafka": pids.kafka, "clickhouse": pids.clickhouse},
        "start_ms": took.all.as_millis(),
        "engines_ms": took.engines.as_millis(),
    });
    say!("{line}");
}

/// People type `localhost`.
fn readable(addr: SocketAddr) -> String {
    if addr.ip().is_loopback() || addr.ip().is_unspecified() {
        format!("localhost:{}", addr.port())
    } else {
        addr.to_string()
    }
}
