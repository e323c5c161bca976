//! Webhooks on a real Kafka: what receivers see, which records remain in the topics,
//! and that no endpoint waits for another.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batches;
mod formats;
mod limits;
mod receiver;
mod rig;

use std::{collections::HashSet, io::Write, process::Stdio};

use bus::BusConfig;
use dispatcher::webhook::{
    Config,
    sign::Signer,
    verify::{Age, verify},
};
use receiver::{Received, Receiver, Reply};
use rig::{Rig, TRACE, click, config};
use schemas::{
    Attempt, Dead, DelayTier, Delivery, EndpointId, EndpointStatus, EventName, Outcome, RetrySchedule, Timestamp,
    Topic, endpoint_health::EndpointHealth, sample,
};
use service::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn assert_verified(received: &Received, secret: &Secret) {
    let signer = Signer::new(secret).unwrap();
    verify(&[signer], &received.headers, &received.body, Age::At(Timestamp::now())).unwrap();
}

/// Verifies a webhook with a receiver's few lines of another language.
fn run(program: &[&str], received: &Received, secret: &Secret) {
    let mut child = std::process::Command::new(program[0])
        .args(&program[1..])
        .env("SECRET", secret.expose())
        .env("ID", received.header("webhook-id"))
        .env("TIMESTAMP", received.header("webhook-timestamp"))
        .env("SIGNATURE", received.header("webhook-signature"))
        .env("SIMPLE", received.header("x-webhook-signature"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program[0]));
    child.stdin.take().unwrap().write_all(&received.body).unwrap();
    assert!(child.wait().unwrap().success(), "{} does not verify", program[0]);
}

/// A receiver that parses the body, serializes it again and verifies the result, as
/// many do.
const JAVASCRIPT: &str = r"
const { createHmac } = require('node:crypto');
const body = JSON.stringify(JSON.parse(require('node:fs').readFileSync(0, 'utf8')));
const { SECRET, ID, TIMESTAMP, SIGNATURE, SIMPLE } = process.env;
const key = Buffer.from(SECRET.slice('whsec_'.length), 'base64');
const standard = 'v1,' + createHmac('sha256', key).update(`${ID}.${TIMESTAMP}.${body}`).digest('base64');
const simple = createHmac('sha256', SECRET).update(body).digest('hex');
process.exit(standard === SIGNATURE && simple === SIMPLE ? 0 : 1);
";

