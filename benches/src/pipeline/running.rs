//! The pipeline under measurement: engines of its own, and each role as a
//! process of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use engines::Engines;
use serde_json::{Value, json};
use service::vault::Vault;
use testbed::free_address;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    process::Who,
    receiver::Receiver,
    role::{self, Role},
};

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
        Role::start(binary, &self.dir, &settings, "migrate", &["migrate"])?.finished().await?;
        for (name, args) in [
            ("ingest", ["ingest"].as_slice()),
            ("control", &["control"]),
            ("enricher", &["enricher"]),
            ("webhook", &["dispatcher", "--only", "webhook"]),
            ("warehouse", &["dispatcher", "--only", "warehouse"]),
        ] {
            self.roles.push(Role::start(binary, &self.dir, &settings, name, args)?);
        }
        for role in &mut self.roles {
            role.ready().await?;
        }
        self.set_up().await
    }

    fn settings(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut settings = vec![
            ("CLICKHOOK_KAFKA_BROKERS", self.engines.kafka_brokers()),
            ("CLICKHOOK_CLICKHOUSE_URL", self.engines.clickhouse_url()),
            ("CLICKHOOK_INGEST_LISTEN", self.redirect.to_string()),
            ("CLICKHOOK_INGEST_INTAKE_LISTEN", "127.0.0.1:0".to_owned()),
            // So that the visitors' addresses differ.
            ("CLICKHOOK_INGEST_TRUSTED_PROXIES", "[\"127.0.0.0/8\"]".to_owned()),
            ("CLICKHOOK_CONTROL_LISTEN", self.api.to_string()),
            ("CLICKHOOK_ENDPOINTS_ALLOW_HTTP", "true".to_owned()),
            ("CLICKHOOK_ENDPOINTS_ALLOW_PRIVATE", "true".to_owned()),
            // What the burst makes spill comes back within the run.
            ("CLICKHOOK_WEBHOOK_RETRY_SPEEDUP", "60".to_owned()),
            ("CLICKHOOK_ADMIN_KEY", self.admin_key.clone()),
            ("CLICKHOOK_INSTALLATION_KEY", Vault::generate().to_string()),
        ];
        settings.extend(role::geo_settings()?);
        Ok(settings)
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
        let roles = self.roles.iter().map(|role| (role.name, role.pid()));
        engines.into_iter().chain(roles).filter_map(|(name, pid)| Some((name, Who::Process(pid?)))).collect()
    }

    /// Stops the roles, those that take requests first.
    pub(crate) async fn stop_roles(&mut self) {
        for role in self.roles.drain(..) {
            role.stop().await;
        }
    }

    /// Stops the engines too.
    pub(crate) async fn shutdown(mut self) {
        self.stop_roles().await;
        self.engines.shutdown().await;
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
