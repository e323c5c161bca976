//! `Idempotency-Key`: a repeated call is answered as before and carried out once, also by another leader.

use schemas::Topic;
use serde_json::json;
use testbed::read;

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

    let guessed = post(admin, &rotate, "rotate-1", &json!({})).await;
    assert_eq!((guessed.status, replayed(&guessed)), (422, false), "{guessed:?}");
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