const PYTHON: &str = r"
import base64, hashlib, hmac, os, sys
body, e = sys.stdin.buffer.read(), os.environ
key = base64.b64decode(e['SECRET'].removeprefix('whsec_'))
signed = '{ID}.{TIMESTAMP}.'.format(**e).encode() + body
standard = 'v1,' + base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()
simple = hmac.digest(e['SECRET'].encode(), body, 'sha256').hex()
sys.exit(0 if standard == e['SIGNATURE'] and simple == e['SIMPLE'] else 1)
";

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_the_bytes_that_were_signed() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let (endpoint, secret) = rig.add(&receiver.url).await;
    let running = rig.start(config()).await;

    let event = click();
    let body = rig.emit(&event, None).await;
    let created = rig.emit(&sample::event(EventName::LinkCreated, Timestamp::now()), None).await;
    let received = receiver.wait(2).await;
    let find = |name| received.iter().find(|received| received.header("x-webhook-event") == name).unwrap();
    let clicked = find("link.clicked");
    let made = find("link.created");

    assert_eq!(clicked.body, body);
    assert_eq!(made.body, created);
    assert_eq!(clicked.path, "/hook");
    assert_eq!(clicked.header("webhook-id"), event.id.to_string());
    assert_eq!(clicked.header("x-webhook-attempt"), "1");
    assert_eq!(clicked.header("content-type"), "application/json");
    assert_eq!(clicked.header("traceparent"), TRACE);
    assert!(clicked.header("user-agent").starts_with("clickhook/"));
    for received in [clicked, made] {
        assert_verified(received, &secret);
        run(&["node", "-e", JAVASCRIPT], received, &secret);
        run(&["python3", "-c", PYTHON], received, &secret);
    }

    let attempts: Vec<Attempt> = rig.read(Topic::Attempts, 2).await;
    for attempt in attempts {
        assert_eq!(attempt.endpoint, endpoint);
        assert_eq!(attempt.outcome, Outcome::Delivered);
        assert_eq!(attempt.status, Some(200));
        assert_eq!(attempt.response.as_deref(), Some("answered"));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_out_as_it_stands_in_the_record() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    let (_, secret) = rig.add(&receiver.url).await;
    let running = rig.start(config()).await;
    let odd = serde_json::to_string(&click()).unwrap().replacen(':', " :\t", 3).replace("social", "s\\u006fcial");
    rig.emit_body(EventName::LinkClicked, &odd, None).await;
    let received = receiver.wait(1).await;
    assert_eq!(received[0].body, odd);
    assert_verified(&received[0], &secret);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_delays_no_other() {
    let rig = Rig::new().await;
    let hanging = Receiver::start(&[Reply::Hang]).await;
    let healthy = Receiver::start(&[Reply::Status(200)]).await;
    let (mut slow, _) = rig.endpoint(&hanging.url);
    slow.timeout_ms = 60_000;
    rig.write(&slow).await;
    rig.add(&healthy.url).await;
    let config = Config { max_in_flight: 4, retry_speedup: 1, drain_ms: 0, ..config() };
    let running = rig.start(config).await;
    let mut expected = HashSet::new();
    // More at once than the hanging endpoint has room for, but not more than the healthy
    // one has.
    for _ in 0..10 {
        for _ in 0..20 {
            let event = click();
            expected.insert(event.id.to_string());
            rig.emit(&event, None).await;
        }
        healthy.wait(expected.len()).await;
    }
    let ids: HashSet<String> =
        healthy.received().iter().map(|received| received.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, expected);
    assert_eq!(hanging.received().len(), 4, "no more than may be in flight");
    // Deliveries that found no room are on a delay topic, without a spent attempt.
    let waiting: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Seconds5), 150).await;
    assert!(waiting.iter().all(|delivery| delivery.attempt == 1 && delivery.endpoint == slow.id));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_is_tried_again_with_the_same_bytes_and_then_given_up() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(500), Reply::Redirect, Reply::Status(503)]).await;
    let (endpoint, secret) = rig.add(&receiver.url).await;
    let running = rig.start(config()).await;
    let event = click();
    let body = rig.emit(&event, None).await;

    let dead: Vec<Dead> = rig.read(Topic::Dead, 1).await;
    let received = receiver.received();
    assert_eq!(received.len(), 3);
    for (received, attempt) in received.iter().zip(1..) {
        assert_eq!(received.body, body);
        assert_eq!(received.path, "/hook", "a redirect is not followed");
        assert_eq!(received.header("webhook-id"), event.id.to_string());
        assert_eq!(received.header("x-webhook-attempt"), attempt.to_string());
        assert_eq!(received.header("traceparent"), TRACE);
        assert_verified(received, &secret);
    }
    assert!(dead[0].reason.contains("503") && dead[0].reason.contains("3 of 3"), "{}", dead[0].reason);
    let delivery = dead[0].delivery.as_ref().unwrap();
    assert_eq!(delivery.endpoint, endpoint);
    assert_eq!(delivery.events.len(), 1);
    assert_eq!(delivery.events[0].id, event.id);
    assert_eq!(delivery.events[0].body, body);
    assert_eq!(delivery.packing, None, "it can be delivered again as its endpoint then wants it");

    let mut attempts: Vec<Attempt> = rig.read(Topic::Attempts, 3).await;
    attempts.sort_by_key(|attempt| attempt.attempt);
    let outcomes: Vec<_> = attempts.iter().map(|attempt| (attempt.attempt, attempt.outcome, attempt.status)).collect();
    assert_eq!(
        outcomes,
        [(1, Outcome::Retrying, Some(500)), (2, Outcome::Retrying, Some(307)), (3, Outcome::Dead, Some(503))]
    );
    for (metric, value) in [
        (r#"clickhook_webhook_verdicts_total{verdict="retry",fault="endpoint"}"#, 2),
        (r#"clickhook_webhook_verdicts_total{verdict="dead",fault="endpoint"}"#, 1),
        (r#"clickhook_webhook_answers_total{status="3xx"}"#, 1),
        (r#"clickhook_webhook_retries_total{attempt="3"}"#, 1),
    ] {
        running.until_metric(metric, value).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_too_large_for_a_retry_is_dead_lettered_in_part() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(500)]).await;
    let (endpoint, _) = rig.add(&receiver.url).await;
    let running = rig.start(config()).await;
    // As a JSON string, each of these quotes takes twice as much again: the event still
    // fits into a record, its delivery does not.
    let padding = r#"\""#.repeat(1_500_000);
    let event = click();
    let body = serde_json::to_string(&event).unwrap().replacen('{', &format!(r#"{{"padding":"{padding}","#), 1);
    rig.emit_body(EventName::LinkClicked, &body, None).await;

    let dead: Vec<Dead> = rig.read(Topic::Dead, 1).await;
    assert!(dead[0].reason.contains("too large for a delay topic"), "{}", dead[0].reason);
    assert!(dead[0].reason.contains("its content was cut"), "{}", dead[0].reason);
    assert_eq!(dead[0].delivery, None);
    let excerpt = dead[0].payload.as_ref().unwrap();
    assert!(body.starts_with(excerpt.as_str()));
    assert_eq!(excerpt.len(), 256 * 1024);
    let attempts: Vec<Attempt> = rig.read(Topic::Attempts, 1).await;
    assert_eq!(attempts[0].endpoint, endpoint);
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_gets_nothing_more() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(410)]).await;
    let (endpoint, _) = rig.add(&receiver.url).await;
    let running = rig.start(config()).await;
    rig.emit(&click(), None).await;
    let dead: Vec<Dead> = rig.read(Topic::Dead, 1).await;
    assert!(dead[0].reason.contains("410"), "{}", dead[0].reason);
    // The leader of the control plane is told, and nothing is sent until it has decided.
    let reports: Vec<EndpointHealth> = rig.read(Topic::Health, 1).await;
    assert_eq!(reports[0].endpoint, endpoint);
    assert!(reports[0].gone_at.is_some());
    for _ in 0..5 {
        rig.emit(&click(), None).await;
    }
    let attempts: Vec<Attempt> = rig.read(Topic::Attempts, 6).await;
    let skipped = attempts.iter().filter(|attempt| attempt.outcome == Outcome::Skipped).count();
    assert_eq!(skipped, 5);
    running.stop().await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_2xx_whose_body_never_ends_is_delivered_once() {
    let rig = Rig::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (mut endpoint, _) = rig.endpoint(&url);
    // Long enough for a busy machine to accept the connection and answer.
    endpoint.timeout_ms = 3_000;
    rig.write(&endpoint).await;
    let running = rig.start(config()).await;
    rig.emit(&click(), None).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    // An answer before the request is none.
    assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nok").await.unwrap();
    let attempts: Vec<Attempt> = rig.read(Topic::Attempts, 1).await;
    assert_eq!(attempts[0].outcome, Outcome::Delivered);
    assert_eq!(attempts[0].status, Some(202));
    assert_eq!(attempts[0].response.as_deref(), Some("ok"));
    let error = attempts[0].error.as_deref().unwrap();
    assert_eq!(error, "the endpoint answered 202, but its body did not end in time");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_at_a_restart_comes_again_with_its_id() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Hang, Reply::Status(200)]).await;
    rig.add(&receiver.url).await;
    let running = rig.start(Config { drain_ms: 0, ..config() }).await;
    let event = click();
    rig.emit(&event, None).await;
    receiver.wait(1).await;
    running.stop().await;

    let running = rig.start(config()).await;
    let received = receiver.wait(2).await;
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert_eq!(received[0].body, received[1].body);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_before_a_restart_does_not_come_again() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    rig.add(&receiver.url).await;
    let running = rig.start(config()).await;
    for _ in 0..20 {
        rig.emit(&click(), None).await;
    }
    receiver.wait(20).await;
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 20);

    let running = rig.start(config()).await;
    rig.emit(&click(), None).await;
    let received = receiver.wait(21).await;
    let ids: HashSet<&str> = received.iter().map(|received| received.header("webhook-id")).collect();
    assert_eq!(ids.len(), 21);
    assert_eq!(received.len(), 21);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_goes_to_dead_alone() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    rig.add(&receiver.url).await;
    let running = rig.start(config()).await;
    let before = rig.emit(&click(), None).await;
    let offset = rig.produce(Topic::Clicks, 0, b"{\"v\":1,\"workspace\":\"def\xff", &[]).await;
    let after = rig.emit(&click(), None).await;

    let bodies: HashSet<_> = receiver.wait(2).await.into_iter().map(|received| received.body).collect();
    assert_eq!(bodies, HashSet::from([before.into(), after.into()]));
    let dead: Vec<Dead> = rig.read(Topic::Dead, 1).await;
    assert!(dead[0].reason.contains("envelope"), "{}", dead[0].reason);
    assert_eq!(dead[0].origin.topic, rig.bus.topics().name(Topic::Clicks));
    assert_eq!(dead[0].origin.partition, 0);
    assert_eq!(dead[0].origin.offset, offset);
    assert!(dead[0].payload.as_ref().unwrap().starts_with("{\"v\":1"));
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_reaches_its_endpoint_alone_whatever_that_asks_for() {
    let rig = Rig::new().await;
    let named = Receiver::start(&[]).await;
    let other = Receiver::start(&[]).await;
    let (mut endpoint, secret) = rig.endpoint(&named.url);
    endpoint.events = serde_json::from_str(r#"["link.deleted"]"#).unwrap();
    endpoint.filters = serde_json::from_str(r#"{"country":["DE"]}"#).unwrap();
    rig.write(&endpoint).await;
    rig.add(&other.url).await;
    let running = rig.start(config()).await;

    let test = click();
    rig.emit(&test, Some(endpoint.id)).await;
    let received = named.wait(1).await;
    assert_eq!(received[0].header("webhook-id"), test.id.to_string());
    assert_verified(&received[0], &secret);
    // The next event on the same partition is delivered as well.
    rig.emit(&sample::event(EventName::LinkCreated, Timestamp::now()), None).await;
    let received = other.wait(1).await;
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].header("x-webhook-event"), "link.created");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_waits_once_for_its_endpoint_to_become_known() {
    let rig = Rig::new().await;
    let running = rig.start(Config { retry_speedup: 1, ..config() }).await;
    let unknown = EndpointId::mint();
    rig.emit(&sample::event(EventName::WebhookTest, Timestamp::now()), Some(unknown)).await;
    let waiting: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Seconds5), 1).await;
    assert_eq!(waiting[0].endpoint, unknown);
    assert_eq!(waiting[0].attempt, 1);
    let attempts: Vec<Attempt> = rig.read(Topic::Attempts, 1).await;
    assert_eq!(attempts[0].endpoint, unknown);
    assert_eq!(attempts[0].outcome, Outcome::Skipped);
    assert_eq!(attempts[0].error.as_deref(), Some("there is no such endpoint"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_endpoint_gets_its_deliveries_once_it_is_resumed() {
    let rig = Rig::new().await;
    let paused = Receiver::start(&[Reply::Status(200)]).await;
    let active = Receiver::start(&[]).await;
    let (mut endpoint, _) = rig.endpoint(&paused.url);
    endpoint.status = EndpointStatus::Paused;
    rig.write(&endpoint).await;
    rig.add(&active.url).await;
    // Deliveries are held for 900 ms at a time.
    let running = rig.start(Config { retry_speedup: 2000, ..config() }).await;
    let event = click();
    rig.emit(&event, None).await;
    active.wait(1).await;
    let held: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Minutes30), 2).await;
    assert!(held.iter().all(|held| held.endpoint == endpoint.id && held.events[0].id == event.id && held.attempt == 1));
    assert!(held[0].held_since.is_some());
    assert_eq!(held[0].held_since, held[1].held_since, "it is held since the same time");
    assert!(paused.received().is_empty());

    endpoint.status = EndpointStatus::Active;
    endpoint.revision += 1;
    rig.write(&endpoint).await;
    let received = paused.wait(1).await;
    assert_eq!(received[0].header("webhook-id"), event.id.to_string());
    assert_eq!(received[0].header("x-webhook-attempt"), "1");
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_for_too_long_is_skipped() {
    let rig = Rig::new().await;
    let (mut endpoint, _) = rig.endpoint("http://127.0.0.1:9/hook");
    endpoint.status = EndpointStatus::Paused;
    rig.write(&endpoint).await;
    // 14 days are two seconds.
    let running = rig.start(Config { retry_speedup: 600_000, ..config() }).await;
    rig.emit(&click(), None).await;
    let attempts: Vec<Attempt> = rig.read(Topic::Attempts, 1).await;
    assert_eq!(attempts[0].endpoint, endpoint.id);
    assert_eq!(attempts[0].outcome, Outcome::Skipped);
    assert_eq!(attempts[0].error.as_deref(), Some("the endpoint was paused for 14 days"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_asks_for_an_hour_holds_up_no_other_retry() {
    // With one partition, both endpoints' retries share one queue.
    let rig = Rig::with_partitions(1).await;
    let patient = Receiver::start(&[Reply::RetryAfter(429, 3600)]).await;
    let quick = Receiver::start(&[Reply::Status(500), Reply::Status(200)]).await;
    rig.add(&patient.url).await;
    rig.add(&quick.url).await;
    let running = rig.start(config()).await;
    for _ in 0..5 {
        rig.emit(&click(), None).await;
    }
    patient.wait(5).await;
    quick.wait(6).await;
    running.stop().await;
    assert_eq!(patient.received().len(), 5, "what it asked for is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_refused_where_it_is_not_allowed() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[]).await;
    let port = receiver.url.trim_end_matches("/hook").rsplit(':').next().unwrap();
    // As a literal address, and through a name.
    for url in [receiver.url.clone(), format!("http://localhost:{port}/hook")] {
        let (mut endpoint, _) = rig.endpoint(&url);
        endpoint.retry_schedule = RetrySchedule::first(0);
        rig.write(&endpoint).await;
    }
    let config = Config { allow_private: false, ..config() };
    let running = rig.start(config).await;
    rig.emit(&click(), None).await;
    let dead: Vec<Dead> = rig.read(Topic::Dead, 2).await;
    for dead in dead {
        assert!(dead.reason.contains("loopback"), "{}", dead.reason);
    }
    assert!(receiver.received().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_finished_before_it_stops() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Hang, Reply::Status(200)]).await;
    let (mut endpoint, _) = rig.endpoint(&receiver.url);
    endpoint.timeout_ms = 700;
    rig.write(&endpoint).await;
    let running = rig.start(config()).await;
    rig.emit(&click(), None).await;
    receiver.wait(1).await;
    // The attempt fails while draining, and its retry is kept.
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 1);
    let waiting: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Minute1), 1).await;
    assert_eq!(waiting[0].attempt, 2);
    let running = rig.start(config()).await;
    receiver.wait(2).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_changes_is_followed() {
    let rig = Rig::new().await;
    let first = Receiver::start(&[]).await;
    let second = Receiver::start(&[]).await;
    let (mut endpoint, _) = rig.endpoint(&first.url);
    rig.write(&endpoint).await;
    let running = rig.start(config()).await;
    rig.emit(&click(), None).await;
    first.wait(1).await;
    endpoint.url.clone_from(&second.url);
    endpoint.revision += 1;
    rig.write(&endpoint).await;
    // Until the change is known, events go to the first address.
    testbed::eventually("an event at the new address", async || {
        rig.emit(&click(), None).await;
        (!second.received().is_empty()).then_some(())
    })
    .await;
    let before = first.received().len();
    let had = second.received().len();
    rig.emit(&click(), None).await;
    second.wait(had + 1).await;
    running.stop().await;
    assert_eq!(first.received().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_the_work_and_take_over_from_each_other() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    rig.add(&receiver.url).await;
    let mut expected = HashSet::new();
    let first = rig.start(config()).await;
    for partition in (0..4).cycle().take(40) {
        expected.insert(rig.emit_at(partition).await);
    }
    let second = rig.start(config()).await;
    for partition in (0..4).cycle().take(40) {
        expected.insert(rig.emit_at(partition).await);
    }
    first.stop().await;
    for partition in (0..4).cycle().take(40) {
        expected.insert(rig.emit_at(partition).await);
    }
    // Events that are sent twice around a rebalance have one id.
    testbed::eventually("every event", async || {
        let ids: HashSet<String> =
            receiver.received().iter().map(|received| received.header("webhook-id").to_owned()).collect();
        (ids == expected).then_some(())
    })
    .await;
    second.stop().await;
    let committed = rig.committed("webhook.clicks", Topic::Clicks).await;
    assert_eq!(committed, (0..4).map(|partition| (partition, 30)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_again_because_another_endpoint_hangs_while_partitions_change_hands() {
    let rig = Rig::new().await;
    let healthy = Receiver::start(&[Reply::Status(200)]).await;
    let mut replies = vec![Reply::Hang; 8];
    replies.push(Reply::Status(200));
    let hanging = Receiver::start(&replies).await;
    rig.add(&healthy.url).await;
    rig.add(&hanging.url).await;
    let first = rig.start(Config { max_in_flight: 4, ..config() }).await;
    let mut expected = HashSet::new();
    for partition in (0..4).cycle().take(40) {
        expected.insert(rig.emit_at(partition).await);
    }
    healthy.wait(40).await;
    // A delivery is made once Kafka has its attempt.
    testbed::eventually("the log of attempts", async || (rig.written(Topic::Attempts).await >= 40).then_some(())).await;
    let second = rig.start(Config { max_in_flight: 4, ..config() }).await;
    hanging.wait(5).await;
    first.stop().await;
    testbed::eventually("every event at the endpoint that hung", async || {
        let received = hanging.received();
        let ids: HashSet<&str> = received.iter().map(|received| received.header("webhook-id")).collect();
        (ids.len() == expected.len()).then_some(())
    })
    .await;
    second.stop().await;
    assert_eq!(healthy.received().len(), 40);
    let committed = rig.committed("webhook.clicks", Topic::Clicks).await;
    assert_eq!(committed, (0..4).map(|partition| (partition, 10)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_consumer_fails_rejoins_its_group() {
    let instance = testbed::unique("instance");
    let rig = Rig::with_config(BusConfig { instance: Some(instance), partitions: 1, ..testbed::bus_config() }).await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    rig.add(&receiver.url).await;
    let running = rig.start(config()).await;
    rig.emit(&click(), None).await;
    receiver.wait(1).await;

    rig.take_membership("webhook.clicks", Topic::Clicks).await;
    testbed::eventually("red readiness", async || running.health.waiting().get("webhook.clicks").cloned()).await;
    // The other readers go on meanwhile.
    rig.emit(&sample::event(EventName::LinkCreated, Timestamp::now()), None).await;
    receiver.wait(2).await;
    rig.emit(&click(), None).await;
    let received = receiver.wait(3).await;
    testbed::eventually("green readiness", async || running.health.is_ready().then_some(())).await;
    let ids: HashSet<&str> = received.iter().map(|received| received.header("webhook-id")).collect();
    assert_eq!(ids.len(), 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_endpoint_catches_up_in_one_go() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(200)]).await;
    rig.add(&receiver.url).await;
    // Far more than the lane takes for an endpoint whose throughput is not known. What is
    // written to a delay topic comes seconds later, and costs Kafka the more.
    let mut emitted = 0;
    for round in 0..500 {
        tokio::join!(
            rig.emit_at(round % 4),
            rig.emit_at(round % 4),
            rig.emit_at(round % 4),
            rig.emit_at(round % 4),
            rig.emit_at(round % 4),
            rig.emit_at(round % 4),
            rig.emit_at(round % 4),
            rig.emit_at(round % 4),
        );
        emitted += 8;
    }
    let config = Config { retry_speedup: 1, ..config() };
    let running = rig.start(config).await;
    let received = receiver.wait(emitted).await;
    let ids: HashSet<&str> = received.iter().map(|received| received.header("webhook-id")).collect();
    assert_eq!(ids.len(), emitted);
    running.stop().await;
    let spilled = rig.written(Topic::Delay(DelayTier::Seconds5)).await;
    assert!(spilled <= emitted as i64 / 100, "{spilled} of {emitted} went through a delay topic");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_keeps_failing_costs_no_attempts() {
    let rig = Rig::new().await;
    let failing = Receiver::start(&[Reply::Status(500)]).await;
    rig.add(&failing.url).await;
    let running = rig.start(Config { max_in_flight: 1, retry_speedup: 1, ..config() }).await;
    for _ in 0..40 {
        rig.emit(&click(), None).await;
    }
    // Ten failures open the breaker: the others wait with their first attempt unused.
    let waiting: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Seconds5), 30).await;
    assert!(waiting.iter().all(|delivery| delivery.attempt == 1));
    let retries: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Minute1), 10).await;
    assert!(retries.iter().all(|delivery| delivery.attempt == 2));
    running.until_metric(r#"clickhook_webhook_breakers{state="open"}"#, 1).await;
    // A probe that fails is one more.
    running.until_metric(r#"clickhook_webhook_delayed_deliveries{tier="1m"}"#, 10).await;
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 40);
}
