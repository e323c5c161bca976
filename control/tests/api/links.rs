//! Links, from their creation to their statistics.

use schemas::{Link, LinkId, Topic};
use serde_json::{Value, json};
use testbed::{PATIENCE, read, unique};
use tokio::time::timeout;

use crate::support::{instance, leader, store};

#[tokio::test]
async fn a_link_is_created_read_changed_listed_and_deleted() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();

    let body = json!({"destination": "https://acme.example/winter", "slug": "sale", "campaign": "w", "tags": ["a", "b"],
        "metadata": {"10": "x", "9": "y"}, "external_id": "order-1"});
    let created = api.post("/v1/links", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.body["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/links/{id}");
    assert_eq!((created.header("location"), created.header("etag")), (Some(path.as_str()), Some("\"1\"")));
    assert_eq!(created.body["short_url"], "https://go.example/sale");
    assert_eq!((&created.body["status_code"], &created.body["workspace"]), (&json!(302), &json!("default")));
    assert_eq!(api.get(&path).await.body, created.body);

    let changed = api.patch(&path, json!({"campaign": null, "slug": "new"})).await;
    assert_eq!((changed.status, changed.header("etag")), (200, Some("\"2\"")), "{changed:?}");
    assert_eq!((changed.body.get("campaign"), &changed.body["short_url"]), (None, &json!("https://go.example/new")));
    let stale = api.send("PATCH", &path, "If-Match: \"1\"\r\n", r#"{"slug":"other"}"#).await;
    assert_eq!(stale.status, 412);

    assert_eq!(api.post("/v1/domains", json!({"name": "go.acme.co"})).await.status, 201);
    let made_up = api.post("/v1/links", json!({"destination": "https://acme.example/", "domain": "go.acme.co"})).await;
    let slug = made_up.body["slug"].as_str().unwrap();
    assert_eq!((made_up.status, slug.len()), (201, 7));
    assert_eq!(made_up.body["short_url"], format!("https://go.acme.co/{slug}"));

    let first = api.get("/v1/links?limit=1").await;
    assert_eq!((first.status, &first.body["data"][0]["id"]), (200, &made_up.body["id"]));
    let next = first.body["next"].as_str().unwrap();
    let second = api.get(&format!("/v1/links?limit=1&cursor={next}")).await;
    assert_eq!((&second.body["data"][0]["id"], second.body.get("next")), (&json!(id), None));

    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.get(&path).await.status, 404);
    assert_eq!(api.delete(&path).await.status, 404);

    // What is true is in the topic, and every change was told as an event.
    let key = id.clone();
    let records = read(&bus, Topic::Links, move |r| r.iter().any(|r| r.key == key && r.value.is_empty())).await;
    let link: Link = serde_json::from_str(&records[0].value).unwrap();
    assert_eq!((link.id.to_string(), link.revision, link.slug.as_str()), (id.clone(), 1, "sale"));
    let events = read(&bus, Topic::Events, |records| records.len() >= 4).await;
    let told: Vec<Value> = events
        .iter()
        .filter(|record| record.key == id)
        .map(|record| serde_json::from_str::<Value>(&record.value).unwrap()["event"].take())
        .collect();
    let names: Vec<&str> = told.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["link.created", "link.updated", "link.deleted"]);
    assert_eq!(told[1]["changes"], json!({"slug": {"from": "sale", "to": "new"}, "campaign": {"from": "w"}}));
    assert_eq!(told[1]["link"]["slug"], "new");
    instance.stop().await;
}

#[tokio::test]
async fn of_many_who_want_one_slug_exactly_one_gets_it() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let creations: Vec<_> = (0..16)
        .map(|n| {
            let body = json!({"destination": format!("https://a.example/{n}"), "slug": "sale"});
            tokio::spawn(api.post("/v1/links", body))
        })
        .collect();
    let mut created = Vec::new();
    for creation in creations {
        let answer = creation.await.unwrap();
        if answer.status == 201 {
            created.push(answer.body);
        } else {
            assert_eq!((answer.status, answer.fields()), (409, vec!["slug"]));
        }
    }
    assert_eq!(created.len(), 1);
    assert_eq!(api.get("/v1/links").await.body["data"], json!(created));
    let ours = json!({"destination": "https://a.example/", "external_id": "x"});
    assert_eq!(api.post("/v1/links", ours.clone()).await.status, 201);
    let taken = api.post("/v1/links", ours).await;
    assert_eq!((taken.status, taken.fields()), (409, vec!["external_id"]));
    instance.stop().await;
}

#[tokio::test]
async fn a_link_has_statistics() {
    let bus = testbed::bus().await;
    let store = store(&unique("control"));
    store.migrate().await.unwrap();
    let instance = instance(&bus, store).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    let api = instance.api();
    let link = api.post("/v1/links", json!({"destination": "https://a.example/"})).await;
    let stats = api.get(&format!("/v1/stats/links/{}", link.body["id"].as_str().unwrap())).await;
    assert_eq!(stats.status, 200, "{stats:?}");
    assert_eq!(stats.body["clicks"], json!({"total": 0, "human": 0, "unique": 0}));
    assert_eq!(api.get(&format!("/v1/stats/links/{}", LinkId::mint())).await.status, 404);
    instance.stop().await;
}
