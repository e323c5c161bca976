//! The installation under test: a Kafka whose brokers can be taken away, a ClickHouse,
//! and each role as one or several processes that are started again if they end.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, BusConfig};
use engines::{Engines, SecureListeners};
use rustix::process::Signal;
use serde_json::{Value, json};
use service::vault::Vault;
use testbed::{certificates::Certificates, free_address};
use tokio::{task::spawn_blocking, time::sleep};

use super::plan::ACK_BUDGET_MS;
use crate::{
    catalogue,
    context::say,
    kafka::Kafka,
    load::Redirectors,
    receiver::Receiver,
    role::{self, Role},
};

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a redirector that was told to stop still serves.
const DRAIN_DELAY_MS: u64 = 500;
/// How often it is looked whether a role has ended.
const LOOK: Duration = Duration::from_millis(200);
/// The role whose processes visitors are sent to.
const REDIRECTOR: &str = "ingest";

/// A role, and the arguments that start it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RigRole {
    pub(super) name: &'static str,
    args: &'static [&'static str],
}

const INGEST: RigRole = RigRole { name: REDIRECTOR, args: &["ingest"] };
const CONTROL: RigRole = RigRole { name: "control", args: &["control"] };
const ENRICHER: RigRole = RigRole { name: "enricher", args: &["enricher"] };
const DISPATCHER: RigRole = RigRole { name: "dispatcher", args: &["dispatcher"] };
const WEBHOOK: RigRole = RigRole { name: "webhook", args: &["dispatcher", "--only", "webhook"] };
const WAREHOUSE: RigRole = RigRole { name: "warehouse", args: &["dispatcher", "--only", "warehouse"] };

/// The size of an installation.
#[derive(Clone, Copy, Debug)]
pub(super) struct RigSize {
    pub(super) brokers: u16,
    /// The replicas of each partition.
    pub(super) replication: u16,
    pub(super) roles: &'static [RigRole],
    /// The processes of each role at the start.
    pub(super) at_start: u16,
    /// The most processes of a role at any time.
    pub(super) at_most: u16,
    pub(super) door: KafkaDoor,
}

/// The way in which the roles are let into Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KafkaDoor {
    Open,
    /// By TLS, with a login by SCRAM-SHA-512.
    Login,
}

/// One broker, and one process of each role.
pub(super) const ONE_OF_EACH: RigSize = RigSize {
    brokers: 1,
    replication: 1,
    roles: &[INGEST, CONTROL, ENRICHER, DISPATCHER],
    at_start: 1,
    at_most: 1,
    door: KafkaDoor::Open,
};

/// The roles that grow and shrink by themselves in a cluster.
pub(super) const SCALED_ROLES: &[RigRole] = &[INGEST, CONTROL, ENRICHER, WEBHOOK, WAREHOUSE];

/// A process of a role.
struct RigProcess {
    name: &'static str,
    args: &'static [&'static str],
    /// The settings that it does not share with others.
    settings: Vec<(&'static str, String)>,
    /// Where it serves, if it is a redirector or the API.
    address: SocketAddr,
    role: Role,
}

/// The outcome of an audit, and its output.
pub(crate) struct RigAudit {
    pub(crate) is_balanced: bool,
    pub(crate) told: String,
}

/// Everything that runs.
pub(crate) struct Rig {
    /// The redirectors that visitors are sent to.
    pub(crate) redirectors: Redirectors,
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
    members: Vec<RigProcess>,
    admin_key: String,
    size: RigSize,
}

