//! The tenants that take what they can.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::TenantPorts;

const WORKSPACES: usize = 50;
/// The links that the importing tenant may have, and those that it tries to import.
const QUOTA_LINKS: u64 = 100_000;
const IMPORTED: u64 = 120_000;
/// The connections that send nothing.
const IDLE: usize = 2000;
/// The domains that a tenant lists: with its own, as many as it may have.
const DOMAINS: u64 = 999;
/// The threads of the tenant that asks for what costs most, and of the one that lists domains.
const HAMMERS: usize = 4;
const SQUATTERS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// The keys of the tenants that do something.
pub(super) struct Tenants {
    pub(super) victim: String,
    importing: String,
    hammering: String,
    squatting: String,
}

/// A caller of the API.
#[derive(Clone)]
struct ApiCaller {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

impl ApiCaller {
    fn new(addresses: TenantPorts, key: &str) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false);
        let base = format!("http://{}", addresses.api);
        Self { agent: config.build().into(), base, authorization: format!("Bearer {key}") }
    }

    fn get(&self, path: &str) -> anyhow::Result<u16> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.get(url).header("authorization", &self.authorization);
        let mut answer = request.call().with_context(|| format!("get {path}"))?;
        // The whole answer costs.
        answer.body_mut().with_config().limit(1 << 30).read_to_vec()?;
        Ok(answer.status().as_u16())
    }

    fn post(&self, workspace: Option<&str>, path: &str, body: &[u8]) -> anyhow::Result<(u16, Value)> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("authorization", &self.authorization);
        if let Some(workspace) = workspace {
            request = request.header("x-clickhook-workspace", workspace);
        }
        let mut answer = request.send(body).with_context(|| format!("post {path}"))?;
        let text = answer.body_mut().read_to_string()?;
        Ok((answer.status().as_u16(), serde_json::from_str(&text).unwrap_or_default()))
    }
}

impl Tenants {
    /// Makes the workspaces, and keys for those that do something.
    pub(super) fn make(addresses: TenantPorts, operator: &str) -> anyhow::Result<Self> {
        let operator = ApiCaller::new(addresses, operator);
        let mut keys = Vec::new();
        for n in 0..WORKSPACES {
            let id = format!("w{n}");
            let limits = json!({"links": QUOTA_LINKS});
            let body = json!({"id": id, "limits": limits}).to_string();
            let (status, answer) = operator.post(None, "/v1/workspaces", body.as_bytes())?;
            if status != 201 {
                bail!("the workspace {id} was not made: {status} {answer}");
            }
            // Links outside the first workspace need a domain.
            let domain = json!({"name": format!("go.{id}.example"), "is_default": true}).to_string();
            let (_, domain) = operator.post(Some(&id), "/v1/domains", domain.as_bytes())?;
            let verify = format!("/v1/domains/{}/verify", domain["id"].as_str().context("a domain has an id")?);
            operator.post(Some(&id), &verify, br#"{"vouch":true}"#)?;
            let key = json!({"name": "admin", "scopes": ["admin"]}).to_string();
            let (_, key) = operator.post(Some(&id), "/v1/keys", key.as_bytes())?;
            keys.push(key["secret"].as_str().context("a key has a secret")?.to_owned());
        }
        let mut keys = keys.into_iter();
        let mut key = || keys.next().context("there are fifty keys");
        Ok(Self { victim: key()?, importing: key()?, hammering: key()?, squatting: key()? })
    }
}

/// The four at work.
pub(super) struct Others {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    costly: Arc<AtomicU64>,
    /// Open until they stop.
    idle: Vec<TcpStream>,
}

impl Others {
    /// Starts them.
    pub(super) fn start(addresses: TenantPorts, tenants: &Tenants) -> anyhow::Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("raise the open files")?;
        let (stop, costly) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        let importer = ApiCaller::new(addresses, &tenants.importing);
        threads.push(thread::spawn(move || import(&importer).context("the tenant that imports")));
        for _ in 0..HAMMERS {
            let (hammer, stop) = (ApiCaller::new(addresses, &tenants.hammering), Arc::clone(&stop));
            let costly = Arc::clone(&costly);
            threads.push(thread::spawn(move || {
                ask_for_what_costs(&hammer, &stop, &costly).context("the tenant that asks for what costs most")
            }));
        }
        for part in 0..SQUATTERS {
            let squatter = ApiCaller::new(addresses, &tenants.squatting);
            threads.push(thread::spawn(move || squat(&squatter, part).context("the tenant that lists domains")));
        }
        let places = [addresses.api, addresses.redirects];
        let open = |n: usize| TcpStream::connect(places[n % 2]);
        let idle = (0..IDLE).map(open).collect::<Result<Vec<_>, _>>().context("open connections")?;
        Ok(Self { stop, threads, costly, idle })
    }

    /// Stops them, and returns what they did.
    pub(super) fn stop(self) -> anyhow::Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a tenant has panicked"))??;
        }
        let costly = self.costly.load(Ordering::Relaxed);
        Ok(format!(
            "the four: {IMPORTED} lines, {costly} costly calls, {DOMAINS} domains, {} idle connections",
            self.idle.len()
        ))
    }
}

fn import(caller: &ApiCaller) -> anyhow::Result<()> {
    let line = |n: u64| format!("{{\"external_id\":\"{n}\",\"destination\":\"https://a.example/{n}\"}}\n");
    let body: String = (0..IMPORTED).map(line).collect();
    let (status, report) = caller.post(None, "/v1/links/import", body.as_bytes())?;
    if status != 200 || report["created"] != QUOTA_LINKS {
        bail!("the import was answered {status}: {report}");
    }
    Ok(())
}

/// Asks for what costs most, one after the other.
fn ask_for_what_costs(caller: &ApiCaller, stop: &AtomicBool, costly: &AtomicU64) -> anyhow::Result<()> {
    let link = json!({"destination": "https://a.example/"}).to_string();
    let (_, link) = caller.post(None, "/v1/links", link.as_bytes())?;
    let id = link["id"].as_str().context("a link has an id")?;
    let picture = format!("/v1/links/{id}/qr.png?size=2048");
    let paths = [
        picture.as_str(),
        "/v1/links?search=zz&limit=200",
        "/v1/links?domain=nowhere.example",
        "/v1/links?sort=destination&limit=200",
        "/v1/links/export",
        "/v1/tags",
    ];
    let rename = json!({"from": "a", "to": "b"}).to_string();
    while !stop.load(Ordering::Relaxed) {
        for path in paths {
            caller.get(path)?;
            costly.fetch_add(1, Ordering::Relaxed);
        }
        caller.post(None, "/v1/tags/rename", rename.as_bytes())?;
    }
    Ok(())
}

/// Lists a part of the domains.
fn squat(caller: &ApiCaller, part: u64) -> anyhow::Result<()> {
    for n in (part..DOMAINS).step_by(usize::try_from(SQUATTERS)?) {
        let body = json!({"name": format!("d{n}.example")}).to_string();
        let (status, answer) = caller.post(None, "/v1/domains", body.as_bytes())?;
        if status != 201 {
            bail!("a domain was answered {status}: {answer}");
        }
    }
    Ok(())
}
