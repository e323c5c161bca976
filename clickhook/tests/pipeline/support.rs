//! A whole pipeline under test: the real binary, a receiver of webhooks, load,
//! and the promise that is checked in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_clickhook");
pub(crate) const ADMIN_KEY: &str = "an-admin-key-for-tests-of-the-pipeline";
pub(crate) const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1";

/// An HTTP client that follows nothing and takes every status for an answer.
pub(crate) fn http() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(20)))
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .into()
}

/// Waits until `condition` gives something.
pub(crate) fn eventually<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// `clickhook up` in a data directory, killed when dropped.
pub(crate) struct Up {
    child: Child,
    pub(crate) facts: Value,
}

impl Up {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(data_dir: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(data_dir.join("up.log")).unwrap();
        let mut child = Command::new(BINARY)
            .args([
                "up",
                "--json",
                "--redirect",
                "127.0.0.1:0",
                "--intake",
                "127.0.0.1:0",
                "--api",
                "127.0.0.1:0",
                "--metrics",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(data_dir)
            .env("CLICKHOOK_ADMIN_KEY", ADMIN_KEY)
            // So that what fails in an outage comes back within the test.
            .env("CLICKHOOK_WEBHOOK_RETRY_SPEEDUP", "120")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).unwrap_or_else(|_| {
            let log = std::fs::read_to_string(data_dir.join("up.log")).unwrap_or_default();
            panic!("`clickhook up` did not come up: {line:?}\n{log}")
        });
        Self { child, facts }
    }

    pub(crate) fn address(&self, of: &str) -> SocketAddr {
        self.facts[of].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn text(&self, of: &str) -> String {
        self.facts[of].as_str().unwrap().to_owned()
    }

    /// kill -9 of this process alone: its engines become orphans.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// kill -9 of this process and of its engines.
    pub(crate) fn kill_all(self) {
        let engines = ["kafka", "clickhouse"].map(|engine| self.facts["pids"][engine].as_u64().unwrap().to_string());
        self.kill();
        let _ = Command::new("kill").arg("-9").args(engines).stderr(Stdio::null()).status().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let engines =
            ["kafka", "clickhouse"].map(|engine| self.facts["pids"][engine].as_u64().unwrap_or(0).to_string());
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = Command::new("kill").arg("-9").args(engines).stderr(Stdio::null()).status();
        }
    }
}

/// The API of a pipeline.
pub(crate) struct PipelineApi {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

impl PipelineApi {
    /// As its operator.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::with(address, ADMIN_KEY)
    }

    /// With a key.
    pub(crate) fn with(address: SocketAddr, key: &str) -> Self {
        Self { agent: http(), base: format!("http://{address}"), authorization: format!("Bearer {key}") }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        self.post_in("default", path, body)
    }

    /// Posts in a workspace, which another than the key's own takes an operator.
    pub(crate) fn post_in(&self, workspace: &str, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", &self.authorization);
        let request = if workspace == "default" { request } else { request.header("x-clickhook-workspace", workspace) };
        let answer = request.send_json(body);
        let mut answer = answer.unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        assert!(answer.status().is_success(), "{path}: {} {text}", answer.status());
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.patch(format!("{}{path}", self.base)).header("authorization", &self.authorization);
        let mut answer = request.send_json(body).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        assert!(answer.status().is_success(), "{path}: {} {text}", answer.status());
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.authorization).call();
        serde_json::from_str(&answer.unwrap().body_mut().read_to_string().unwrap()).unwrap()
    }

    pub(crate) fn delete(&self, path: &str) -> Value {
        let request = self.agent.delete(format!("{}{path}", self.base)).header("authorization", &self.authorization);
        serde_json::from_str(&request.call().unwrap().body_mut().read_to_string().unwrap()).unwrap()
    }
}

/// The clicks that a receiver got: for each click's marker, the event ids under which it came.
pub(crate) type ReceivedClicks = BTreeMap<String, BTreeSet<String>>;

/// A receiver of webhooks that takes everything, unless it is told to refuse.
pub(crate) struct ClickReceiver {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<ReceivedClicks>>,
    refusing: Arc<AtomicBool>,
}