impl Rig {
    /// Starts everything in `dir`, with settings beyond the usual ones.
    pub(crate) async fn start(
        binary: &Path,
        dir: &Path,
        size: RigSize,
        more: &[(&'static str, String)],
    ) -> anyhow::Result<Self> {
        let login = KafkaLogin::make(size.door, dir)?;
        let kafka = Kafka::start_cluster(dir, size.brokers, login.as_ref().map(KafkaLogin::listeners)).await?;
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
        let admin_key = hex::encode(rand::random::<[u8; 16]>());
        let mut rig = Self {
            redirectors: Redirectors::default(),
            // One for the whole run.
            slug: String::from_utf8_lossy(&catalogue::slug(0)).into_owned().leak(),
            restarts: BTreeMap::new(),
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            settings: [settings(&clickhouse, size, &admin_key), kafka_settings(&kafka, login.as_ref()), more.to_vec()]
                .concat(),
            brokers: kafka.brokers(),
            kafka: Some(kafka),
            clickhouse,
            members: Vec::new(),
            admin_key,
            size,
        };
        match rig.start_members().await {
            Ok(()) => Ok(rig),
            Err(error) => {
                rig.last_words();
                rig.shutdown().await;
                Err(error)
            }
        }
    }

    async fn start_members(&mut self) -> anyhow::Result<()> {
        Role::start(&self.binary, &self.dir, &self.settings, "migrate", &["migrate"])?.finished().await?;
        let config = BusConfig { brokers: self.brokers.clone(), ..BusConfig::default() };
        spawn_blocking(move || catalogue::fill(&Bus::new(config), 0..1000)).await??;
        for role in self.size.roles {
            for number in 1..=self.size.at_start {
                let member = self.started(*role, number)?;
                self.members.push(member);
            }
        }
        for member in &mut self.members {
            member.role.ready().await?;
        }
        let redirectors = self.members.iter().filter(|member| member.name == REDIRECTOR);
        *self.redirectors.write() = redirectors.map(|member| member.address).collect();
        self.until("the redirectors have their snapshots", async |rig| {
            rig.ingest("clickhook_ingest_links_snapshot").await == Some(f64::from(rig.size.at_start))
        })
        .await
    }

    fn started(&self, RigRole { name, args }: RigRole, number: u16) -> anyhow::Result<RigProcess> {
        let address = free_address();
        let settings = own_settings(name, number, address, self.size, &self.dir);
        let role = self.launch(name, args, &settings)?;
        Ok(RigProcess { name, args, settings, address, role })
    }

    fn launch(&self, name: &'static str, args: &[&str], own: &[(&'static str, String)]) -> anyhow::Result<Role> {
        let settings = [&self.settings[..], own].concat();
        Role::start(&self.binary, &self.dir, &settings, name, args)
    }

    fn launch_again(&self, member: usize) -> anyhow::Result<Role> {
        let RigProcess { name, args, settings, .. } = &self.members[member];
        self.launch(name, args, settings)
    }

    /// Starts one more process of a role. A redirector gets visitors once it is ready.
    pub(crate) async fn scale_out(&mut self, role: RigRole) -> anyhow::Result<()> {
        let number = u16::try_from(self.members_of(role.name).len() + 1)?;
        let mut member = self.started(role, number)?;
        member.role.ready().await?;
        if role.name == REDIRECTOR {
            self.redirectors.write().push(member.address);
        }
        self.members.push(member);
        Ok(())
    }

    /// Stops the last process of a role, in order.
    pub(crate) async fn scale_in(&mut self, role: RigRole) -> anyhow::Result<()> {
        let last = *self.members_of(role.name).last().context("no process of the role runs")?;
        self.end(last).await?;
        self.members.remove(last);
        Ok(())
    }

    /// Sends every event to a receiver at `address`, and waits until the endpoint is known.
    pub(crate) async fn add_endpoint(&mut self, receiver: &Receiver) -> anyhow::Result<()> {
        let id = self.add_endpoint_at(&format!("http://{}/", receiver.address)).await?;
        self.post(&format!("/v1/endpoints/{id}/test"), json!({})).await?;
        self.until("the test event arrives", async |_| receiver.arrivals.unmarked() > 0).await
    }

    /// Sends every event to `url` as well, and returns the endpoint's id.
    pub(crate) async fn add_endpoint_at(&self, url: &str) -> anyhow::Result<String> {
        let endpoint = self.post("/v1/endpoints", json!({"url": url, "events": ["link.clicked"]})).await?;
        Ok(endpoint["id"].as_str().context("the API answered an endpoint without an id")?.to_owned())
    }

