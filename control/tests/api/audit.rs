//! The audit log: each change is an event of its own transaction, which names its author, and no secret.

use std::collections::BTreeMap;

use schemas::{Envelope, Event, Topic, audit::AuditAction};
use serde_json::{Value, json};
use store::{
    Insertion, Store, Table,
    rows::{self, Source},
};
use testbed::{PATIENCE, Read, read, unique};
use tokio::time::timeout;

use crate::support::{Answer, KEY, instance, leader, store};

/// Returns the events of the audit log, once there are as many of a workspace.
async fn log(bus: &bus::Bus, workspace: &str, count: usize) -> Vec<(String, Value)> {
    let of_log = workspace.to_owned();
    let there = move |records: &[Read]| records.iter().filter_map(|r| told(&r.value, &of_log)).count() >= count;
    let records = read(bus, Topic::Events, there).await;
    records.iter().filter_map(|record| Some((record.value.clone(), told(&record.value, workspace)?))).collect()
}

/// Returns the event of a record, if it is of the audit log of the workspace.
fn told(record: &str, workspace: &str) -> Option<Value> {
    let envelope: Value = serde_json::from_str(record).unwrap();
    let is_of_log = envelope["event"]["event"].as_str().unwrap().starts_with("audit.");
    (is_of_log && envelope["workspace"] == workspace).then(|| envelope["event"].clone())
}

fn facts(event: &Value) -> (String, String, Value, Value) {
    let audit = &event["audit"];
    let action = event["event"].as_str().unwrap().trim_start_matches("audit.").to_owned();
    (action, audit["resource"].as_str().unwrap().to_owned(), audit["ids"].clone(), audit["fields"].clone())
}

fn id(answer: &Answer) -> &str {
    answer.body["id"].as_str().unwrap()
}

#[tokio::test]
async fn every_change_names_its_author_and_no_secret() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let acme = operator.workspace("acme").await;
    let mut secrets = vec![KEY.to_owned(), acme.key.to_owned()];

    let endpoint =
        json!({"url": "https://a.example/hook-token", "events": ["*"], "headers": {"Authorization": "Bearer x1"}});
    let endpoint = acme.send("POST", "/v1/endpoints", "X-Request-Id: req-1\r\n", &endpoint.to_string()).await;
    let key = acme.post("/v1/keys", json!({"name": "crm", "scopes": ["links"]})).await;
    let rotated = acme.post(&format!("/v1/keys/{}/rotate", id(&key)), json!({})).await;
    secrets.extend([&endpoint, &key, &rotated].map(|answer| answer.body["secret"].as_str().unwrap().to_owned()));
    secrets.extend(["hook-token".to_owned(), "Bearer x1".to_owned()]);
    let paused = acme.patch(&format!("/v1/endpoints/{}", id(&endpoint)), json!({"status": "paused"})).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    // The same again changes nothing.
    acme.patch(&format!("/v1/endpoints/{}", id(&endpoint)), json!({"status": "paused"})).await;
    let domain = operator.within("acme").proven_domain(json!({"name": "go.acme.co"})).await;
    assert_eq!(acme.delete(&format!("/v1/domains/{}", id(&domain))).await.status, 204);

    let events = log(&bus, "acme", 8).await;
    let told: Vec<_> = events.iter().map(|(_, event)| facts(event)).collect();
    let one = |answer: &Answer| json!([id(answer)]);
    let none = Value::Null;
    let expected = [
        ("created", "endpoint", one(&endpoint), none.clone()),
        ("created", "key", one(&key), none.clone()),
        ("rotated", "key", one(&key), json!(["hint", "previous", "secret"])),
        ("updated", "endpoint", one(&endpoint), json!(["status"])),
        ("created", "domain", one(&domain), none.clone()),
        ("verified", "domain", one(&domain), json!(["proof", "verified_at"])),
        ("deleted", "domain", one(&domain), none.clone()),
    ]
    .map(|(action, resource, ids, fields)| (action.to_owned(), resource.to_owned(), ids, fields));
    // The key of the workspace's admin is the first of all.
    assert_eq!(told[0].0, "created");
    assert_eq!(told[1..], expected);
    let actor = |nth: usize| events[nth].1["audit"]["actor"].clone();
    assert_eq!((actor(1)["type"].clone(), actor(1)["name"].clone()), (json!("key"), json!("admin")));
    assert_eq!(events[1].1["audit"]["request_id"], "req-1");
    assert_eq!((actor(5)["type"].clone(), actor(5).get("name")), (json!("operator"), None));
    for secret in secrets {
        assert!(!events.iter().any(|(record, _)| record.contains(&secret)), "{secret} is in the log");
    }

    // What another workspace does here is nobody's; the workspace itself is in the operator's log.
    let own = log(&bus, "default", 3).await;
    let made =
        own.iter().find(|(_, event)| event["audit"]["resource"] == "workspace" && event["audit"]["ids"][0] == "acme");
    assert_eq!(made.unwrap().1["audit"]["actor"]["type"], "key");
    assert_eq!(own[0].1["audit"]["actor"], json!({"type": "system"}), "the installation makes what it needs");
    instance.stop().await;
}