impl ClickReceiver {
    pub(crate) fn start() -> Self {
        let received = Arc::<Mutex<ReceivedClicks>>::default();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let refusing = Arc::<AtomicBool>::default();
        let seen = Arc::clone(&received);
        let refuses = Arc::clone(&refusing);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let take = move |body: String| {
                    let refused = refuses.load(Ordering::Relaxed);
                    let event: Value = serde_json::from_str(&body).unwrap();
                    if let Some(marker) = event.pointer("/utm/term").and_then(Value::as_str)
                        && !refused
                    {
                        let id = event["id"].as_str().unwrap().to_owned();
                        seen.lock().unwrap().entry(marker.to_owned()).or_default().insert(id);
                    }
                    async move { if refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK } }
                };
                let routes = axum::Router::new().fallback(take);
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), routes).await.unwrap();
            });
        });
        Self { address, received, refusing }
    }

    /// Refuses every webhook from now on, until [`ClickReceiver::accept`].
    pub(crate) fn refuse(&self) {
        self.refusing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn accept(&self) {
        self.refusing.store(false, Ordering::Relaxed);
    }

    pub(crate) fn received(&self) -> ReceivedClicks {
        self.received.lock().unwrap().clone()
    }

    /// Waits until the webhooks of these clicks have come.
    pub(crate) fn until_received(&self, clicks: &BTreeSet<String>) {
        let mut missing = clicks.clone();
        eventually("the webhooks of these clicks come", Duration::from_secs(60), || {
            let received = self.received.lock().unwrap();
            missing.retain(|marker| !received.contains_key(marker));
            missing.is_empty().then_some(())
        });
    }
}

/// The numbers of visits so far.
#[derive(Default)]
struct VisitCounts {
    answered: AtomicUsize,
    /// Anything but a redirect.
    failed: AtomicUsize,
    /// Visits under way.
    busy: AtomicUsize,
    /// The markers of those that were answered with a redirect.
    markers: Mutex<BTreeSet<String>>,
}

/// People who follow a link, each visit with a marker of its own.
pub(crate) struct Visitors {
    stop: Arc<AtomicBool>,
    target: Arc<RwLock<Vec<SocketAddr>>>,
    seen: Arc<VisitCounts>,
    threads: Vec<JoinHandle<()>>,
}

impl Visitors {
    pub(crate) fn start(targets: Vec<SocketAddr>, slug: &str, visitors: usize) -> Self {
        let (stop, target, seen) =
            (Arc::<AtomicBool>::default(), Arc::new(RwLock::new(targets)), Arc::<VisitCounts>::default());
        let threads = (0..visitors)
            .map(|visitor| {
                let (stop, target, seen) = (Arc::clone(&stop), Arc::clone(&target), Arc::clone(&seen));
                let slug = slug.to_owned();
                thread::spawn(move || visit(visitor, &slug, &stop, &target, &seen))
            })
            .collect();
        Self { stop, target, seen, threads }
    }

    /// Nobody visits until they are told where the redirectors are; returns when
    /// the last has been answered.
    pub(crate) fn rest(&self) {
        self.aim(Vec::new());
        eventually("the last visit is answered", Duration::from_secs(60), || {
            (self.seen.busy.load(Ordering::SeqCst) == 0).then_some(())
        });
    }

    /// How many were not.
    pub(crate) fn failed(&self) -> usize {
        self.seen.failed.load(Ordering::SeqCst)
    }

    /// Where the redirectors are now.
    pub(crate) fn aim(&self, targets: Vec<SocketAddr>) {
        *self.target.write().unwrap() = targets;
    }

