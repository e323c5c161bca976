//! A role of clickhook as a process of its own, so that the kernel says what it
//! costs.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use engines::Installed;
use rustix::process::{Pid, Signal, kill_process};
use testbed::free_address;
use tokio::{
    process::{Child, Command},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::connection::Connection;

/// How long a role may take to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A role that runs.
pub(crate) struct Role {
    pub(crate) name: &'static str,
    child: Child,
    log: PathBuf,
    health: SocketAddr,
}

impl Role {
    /// Starts `binary` with `args` and nothing but `settings` for configuration.
    /// Its log goes into `dir`.
    pub(crate) fn start(
        binary: &Path,
        dir: &Path,
        settings: &[(&'static str, String)],
        name: &'static str,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let (log, health) = (dir.join(format!("{name}.log")), free_address());
        // One that is started again goes on with its log.
        let file = fs::File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("create {}", log.display()))?;
        let child = command(binary)
            .args(args)
            .env("CLICKHOOK_METRICS_LISTEN", health.to_string())
            .env("CLICKHOOK_INGEST_DATA_DIR", dir.join(format!("{name}-{}", health.port())))
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {} {}", binary.display(), args.join(" ")))?;
        Ok(Self { name, child, log, health })
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it has done what it does and ended.
    pub(crate) async fn finished(mut self) -> anyhow::Result<()> {
        if !self.child.wait().await.with_context(|| format!("wait for `clickhook {}`", self.name))?.success() {
            bail!("`clickhook {}` failed: {}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("kill `clickhook {}`", self.name))
    }

    /// Tells it to stop, and does not wait.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.with_context(|| format!("`clickhook {}` has ended", self.name))?, Signal::TERM)?;
        Ok(())
    }

    /// Waits until its readiness is red.
    pub(crate) async fn unready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.is_ready().await {
            if Instant::now() > deadline {
                bail!("`{}` is ready although it was told to stop", self.name);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until it has ended by itself, in order.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.with_context(|| format!("`{}` does not end: {}", self.name, self.last_words()))??;
        if !status.success() {
            bail!("`{}` ended with {status}: {}", self.name, self.last_words());
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        let asked = async { Connection::open(self.health).await?.get("/readyz", Ipv4Addr::LOCALHOST).await };
        asked.await.is_ok_and(|status| status == 200)
    }

    /// Returns the value of the metric `name`, if the role gives one.
    pub(crate) async fn metric(&self, name: &'static str) -> Option<f64> {
        let url = format!("http://{}/metrics", self.health);
        let asked = spawn_blocking(move || {
            let text = ureq::get(url).call().ok()?.body_mut().read_to_string().ok()?;
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        });
        asked.await.ok().flatten()
    }

    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        if let Err(error) = stop(&mut self.child).await {
            eprintln!("bench: stopping {}: {error:#}: {}", self.name, self.last_words());
        }
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        self.ready_within(PATIENCE).await
    }

    /// Waits until it is ready, or gives up.
    pub(crate) async fn ready_within(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if self.is_ready().await {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended ({status}): {}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!("`{}` is not ready after {} s: {}", self.name, patience.as_secs(), self.last_words());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of its log: the folder does not outlive the run.
    pub(crate) fn last_words(&self) -> String {
        last_lines(&self.log)
    }
}

/// The last lines of a log.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("its log ends:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
}

/// The settings of an enricher with the geo databases that are installed.
pub(crate) fn geo_settings() -> anyhow::Result<[(&'static str, String); 2]> {
    let installed = Installed::locate(None)?;
    let list = |paths: Vec<PathBuf>| serde_json::json!(paths).to_string();
    let cities = [engines::geo_city(installed.dir()), engines::geo_city_ipv6(installed.dir())];
    let countries = engines::geo_country(installed.dir());
    Ok([
        ("CLICKHOOK_ENRICHER_GEO_CITY", list(cities.into_iter().flatten().collect())),
        ("CLICKHOOK_ENRICHER_GEO_COUNTRY", list(countries.into_iter().collect())),
    ])
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
