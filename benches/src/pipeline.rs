//! The pipeline under measurement: engines of its own, and each role as a
//! process of its own, so that the kernel says what each costs.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use engines::{Engines, Installed};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use service::vault::Vault;
use testbed::free_address;
use tokio::{
    process::{Child, Command},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{connection::Connection, process::Who, receiver::Receiver};

/// The link that is followed.
pub(crate) const SLUG: &str = "bench";
/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for a run's data, and the addresses in it.
pub(crate) struct Pipeline {
    /// Where links are followed.
    pub(crate) redirect: SocketAddr,
    pub(crate) receiver: Receiver,
    engines: Engines,
    roles: Vec<Role>,
    dir: PathBuf,
    api: SocketAddr,
    admin_key: String,
}

struct Role {
    name: &'static str,
    child: Child,
    log: PathBuf,
    health: SocketAddr,
}

impl Pipeline {
    /// Starts everything in `dir` and follows a click's way once.
    pub(crate) async fn start(binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let mut options = engines::Options::new(dir.join("engines"));
        options.exe = Some(binary.to_owned());
        let engines = Engines::start(options).await?;
        let (redirect, api) = (free_address(), free_address());
        let mut pipeline = Self {
            redirect,
            receiver: Receiver::start()?,
            engines,
            roles: Vec::new(),
            dir: dir.to_owned(),
            api,
            admin_key: hex::encode(rand::random::<[u8; 16]>()),
        };
        match pipeline.start_roles(binary).await {
            Ok(()) => Ok(pipeline),
            Err(error) => {
                pipeline.stop_roles().await;
                pipeline.engines.shutdown().await;
                Err(error)
            }
        }
    }

    async fn start_roles(&mut self, binary: &Path) -> anyhow::Result<()> {
        let settings = self.settings()?;
        let migrate = self.role(binary, &settings, "migrate", &["migrate"])?;
        self.roles.push(migrate);
        if let Some(mut migrate) = self.roles.pop()
            && !migrate.child.wait().await.context("wait for `clickhook migrate`")?.success()
        {
            bail!("`clickhook migrate` failed: {}", migrate.last_words());
        }
        for (name, args) in [
            ("ingest", ["ingest"].as_slice()),
            ("control", &["control"]),
            ("enricher", &["enricher"]),
            ("webhook", &["dispatcher", "--only", "webhook"]),
            ("warehouse", &["dispatcher", "--only", "warehouse"]),
        ] {
            self.roles.push(self.role(binary, &settings, name, args)?);
        }
        for role in &mut self.roles {
            role.ready().await?;
        }
        self.set_up().await
    }

    fn settings(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let installed = Installed::locate(None)?;
        let list = |paths: Vec<PathBuf>| json!(paths).to_string();
        let cities = [engines::geo_city(installed.dir()), engines::geo_city_ipv6(installed.dir())];
        let countries = engines::geo_country(installed.dir());
        Ok(vec![
            ("CLICKHOOK_KAFKA_BROKERS", self.engines.kafka_brokers()),
            ("CLICKHOOK_CLICKHOUSE_URL", self.engines.clickhouse_url()),
            ("CLICKHOOK_INGEST_LISTEN", self.redirect.to_string()),
            // So that the visitors' addresses differ.
            ("CLICKHOOK_INGEST_TRUSTED_PROXIES", "[\"127.0.0.0/8\"]".to_owned()),
            ("CLICKHOOK_CONTROL_LISTEN", self.api.to_string()),
            ("CLICKHOOK_CONTROL_ALLOW_HTTP", "true".to_owned()),
            ("CLICKHOOK_CONTROL_ALLOW_PRIVATE", "true".to_owned()),
            ("CLICKHOOK_WEBHOOK_ALLOW_HTTP", "true".to_owned()),
            ("CLICKHOOK_WEBHOOK_ALLOW_PRIVATE", "true".to_owned()),
            // What the burst makes spill comes back within the run.
            ("CLICKHOOK_WEBHOOK_RETRY_DELAY_MS", "1000".to_owned()),
            ("CLICKHOOK_ENRICHER_GEO_CITY", list(cities.into_iter().flatten().collect())),
            ("CLICKHOOK_ENRICHER_GEO_COUNTRY", list(countries.into_iter().collect())),
            ("CLICKHOOK_ADMIN_KEY", self.admin_key.clone()),
            ("CLICKHOOK_INSTALLATION_KEY", Vault::generate().to_string()),
        ])
    }

    fn role(
        &self,
        binary: &Path,
        settings: &[(&'static str, String)],
        name: &'static str,
        args: &[&str],
    ) -> anyhow::Result<Role> {
        let (log, health) = (self.dir.join(format!("{name}.log")), free_address());
        let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command(binary)
            .args(args)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .env("CLICKHOOK_METRICS_LISTEN", health.to_string())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {} {}", binary.display(), args.join(" ")))?;
        Ok(Role { name, child, log, health })
    }

    /// A link, an endpoint, and a test event that shows the endpoint is known.
    async fn set_up(&self) -> anyhow::Result<()> {
        let link = json!({"slug": SLUG, "destination": "https://example.com/landing/page", "campaign": "bench"});
        self.post("/v1/links", link).await?;
        let url = format!("http://{}/", self.receiver.address);
        let endpoint = self.post("/v1/endpoints", json!({"url": url, "events": ["link.clicked"]})).await?;
        let id = endpoint["id"].as_str().context("the API answered an endpoint without an id")?.to_owned();
        self.post(&format!("/v1/endpoints/{id}/test"), json!({})).await?;
        eventually("the test event arrives", async || self.receiver.arrivals.unmarked() > 0).await?;
        let link = format!("http://{}/{SLUG}", self.redirect);
        eventually("the redirector knows the link", async || {
            let link = link.clone();
            let asked = spawn_blocking(move || http().head(link).call());
            asked.await.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status() == 302))
        })
        .await
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let (url, key) = (format!("http://{}{path}", self.api), format!("Bearer {}", self.admin_key));
        spawn_blocking(move || {
            let mut answer = http().post(&url).header("authorization", key).send_json(&body)?;
            let text = answer.body_mut().read_to_string()?;
            if !answer.status().is_success() {
                bail!("{url} answered {}: {text}", answer.status());
            }
            Ok(serde_json::from_str(&text).unwrap_or_default())
        })
        .await?
    }

    /// Asks ClickHouse for numbers.
    pub(crate) async fn query(&self, sql: &'static str) -> anyhow::Result<Vec<u64>> {
        let url = format!("{}/?database=clickhook", self.engines.clickhouse_url());
        spawn_blocking(move || {
            let mut answer = http().post(&url).send(sql)?;
            let text = answer.body_mut().read_to_string()?;
            if !answer.status().is_success() {
                bail!("ClickHouse answered {sql} with {text}");
            }
            text.split_ascii_whitespace().map(|number| Ok(number.parse()?)).collect()
        })
        .await?
    }

    /// The brokers.
    pub(crate) fn brokers(&self) -> String {
        self.engines.kafka_brokers()
    }

    /// The processes, and who they are.
    pub(crate) fn processes(&self) -> Vec<(&'static str, Who)> {
        let pids = self.engines.pids();
        let engines = [("Kafka", pids.kafka), ("ClickHouse", pids.clickhouse)];
        let roles = self.roles.iter().map(|role| (role.name, role.child.id()));
        engines.into_iter().chain(roles).filter_map(|(name, pid)| Some((name, Who::Process(pid?)))).collect()
    }

    /// Stops the roles, those that take requests first.
    pub(crate) async fn stop_roles(&mut self) {
        for mut role in self.roles.drain(..) {
            match stop(&mut role.child).await {
                Ok(()) => {}
                Err(error) => eprintln!("bench: stopping {}: {error:#}: {}", role.name, role.last_words()),
            }
        }
    }

    /// Stops the engines too.
    pub(crate) async fn shutdown(mut self) {
        self.stop_roles().await;
        self.engines.shutdown().await;
    }
}

impl Role {
    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = async { Connection::open(self.health).await?.get("/readyz", Ipv4Addr::LOCALHOST).await };
            if asked.await.is_ok_and(|status| status == 200) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended ({status}): {}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!("`{}` is not ready after {} s: {}", self.name, PATIENCE.as_secs(), self.last_words());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of its log: the folder does not outlive the run.
    fn last_words(&self) -> String {
        last_lines(&self.log)
    }
}

/// The last lines of a log.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("its log ends:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
}

/// `binary` with nothing of our caller's configuration, ended with us.
pub(crate) fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLICKHOOK_") && name != engines::ENGINES_DIR_ENV {
            command.env_remove(name);
        }
    }
    // In a group of its own, so that Ctrl-C reaches us alone and we stop it in order.
    command.process_group(0).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Tells a child to stop and waits until it has.
pub(crate) async fn stop(child: &mut Child) -> anyhow::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // It may have ended already; what it left behind is asked next.
        let _ = kill_process(pid, Signal::TERM);
    }
    match timeout(PATIENCE / 2, child.wait()).await {
        Ok(status) => {
            let status = status?;
            if !status.success() {
                bail!("it ended with {status}");
            }
            Ok(())
        }
        Err(_) => {
            child.kill().await?;
            bail!("it did not stop within {} s and was killed", PATIENCE.as_secs() / 2)
        }
    }
}

/// Waits until `condition` holds.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        if Instant::now() > deadline {
            bail!("gave up after {} s waiting until {what}", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn http() -> ureq::Agent {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10)));
    config.http_status_as_error(false).max_redirects(0).build().into()
}
