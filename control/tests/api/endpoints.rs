//! Endpoints, their secrets and their tests.

use schemas::{Endpoint, Topic};
use serde_json::{Value, json};
use testbed::read;

use crate::support::leader;

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