#[tokio::test]
async fn an_import_is_an_event_for_each_of_its_transactions() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let api = operator.workspace("acme").await;
    operator.within("acme").proven_domain(json!({"name": "go.acme.co", "is_default": true})).await;
    let line =
        |n: usize, to: &str| json!({"external_id": n.to_string(), "destination": format!("https://{to}/")}).to_string();
    let lines = |to: &str| (0..1500).map(|n| line(n, to)).collect::<Vec<_>>().join("\n");
    for to in ["a.example", "b.example", "b.example"] {
        let imported = api.send("POST", "/v1/links/import?events=false", "", &lines(to)).await;
        assert_eq!(imported.status, 200, "{imported:?}");
    }
    let all = json!({"external_ids": (0..150).map(|n| n.to_string()).collect::<Vec<_>>()});
    assert_eq!(api.post("/v1/links/delete", all).await.status, 200);
    // How many lines a transaction has depends on who else waits. Deleting is the last thing.
    let is_last = |records: &[Read]| {
        let told = records.iter().filter_map(|record| told(&record.value, "acme"));
        let deleted = told.filter(|event| event["event"] == "audit.deleted");
        deleted.map(|event| event["audit"]["ids"].as_array().unwrap().len()).sum::<usize>() == 150
    };
    let records = read(&bus, Topic::Events, is_last).await;
    let events: Vec<Value> = records.iter().filter_map(|record| told(&record.value, "acme")).collect();
    let mut changed = BTreeMap::new();
    // The key and the domain come first.
    for (action, resource, ids, fields) in events.iter().skip(3).map(facts) {
        let links = ids.as_array().unwrap().len();
        assert!(resource == "link" && links <= 1000, "{action} {resource} {links}");
        assert_eq!(fields, if action == "updated" { json!(["destination"]) } else { Value::Null });
        *changed.entry(action).or_insert(0) += links;
    }
    assert_eq!(
        changed,
        BTreeMap::from([("created", 1500), ("updated", 1500), ("deleted", 150)].map(|(a, n)| (a.to_owned(), n)))
    );
    instance.stop().await;
}

/// Inserts events of the log as the warehouse does.
async fn insert(store: &Store, events: &[(String, Value)]) {
    let mut block = Vec::new();
    for (offset, (record, _)) in (0..).zip(events) {
        let envelope: Envelope<'_, Event<'_>> = serde_json::from_str(record).unwrap();
        let source = Source { topic: "t.events", partition: 0, offset };
        rows::audit(&envelope.workspace, &envelope.event, source, &mut block).unwrap();
    }
    let rows = vec![block.into()];
    store.insert(Insertion { table: Table::Audit, rows, token: unique("t"), query_id: unique("q") }).await.unwrap();
}

