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

    // The topic has the current links, and every change has its event.
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

#[tokio::test]
async fn links_are_found_by_what_they_have() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    for n in 0..10 {
        let body = json!({"destination": "https://a.example/", "slug": format!("s{n}-{}", "x".repeat(n)), "external_id": n.to_string(),
            "campaign": format!("c{}", n % 2), "tags": [format!("t{}", n % 3)]});
        assert_eq!(api.post("/v1/links", body).await.status, 201);
    }
    let found = async |query: &str| {
        let page = api.get(&format!("/v1/links?{query}")).await;
        assert_eq!(page.status, 200, "{query}: {page:?}");
        let links = page.body["data"].as_array().unwrap().iter();
        let ids: Vec<String> = links.map(|link| link["external_id"].as_str().unwrap().to_owned()).collect();
        (ids.join(" "), page.body["next"].as_str().map(ToOwned::to_owned))
    };
    for (query, expected) in [
        ("campaign=c1", "9 7 5 3 1"),
        ("campaign=c1&tag=t0", "9 3"),
        ("tag=t9", ""),
        ("slug=s0-", "0"),
        ("search=s1", "1"),
        ("external_id=4", "4"),
        ("external_id=4&campaign=c1", ""),
        ("domain=other.example", ""),
    ] {
        assert_eq!(found(query).await, (expected.to_owned(), None), "{query}");
    }
    let (first, next) = found("campaign=c0&limit=2").await;
    let (second, last) = found(&format!("campaign=c0&limit=3&cursor={}", next.unwrap())).await;
    assert_eq!((first.as_str(), second.as_str(), last), ("8 6", "4 2 0", None));
    assert_eq!(api.get("/v1/links?color=red").await.status, 400);
    instance.stop().await;
}

#[tokio::test]
async fn a_link_has_a_qr_code() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let link = api.post("/v1/links", json!({"destination": "https://a.example/", "slug": "sale"})).await;
    let path = format!("/v1/links/{}/qr.svg", link.body["id"].as_str().unwrap());
    let drawn = api.get(&format!("{path}?size=300&ecc=H")).await;
    assert_eq!((drawn.status, drawn.header("content-type")), (200, Some("image/svg+xml")), "{drawn:?}");
    assert!(drawn.body.as_str().unwrap().contains("width=\"300\""));
    let etag = drawn.header("etag").unwrap();
    let known = api.send("GET", &format!("{path}?size=300&ecc=H"), &format!("If-None-Match: {etag}\r\n"), "").await;
    assert_eq!((known.status, known.header("etag")), (304, Some(etag)));
    assert_ne!(api.get(&path).await.header("etag"), Some(etag));
    let wrong = api.get(&format!("{path}?size=5000&margin=65")).await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["size", "margin"]));
    let small = api.get(&path.replace("svg", "png?size=20")).await;
    assert_eq!((small.status, small.fields()), (422, vec!["size"]));
    assert_eq!(api.get(&format!("/v1/links/{}/qr.svg", LinkId::mint())).await.status, 404);
    instance.stop().await;
}
