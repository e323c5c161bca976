//! Running roles: one alone in a process of its own, or each under a supervisor
//! inside `up`. Every role is built the same way: configuration, what it shares,
//! run until told to stop, drain.

use std::{net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bus::{Bus, BusError, PartitionFollower};
use clap::{Args, ValueEnum};
use schemas::{DelayTier, Topic};
use service::{Backoff, Part, Process, Shutdown, telemetry, vault::Vault};
use store::Store;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    config::{self, Config},
    keys, open_files,
};

/// The time that a redirector waits for Kafka to check the topics before it starts
/// without the check.
const CHECKED_WITHIN: Duration = Duration::from_millis(250);

/// The log lines of a role, if `log.filter` is not set.
const FILTER: &str = "info";

/// The arguments of every command that reads the configuration of a role.
#[derive(Clone, Debug, Args)]
pub(crate) struct RoleArgs {
    /// The configuration: TOML over the defaults that `clickhook check-config`
    /// prints. Variables `CLICKHOOK_<SECTION>_<KEY>` override it.
    #[arg(long, value_name = "FILE", env = "CLICKHOOK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

impl RoleArgs {
    /// Reads the configuration and starts the log as it says.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        let config = config::load(self.config.as_deref())?;
        telemetry::init(config.log.format.into(), config.log.filter.as_deref().unwrap_or(FILTER));
        Ok(config)
    }
}

/// A role of the pipeline: a part that can run in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PipelineRole {
    Ingest,
    Control,
    Enricher,
    Dispatcher(Half),
}

impl PipelineRole {
    /// Returns the topics that the role reads or writes, whose settings it relies on.
    pub(crate) const fn topics(self) -> &'static [Topic] {
        match self {
            Self::Ingest => &[Topic::ClicksRaw, Topic::ConversionsRaw, Topic::Links, Topic::Domains, Topic::Keys],
            Self::Control => &[
                Topic::Links,
                Topic::Endpoints,
                Topic::Workspaces,
                Topic::Domains,
                Topic::Keys,
                Topic::KeyUses,
                Topic::Campaigns,
                Topic::Replays,
                Topic::Idempotency,
                Topic::Leader,
                Topic::Clicks,
                Topic::Events,
                Topic::Dead,
                Topic::Delay(DelayTier::Seconds5),
                Topic::Health,
            ],
            Self::Enricher => &[
                Topic::ClicksRaw,
                Topic::Clicks,
                Topic::Replayed,
                Topic::Daykeys,
                Topic::ConversionsRaw,
                Topic::ConversionsWaiting,
                Topic::Conversions,
                Topic::Events,
                Topic::Dead,
            ],
            Self::Dispatcher(Half::Webhook) => &[
                Topic::Clicks,
                Topic::Events,
                Topic::Endpoints,
                Topic::Delay(DelayTier::Seconds5),
                Topic::Delay(DelayTier::Minute1),
                Topic::Delay(DelayTier::Minutes5),
                Topic::Delay(DelayTier::Minutes30),
                Topic::Delay(DelayTier::Hours2),
                Topic::Delay(DelayTier::Hours24),
                Topic::Attempts,
                Topic::Dead,
                Topic::Health,
            ],
            Self::Dispatcher(Half::Warehouse) => &[Topic::Clicks, Topic::Events, Topic::Attempts, Topic::Dead],
        }
    }
}

/// A half of the dispatcher. The halves share nothing, so that an outage of one sink
/// never stalls the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Half {
    Webhook,
    Warehouse,
}

/// The clients and the process that a role runs with.
#[derive(Clone)]
pub(crate) struct RoleContext {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    /// Only the roles that seal or open secrets have one.
    pub(crate) vault: Option<Arc<Vault>>,
    pub(crate) process: Process,
}

