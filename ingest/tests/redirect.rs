//! The redirector against a real Kafka: what it answers, and what it has
//! recorded by then.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bus::{Assigned, Assignments, Bus, Commit, Isolation, Membership, Outgoing, Revoked};
use ingest::{Config, Durability, Running};
use schemas::{ClickClass, Link, LinkId, RawClick, Timestamp, Topic, WorkspaceId, usermap::UserMap};
use service::{Health, Metrics, Shutdown};
use testbed::PATIENCE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn link(slug: &str) -> Link {
    Link {
        id: LinkId::mint(),
        workspace: WorkspaceId::default(),
        domain: None,
        slug: slug.to_owned(),
        destination: format!("https://acme.example/{slug}"),
        short_url: format!("http://localhost:8080/{slug}"),
        campaign: Some("winter".to_owned()),
        segment: None,
        tags: vec!["social".to_owned()],
        status_code: 302,
        starts_at: None,
        expires_at: None,
        expired_url: None,
        max_clicks: None,
        exhausted_at: None,
        disabled: false,
        append_click_id: false,
        passthrough: false,
        referrer_policy: None,
        metadata: UserMap::default(),
        external_id: None,
        created_at: Timestamp::from_millis(0),
        updated_at: Timestamp::from_millis(0),
        revision: 1,
    }
}

async fn write(bus: &Bus, id: LinkId, link: Option<&Link>) {
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let value = link.map(|link| serde_json::to_vec(link).unwrap());
    let key = id.to_string();
    producer.produce(&Outgoing::keyed(Topic::Links, key.as_bytes(), value.as_deref())).await.unwrap();
}

struct Redirector {
    _data: tempfile::TempDir,
    running: Running,
    shutdown: Shutdown,
    metrics: Metrics,
    health: Health,
}

async fn redirector(bus: &Bus, config: Config) -> Redirector {
    let (metrics, health, shutdown) = (Metrics::default(), Health::default(), Shutdown::new());
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().to_owned();
    let config = Config { listen: "127.0.0.1:0".parse().unwrap(), threads: 2, data_dir, ..config };
    let running = ingest::start(config, bus.clone(), metrics.clone(), health.clone(), shutdown.clone()).await.unwrap();
    tokio::time::timeout(PATIENCE, health.ready()).await.unwrap();
    Redirector { _data: data, running, shutdown, metrics, health }
}

impl Redirector {
    async fn stop(self) {
        self.shutdown.trigger();
        tokio::time::timeout(PATIENCE, self.running.wait()).await.unwrap().unwrap();
        assert!(!self.health.is_ready());
    }
}

/// Sends a request as it stands and reads the answer until the connection closes.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    raw(address, &format!("GET {path} HTTP/1.1\r\nHost: go.example\r\nConnection: close\r\n{headers}\r\n")).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map(|pair| pair.1)
}

/// A record of `clicks.raw`.
struct Bundle {
    partition: i32,
    count: usize,
    id: String,
    lines: Vec<String>,
}

/// Everything that `clicks.raw` holds now.
fn bundles(bus: &Bus) -> Vec<Bundle> {
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
        bundles.push(Bundle {
            partition: record.partition().index,
            count: text(record.header("count").unwrap()).parse().unwrap(),
            id: text(record.header("bundle").unwrap()),
            lines: text(record.value().unwrap()).lines().map(str::to_owned).collect(),
        });
    }
    bundles
}

#[tokio::test]
async fn a_redirect_is_in_kafka_before_it_is_answered() {
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector = redirector(&bus, Config::default()).await;
    let address = redirector.running.local_addr();

    let answer =
        get(address, "/sale?utm_source=ig&qr=1", "User-Agent: Test/1\r\nReferer: https://a.example/\r\n").await;
    assert_eq!(status(&answer), 302, "{answer}");
    assert_eq!(header(&answer, "location"), Some("https://acme.example/sale"));
    assert_eq!(header(&answer, "cache-control"), Some("private, no-store"));
    assert_eq!(header(&answer, "x-robots-tag"), Some("noindex"));

    let bundles = tokio::task::spawn_blocking({
        let bus = bus.clone();
        move || bundles(&bus)
    })
    .await
    .unwrap();
    let [bundle] = bundles.as_slice() else { panic!("{} bundles", bundles.len()) };
    assert_eq!((bundle.count, bundle.lines.len()), (1, 1));
    assert_eq!(uuid::Uuid::parse_str(&bundle.id).unwrap().get_version_num(), 7);
    let click: RawClick<'_> = serde_json::from_str(&bundle.lines[0]).unwrap();
    assert_eq!(click.id.partition(bus.partitions(Topic::ClicksRaw)), bundle.partition);
    assert_eq!(click.class, ClickClass::Qr);
    assert_eq!(click.link, Some(sale.facts()));
    assert_eq!(click.ip, "127.0.0.1");
    assert_eq!(click.user_agent.as_deref(), Some("Test/1"));
    assert_eq!(click.referer.as_deref(), Some("https://a.example/"));
    assert_eq!(click.query.as_deref(), Some("utm_source=ig"));
    redirector.stop().await;
}

