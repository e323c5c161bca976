//! Endpoints, their secrets, their tests and their health.

use std::time::Duration;

use bus::{Bus, Outgoing};
use schemas::{
    AttemptId, Endpoint, EndpointId, EventId, Timestamp, Topic, endpoint::HeaderText, endpoint_health::EndpointHealth,
};
use serde_json::{Value, json};
use service::vault::Vault;
use testbed::{eventually, read};

use crate::support::{Api, config, installation_key, instance, leader, store, with_keys};

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
    let events =
        read(&bus, Topic::Events, |records| records.iter().filter(|record| record.key.starts_with("ep_")).count() >= 2)
            .await;
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
async fn a_rotated_secret_is_shown_once_and_the_one_before_signs_for_a_while() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let brought = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let body = json!({"url": "https://hooks.example/a", "events": ["*"], "secret": brought});
    let created = api.post("/v1/endpoints", body.clone()).await;
    assert_eq!((created.status, &created.body["secret"]), (201, &json!(brought)));
    let id = created.body["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/endpoints/{id}");

    let rotate = format!("{path}/rotate-secret");
    let rotated = api.send("POST", &rotate, "Idempotency-Key: 1\r\n", "").await;
    let secret = rotated.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(rotated.status, 200, "{rotated:?}");
    assert!(secret.starts_with("whsec_") && secret != brought);
    assert!(rotated.body["previous_expires_at"].is_string(), "{rotated:?}");
    let repeated = api.send("POST", &rotate, "Idempotency-Key: 1\r\n", "").await;
    assert_eq!((repeated.body, repeated.status), (rotated.body, 200), "a repeated call rotates nothing");
    assert_eq!(api.get(&path).await.body.get("secret"), None);
    let records = read(&bus, Topic::Endpoints, |records| records.len() >= 2).await;
    let endpoint: Endpoint = serde_json::from_str(&records[1].value).unwrap();
    assert!(!records[1].value.contains(brought) && !records[1].value.contains(&secret));
    let opened = |sealed| String::from_utf8(instance.vault.open(&id, sealed).unwrap().to_vec()).unwrap();
    assert_eq!(opened(&endpoint.secret), secret);
    assert_eq!(opened(&endpoint.retiring_secrets[0].secret), brought);

    // The leader removes a secret that no longer signs.
    let short = api.post(&rotate, json!({"overlap_s": 1})).await;
    assert_eq!(short.status, 200, "{short:?}");
    let records =
        read(&bus, Topic::Endpoints, |records| records.last().is_some_and(|last| !last.value.contains("retiring")))
            .await;
    assert_eq!(records.len(), 4);
    let seen = api.get(&path).await.body;
    assert_eq!((seen.get("previous_expires_at"), &seen["revision"]), (None, &json!(4)));

    for (wrong, field) in [
        (json!({"overlap_s": 2_592_001}), "overlap_s"),
        (json!({"overlap_s": -1}), "overlap_s"),
        (json!({"secret": "whsec_short"}), "secret"),
        (json!({"secret": short.body["secret"]}), "secret"),
        (json!({"overlap": 1}), "overlap"),
    ] {
        let refused = api.post(&rotate, wrong).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]), "{refused:?}");
        assert!(!refused.body.to_string().contains("whsec_short"), "{refused:?}");
    }
    let mut weak = body;
    weak["secret"] = json!("whsec_AAAA");
    let refused = api.post("/v1/endpoints", weak).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["secret"]), "{refused:?}");
    let stale = api.send("POST", &rotate, "If-Match: \"1\"\r\n", "").await;
    assert_eq!(stale.status, 412, "{stale:?}");
    instance.stop().await;
}

