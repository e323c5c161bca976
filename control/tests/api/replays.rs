//! Replays: which events they hand over, what they refuse, and how they end.

use std::collections::BTreeSet;

use schemas::{DelayTier, Delivery, EventId, Topic};
use serde_json::{Value, json};
use testbed::{eventually, read};

use crate::support::{Api, leader};

async fn done(api: Api, path: &str, replay: &Value) -> Value {
    eventually("the replay is done", async || {
        let seen = api.get(&format!("{path}/replays/{}", replay["id"].as_str().unwrap())).await.body;
        (seen["state"] == "done").then_some(seen)
    })
    .await
}

#[tokio::test]
async fn events_of_a_time_or_with_an_id_are_handed_over_with_their_bytes() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let other = api.post("/v1/workspaces", json!({"id": "other"})).await;
    assert_eq!(other.status, 201, "{other:?}");
    for slug in ["a", "b", "c"] {
        let made = api.post("/v1/links", json!({"slug": slug, "destination": "https://example.com/"})).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    let elsewhere = api.within("other");
    elsewhere.post("/v1/domains", json!({"name": "go.other.example", "is_default": true})).await;
    elsewhere.post("/v1/links", json!({"slug": "x", "destination": "https://example.com/"})).await;
    let body = json!({"url": "https://hooks.example/a", "events": ["link.created"]});
    let endpoint = api.post("/v1/endpoints", body).await.body;
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    // Neither a sample nor an event that the endpoint does not ask for is replayed.
    api.post(&format!("{path}/test"), json!({"event": "link.created"})).await;
    let links = api.get("/v1/links").await.body;
    let link = links["data"][0]["id"].as_str().unwrap();
    api.patch(&format!("/v1/links/{link}"), json!({"campaign": "winter"})).await;

    let events = read(&bus, Topic::Events, |records| {
        records.iter().filter(|record| !record.value.contains("\"event\":\"audit.")).count() >= 5
    })
    .await;
    let bodies: BTreeSet<String> = events
        .iter()
        .filter(|record| record.value.contains(r#""workspace":"default""#) && !record.value.contains(r#""endpoint":"#))
        .filter(|record| record.value.contains("link.created"))
        .map(|record| serde_json::from_str::<Value>(&record.value).unwrap()["event"].to_string())
        .collect();
    assert_eq!(bodies.len(), 3);

    let replay = api.post(&format!("{path}/replay"), json!({"since": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(replay.status, 202, "{replay:?}");
    let replay = done(api, &path, &replay.body).await;
    assert_eq!((&replay["sent"], &replay["read"]), (&json!(3), &replay["records"]));
    let topic = Topic::Delay(DelayTier::Seconds5);
    let handed = read(&bus, topic, |records| records.len() >= 3).await;
    let handed: Vec<Delivery> = handed.iter().map(|record| serde_json::from_str(&record.value).unwrap()).collect();
    assert!(handed.iter().all(|delivery| delivery.attempt == 1 && delivery.packing.is_none()));
    let ids: Vec<EventId> = handed.iter().map(|delivery| delivery.events[0].id).collect();
    // The order of keys in a value of serde_json is another one than that of the body.
    let parsed = |delivery: &Delivery| serde_json::from_str::<Value>(&delivery.events[0].body).unwrap().to_string();
    assert_eq!(handed.iter().map(parsed).collect::<BTreeSet<String>>(), bodies);

    let one = api.post(&format!("{path}/replay"), json!({"event_ids": [ids[1], EventId::from_bits(7)]})).await;
    assert_eq!(one.status, 202, "{one:?}");
    assert_eq!(done(api, &path, &one.body).await["sent"], 1);
    let nothing = api
        .post(&format!("{path}/replay"), json!({"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z"}))
        .await;
    assert_eq!(done(api, &path, &nothing.body).await["sent"], 0);
    let records = read(&bus, topic, |records| records.len() >= 4).await;
    assert_eq!(records.len(), 4);

    let list = api.get(&format!("{path}/replays?limit=2")).await.body;
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    let next = list["next"].as_str().unwrap();
    let rest = api.get(&format!("{path}/replays?limit=2&cursor={next}")).await.body;
    assert_eq!((&rest["data"][0]["id"], rest.get("next")), (&replay["id"], None));
    let gone = format!("{path}/replays/{}", replay["id"].as_str().unwrap());
    assert_eq!(api.delete(&gone).await.status, 204);
    assert_eq!(api.get(&gone).await.status, 404);
    instance.stop().await;
}

#[tokio::test]
async fn a_replay_that_cannot_be_is_refused_with_the_field() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let endpoint = api.post("/v1/endpoints", json!({"url": "https://hooks.example/a", "events": ["*"]})).await.body;
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    let since = "2020-01-01T00:00:00Z";
    for (body, fields) in [
        (json!({}), vec!["since"]),
        (json!({"until": since}), vec!["since"]),
        (json!({"since": "2020-01-02T00:00:00Z", "until": since}), vec!["until"]),
        (json!({"since": since, "outcomes": []}), vec!["outcomes"]),
        (json!({"since": since, "outcomes": ["retrying"]}), vec!["outcomes"]),
        (json!({"since": since, "outcomes": ["lost"]}), vec!["outcomes[0]"]),
        (json!({"since": since, "event_ids": [EventId::from_bits(1)]}), vec!["since"]),
        (json!({"event_ids": []}), vec!["event_ids"]),
        (json!({"event_ids": ["evt_1"]}), vec!["event_ids[0]"]),
        (json!({"since": "yesterday"}), vec!["since"]),
    ] {
        let refused = api.post(&format!("{path}/replay"), body.clone()).await;
        assert_eq!((refused.status, refused.fields()), (422, fields), "{body}: {refused:?}");
    }
    let unknown = api.post("/v1/endpoints/ep_01KGQ7ZJ107000800000000000/replay", json!({"since": since})).await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
    // Without ClickHouse a replay by outcome waits, and there is one at a time until it is deleted.
    let waiting = api.post(&format!("{path}/recover"), json!({"since": since})).await;
    assert_eq!((waiting.status, &waiting.body["state"]), (202, &json!("running")), "{waiting:?}");
    let second = api.post(&format!("{path}/replay"), json!({"since": since})).await;
    assert_eq!(second.status, 409, "{second:?}");
    let id = waiting.body["id"].as_str().unwrap();
    assert_eq!(api.delete(&format!("{path}/replays/{id}")).await.status, 204);
    let third = api.post(&format!("{path}/replay"), json!({"since": since})).await;
    assert_eq!(third.status, 202, "{third:?}");

    // With its endpoint, a replay goes.
    let count = read(&bus, Topic::Replays, |records| records.len() >= 3).await.len();
    assert_eq!(api.delete(&path).await.status, 204);
    read(&bus, Topic::Replays, move |records| {
        records.len() > count && records.last().is_some_and(|last| last.value.is_empty())
    })
    .await;
    instance.stop().await;
}