    /// Asks `clickhook audit` what has become of everything.
    pub(crate) async fn audit(&self) -> anyhow::Result<RigAudit> {
        let mut command = role::command(&self.binary);
        command.args(["audit", "--since", "24h", "--differences"]);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        let output = command.output().await.context("run `clickhook audit`")?;
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match output.status.code() {
            Some(0) => Ok(RigAudit { is_balanced: true, told }),
            Some(1) if told.contains("NOT BALANCED") => Ok(RigAudit { is_balanced: false, told }),
            _ => bail!("`clickhook audit` ended with {}: {told}", output.status),
        }
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let api = self.members.iter().find(|member| member.name == "control").context("no API runs")?;
        let url = format!("http://{}{path}", api.address);
        let authorization = format!("Bearer {}", self.admin_key);
        spawn_blocking(move || {
            let request = ureq::post(&url).config().http_status_as_error(false).build();
            let mut answer = request.header("authorization", authorization).send_json(&body)?;
            let text = answer.body_mut().read_to_string()?;
            if !answer.status().is_success() {
                bail!("{url} answered {}: {text}", answer.status());
            }
            Ok(serde_json::from_str(&text).unwrap_or_default())
        })
        .await?
    }

    /// Returns the path of the first redirector's spool.
    pub(crate) fn spool(&self) -> PathBuf {
        self.dir.join("redirector-1/spool.redb")
    }

    /// Returns the sum of a metric over the redirectors.
    pub(crate) async fn ingest(&self, metric: &'static str) -> Option<f64> {
        let mut sum = 0.0;
        for member in self.members.iter().filter(|member| member.name == REDIRECTOR) {
            sum += member.role.metric(metric).await?;
        }
        Some(sum)
    }

    /// The cluster's brokers, while it runs.
    pub(crate) fn kafka(&mut self) -> anyhow::Result<&mut Kafka> {
        self.kafka.as_mut().context("Kafka does not run")
    }

    /// The indices of the processes of a role.
    pub(crate) fn members_of(&self, name: &str) -> Vec<usize> {
        (0..self.members.len()).filter(|member| self.members[*member].name == name).collect()
    }

