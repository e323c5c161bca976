//! Endpoints, their secrets, their tests and their health.

use std::time::Duration;

use bus::{Bus, Outgoing};
use schemas::{Endpoint, Timestamp, Topic, endpoint::HeaderText, endpoint_health::EndpointHealth};
use serde_json::{Value, json};
use service::vault::Vault;
use testbed::{eventually, read};

use crate::support::{Api, config, installation_key, leader, store, with_keys};

#[tokio::test]
async fn an_endpoint_shows_its_secret_once_and_can_be_tested() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let body = json!({"url": "https://hooks.example/a", "events": ["link.*"], "filters": {"country": "US"},
        "headers": {"Authorization": "Bearer x"}});
    let created = api.post("/v1/endpoints", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.body["id"].as_str().unwrap().to_owned();
    let secret = created.body["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let path = format!("/v1/endpoints/{id}");
    let seen = api.get(&path).await;
    assert_eq!((seen.status, seen.body.get("secret")), (200, None));
    assert_eq!((&seen.body["timeout_ms"], &seen.body["status"]), (&json!(5000), &json!("active")));
    assert_eq!(seen.body["filters"], json!({"country": ["US"]}));
    assert_eq!(api.get("/v1/endpoints").await.body["data"], json!([seen.body]));

    // The topic has the secret sealed for this endpoint.
    let records = read(&bus, Topic::Endpoints, |records| !records.is_empty()).await;
    assert!(!records[0].value.contains(secret));
    let endpoint: Endpoint = serde_json::from_str(&records[0].value).unwrap();
    assert_eq!(instance.vault.open(&id, &endpoint.secret).unwrap().as_slice(), secret.as_bytes());

    let first = api.send("POST", &format!("{path}/test"), "", "").await;
    let second = api.post(&format!("{path}/test"), json!({"event": "link.clicked"})).await;
    assert_eq!((first.status, second.status), (202, 202), "{first:?} {second:?}");
    assert_ne!(first.body["id"], second.body["id"]);
    let events = read(&bus, Topic::Events, |records| records.len() >= 2).await;
    let sent: Vec<Value> = events.iter().map(|record| serde_json::from_str(&record.value).unwrap()).collect();
    for (answer, name) in [(first, "webhook.test"), (second, "link.clicked")] {
        let envelope = sent.iter().find(|sent| sent["event"]["id"] == answer.body["id"]).unwrap();
        assert_eq!((&envelope["endpoint"], &envelope["event"]["event"]), (&json!(id), &json!(name)));
    }

    let paused = api.patch(&path, json!({"status": "paused", "filters": null})).await;
    assert_eq!((paused.status, &paused.body["status"], &paused.body["filters"]), (200, &json!("paused"), &json!({})));
    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.send("POST", &format!("{path}/test"), "", "").await.status, 404);
    let types = api.get("/v1/event-types").await;
    assert!(types.body["data"].as_array().unwrap().iter().any(|kind| kind["sample"]["event"] == "webhook.test"));
    instance.stop().await;
}

#[tokio::test]
async fn the_leader_seals_secrets_again_under_a_new_installation_key() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let body = json!({"url": "https://hooks.example/a", "events": ["*"], "headers": {"Authorization": "Bearer x"}});
    let created = instance.api().post("/v1/endpoints", body).await;
    let id = created.body["id"].as_str().unwrap().to_owned();
    let secret = created.body["secret"].as_str().unwrap().as_bytes();
    instance.stop().await;

    let new_key = "22".repeat(32);
    let keys = format!("{new_key},{}", installation_key());
    let instance = with_keys(&bus, store("nothing"), config(), &keys).await;
    let new = Vault::from_hex(&new_key).unwrap();
    let records = read(&bus, Topic::Endpoints, |records| records.len() >= 2).await;
    let endpoint: Endpoint = serde_json::from_str(&records[1].value).unwrap();
    assert_eq!(new.open(&id, &endpoint.secret).unwrap().as_slice(), secret);
    let HeaderText::Sealed(header) = &endpoint.headers["Authorization"] else { panic!("a header in clear") };
    let context = Endpoint::header_context(endpoint.id, "Authorization");
    assert_eq!(new.open(&context, header).unwrap().as_slice(), b"Bearer x");
    assert_eq!(endpoint.revision, 1, "nothing that callers see has changed");
    eventually("no secret is left under the old key", async || {
        instance.metrics.text().lines().any(|line| line == "clickhook_control_outdated_secrets 0").then_some(())
    })
    .await;
    instance.stop().await;
}

