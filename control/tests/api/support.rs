//! The instances of the API that tests start, each with its own prefix in Kafka, and a small client that shows answers as
//! they are.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bus::Bus;
use control::{Config, Dns, Running, Setup};
use serde_json::{Value, json};
use service::{Health, Metrics, Process, Shutdown, vault::Vault};
use store::{Store, StoreConfig};
use testbed::PATIENCE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) const KEY: &str = "0123456789abcdef-the-admin-of-tests";

pub(crate) struct Instance {
    pub(crate) running: Running,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    pub(crate) vault: Arc<Vault>,
    pub(crate) texts: Texts,
}

pub(crate) fn store(database: &str) -> Store {
    let config = StoreConfig { url: testbed::clickhouse(), database: database.to_owned(), ..StoreConfig::default() };
    Store::new(config).unwrap()
}

pub(crate) fn config() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        short_url_base: "https://go.example".to_owned(),
        admin_key: KEY.to_owned(),
        ..Config::default()
    }
}

/// The TXT records of each name.
pub(crate) type Texts = Arc<Mutex<HashMap<String, Vec<String>>>>;

fn dns(texts: &Texts) -> Dns {
    let texts = Arc::clone(texts);
    Dns::answered_by(move |name| {
        let found = texts.lock().unwrap().get(&name).cloned().unwrap_or_default();
        async { Ok(found) }
    })
}

pub(crate) async fn instance(bus: &Bus, store: Store) -> Instance {
    configured(bus, store, config()).await
}

/// The key of the installation, which its instances share.
pub(crate) fn installation_key() -> String {
    "11".repeat(32)
}

pub(crate) async fn configured(bus: &Bus, store: Store, config: Config) -> Instance {
    with_keys(bus, store, config, &installation_key()).await
}

/// Starts an instance with these keys of the installation.
pub(crate) async fn with_keys(bus: &Bus, store: Store, config: Config, keys: &str) -> Instance {
    let process = Process::default();
    let vault = Arc::new(Vault::from_hex(keys).unwrap());
    let texts = Texts::default();
    let setup = Setup {
        config,
        bus: bus.clone(),
        vault: Arc::clone(&vault),
        store,
        dns: dns(&texts),
        process: process.clone(),
    };
    let running = control::start(setup).await.unwrap();
    let Process { metrics, health, shutdown } = process;
    Instance { running, health, metrics, shutdown, vault, texts }
}

/// Starts one instance and waits until it leads. Only the statistics need the database.
pub(crate) async fn leader(bus: &Bus) -> Instance {
    let instance = instance(bus, store("nothing")).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    instance
}

impl Instance {
    pub(crate) fn api(&self) -> Api {
        Api { address: self.running.local_addr(), key: KEY, workspace: None }
    }

    pub(crate) fn leads(&self) -> bool {
        self.metrics.text().lines().any(|line| line == "clickhook_control_leading 1")
    }

    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        timeout(PATIENCE, self.running.wait()).await.unwrap().unwrap();
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) key: &'static str,
    /// The workspace that the calls act in, if that is not the key's own.
    pub(crate) workspace: Option<&'static str>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value)
    }

    /// Returns the revision in the ETag.
    pub(crate) fn etag_revision(&self) -> Option<&str> {
        Some(self.header("etag")?.trim_matches('"').split_once('-')?.0)
    }

    /// Returns the fields that a problem names.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.body["errors"]
            .as_array()
            .map_or_else(Vec::new, |errors| errors.iter().map(|error| error["field"].as_str().unwrap()).collect())
    }
}

impl Api {
    /// Returns the same API, called with another key.
    pub(crate) fn with(self, key: &str) -> Self {
        Self { key: key.to_owned().leak(), workspace: None, ..self }
    }

    /// Returns the same API, called in another workspace.
    pub(crate) fn within(self, workspace: &str) -> Self {
        Self { workspace: Some(workspace.to_owned().leak()), ..self }
    }

    /// Returns the same API, called with a new key that has these scopes.
    pub(crate) async fn scoped(self, scopes: &[&str]) -> Self {
        let made = self.post("/v1/keys", json!({"name": scopes.join(" "), "scopes": scopes})).await;
        assert_eq!(made.status, 201, "{made:?}");
        self.with(made.body["secret"].as_str().unwrap())
    }

    /// Creates a workspace and a key that is its admin, and returns the API called with that key.
    pub(crate) async fn workspace(self, id: &str) -> Self {
        let made = self.post("/v1/workspaces", json!({"id": id})).await;
        assert_eq!(made.status, 201, "{made:?}");
        self.within(id).scoped(&["admin"]).await
    }

    /// Creates a domain in the caller's workspace, for which this operator vouches.
    pub(crate) async fn proven_domain(self, body: Value) -> Answer {
        let made = self.post("/v1/domains", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let verify = format!("/v1/domains/{}/verify", made.body["id"].as_str().unwrap());
        let proven = self.post(&verify, json!({"vouch": true})).await;
        assert_eq!(proven.status, 200, "{proven:?}");
        proven
    }

    pub(crate) async fn send(self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (key, length) = (self.key, body.len());
        let workspace =
            self.workspace.map_or_else(String::new, |workspace| format!("X-Clickhook-Workspace: {workspace}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {length}\r\n{workspace}{headers}\r\n{body}"
        );
        // The server may stop reading a refused body before its end.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())),
        }
    }

    pub(crate) async fn get(self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub(crate) async fn post(self, path: &str, body: Value) -> Answer {
        self.send("POST", path, "", &body.to_string()).await
    }

    pub(crate) async fn patch(self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, "", &body.to_string()).await
    }

    pub(crate) async fn delete(self, path: &str) -> Answer {
        self.send("DELETE", path, "", "").await
    }
}
