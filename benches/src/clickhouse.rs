//! A ClickHouse of the bench's own, without the rest of the pipeline.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use engines::Engines;
use store::{Store, StoreConfig};
use tokio::{task::spawn_blocking, time::sleep};

use crate::process::Who;

/// The time after which a statement is given up.
const PATIENCE: Duration = Duration::from_secs(900);

/// It stays as long as this is not shut down.
pub(crate) struct ClickHouse(Engines);

impl ClickHouse {
    /// Starts a ClickHouse with its data in `dir`. Nobody asks the Kafka that it is told of.
    pub(crate) async fn start(binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let mut options = engines::Options::new(dir.join("clickhouse"));
        options.kafka = Some("127.0.0.1:9".to_owned());
        options.exe = Some(binary.to_owned());
        Ok(Self(Engines::start(options).await?))
    }

    /// Returns the store on it, with its tables.
    pub(crate) async fn store(&self) -> anyhow::Result<Store> {
        let config =
            StoreConfig { url: self.0.clickhouse_url(), clicks_days: 0, deliveries_days: 0, ..StoreConfig::default() };
        let store = Store::new(config)?;
        store.migrate().await.context("create the tables")?;
        Ok(store)
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        self.0.clickhouse_url()
    }

    /// Its process.
    pub(crate) fn process(&self) -> anyhow::Result<Who> {
        Ok(Who::Process(self.0.pids().clickhouse.context("ClickHouse has ended")?))
    }

    /// Runs a statement, and returns its answer.
    pub(crate) async fn run(&self, sql: impl Into<String>) -> anyhow::Result<String> {
        let (url, sql) = (format!("{}/?database=clickhook", self.0.clickhouse_url()), sql.into());
        let bytes = spawn_blocking(move || post(&url, sql.as_bytes())).await??;
        String::from_utf8(bytes).context("read ClickHouse's answer")
    }

    /// Asks for one number.
    pub(crate) async fn number(&self, sql: impl Into<String>) -> anyhow::Result<u64> {
        let text = self.run(sql).await?;
        text.trim().parse().with_context(|| format!("ClickHouse answered {text}"))
    }

    /// Waits until it merges and rewrites nothing any more.
    pub(crate) async fn until_quiet(&self) -> anyhow::Result<()> {
        let busy =
            "SELECT (SELECT count() FROM system.merges) + (SELECT count() FROM system.mutations WHERE NOT is_done)";
        let mut quiet = 0;
        while quiet < 10 {
            quiet = if self.number(busy).await? == 0 { quiet + 1 } else { 0 };
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub(crate) async fn shutdown(self) {
        self.0.shutdown().await;
    }
}

/// Posts a body and returns the answer's.
pub(crate) fn post(url: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false);
    let agent: ureq::Agent = config.build().into();
    let mut answer = agent.post(url).send(body).context("ask ClickHouse")?;
    let status = answer.status();
    let bytes = answer.body_mut().with_config().limit(1 << 32).read_to_vec().context("read ClickHouse's answer")?;
    if !status.is_success() {
        bail!("ClickHouse answered {status}: {}", String::from_utf8_lossy(&bytes));
    }
    Ok(bytes)
}