#[tokio::test]
async fn an_endpoint_has_limits_and_a_format_and_is_paused_and_resumed() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let body = json!({"url": "https://hooks.example/a", "events": ["*"], "format": "cloudevents", "rate_limit": 20,
        "max_in_flight": 3});
    let created = api.post("/v1/endpoints", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = format!("/v1/endpoints/{}", created.body["id"].as_str().unwrap());
    let facts =
        |seen: &Value| (seen["format"].clone(), seen.get("rate_limit").cloned(), seen.get("max_in_flight").cloned());
    assert_eq!(facts(&created.body), (json!("cloudevents"), Some(json!(20)), Some(json!(3))));
    let patched = api.patch(&path, json!({"format": "slack", "rate_limit": null, "max_in_flight": 1})).await;
    assert_eq!(facts(&patched.body), (json!("slack"), None, Some(json!(1))));
    let refused = api.patch(&path, json!({"rate_limit": 0, "max_in_flight": 5000})).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["rate_limit", "max_in_flight"]));
    let refused = api.patch(&path, json!({"format": "xml"})).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["format"]), "{refused:?}");

    for (action, status) in [("pause", "paused"), ("pause", "paused"), ("resume", "active")] {
        let answer = api.send("POST", &format!("{path}/{action}"), "", "").await;
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!(status)), "{answer:?}");
    }
    let unknown = api.send("POST", "/v1/endpoints/ep_01KGQ7ZJ107000800000000000/pause", "", "").await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
    instance.stop().await;
}

#[tokio::test]
async fn attempts_are_listed_by_page_and_by_outcome() {
    let bus = testbed::bus().await;
    let database = testbed::unique("t");
    let store = store(&database);
    store.migrate().await.unwrap();
    let client = clickhouse::Client::default().with_url(testbed::clickhouse()).with_database(database);
    let instance = instance(&bus, store).await;
    tokio::time::timeout(testbed::PATIENCE, instance.health.ready()).await.unwrap();
    let api = instance.api();
    let created = api.post("/v1/endpoints", json!({"url": "https://hooks.example/a", "events": ["*"]})).await;
    let id = created.body["id"].as_str().unwrap();
    let (event, other) = (EventId::from_bits(7), EndpointId::from_bits(9));
    let first = Timestamp::now().as_millis() - 60_000;
    let row = |nth: u32, endpoint: &str, outcome: &str, status: u16| {
        let attempt = AttemptId::from_bits(u128::from(nth));
        // Two of them began at the same millisecond.
        let at = first + i64::from(nth / 2);
        format!(
            "('{attempt}', fromUnixTimestamp64Milli({at}), 'default', '{endpoint}', '{event}', 'link.clicked', '{event}', \
             {nth}, 12, '{outcome}', {status}, 'because', '')"
        )
    };
    let rows = [
        row(1, id, "retrying", 500),
        row(2, id, "retrying", 0),
        row(3, id, "delivered", 200),
        row(4, id, "dead", 500),
        row(5, &other.to_string(), "dead", 500),
    ];
    let sql = format!(
        "INSERT INTO deliveries (id, timestamp, workspace, endpoint_id, event_id, event, webhook_id, attempt, duration_ms, \
         outcome, status, error, response) SETTINGS async_insert = 0 VALUES {}",
        rows.join(", ")
    );
    client.query_raw(&sql).execute().await.unwrap();

    let path = format!("/v1/endpoints/{id}/attempts");
    let attempts = |answer: &Value| {
        answer["data"].as_array().unwrap().iter().map(|row| row["attempt"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("{path}?limit=1{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        seen.extend(attempts(&page.body));
        let Some(next) = page.body["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, [4, 3, 2, 1], "the last first, each once");
    let all = api.get(&path).await.body;
    assert_eq!(all["data"][0]["error"], "because");
    assert_eq!(all["data"][2].get("status"), None, "there was no answer");
    let [since, until] = [1, 2].map(|ms| Timestamp::from_millis(first + ms));
    for (query, expected) in [
        ("?outcome=retrying", vec![2, 1]),
        ("?event=link.clicked&outcome=dead", vec![4]),
        ("?event=qr.scanned", vec![]),
        (&format!("?event_id={event}"), vec![4, 3, 2, 1]),
        (&format!("?since={since}&until={until}"), vec![3, 2]),
    ] {
        assert_eq!(attempts(&api.get(&format!("{path}{query}")).await.body), expected, "{query}");
    }
    for query in ["?cursor=x", "?limit=0", "?event_id=7"] {
        assert_eq!(api.get(&format!("{path}{query}")).await.status, 422, "{query}");
    }
    for query in ["?outcome=lost", "?since=today", "?status=dead"] {
        assert_eq!(api.get(&format!("{path}{query}")).await.status, 400, "{query}");
    }
    assert_eq!(api.get(&format!("/v1/endpoints/{other}/attempts")).await.status, 404);
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
