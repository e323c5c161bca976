//! The installation under test: a Kafka that can be taken away, a ClickHouse, and each
//! role as a process of its own that is started again if it ends.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, BusConfig};
use engines::Engines;
use rustix::process::Signal;
use service::vault::Vault;
use testbed::free_address;
use tokio::{task::spawn_blocking, time::sleep};

use super::plan::ACK_BUDGET_MS;
use crate::{catalogue, kafka::Kafka, role::Role};

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether a role has ended.
const LOOK: Duration = Duration::from_millis(200);
/// The roles, and how they are started. The redirector is the first.
const ROLES: [(&str, &[&str]); 4] =
    [("ingest", &["ingest"]), ("control", &["control"]), ("enricher", &["enricher"]), ("dispatcher", &["dispatcher"])];

/// Everything that runs.
pub(crate) struct Rig {
    pub(crate) redirect: SocketAddr,
    /// The link that is followed.
    pub(crate) slug: &'static str,
    /// How often a role ended by itself and was started again.
    pub(crate) restarts: BTreeMap<&'static str, u64>,
    binary: PathBuf,
    pub(crate) dir: PathBuf,
    settings: Vec<(&'static str, String)>,
    /// None while it is killed.
    kafka: Option<Kafka>,
    brokers: String,
    clickhouse: Engines,
    roles: Vec<Role>,
}

impl Rig {
    /// Starts everything in `dir`, with settings beyond the usual ones.
    pub(crate) async fn start(binary: &Path, dir: &Path, more: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let kafka = Kafka::start(dir).await?;
        let mut options = engines::Options::new(dir.join("clickhouse"));
        options.kafka = Some(kafka.brokers());
        options.exe = Some(binary.to_owned());
        let clickhouse = match Engines::start(options).await {
            Ok(clickhouse) => clickhouse,
            Err(error) => {
                kafka.shutdown().await;
                return Err(error.into());
            }
        };
        let redirect = free_address();
        let mut rig = Self {
            redirect,
            // One for the whole run.
            slug: String::from_utf8_lossy(&catalogue::slug(0)).into_owned().leak(),
            restarts: BTreeMap::new(),
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            settings: [settings(&kafka, &clickhouse, redirect, dir), more.to_vec()].concat(),
            brokers: kafka.brokers(),
            kafka: Some(kafka),
            clickhouse,
            roles: Vec::new(),
        };
        match rig.start_roles().await {
            Ok(()) => Ok(rig),
            Err(error) => {
                rig.last_words();
                rig.shutdown().await;
                Err(error)
            }
        }
    }

    async fn start_roles(&mut self) -> anyhow::Result<()> {
        Role::start(&self.binary, &self.dir, &self.settings, "migrate", &["migrate"])?.finished().await?;
        let bus = Bus::new(BusConfig { brokers: self.brokers.clone(), ..BusConfig::default() });
        spawn_blocking(move || catalogue::fill(&bus, 0..1000)).await??;
        for (name, args) in ROLES {
            self.roles.push(Role::start(&self.binary, &self.dir, &self.settings, name, args)?);
        }
        for role in &mut self.roles {
            role.ready().await?;
        }
        self.until("the redirector has its snapshot", async |rig| {
            rig.ingest("clickhook_ingest_links_snapshot").await == Some(1.0)
        })
        .await
    }

    /// Returns the path of the redirector's spool.
    pub(crate) fn spool(&self) -> PathBuf {
        self.dir.join("redirector/spool.redb")
    }

    /// Returns the value of a metric of the redirector.
    pub(crate) async fn ingest(&self, metric: &'static str) -> Option<f64> {
        self.roles.first()?.metric(metric).await
    }

    /// Freezes Kafka, or thaws it.
    pub(crate) fn signal_kafka(&self, signal: Signal) -> anyhow::Result<()> {
        self.kafka.as_ref().context("Kafka does not run")?.signal(signal)
    }

    /// kill -9.
    pub(crate) async fn kill_kafka(&mut self) -> anyhow::Result<()> {
        self.kafka.take().context("Kafka does not run")?.kill().await
    }