/// Runs one role, or both halves of the dispatcher, in this process until it is told to
/// stop. A single role that fails ends the process, whose supervisor is the machine's.
/// Of two halves each is restarted alone, so that neither ends the other without its
/// drain.
pub(crate) async fn run_alone(roles: Vec<PipelineRole>, config: Config) -> anyhow::Result<()> {
    let sends_webhooks = roles.contains(&PipelineRole::Dispatcher(Half::Webhook));
    open_files::prepare(if sends_webhooks { config.webhook.max_connections } else { 0 })?;
    let shutdown = Shutdown::on_signals().context("listen for signals")?;
    let bus = Bus::new(config.kafka.clone());
    let waits_for_kafka = !roles.contains(&PipelineRole::Ingest);
    let relied = roles.iter().flat_map(|role| role.topics()).copied().collect();
    let mut check = pin!(check_topics(bus.clone(), relied, waits_for_kafka));
    let mut checked = true;
    if !waits_for_kafka {
        match timeout(CHECKED_WITHIN, &mut check).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                warn!(
                    "Kafka has not answered yet: this role starts with what its snapshots hold, and waits for it beside"
                );
                checked = false;
            }
        }
    } else {
        (&mut check).await?;
    }
    let needs_vault =
        roles.iter().any(|role| matches!(role, PipelineRole::Control | PipelineRole::Dispatcher(Half::Webhook)));
    let shared = RoleContext {
        bus,
        store: Store::new(config.clickhouse.clone())?,
        vault: if needs_vault { Some(Arc::new(keys::vault_from_env()?)) } else { None },
        process: Process { shutdown, ..Process::default() },
    };
    // A role that is not built yet is not ready.
    let health = shared.process.health.clone();
    let starting = health.part("start");
    let addr = config.metrics.listen;
    let metrics = service::admin::serve(addr, shared.process.clone())
        .with_context(|| format!("listen on metrics.listen = {addr}: is it taken by another process?"))?;
    info!(%metrics, "health and metrics");
    let _follower = follow_partitions(&shared.bus, shared.process.health.part("partitions"))?;
    let work = async {
        match *roles {
            [role] => run(role, config, shared, |_| {}).await,
            _ => run_side_by_side(&roles, &config, &shared).await,
        }
    };
    // A role without its parts would be taken for a ready one.
    let started = async {
        health.has_parts(1 + roles.len()).await;
        starting.ready();
        std::future::pending::<anyhow::Error>().await
    };
    let refused = async {
        if !checked && let Err(error) = check.await {
            return error;
        }
        std::future::pending().await
    };
    tokio::select! {
        outcome = work => outcome,
        error = refused => Err(error),
        error = started => Err(error),
    }
}

/// Runs roles until shutdown, each under a supervisor of its own. If a supervisor
/// panics, the other roles drain before this fails.
async fn run_side_by_side(roles: &[PipelineRole], config: &Config, shared: &RoleContext) -> anyhow::Result<()> {
    let mut supervisors = JoinSet::new();
    for role in roles {
        let (bound, _) = watch::channel(None);
        supervisors.spawn(supervise(*role, config.clone(), shared.clone(), bound));
    }
    let mut ended = Ok(());
    while let Some(joined) = supervisors.join_next().await {
        if joined.is_err() {
            shared.process.shutdown.trigger();
        }
        ended = ended.and(joined.context("a role panicked: please report it with the last lines of the log"));
    }
    ended
}

/// Compares the topics that the roles rely on with what is there. A redirector can wait
/// for Kafka, the other roles have nothing to do without it.
async fn check_topics(bus: Bus, relied: Vec<Topic>, waits_for_kafka: bool) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        match warn_of_topics(&bus, &relied).await {
            Err(error) if !waits_for_kafka && error.is_transient() => sleep(backoff.next()).await,
            checked => return Ok(checked?),
        }
    }
}

/// Compares topics with what clickhook relies on, and logs each difference that takes a
/// failure to lose records.
///
/// # Errors
/// When Kafka does not answer, or records are lost or stuck in normal operation.
pub(crate) async fn warn_of_topics(bus: &Bus, relied: &[Topic]) -> Result<(), BusError> {
    let (bus, relied) = (bus.clone(), relied.to_vec());
    let runtime = Handle::current();
    // The client blocks while it waits for its first broker.
    let check = spawn_blocking(move || runtime.block_on(bus.check_topics(&relied)));
    for warning in check.await.unwrap_or(Err(BusError::Gone { what: "check the topics" }))? {
        warn!(warning, "a topic is not as clickhook relies on it");
    }
    Ok(())
}