/// Reports an endpoint's health as a dispatcher does.
async fn report(bus: &Bus, process: &str, report: &EndpointHealth) {
    let producer = bus.producer("test", Duration::ZERO, Duration::from_secs(20)).unwrap();
    let value = serde_json::to_vec(report).unwrap();
    let key = report.key(process);
    producer.produce(&Outgoing::keyed(Topic::Health, key.as_bytes(), Some(&value))).await.unwrap();
}

fn healthy(id: &str) -> EndpointHealth {
    EndpointHealth {
        v: 1,
        endpoint: id.parse().unwrap(),
        failing_since: None,
        last_failure: None,
        last_success: Some(Timestamp::now()),
        gone_at: None,
    }
}

/// Waits until the endpoint satisfies the condition, and returns it.
async fn endpoint_that(api: &Api, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually("the endpoint's health", async || {
        let seen = api.get(path).await.body;
        is(&seen).then_some(seen)
    })
    .await
}

#[tokio::test]
async fn the_leader_marks_failing_endpoints_and_disables_them() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let created = api.post("/v1/endpoints", json!({"url": "https://hooks.example/a", "events": ["*"]})).await;
    let id = created.body["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/endpoints/{id}");

    // One of two processes cannot reach it: it is failing until another succeeds.
    let now = Timestamp::now();
    let failing =
        EndpointHealth { failing_since: Some(now), last_failure: Some(now), last_success: None, ..healthy(&id) };
    report(&bus, "a", &failing).await;
    let marked = endpoint_that(&api, &path, |seen| seen.get("failing_since").is_some()).await;
    assert_eq!(marked["status"], "active");
    report(&bus, "b", &healthy(&id)).await;
    endpoint_that(&api, &path, |seen| seen.get("failing_since").is_none()).await;

    // It answers 410.
    let gone = EndpointHealth { gone_at: Some(Timestamp::now()), last_success: None, ..healthy(&id) };
    report(&bus, "a", &gone).await;
    let disabled = endpoint_that(&api, &path, |seen| seen["status"] == "disabled").await;
    assert!(disabled["status_reason"].as_str().unwrap().contains("410"), "{disabled}");
    let tested = api.send("POST", &format!("{path}/test"), "", "").await;
    assert_eq!(tested.status, 409, "{tested:?}");

    // A caller enables it, and what was reported before does not count.
    let enabled = api.patch(&path, json!({"status": "active"})).await;
    assert_eq!(enabled.body["status"], "active");
    assert_eq!(enabled.body.get("status_reason"), None);
    assert_eq!(api.send("POST", &format!("{path}/test"), "", "").await.status, 202);

    // Nothing but failures for five days.
    let begin = Timestamp::now().plus(Duration::from_secs(10));
    let later = begin.plus(Duration::from_secs(5 * 24 * 3600));
    let failing =
        EndpointHealth { failing_since: Some(begin), last_failure: Some(later), last_success: None, ..healthy(&id) };
    report(&bus, "a", &failing).await;
    let disabled = endpoint_that(&api, &path, |seen| seen["status"] == "disabled").await;
    assert_eq!(disabled["status_reason"], "nothing but failures for 120 hours");

    let is_about_health = |record: &testbed::Read| record.value.contains("\"endpoint.");
    let events =
        read(&bus, Topic::Events, move |records| records.iter().filter(|r| is_about_health(r)).count() >= 4).await;
    let names: Vec<String> = events
        .iter()
        .filter(|record| record.value.contains("\"endpoint."))
        .map(|record| {
            serde_json::from_str::<Value>(&record.value).unwrap()["event"]["event"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, ["endpoint.failing", "endpoint.recovered", "endpoint.disabled", "endpoint.disabled"]);
    instance.stop().await;
}