    /// Starts Kafka again on its data.
    pub(crate) async fn start_kafka(&mut self) -> anyhow::Result<()> {
        let kafka = Kafka::start(&self.dir).await?;
        if kafka.brokers() != self.brokers {
            kafka.shutdown().await;
            bail!("somebody took Kafka's port while it was away: run this again");
        }
        self.kafka = Some(kafka);
        Ok(())
    }

    /// kill -9 of the redirector, and starts it again; since when it was gone, and
    /// until when.
    pub(crate) async fn kill_ingest(&mut self) -> anyhow::Result<(Instant, Instant)> {
        let (name, args) = ROLES[0];
        let killed = Instant::now();
        self.roles.remove(0).kill().await?;
        let mut ingest = Role::start(&self.binary, &self.dir, &self.settings, name, args)?;
        let ready = ingest.ready().await;
        self.roles.insert(0, ingest);
        ready?;
        Ok((killed, Instant::now()))
    }

    /// Lets time pass; roles that end meanwhile are started again, as a machine
    /// that cares for them does.
    pub(crate) async fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.revive()?;
            sleep(LOOK.min(end.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    fn revive(&mut self) -> anyhow::Result<()> {
        for (role, (name, args)) in self.roles.iter_mut().zip(ROLES) {
            if role.has_ended() {
                *self.restarts.entry(name).or_default() += 1;
                crate::context::say(&format!(
                    "`clickhook {name}` has ended and is started again; {}",
                    role.last_words()
                ));
                *role = Role::start(&self.binary, &self.dir, &self.settings, name, args)?;
            }
        }
        Ok(())
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        mut condition: impl AsyncFnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self).await {
            if Instant::now() > deadline {
                bail!("gave up after {} s waiting until {what}", PATIENCE.as_secs());
            }
            self.pass(LOOK).await?;
        }
        Ok(())
    }

    /// Asks ClickHouse.
    pub(crate) async fn query(&self, sql: String) -> anyhow::Result<String> {
        let url = format!("{}/?database=clickhook", self.clickhouse.clickhouse_url());
        spawn_blocking(move || {
            let mut answer = ureq::post(&url).config().http_status_as_error(false).build().send(&sql)?;
            let text = answer.body_mut().with_config().limit(1 << 30).read_to_string()?;
            if !answer.status().is_success() {
                bail!("ClickHouse answered {sql} with {text}");
            }
            Ok(text)
        })
        .await?
    }

    /// The ends of the roles' logs: their folder does not outlive the run.
    pub(crate) fn last_words(&self) {
        for role in &self.roles {
            crate::context::say(&format!("{}: {}", role.name, role.last_words()));
        }
    }

    /// Stops everything.
    pub(crate) async fn shutdown(self) {
        for role in self.roles {
            role.stop().await;
        }
        self.clickhouse.shutdown().await;
        if let Some(kafka) = self.kafka {
            kafka.shutdown().await;
        }
    }
}

fn settings(kafka: &Kafka, clickhouse: &Engines, redirect: SocketAddr, dir: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("CLICKHOOK_KAFKA_BROKERS", kafka.brokers()),
        ("CLICKHOOK_CLICKHOUSE_URL", clickhouse.clickhouse_url()),
        ("CLICKHOOK_INGEST_LISTEN", redirect.to_string()),
        ("CLICKHOOK_INGEST_DATA_DIR", dir.join("redirector").display().to_string()),
        ("CLICKHOOK_INGEST_ACK_BUDGET_MS", ACK_BUDGET_MS.to_string()),
        ("CLICKHOOK_INGEST_TRUSTED_PROXIES", "[\"127.0.0.0/8\"]".to_owned()),
        ("CLICKHOOK_CONTROL_LISTEN", free_address().to_string()),
        ("CLICKHOOK_ADMIN_KEY", hex::encode(rand::random::<[u8; 16]>())),
        ("CLICKHOOK_INSTALLATION_KEY", Vault::generate().to_string()),
    ]
}