/// Follows the numbers of partitions until the follower is dropped, and keeps `part` not
/// ready while consumers have stopped partitions.
pub(crate) fn follow_partitions(bus: &Bus, part: Part) -> anyhow::Result<PartitionFollower> {
    let follower = bus.follow_partitions()?;
    let mut stopped = bus.stopped_partitions();
    tokio::spawn(async move {
        loop {
            let reasons: Vec<String> = stopped.borrow_and_update().values().cloned().collect();
            if reasons.is_empty() {
                part.ready();
            } else {
                part.not_ready(&reasons.join("; "));
            }
            if stopped.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(follower)
}

/// The addresses at which a running role listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Ingest { redirect: SocketAddr, intake: SocketAddr },
    Control { api: SocketAddr },
}

impl Bound {
    /// Sets the addresses in the configuration, for the next start.
    fn keep(self, config: &mut Config) {
        match self {
            Self::Ingest { redirect, intake } => {
                config.ingest.listen = redirect;
                config.ingest.intake_listen = intake;
            }
            Self::Control { api } => config.control.listen = api,
        }
    }
}

/// Runs a role until shutdown, and drains it.
pub(crate) async fn run(
    role: PipelineRole,
    config: Config,
    shared: RoleContext,
    listening: impl FnOnce(Bound),
) -> anyhow::Result<()> {
    let RoleContext { bus, store, vault, process } = shared;
    let vault = || vault.clone().context("this role needs the installation key");
    match role {
        PipelineRole::Ingest => {
            let running = ingest::start(config.ingest, bus, process).await?;
            listening(Bound::Ingest { redirect: running.local_addr(), intake: running.intake_addr() });
            running.wait().await?;
        }
        PipelineRole::Control => {
            if config.control.admin_key.is_empty() {
                bail!(
                    "no admin key: set {} to a long random text, such as the output of `openssl rand -hex 32`",
                    keys::ADMIN_KEY
                );
            }
            let dns = control::Dns::of_machine();
            let setup = control::Setup { config: config.control, bus, vault: vault()?, store, dns, process };
            let running = control::start(setup).await?;
            listening(Bound::Control { api: running.local_addr() });
            running.wait().await?;
        }
        PipelineRole::Enricher => enricher::run(config.enricher, bus, store, process).await?,
        PipelineRole::Dispatcher(Half::Webhook) => {
            dispatcher::webhook::run(config.webhook, bus, vault()?, process).await?;
        }
        PipelineRole::Dispatcher(Half::Warehouse) => {
            dispatcher::warehouse::run(config.warehouse, bus, store, process).await?;
        }
    }
    Ok(())
}

/// Runs a role again whenever it fails, until `shutdown`, and sends
/// its addresses to `tell`. Alone in a process, a role's supervisor is the machine's.
pub(crate) async fn supervise(
    role: PipelineRole,
    mut config: Config,
    shared: RoleContext,
    tell: watch::Sender<Option<Bound>>,
) {
    let shutdown = shared.process.shutdown.clone();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    while !shutdown.is_triggered() {
        let listening = |bound| {
            let _ = tell.send_replace(Some(bound));
        };
        match run(role, config.clone(), shared.clone(), listening).await {
            Ok(()) => return,
            Err(error) => {
                let delay = backoff.next();
                error!(
                    ?role,
                    error = format!("{error:#}"),
                    delay_ms = delay.as_millis(),
                    "a role failed and is started again"
                );
                tokio::select! {
                    () = sleep(delay) => {}
                    () = shutdown.wait() => {}
                }
            }
        }
        // Others know its address by now: it is the same after any start.
        if let Some(bound) = *tell.borrow() {
            bound.keep(&mut config);
        }
    }
}
