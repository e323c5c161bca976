//! A redirector on a real Kafka, requests to it byte by byte, and what it has
//! recorded.

#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and needs not all"
)]

pub mod attacks;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bus::{Assigned, Assignments, Bus, Commit, Isolation, Membership, Outgoing, Revoked};
use ingest::{Config, RunningRedirector};
use schemas::{
    Domain, DomainId, Link, LinkId, Topic,
    sample::{plain_domain, plain_link},
};
use service::{Health, Metrics, Process, Shutdown};
use testbed::PATIENCE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub fn link(slug: &str) -> Link {
    Link {
        campaign: Some("winter".to_owned()),
        tags: vec!["social".to_owned()],
        passthrough: false,
        ..plain_link(LinkId::mint(), slug, &format!("https://acme.example/{slug}"))
    }
}

pub async fn write(bus: &Bus, id: LinkId, link: Option<&Link>) {
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let value = link.map(|link| serde_json::to_vec(link).unwrap());
    let key = id.to_string();
    producer.produce(&Outgoing::keyed(Topic::Links, key.as_bytes(), value.as_deref())).await.unwrap();
}

pub struct Redirector {
    pub _data: tempfile::TempDir,
    pub running: RunningRedirector,
    pub shutdown: Shutdown,
    pub metrics: Metrics,
    pub health: Health,
}

pub async fn redirector(bus: &Bus, config: Config) -> Redirector {
    let process = Process::default();
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().to_owned();
    let any = "127.0.0.1:0".parse().unwrap();
    let threads = if config.threads == 0 { 2 } else { config.threads };
    let config = Config { listen: any, intake_listen: any, threads, data_dir, ..config };
    let running = ingest::start(config, bus.clone(), process.clone()).await.unwrap();
    let Process { metrics, health, shutdown } = process;
    tokio::time::timeout(PATIENCE, health.ready()).await.unwrap();
    Redirector { _data: data, running, shutdown, metrics, health }
}

impl Redirector {
    pub async fn stop(self) {
        self.shutdown.trigger();
        tokio::time::timeout(PATIENCE, self.running.wait()).await.unwrap().unwrap();
        assert!(!self.health.is_ready());
    }
}

/// Sends a request as it stands and reads the answer until the connection closes.
pub async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// A connection that is kept for several requests.
pub struct KeptConnection {
    stream: TcpStream,
    /// The bytes that were received beyond the last response.
    input: Vec<u8>,
}

impl KeptConnection {
    pub async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), input: Vec::new() }
    }

    /// Sends a request; returns the status of its response.
    pub async fn get(&mut self, target: &str, headers: &str) -> u16 {
        let request = format!("GET {target} HTTP/1.1\r\nHost: go.example\r\n{headers}\r\n");
        self.stream.write_all(request.as_bytes()).await.unwrap();
        loop {
            let text = String::from_utf8_lossy(&self.input).into_owned();
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                let body: usize = header(&text, "content-length").map_or(0, |length| length.parse().unwrap());
                let length = head.len() + 4 + body;
                if self.input.len() >= length {
                    self.input.drain(..length);
                    return status(&text);
                }
            }
            assert_ne!(self.stream.read_buf(&mut self.input).await.unwrap(), 0, "the connection stays open");
        }
    }
}

pub async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    raw(address, &format!("GET {path} HTTP/1.1\r\nHost: go.example\r\nConnection: close\r\n{headers}\r\n")).await
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map(|pair| pair.1)
}

/// A record of `clicks.raw`.
pub struct BundleRecord {
    pub partition: i32,
    pub count: usize,
    pub id: String,
    pub lines: Vec<String>,
}

/// Reads all records of `clicks.raw`.
pub fn bundles(bus: &Bus) -> Vec<BundleRecord> {
    #[derive(Default)]
    struct Owned(Mutex<Vec<Assigned>>);
    impl Assignments for Owned {
        fn assigned(&self, partitions: &[Assigned]) {
            self.0.lock().unwrap().extend_from_slice(partitions);
        }
        fn revoked(&self, _: &Revoked<'_>) -> Vec<Commit> {
            Vec::new()
        }
    }
    let owned = Arc::new(Owned::default());
    let group = format!("reader-{:x}", rand::random::<u64>());
    let read = [Topic::ClicksRaw];
    testbed::begin_group(bus, &group, Topic::ClicksRaw);
    let consumer = bus.consumer(&group, &read, Isolation::Committed, Membership::Dynamic, Arc::clone(&owned)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while owned.0.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "no assignment");
        assert!(consumer.poll(Duration::from_millis(50)).unwrap().is_none());
    }
    let assigned = owned.0.lock().unwrap().clone();
    let expected: i64 = assigned.iter().map(|assigned| consumer.behind(assigned.partition, 0).unwrap()).sum();
    let mut bundles = Vec::new();
    while (bundles.len() as i64) < expected {
        assert!(Instant::now() < deadline, "{} of {expected} records", bundles.len());
        let Some(record) = consumer.poll(Duration::from_millis(50)).unwrap() else { continue };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        bundles.push(BundleRecord {
            partition: record.partition().index,
            count: text(record.header("count").unwrap()).parse().unwrap(),
            id: text(record.header("bundle").unwrap()),
            lines: text(record.value().unwrap()).lines().map(str::to_owned).collect(),
        });
    }
    bundles
}

/// A domain that was verified.
pub fn domain(name: &str) -> Domain {
    plain_domain(DomainId::mint(), name)
}

pub async fn write_domain(bus: &Bus, domain: &Domain) {
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let (key, value) = (domain.id.to_string(), serde_json::to_vec(domain).unwrap());
    producer.produce(&Outgoing::keyed(Topic::Domains, key.as_bytes(), Some(&value))).await.unwrap();
}

/// Sends a request; returns its status and `Location`.
pub async fn asked(address: SocketAddr, method: &str, host: &str, target: &str, headers: &str) -> (u16, String) {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
    let answer = raw(address, &request).await;
    assert!(method != "HEAD" || answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(header(&answer, "cache-control"), Some("private, no-store"), "{answer}");
    (status(&answer), header(&answer, "location").unwrap_or_default().to_owned())
}
