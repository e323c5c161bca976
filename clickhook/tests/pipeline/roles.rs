//! Each role as a process of its own, three of each side by side, some of them
//! killed under load: the same promise holds.
use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use testbed::free_address;

use crate::support::{
    ADMIN_KEY, BINARY, ClickReceiver, PipelineApi, Visitors, check_promise, eventually, folder, http, set_up,
    until_redirects,
};

/// One role in a process of its own.
pub(crate) struct RoleProcess {
    child: Child,
    metrics: SocketAddr,
    /// Where it serves, if it does.
    pub(crate) serves: SocketAddr,
}

impl RoleProcess {
    pub(crate) fn is_ready(&self) -> bool {
        let answer = http().get(format!("http://{}/readyz", self.metrics)).call();
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// Whether it leads the control plane.
    pub(crate) fn leads(&self) -> bool {
        self.says("clickhook_control_leading 1")
    }

    /// Whether its metrics have that line.
    pub(crate) fn says(&self, wanted: &str) -> bool {
        self.metrics().is_some_and(|text| text.lines().any(|line| line == wanted))
    }

    /// Returns the value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    fn metrics(&self) -> Option<String> {
        let answer = http().get(format!("http://{}/metrics", self.metrics)).call();
        answer.ok()?.body_mut().read_to_string().ok()
    }

    /// Returns the memory that the process has, in kilobytes.
    pub(crate) fn memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub(crate) fn until_ready(&self, what: &str) {
        eventually(what, Duration::from_secs(60), || self.is_ready().then_some(()));
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells it to stop in order, and does not wait.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    }

    /// Waits until it has stopped by itself.
    pub(crate) fn until_ended(&mut self) {
        let status = eventually("a process ends", Duration::from_secs(60), || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An installation on the test run's ClickHouse.
pub(crate) struct Installation {
    pub(crate) dir: PathBuf,
    pub(crate) brokers: String,
    pub(crate) prefix: String,
    pub(crate) database: String,
    /// The settings of every role beyond those of all tests.
    settings: Vec<(&'static str, String)>,
}

/// A test that fails says what its roles have said last.
impl Drop for Installation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for file in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Ok(text) = std::fs::read_to_string(file.path()) else { continue };
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("{}:\n{}", file.path().display(), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}

impl Installation {
    /// On these brokers, with names that nobody else has, its files in `dir`; its
    /// topics and tables are there.
    pub(crate) fn new(dir: PathBuf, brokers: String) -> Self {
        Self::with_settings(dir, brokers, Vec::new())
    }

    /// Makes an installation whose roles have further settings.
    pub(crate) fn with_settings(dir: PathBuf, brokers: String, settings: Vec<(&'static str, String)>) -> Self {
        let new = Self { dir, brokers, prefix: testbed::unique("t"), database: testbed::unique("t"), settings };
        assert!(new.command("migrate").stdout(Stdio::null()).status().unwrap().success());
        new
    }

    pub(crate) fn command(&self, role: &str) -> Command {
        let mut command = Command::new(BINARY);
        command
            .arg(role)
            .env("CLICKHOOK_KAFKA_BROKERS", &self.brokers)
            .env("CLICKHOOK_KAFKA_PREFIX", &self.prefix)
            .env("CLICKHOOK_CLICKHOUSE_URL", testbed::clickhouse())
            .env("CLICKHOOK_CLICKHOUSE_DATABASE", &self.database)
            .env("CLICKHOOK_ADMIN_KEY", ADMIN_KEY)
            .env("CLICKHOOK_INSTALLATION_KEY", "11".repeat(32))
            .env("CLICKHOOK_ENDPOINTS_ALLOW_HTTP", "true")
            .env("CLICKHOOK_ENDPOINTS_ALLOW_PRIVATE", "true")
            .env("CLICKHOOK_WEBHOOK_RETRY_SPEEDUP", "120")
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, role: &str) -> RoleProcess {
        self.spawn(self.command(role), role, free_address())
    }

    /// Starts a role with settings of its own.
    pub(crate) fn start_with(&self, role: &str, settings: &[(&str, String)]) -> RoleProcess {
        let mut command = self.command(role);
        command.envs(settings.iter().map(|(key, value)| (key, value)));
        self.spawn(command, role, free_address())
    }

    /// Starts a role at an address, under a name that it keeps over restarts.
    pub(crate) fn start_at(&self, role: &str, serves: SocketAddr, name: &str) -> RoleProcess {
        let mut command = self.command(role);
        command.env("CLICKHOOK_KAFKA_INSTANCE", name);
        self.spawn(command, role, serves)
    }

    fn spawn(&self, mut command: Command, role: &str, serves: SocketAddr) -> RoleProcess {
        let (metrics, log) = (free_address(), self.log(role));
        let given = command.get_envs().any(|(key, _)| key == "CLICKHOOK_INGEST_INTAKE_LISTEN");
        if !given {
            command.env("CLICKHOOK_INGEST_INTAKE_LISTEN", "127.0.0.1:0");
        }
        let child = command
            .env("CLICKHOOK_METRICS_LISTEN", metrics.to_string())
            .env("CLICKHOOK_INGEST_DATA_DIR", Path::new(&self.dir).join(format!("{role}-{}", serves.port())))
            .env("CLICKHOOK_INGEST_LISTEN", serves.to_string())
            .env("CLICKHOOK_CONTROL_LISTEN", serves.to_string())
            .stderr(log)
            .spawn()
            .unwrap();
        RoleProcess { child, metrics, serves }
    }

    fn log(&self, role: &str) -> File {
        File::options().create(true).append(true).open(self.log_path(role)).unwrap()
    }

    fn log_path(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{role}.log"))
    }

    /// Everything that the processes of a role have logged.
    pub(crate) fn log_of(&self, role: &str) -> String {
        std::fs::read_to_string(self.log_path(role)).unwrap_or_default()
    }
}

#[test]
fn three_of_each_side_by_side_lose_and_double_nothing() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let receiver = ClickReceiver::start();

    let control = installation.start("control");
    control.until_ready("control is the leader");
    set_up(&PipelineApi::new(control.serves), "sale", &receiver);
    // A second stands by, and forwards.
    let standby = installation.start("control");

    let ingest: Vec<RoleProcess> = (0..3).map(|_| installation.start("ingest")).collect();
    let mut others: Vec<RoleProcess> = ["enricher", "dispatcher"]
        .iter()
        .flat_map(|role| (0..3).map(|_| installation.start(role)).collect::<Vec<_>>())
        .collect();
    for process in ingest.iter().chain(&others) {
        process.until_ready("a role is ready");
    }
    for process in &ingest {
        until_redirects(process.serves, "sale");
    }

    let load = Visitors::start(ingest.iter().map(|process| process.serves).collect(), "sale", 6);
    load.wait_for(300);
    standby.until_ready("a standby knows the leader");
    control.kill();
    for (role, victim) in [("enricher", 0), ("dispatcher", 3), ("enricher", 1), ("dispatcher", 4)] {
        let fresh = installation.start(role);
        std::mem::replace(&mut others[victim], fresh).kill();
        load.wait_for(300);
    }
    let answered = load.stop();
    let links = eventually("the standby has taken over", Duration::from_secs(60), || {
        Some(PipelineApi::new(standby.serves).get("/v1/links")).filter(|links| links["data"].is_array())
    });
    assert_eq!(links["data"].as_array().map(Vec::len), Some(1), "{links}");

    let Installation { prefix, database, .. } = &installation;
    check_promise(&answered, &testbed::kafka(), prefix, &testbed::clickhouse(), database, &receiver);
}