    /// Restarts a process in order: SIGTERM, and a start once it has ended. A redirector
    /// gets no visitors from the moment that its readiness is red until it is ready.
    pub(crate) async fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        self.end(member).await?;
        self.members[member].role = self.launch_again(member)?;
        self.members[member].role.ready().await?;
        let RigProcess { name, address, .. } = self.members[member];
        if name == REDIRECTOR {
            self.redirectors.write().push(address);
        }
        Ok(())
    }

    async fn end(&mut self, member: usize) -> anyhow::Result<()> {
        let RigProcess { name, address, role, .. } = &mut self.members[member];
        role.terminate()?;
        if *name == REDIRECTOR {
            role.unready().await?;
            self.redirectors.write().retain(|redirector| redirector != address);
        }
        role.ended().await
    }

    /// kill -9 of a process.
    pub(crate) async fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        self.members[member].role.kill().await
    }

    /// Starts a process again that was killed, and waits until it is ready.
    pub(crate) async fn start_again(&mut self, member: usize) -> anyhow::Result<()> {
        self.members[member].role = self.launch_again(member)?;
        self.members[member].role.ready().await
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

    /// kill -9 of the first redirector, and starts it again; since when it was gone, and
    /// until when.
    pub(crate) async fn kill_ingest(&mut self) -> anyhow::Result<(Instant, Instant)> {
        let mut member = self.members.remove(0);
        let killed = Instant::now();
        member.role.kill().await?;
        member.role = self.launch(member.name, member.args, &member.settings)?;
        let ready = member.role.ready().await;
        self.members.insert(0, member);
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
        for member in 0..self.members.len() {
            let RigProcess { name, role, .. } = &mut self.members[member];
            if role.has_ended() {
                let name = *name;
                *self.restarts.entry(name).or_default() += 1;
                say(&format!("`clickhook {name}` has ended and is started again; {}", role.last_words()));
                self.members[member].role = self.launch_again(member)?;
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
        for member in &self.members {
            say(&format!("{}: {}", member.name, member.role.last_words()));
        }
    }

    /// Stops everything.
    pub(crate) async fn shutdown(self) {
        for member in self.members {
            member.role.stop().await;
        }
        self.clickhouse.shutdown().await;
        if let Some(kafka) = self.kafka {
            kafka.shutdown().await;
        }
    }
}

/// The settings of all processes.
fn settings(clickhouse: &Engines, size: RigSize, admin_key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CLICKHOOK_KAFKA_REPLICATION", size.replication.to_string()),
        ("CLICKHOOK_CLICKHOUSE_URL", clickhouse.clickhouse_url()),
        ("CLICKHOOK_INGEST_INTAKE_LISTEN", "127.0.0.1:0".to_owned()),
        ("CLICKHOOK_INGEST_ACK_BUDGET_MS", ACK_BUDGET_MS.to_string()),
        ("CLICKHOOK_INGEST_TRUSTED_PROXIES", "[\"127.0.0.0/8\"]".to_owned()),
        ("CLICKHOOK_ENDPOINTS_ALLOW_HTTP", "true".to_owned()),
        ("CLICKHOOK_ENDPOINTS_ALLOW_PRIVATE", "true".to_owned()),
        ("CLICKHOOK_ADMIN_KEY", admin_key.to_owned()),
        ("CLICKHOOK_INSTALLATION_KEY", Vault::generate().to_string()),
    ]
}

/// The way to Kafka of all processes.
fn kafka_settings(kafka: &Kafka, login: Option<&KafkaLogin>) -> Vec<(&'static str, String)> {
    match login {
        None => vec![("CLICKHOOK_KAFKA_BROKERS", kafka.brokers())],
        Some(login) => {
            let mut settings = login.certificates.by_login("SCRAM-SHA-512", KafkaLogin::USER, &login.password);
            settings.push(("CLICKHOOK_KAFKA_BROKERS", kafka.brokers_by_login()));
            settings
        }
    }
}

/// The user that the roles log in as, and the certificates of the brokers.
struct KafkaLogin {
    certificates: Certificates,
    password: String,
}

impl KafkaLogin {
    const USER: &str = "clickhook";

    fn make(door: KafkaDoor, dir: &Path) -> anyhow::Result<Option<Self>> {
        if door == KafkaDoor::Open {
            return Ok(None);
        }
        let certificates = Certificates::make(dir).context("make certificates")?;
        Ok(Some(Self { certificates, password: hex::encode(rand::random::<[u8; 16]>()) }))
    }

    fn listeners(&self) -> SecureListeners {
        SecureListeners {
            key_and_certificate: self.certificates.brokers.clone(),
            authority: self.certificates.authority.clone(),
            user: Self::USER.to_owned(),
            password: self.password.clone(),
            stranger: "stranger".to_owned(),
        }
    }
}

/// The settings of one process. One of several has a name, so that a restart gets its
/// partitions back, and a redirector that is told to stop leaves time to be noticed.
fn own_settings(
    name: &str,
    number: u16,
    address: SocketAddr,
    size: RigSize,
    dir: &Path,
) -> Vec<(&'static str, String)> {
    let mut settings = match name {
        "ingest" => vec![
            ("CLICKHOOK_INGEST_LISTEN", address.to_string()),
            ("CLICKHOOK_INGEST_DATA_DIR", dir.join(format!("redirector-{number}")).display().to_string()),
        ],
        "control" => vec![("CLICKHOOK_CONTROL_LISTEN", address.to_string())],
        _ => Vec::new(),
    };
    if size.at_most > 1 {
        settings.push(("CLICKHOOK_KAFKA_INSTANCE", format!("{name}-{number}")));
        settings.push(("CLICKHOOK_INGEST_DRAIN_DELAY_MS", DRAIN_DELAY_MS.to_string()));
    }
    settings
}
