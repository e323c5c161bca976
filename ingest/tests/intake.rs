//! The intake of conversions against a real Kafka: what it answers to whom, and
//! what is on the topic by then.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, num::NonZeroU32, process::Command, time::Duration};

use bus::{Bus, BusConfig, Outgoing};
use ingest::{Config, RunningRedirector};
use schemas::{
    ClickId, Key, KeyId, RawConversion, Scope, Timestamp, Topic, Workspace, WorkspaceId, WorkspaceLimits, keyring,
    workspace::PreviousSecret,
};
use serde_json::{Value, json};
use service::{Metrics, Process, Shutdown};
use testbed::{PATIENCE, Read, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SECRET: &str = "chk_a-secret-for-conversions";
const TOKEN: &str = "chk_a-token-for-postbacks";

fn key(id: u128, secret: &str, scopes: &[Scope]) -> Key {
    let at = Timestamp::from_millis(0);
    Key {
        id: KeyId::from_bits(id),
        workspace: WorkspaceId::new("acme"),
        name: "shop".to_owned(),
        scopes: scopes.to_vec(),
        hash: keyring::hash(secret),
        hint: "chk_a".to_owned(),
        origins: Vec::new(),
        previous: None,
        expires_at: None,
        created_at: at,
        updated_at: at,
        revision: 1,
    }
}

async fn write(bus: &Bus, key: &Key) {
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let (id, value) = (key.id.to_string(), serde_json::to_vec(key).unwrap());
    producer.produce(&Outgoing::keyed(Topic::Keys, id.as_bytes(), Some(&value))).await.unwrap();
}

struct Intake {
    _data: tempfile::TempDir,
    running: RunningRedirector,
    shutdown: Shutdown,
    metrics: Metrics,
}

/// One that knows a key for conversions and a postback's token.
async fn intake(bus: &Bus, config: Config) -> Intake {
    write(bus, &key(1, SECRET, &[Scope::Conversions])).await;
    write(bus, &key(2, TOKEN, &[Scope::Postback])).await;
    let process = Process::default();
    let data = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let data_dir = data.path().to_owned();
    let config = Config { listen: any, intake_listen: any, threads: 1, data_dir, ..config };
    let running = ingest::start(config, bus.clone(), process.clone()).await.unwrap();
    let Process { metrics, health, shutdown } = process;
    tokio::time::timeout(PATIENCE, health.ready()).await.unwrap();
    Intake { _data: data, running, shutdown, metrics }
}

struct IntakeAnswer {
    status: u16,
    head: String,
    body: Value,
}

impl Intake {
    async fn send(&self, request: &str) -> IntakeAnswer {
        send(self.running.intake_addr(), request).await
    }

    async fn post(&self, secret: &str, headers: &str, body: &str) -> IntakeAnswer {
        let authorization = format!("Authorization: Bearer {secret}\r\n{headers}");
        self.send(&request("POST", "/v1/conversions", &authorization, body)).await
    }

    async fn postback(&self, method: &str, token: &str, query: &str) -> IntakeAnswer {
        self.send(&request(method, &format!("/v1/postback/{token}?{query}"), "", "")).await
    }

    async fn stop(self) {
        self.shutdown.trigger();
        tokio::time::timeout(PATIENCE, self.running.wait()).await.unwrap().unwrap();
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

async fn send(address: SocketAddr, request: &str) -> IntakeAnswer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who is refused early may be cut off while still writing.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    IntakeAnswer { status, head: head.to_lowercase(), body: serde_json::from_str(body).unwrap_or_default() }
}

fn click() -> ClickId {
    ClickId::new(Timestamp::now(), rand::random(), rand::random())
}

async fn recorded(bus: &Bus, count: usize) -> Vec<(Read, RawConversion)> {
    let records = testbed::read(bus, Topic::ConversionsRaw, move |read| read.len() >= count).await;
    records
        .into_iter()
        .map(|read| {
            let conversion: RawConversion = serde_json::from_str(&read.value).unwrap();
            (read, conversion)
        })
        .collect()
}

#[tokio::test]
async fn a_conversion_is_in_kafka_before_it_is_answered() {
    let bus = testbed::bus().await;
    let intake = intake(&bus, Config::default()).await;
    let click = click();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body =
        json!({"click_id": click, "name": "purchase", "order_id": "A-1", "amount": {"value": 1250, "currency": "EUR"}});
    let answer = intake.post(SECRET, &format!("traceparent: {trace}\r\n"), &body.to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);

    let records = recorded(&bus, 1).await;
    let [(record, conversion)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(answer.body, json!({"id": conversion.id}));
    assert_eq!(
        (record.key.as_str(), record.partition),
        ("acme/order/purchase/A-1", bus.partition_of_shard(Topic::ConversionsRaw, conversion.shard()))
    );
    assert_eq!(record.headers["traceparent"], trace);
    assert_eq!((conversion.workspace.as_str(), conversion.click_id), ("acme", Some(click)));
    assert_eq!(conversion.same_as, "order/purchase/A-1");
    let text = intake.metrics.text();
    assert!(text.contains("clickhook_ingest_conversions_total{source=\"api\"} 1"), "{text}");
    intake.stop().await;
}

#[tokio::test]
async fn lines_are_taken_each_for_itself() {
    let bus = testbed::bus().await;
    let intake = intake(&bus, Config::default()).await;
    let clicks: Vec<ClickId> = (0..40).map(|_| click()).collect();
    let mut lines: Vec<String> =
        clicks.iter().map(|click| json!({"click_id": click, "name": "signup"}).to_string()).collect();
    lines.insert(2, json!({"click_id": "clk_1", "name": "signup"}).to_string());
    lines.push("nonsense".to_owned());
    let headers = "Content-Type: application/x-ndjson\r\nIdempotency-Key: monday\r\n";
    let answer = intake.post(SECRET, headers, &lines.join("\n")).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(40)), "{}", answer.body);
    let rejected: Vec<_> = answer.body["rejected"].as_array().unwrap().iter().map(|line| &line["line"]).collect();
    assert_eq!(rejected, [3, 42]);
    assert_eq!(answer.body["rejected"][0]["errors"][0]["field"], "click_id");

    let records = recorded(&bus, 40).await;
    assert_eq!(records.len(), 40);
    for (record, conversion) in &records {
        assert_eq!(record.partition, bus.partition_of_shard(Topic::ConversionsRaw, conversion.shard()));
        let click = conversion.click_id.unwrap().to_string();
        let line = 1 + lines.iter().position(|line| line.contains(&click)).unwrap();
        assert_eq!(conversion.same_as, format!("line/{line}/monday"));
    }
    let all_wrong = intake.post(SECRET, headers, "{}\n{}\n").await;
    assert_eq!((all_wrong.status, &all_wrong.body["accepted"]), (422, &json!(0)), "{}", all_wrong.body);
    assert!(all_wrong.head.contains("application/problem+json"), "{}", all_wrong.head);
    assert_eq!(all_wrong.body["rejected"][1]["line"], 2);
    intake.stop().await;
}

#[tokio::test]
async fn a_postback_is_a_conversion_and_its_token_opens_nothing_else() {
    let bus = testbed::bus().await;
    let intake = intake(&bus, Config::default()).await;
    let click = click();
    let query = format!("click_id={click}&payout=12.5&currency=EUR&status=approved");
    for method in ["GET", "POST"] {
        let answer = intake.postback(method, TOKEN, &query).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    // Networks that post their fields put them into the body.
    for (content_type, body) in [
        ("application/x-www-form-urlencoded", query.clone()),
        (
            "application/json",
            json!({"cid": click, "payout": 12.5, "currency": "EUR", "status": "approved"}).to_string(),
        ),
    ] {
        let headers = format!("Content-Type: {content_type}\r\n");
        let answer = intake.send(&request("POST", &format!("/v1/postback/{TOKEN}"), &headers, &body)).await;
        assert_eq!(answer.status, 202, "{content_type}: {}", answer.body);
    }
    // Link previews and the like must not report anything.
    assert_eq!(intake.postback("HEAD", TOKEN, &query).await.status, 405);
    let wrong = intake.postback("GET", TOKEN, "click_id=clk_1&payout=1,5").await;
    assert_eq!((wrong.status, wrong.body["errors"].as_array().unwrap().len()), (422, 2), "{}", wrong.body);

    // Whatever is no token of a postback is answered alike.
    write(&bus, &key(3, "chk_both", &[Scope::Postback, Scope::Conversions])).await;
    write(&bus, &key(4, "chk_admin", &[Scope::Admin])).await;
    eventually("the keys are known", async || (intake.post("chk_admin", "", "").await.status == 400).then_some(()))
        .await;
    let unknown = intake.postback("GET", "chk_unknown", &query).await;
    assert_eq!(unknown.status, 404);
    for token in ["chk_both", "chk_admin", SECRET, "%00", "%ff", "..%2f", "a%20b"] {
        let answer = intake.postback("GET", token, &query).await;
        assert_eq!((answer.status, &answer.body), (404, &unknown.body), "{token}");
    }
    assert_eq!(intake.post(TOKEN, "", "{}").await.status, 403);

    let records = recorded(&bus, 4).await;
    assert_eq!(records.len(), 4);
    for (record, conversion) in records {
        assert_eq!(record.partition, bus.partition_of_shard(Topic::ConversionsRaw, conversion.shard()));
        assert_eq!(conversion.same_as, format!("click/{click}/conversion"));
        assert_eq!(conversion.amount.unwrap().value, 1250);
        assert!(!record.value.contains(TOKEN), "{}", record.value);
    }
    assert!(!intake.metrics.text().contains(TOKEN));
    let outside = intake.send(&request("GET", &format!("/v2/postback/{TOKEN}"), "", "")).await;
    assert_eq!(outside.status, 404);
    assert!(!outside.body.to_string().contains(TOKEN), "{}", outside.body);
    intake.stop().await;
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let bus = testbed::bus().await;
    let intake = intake(&bus, Config::default()).await;
    let good = json!({"click_id": click(), "name": "signup"}).to_string();
    let ended = Timestamp::from_millis(1);
    let previous = PreviousSecret { hash: keyring::hash("chk_before"), expires_at: Timestamp::now().plus(PATIENCE) };
    write(&bus, &Key { expires_at: Some(ended), ..key(3, "chk_expired", &[Scope::Conversions]) }).await;
    write(&bus, &key(4, "chk_links", &[Scope::Links, Scope::Stats])).await;
    write(&bus, &Key { previous: Some(previous), ..key(5, "chk_rotated", &[Scope::Admin]) }).await;
    eventually("the keys are known", async || {
        (intake.post("chk_rotated", "", &good).await.status == 202).then_some(())
    })
    .await;
    assert_eq!(intake.post("chk_before", "", &good).await.status, 202);
    for wrong in ["chk_expired", "", "chk", &keyring::hash(SECRET)] {
        let answer = intake.post(wrong, "", &good).await;
        assert_eq!(answer.status, 401, "{wrong}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
    }
    assert_eq!(intake.send(&request("POST", "/v1/conversions", "", &good)).await.status, 401);
    let lacks = intake.post("chk_links", "", &good).await;
    assert_eq!((lacks.status, lacks.body["type"].as_str()), (403, Some("urn:clickhook:problem:forbidden")));
    assert!(lacks.body["detail"].as_str().unwrap().contains("conversions"), "{}", lacks.body);

    // An operator may name another workspace, which must exist; nobody else may.
    write(&bus, &key(6, "chk_operator", &[Scope::Operator])).await;
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let (at, gone) = (Timestamp::from_millis(0), Some(Timestamp::from_millis(1)));
    for (id, deleted_at) in [("deleted", gone), ("other", None)] {
        let (name, limits) = (id.to_owned(), WorkspaceLimits::default());
        let (created_at, updated_at) = (at, at);
        let id = WorkspaceId::new(id);
        let workspace = Workspace { id, name, limits, deleted_at, created_at, updated_at, revision: 1 };
        let value = serde_json::to_vec(&workspace).unwrap();
        let key = workspace.id.as_str().as_bytes();
        producer.produce(&Outgoing::keyed(Topic::Workspaces, key, Some(&value))).await.unwrap();
    }
    let names = |workspace: &str| format!("X-Clickhook-Workspace: {workspace}\r\n");
    eventually("the workspace is known", async || {
        (intake.post("chk_operator", &names("other"), &good).await.status == 202).then_some(())
    })
    .await;
    for (secret, workspace, status) in [
        ("chk_operator", "acme", 202),
        ("chk_operator", "nobodys", 404),
        ("chk_operator", "deleted", 404),
        ("chk_operator", "\u{fc}", 404),
        (SECRET, "acme", 202),
        (SECRET, "other", 403),
        ("chk_rotated", "other", 403),
    ] {
        let answer = intake.post(secret, &names(workspace), &good).await;
        assert_eq!(answer.status, status, "{secret} {workspace}: {}", answer.body);
    }
    let of_other = testbed::read(&bus, Topic::ConversionsRaw, |reads| reads.len() >= 5).await;
    assert_eq!(of_other.iter().filter(|read| read.value.contains("\"workspace\":\"other\"")).count(), 1);

    // A key that is taken away opens nothing from then on.
    let id = KeyId::from_bits(1).to_string();
    producer.produce(&Outgoing::keyed(Topic::Keys, id.as_bytes(), None)).await.unwrap();
    eventually("the key is gone", async || (intake.post(SECRET, "", &good).await.status == 401).then_some(())).await;

    let uses = testbed::read(&bus, Topic::KeyUses, |read| !read.is_empty()).await;
    let rotated = KeyId::from_bits(5).to_string();
    assert_eq!(uses.iter().filter(|read| read.key == rotated).count(), 1, "once a minute, not once a call: {uses:?}");
    intake.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_by_what_is_wrong_with_it() {
    let bus = testbed::bus().await;
    let intake = intake(&bus, Config::default()).await;
    let click = click();
    let with = |field: &str, value: Value| {
        let mut body = json!({"click_id": click, "name": "signup"});
        body[field] = value;
        body.to_string()
    };
    for (body, status, field) in [
        (String::new(), 400, None),
        ("{".to_owned(), 400, None),
        ("[]".to_owned(), 422, Some("(body)")),
        ("{}".to_owned(), 422, Some("name")),
        (with("click_id", json!("abc")), 422, Some("click_id")),
        (with("click_id", json!(7)), 422, Some("click_id")),
        (with("name", Value::Null), 422, Some("name")),
        (with("nmae", json!("a")), 422, Some("nmae")),
        (with("amount", json!({"value": 1.5, "currency": "EUR"})), 422, Some("amount.value")),
        (with("amount", json!({"value": 1e300, "currency": "EUR"})), 422, Some("amount.value")),
        (with("amount", json!({"value": 1})), 422, Some("currency")),
        (with("amount", json!({"value": 1, "currency": "euro"})), 422, Some("amount.currency")),
        (with("timestamp", json!("yesterday")), 422, Some("timestamp")),
        (with("timestamp", json!("2999-01-01T00:00:00Z")), 422, Some("timestamp")),
        (with("metadata", json!({"a": 1})), 422, Some("metadata.a")),
        (with("product", json!("a".repeat(2 << 20))), 413, None),
        ("{}\n".repeat(5_001), 413, None),
        (format!(r#"{{"click_id":"{click}","name":"a","name":"b"}}"#), 422, Some("name")),
        (format!(r#"{{"click_id":"{click}","name":"\ud800"}}"#), 400, None),
    ] {
        let answer = intake.post(SECRET, "", &body).await;
        let shown: String = body.chars().take(100).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.body);
        assert!(answer.head.contains("application/problem+json"), "{}", answer.head);
        assert_eq!(answer.body["errors"][0]["field"].as_str(), field, "{shown}: {}", answer.body);
    }
    let good = with("name", json!("a"));
    let unnamed = intake.post(SECRET, "Idempotency-Key: \r\n", &good).await;
    assert_eq!((unnamed.status, &unnamed.body["errors"][0]["field"]), (422, &json!("Idempotency-Key")));
    for (method, path, status) in [("GET", "/v1/conversions", 405), ("PUT", "/v1/postback/a", 405), ("GET", "/", 404)] {
        let answer = intake.send(&request(method, path, "", "")).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.head.contains("application/problem+json"), "{}", answer.head);
    }
    // Nothing of all this was recorded.
    assert_eq!(intake.post(SECRET, "", &good).await.status, 202);
    assert_eq!(recorded(&bus, 1).await.len(), 1);
    intake.stop().await;
}

#[tokio::test]
async fn each_key_has_a_rate_of_its_own() {
    let bus = testbed::bus().await;
    let one_a_second = Config { intake_rate_per_s: NonZeroU32::MIN, ..Config::default() };
    let intake = intake(&bus, one_a_second).await;
    let query = format!("click_id={}", click());
    assert_eq!(intake.postback("GET", TOKEN, &query).await.status, 202);
    let limited = eventually("the rate is exceeded", async || {
        let answer = intake.postback("GET", TOKEN, &query).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    assert!(limited.head.contains("retry-after: 1"), "{}", limited.head);
    let good = json!({"click_id": click(), "name": "signup"}).to_string();
    assert_eq!(intake.post(SECRET, "", &good).await.status, 202);
    intake.stop().await;
}

#[tokio::test]
async fn the_keys_of_a_workspace_share_a_rate() {
    let bus = testbed::bus().await;
    let one_a_second = Config { intake_workspace_rate_per_s: NonZeroU32::MIN, ..Config::default() };
    let intake = intake(&bus, one_a_second).await;
    write(&bus, &Key { workspace: WorkspaceId::new("other"), ..key(7, "chk_other", &[Scope::Conversions]) }).await;
    let good = json!({"click_id": click(), "name": "signup"}).to_string();
    let query = format!("click_id={}", click());
    // Each call is by another key of the workspace.
    let limited = eventually("the workspace's rate is exceeded", async || {
        let (key, token) = (intake.post(SECRET, "", &good).await, intake.postback("GET", TOKEN, &query).await);
        [key, token].into_iter().find(|answer| answer.status == 429)
    })
    .await;
    assert!(limited.body["detail"].as_str().unwrap().contains("workspace"), "{}", limited.body);
    eventually("another workspace calls", async || {
        (intake.post("chk_other", "", &good).await.status == 202).then_some(())
    })
    .await;
    intake.stop().await;
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let bus = testbed::bus().await;
    let intake = intake(&bus, Config::default()).await;
    let (any, data) = ("127.0.0.1:0".parse().unwrap(), tempfile::tempdir().unwrap());
    let taken = intake.running.intake_addr();
    let config = Config { listen: any, intake_listen: taken, data_dir: data.path().to_owned(), ..Config::default() };
    let second = ingest::start(config, bus, Process::default()).await;
    let error = second.err().expect("the address is taken").to_string();
    assert!(error.contains(&taken.to_string()) && error.contains("ingest.intake_listen"), "{error}");
    intake.stop().await;
}

/// Kafka is killed under load, comes back, and is killed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_there_is_no_202_and_with_it_there_is_a_record() {
    let data = tempfile::tempdir().unwrap();
    // Kafka is of its own, to be killed; nothing here asks ClickHouse.
    let options = engines::Options { clickhouse: Some(testbed::clickhouse()), ..engines::Options::new(data.path()) };
    let kafka = engines::Engines::start(options).await.unwrap();
    let bus = Bus::new(BusConfig { brokers: kafka.kafka_brokers(), ..testbed::bus_config() });
    bus.migrate().await.unwrap();
    let intake = intake(&bus, Config { intake_ack_timeout_ms: 300, ..Config::default() }).await;
    let mut promised = Vec::new();
    for round in 0..2 {
        for expected in [202, 503, 202] {
            if expected == 503 {
                // Kafka takes records a moment before it is known to be ready.
                let pid = eventually("Kafka runs", async || kafka.pids().kafka).await.to_string();
                assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            }
            // What is answered meanwhile is one or the other.
            eventually("Kafka's state shows", async || {
                let body = json!({"click_id": click(), "name": "signup", "order_id": round.to_string()}).to_string();
                let answer = intake.post(SECRET, "", &body).await;
                match answer.status {
                    202 => promised.push(answer.body["id"].as_str().unwrap().to_owned()),
                    503 => assert!(answer.head.contains("retry-after: 1"), "{}", answer.head),
                    other => panic!("{other}: {}", answer.body),
                }
                (answer.status == expected).then_some(())
            })
            .await;
        }
    }
    let records = recorded(&bus, promised.len()).await;
    for id in &promised {
        assert!(records.iter().any(|(_, conversion)| conversion.id.to_string() == *id), "{id} is not on the topic");
    }
    intake.stop().await;
    kafka.shutdown().await;
}
