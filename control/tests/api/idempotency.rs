//! `Idempotency-Key`: a repeated call is answered as before and carried out once, also by another leader.

use std::time::Duration;

use schemas::{Timestamp, Topic};
use serde_json::json;
use testbed::{eventually, read};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Answer, Api, leader};

async fn post(api: Api, path: &str, key: &str, body: &serde_json::Value) -> Answer {
    api.send("POST", path, &format!("Idempotency-Key: {key}\r\n"), &body.to_string()).await
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

#[tokio::test]
async fn a_call_that_is_repeated_is_answered_as_before_and_done_once() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let body = json!({"destination": "https://acme.example/"});

    let first = post(api, "/v1/links", "order-1", &body).await;
    let again = post(api, "/v1/links", "order-1", &body).await;
    assert_eq!((first.status, replayed(&first)), (201, false), "{first:?}");
    assert_eq!((again.status, replayed(&again)), (201, true), "{again:?}");
    assert_eq!(again.body, first.body);
    for name in ["location", "etag", "content-type"] {
        assert!(first.header(name).is_some(), "{name}");
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
    let other = post(api, "/v1/links", "order-2", &body).await;
    assert_ne!(other.body["id"], first.body["id"]);
    assert_eq!(api.get("/v1/links").await.body["data"].as_array().unwrap().len(), 2);

    let misused = post(api, "/v1/links", "order-1", &json!({"destination": "https://other.example/"})).await;
    assert_eq!((misused.status, misused.fields()), (422, vec!["Idempotency-Key"]), "{misused:?}");
    let elsewhere = post(api, "/v1/campaigns", "order-1", &json!({"name": "winter"})).await;
    assert_eq!(elsewhere.status, 422);
    let long = post(api, "/v1/links", &"k".repeat(256), &body).await;
    assert_eq!((long.status, long.fields()), (422, vec!["Idempotency-Key"]));

    // A call that was refused can be repeated.
    let refused = post(api, "/v1/links", "order-3", &json!({"destination": "nowhere"})).await;
    assert_eq!(refused.status, 422);
    assert_eq!(post(api, "/v1/links", "order-3", &body).await.status, 201);
    instance.stop().await;
}

#[tokio::test]
async fn of_calls_at_once_under_one_key_one_is_done() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let calls = (0..16)
        .map(|_| tokio::spawn(async move { post(api, "/v1/campaigns", "at-once", &json!({"name": "winter"})).await }));
    let mut ids = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        ids.push(answer.body["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    instance.stop().await;
}

#[tokio::test]
async fn another_key_is_not_answered_what_this_one_was() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let above = operator.post("/v1/keys", json!({"name": "root", "scopes": ["operator"]})).await;
    let admin = operator.scoped(&["admin"]).await;
    let rotate = format!("/v1/keys/{}/rotate", above.body["id"].as_str().unwrap());
    let rotated = post(operator, &rotate, "rotate-1", &json!({})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let secret = rotated.body["secret"].as_str().unwrap();

    // Another key's calls are calls of their own.
    let guessed = post(admin, &rotate, "rotate-1", &json!({})).await;
    assert_eq!((guessed.status, replayed(&guessed)), (403, false), "{guessed:?}");
    assert!(!guessed.body.to_string().contains(secret));
    let again = post(operator, &rotate, "rotate-1", &json!({})).await;
    assert_eq!((again.status, replayed(&again), &again.body), (200, true, &rotated.body));
    instance.stop().await;
}

#[tokio::test]
async fn the_next_leader_knows_what_was_answered_and_no_secret_is_in_the_topic() {
    let bus = testbed::bus().await;
    let first = leader(&bus).await;
    let body = json!({"url": "https://hooks.example/", "events": ["link.clicked"]});
    let made = post(first.api(), "/v1/endpoints", "hook", &body).await;
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    let kept = read(&bus, Topic::Idempotency, |records| !records.is_empty()).await;
    assert!(kept.iter().all(|record| !record.value.contains(&secret)));
    first.stop().await;

    let next = leader(&bus).await;
    let again = post(next.api(), "/v1/endpoints", "hook", &body).await;
    assert_eq!((again.status, replayed(&again)), (201, true), "{again:?}");
    assert_eq!(again.body, made.body);
    next.stop().await;
}

#[tokio::test]
async fn two_callers_of_a_workspace_do_not_meet_under_one_idempotency_key() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let (crm, shop) = (instance.api().scoped(&["links"]).await, instance.api().scoped(&["links"]).await);
    let first = post(crm, "/v1/links", "order-17", &json!({"destination": "https://a.example/"})).await;
    let second = post(shop, "/v1/links", "order-17", &json!({"destination": "https://b.example/"})).await;
    assert_eq!((first.status, second.status), (201, 201), "{second:?}");
    assert_ne!(first.body["id"], second.body["id"]);
    instance.stop().await;
}

#[tokio::test]
async fn a_call_is_answered_as_before_whatever_has_happened_since() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let soon = Timestamp::now().plus(Duration::from_millis(1500)).to_string();
    let key = json!({"name": "brief", "scopes": ["links"], "expires_at": soon});
    let made = post(api, "/v1/keys", "brief", &key).await;
    assert_eq!(made.status, 201, "{made:?}");
    let endpoint = api.post("/v1/endpoints", json!({"url": "https://a.example/", "events": ["*"]})).await;
    let endpoint = format!("/v1/endpoints/{}", endpoint.body["id"].as_str().unwrap());
    let test = format!("{endpoint}/test");
    let sent = post(api, &test, "test-1", &json!({})).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    assert_eq!(api.delete(&endpoint).await.status, 204);
    let again = post(api, &test, "test-1", &json!({})).await;
    assert_eq!((again.status, replayed(&again), &again.body), (202, true, &sent.body));
    assert_eq!(post(api, &test, "test-2", &json!({})).await.status, 404);
    let expired = api.with(made.body["secret"].as_str().unwrap());
    eventually("the key expires", async || (expired.get("/v1/links").await.status == 401).then_some(())).await;
    let again = post(api, "/v1/keys", "brief", &key).await;
    assert_eq!((again.status, replayed(&again), &again.body), (201, true, &made.body), "{again:?}");
    instance.stop().await;
}

#[tokio::test]
async fn no_body_is_waited_for_before_the_scope_is_known() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let weak = instance.api().scoped(&["stats"]).await;
    let mut stream = TcpStream::connect(weak.address).await.unwrap();
    let head = format!(
        "POST /v1/links HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nIdempotency-Key: x\r\n\
         Content-Length: 100\r\n\r\n",
        weak.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    instance.stop().await;
}