#[tokio::test]
async fn the_log_is_read_by_page_and_by_fact_and_by_admins_alone() {
    let bus = testbed::bus().await;
    let store = store(&unique("control"));
    store.migrate().await.unwrap();
    let instance = instance(&bus, store.clone()).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    let operator = instance.api();
    let acme = operator.workspace("acme").await;
    operator.within("acme").proven_domain(json!({"name": "go.acme.co", "is_default": true})).await;
    let links = acme.scoped(&["links", "stats", "endpoints"]).await;
    let link = links.post("/v1/links", json!({"destination": "https://a.example/", "slug": "s"})).await;
    let path = format!("/v1/links/{}", id(&link));
    assert_eq!(links.patch(&path, json!({"tags": ["a"]})).await.status, 200);
    assert_eq!(links.delete(&path).await.status, 204);
    let events = log(&bus, "acme", 7).await;
    insert(&store, &events).await;
    insert(&store, &log(&bus, "default", 3).await).await;

    let actions = |answer: &Answer| -> Vec<String> {
        assert_eq!(answer.status, 200, "{answer:?}");
        let data = answer.body["data"].as_array().unwrap();
        data.iter()
            .map(|change| format!("{} {}", change["action"].as_str().unwrap(), change["resource"].as_str().unwrap()))
            .collect()
    };
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = acme.get(&format!("/v1/audit?limit=2{cursor}")).await;
        seen.extend(actions(&page));
        let Some(next) = page.body["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let expected = [
        "deleted link",
        "updated link",
        "created link",
        "created key",
        "verified domain",
        "created domain",
        "created key",
    ];
    assert_eq!(seen, expected);
    let last = &acme.get("/v1/audit?limit=1").await.body["data"][0];
    assert_eq!((&last["ids"], &last["actor"]["name"]), (&json!([id(&link)]), &json!("links stats endpoints")));
    let by = last["actor"]["id"].as_str().unwrap();
    let at = events[6].1["timestamp"].as_str().unwrap();
    for (query, expected) in [
        ("resource=key".to_owned(), 2),
        (format!("resource_id={}", id(&link)), 3),
        (format!("actor={by}&action=updated"), 1),
        (format!("since={at}&resource=link&action=deleted"), 1),
        (format!("until={at}&action=deleted"), 0),
    ] {
        assert_eq!(actions(&acme.get(&format!("/v1/audit?{query}")).await).len(), expected, "{query}");
    }
    assert_eq!(operator.within("acme").get("/v1/audit").await.body["data"].as_array().unwrap().len(), 7);
    assert_eq!(links.get("/v1/audit").await.status, 403);
    for (query, status) in
        [("actor=7", 422), ("cursor=x", 422), ("limit=0", 422), ("action=lost", 400), ("who=me", 400)]
    {
        assert_eq!(acme.get(&format!("/v1/audit?{query}")).await.status, status, "{query}");
    }
    instance.stop().await;
}

#[tokio::test]
async fn only_admins_lead_the_log_to_an_endpoint() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let admin = instance.api().workspace("acme").await;
    let endpoints = admin.scoped(&["endpoints"]).await;
    let body = |events: &str| json!({"url": "https://a.example/", "events": [events]});
    for events in ["audit.*", "audit.rotated"] {
        let refused = endpoints.post("/v1/endpoints", body(events)).await;
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(refused.body["detail"].as_str().unwrap().contains("`admin`"), "{refused:?}");
    }
    let all = endpoints.post("/v1/endpoints", body("*")).await;
    let all = format!("/v1/endpoints/{}", id(&all));
    assert_eq!(endpoints.patch(&all, json!({"events": ["*", "audit.*"]})).await.status, 403);
    let log = admin.post("/v1/endpoints", body("audit.*")).await;
    assert_eq!(log.status, 201, "{log:?}");
    let log = format!("/v1/endpoints/{}", id(&log));
    assert_eq!(endpoints.patch(&log, json!({"url": "https://elsewhere.example/"})).await.status, 403);
    assert_eq!(endpoints.post(&format!("{log}/rotate-secret"), json!({})).await.status, 403);
    assert_eq!(endpoints.delete(&log).await.status, 403);
    let types = endpoints.get("/v1/event-types").await.body["data"].as_array().unwrap().clone();
    for action in AuditAction::ALL {
        let described = types.iter().find(|described| described["name"] == action.event().as_str()).unwrap();
        assert!(
            described["schema"]["properties"]["audit"].is_object() && described["sample"]["audit"]["ids"].is_array()
        );
    }
    instance.stop().await;
}