    /// Waits until `more` redirects have been answered from now on.
    pub(crate) fn wait_for(&self, more: usize) {
        let goal = self.seen.answered.load(Ordering::Relaxed) + more;
        eventually("redirects are answered", Duration::from_secs(60), || {
            (self.seen.answered.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// The markers of the visits that have been answered with a redirect so far.
    pub(crate) fn answered(&self) -> BTreeSet<String> {
        self.seen.markers.lock().unwrap().clone()
    }

    /// Stops; the markers of the visits that were answered with a redirect.
    pub(crate) fn stop(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.answered()
    }
}

fn visit(visitor: usize, slug: &str, stop: &AtomicBool, target: &RwLock<Vec<SocketAddr>>, seen: &VisitCounts) {
    let agent = http();
    let mut visits = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        visits += 1;
        let marker = format!("v{visitor}n{visits}");
        // Before it is looked where to: `rest` looks at it afterwards.
        seen.busy.fetch_add(1, Ordering::SeqCst);
        let address = {
            let targets = target.read().unwrap();
            targets.get(visits % targets.len().max(1)).copied()
        };
        let Some(address) = address else {
            seen.busy.fetch_sub(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        let answer = agent.get(format!("http://{address}/{slug}?utm_term={marker}")).header("user-agent", PHONE).call();
        let redirected = answer.is_ok_and(|answer| answer.status() == 302);
        if redirected {
            seen.markers.lock().unwrap().insert(marker);
            seen.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            // Refused or cut off: it may have been recorded or not, and nothing
            // was promised. A new visit has a new marker.
            seen.failed.fetch_add(1, Ordering::SeqCst);
        }
        seen.busy.fetch_sub(1, Ordering::SeqCst);
        if !redirected {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The markers of committed clicks, in the order of their partitions.
pub(crate) fn committed(brokers: &str, prefix: &str, partitions: u16, expected: &BTreeSet<String>) -> Vec<String> {
    let config = bus::BusConfig {
        brokers: brokers.to_owned(),
        prefix: prefix.to_owned(),
        partitions,
        ..bus::BusConfig::default()
    };
    let bus = bus::Bus::new(config);
    let expected = expected.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let records = runtime.block_on(testbed::read(&bus, schemas::Topic::Clicks, move |records| {
        records.len() >= expected.len() && {
            let found: BTreeSet<String> = records.iter().filter_map(|record| marker(&record.value)).collect();
            expected.is_subset(&found)
        }
    }));
    records.iter().filter_map(|record| marker(&record.value)).collect()
}

fn marker(envelope: &str) -> Option<String> {
    let envelope: Value = serde_json::from_str(envelope).ok()?;
    Some(envelope.pointer("/event/utm/term")?.as_str()?.to_owned())
}

/// Asks ClickHouse.
pub(crate) fn query(url: &str, database: &str, sql: &str) -> String {
    let answer = http().post(format!("{url}/?database={database}")).send(sql);
    let mut answer = answer.unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    assert!(answer.status().is_success(), "{sql}: {text}");
    text
}

/// Checks the promise: every answered redirect is one committed click, one row,
/// and came to the receiver under one stable id.
pub(crate) fn check_promise(
    answered: &BTreeSet<String>,
    brokers: &str,
    prefix: &str,
    clickhouse: &str,
    database: &str,
    receiver: &ClickReceiver,
) {
    let patience = Duration::from_secs(60);
    let clicks = committed(brokers, prefix, 4, answered);
    let distinct: BTreeSet<String> = clicks.iter().cloned().collect();
    assert_eq!(distinct.len(), clicks.len(), "a click was committed twice");
    let missing: Vec<_> = answered.difference(&distinct).collect();
    assert!(missing.is_empty(), "answered but not committed: {missing:?}");

    let rows = clicks.len().to_string();
    eventually("the rows are in ClickHouse", patience, || {
        (query(clickhouse, database, "SELECT uniqExact(id) FROM clicks").trim() == rows).then_some(())
    });
    let counts = query(clickhouse, database, "SELECT count(), uniqExact(id), uniqExact(utm_term) FROM clicks");
    assert_eq!(counts.trim(), format!("{rows}\t{rows}\t{rows}"), "rows are not exactly once");

    let received = eventually("the webhooks have arrived", patience, || {
        let received = receiver.received();
        answered.iter().all(|marker| received.contains_key(marker)).then_some(received)
    });
    let unstable: Vec<_> = received.iter().filter(|(_, ids)| ids.len() != 1).collect();
    assert!(unstable.is_empty(), "a click came under several ids: {unstable:?}");
}

/// Creates a link with `slug` and an endpoint for everything at `receiver`.
pub(crate) fn set_up(api: &PipelineApi, slug: &str, receiver: &ClickReceiver) -> Value {
    let link = api.post("/v1/links", &json!({"slug": slug, "destination": "https://example.com/"}));
    let url = format!("http://{}/", receiver.address);
    api.post("/v1/endpoints", &json!({"url": url, "events": ["*"]}));
    link
}

/// Waits until a redirector knows a link.
pub(crate) fn until_redirects(address: SocketAddr, slug: &str) {
    eventually("the redirector knows the link", Duration::from_secs(30), || {
        let answer = http().head(format!("http://{address}/{slug}")).call().ok()?;
        (answer.status() == 302).then_some(())
    });
}

/// A folder for a test's files.
pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}