#[tokio::test]
async fn every_answered_redirect_is_recorded_once_and_nothing_else() {
    const CLICKS: usize = 400;
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector = redirector(&bus, Config::default()).await;
    let address = redirector.running.local_addr();

    let clicks: Vec<_> = (0..CLICKS)
        .map(|index| tokio::spawn(async move { status(&get(address, &format!("/sale?n={index}"), "").await) }))
        .collect();
    for click in clicks {
        assert_eq!(click.await.unwrap(), 302);
    }
    let head = raw(address, "HEAD /sale HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!((status(&head), header(&head, "location")), (302, Some("https://acme.example/sale")));
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(status(&get(address, "/sale", "Sec-Purpose: prefetch\r\n").await), 302);
    assert_eq!(status(&get(address, "/nothing", "").await), 404);
    assert_eq!(status(&get(address, "/", "").await), 404);
    let post = raw(address, "POST /sale HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((status(&post), header(&post, "allow")), (405, Some("GET, HEAD")));

    let bundles = tokio::task::spawn_blocking({
        let bus = bus.clone();
        move || bundles(&bus)
    })
    .await
    .unwrap();
    let mut queries: Vec<String> = Vec::new();
    for bundle in &bundles {
        assert_eq!(bundle.count, bundle.lines.len());
        for line in &bundle.lines {
            let click: RawClick<'_> = serde_json::from_str(line).unwrap();
            assert_eq!(click.id.partition(4), bundle.partition);
            queries.push(click.query.unwrap().into_owned());
        }
    }
    queries.sort_unstable();
    queries.dedup();
    let recorded: usize = bundles.iter().map(|bundle| bundle.count).sum();
    assert_eq!((recorded, queries.len()), (CLICKS, CLICKS));
    let text = redirector.metrics.text();
    assert!(text.contains(&format!("clickhook_ingest_redirects_total{{class=\"click\"}} {CLICKS}")), "{text}");
    assert!(text.contains("clickhook_ingest_orphans_total 1"), "{text}");
    redirector.stop().await;
}

#[tokio::test]
async fn a_link_changes_and_goes_while_it_is_served() {
    let bus = testbed::bus().await;
    let mut sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector = redirector(&bus, Config::default()).await;
    let address = redirector.running.local_addr();
    let until = async |path: &str, expected: u16| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = get(address, path, "").await;
            if status(&answer) == expected {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} never answers {expected}: {answer}");
        }
    };
    until("/sale", 302).await;
    sale.destination = "https://b\u{fc}cher.example/\u{fc}".to_owned();
    sale.status_code = 307;
    write(&bus, sale.id, Some(&sale)).await;
    let answer = until("/q/sale", 307).await;
    assert_eq!(header(&answer, "location"), Some("https://xn--bcher-kva.example/%C3%BC"));
    write(&bus, sale.id, None).await;
    until("/sale", 404).await;
    redirector.stop().await;
}

#[tokio::test]
async fn without_kafka_nothing_is_promised() {
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector =
        redirector(&bus, Config { durability: Durability::Acked, ack_timeout_ms: 1, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    // A broker on the same machine may answer within the millisecond.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(address, "/sale", "").await;
        if status(&answer) == 503 {
            assert_eq!(header(&answer, "retry-after"), Some("1"));
            assert_eq!(header(&answer, "location"), None);
            break;
        }
        assert_eq!(status(&answer), 302);
        assert!(Instant::now() < deadline, "every acknowledgement came within a millisecond");
    }
    redirector.stop().await;
}

#[tokio::test]
async fn hostile_requests_are_refused_and_a_taken_address_is_named() {
    let bus = testbed::bus().await;
    let redirector = redirector(&bus, Config { header_timeout_ms: 200, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    for (request, expected) in [
        ("GET /sale\x01 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("NONSENSE\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000)), 414),
        (format!("GET /s HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(70)), 431),
        // A head that never ends is not waited for.
        ("GET /s HTTP/1.1\r\nHost: a\r\n".to_owned(), 408),
    ] {
        let answer = raw(address, &request).await;
        assert_eq!(status(&answer), expected, "{answer}");
    }

    let config = Config { listen: address, ..Config::default() };
    let second = ingest::start(config, bus, Metrics::default(), Health::default(), Shutdown::new()).await;
    let error = second.err().expect("the address is taken").to_string();
    assert!(error.contains(&address.to_string()) && error.contains("ingest.listen"), "{error}");
    redirector.stop().await;
}
