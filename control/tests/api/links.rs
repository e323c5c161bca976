//! Links, from their creation to their statistics.

use schemas::{Link, LinkId, Topic};
use serde_json::{Value, json};
use testbed::{PATIENCE, read, unique};
use tokio::time::timeout;

use crate::support::{Api, instance, leader, store};

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
    assert_eq!((created.header("location"), created.etag_revision()), (Some(path.as_str()), Some("1")));
    assert_eq!(created.body["short_url"], "https://go.example/sale");
    assert_eq!((&created.body["status_code"], &created.body["workspace"]), (&json!(302), &json!("default")));
    assert_eq!(api.get(&path).await.body, created.body);

    let changed = api.patch(&path, json!({"campaign": null, "slug": "new"})).await;
    assert_eq!((changed.status, changed.etag_revision()), (200, Some("2")), "{changed:?}");
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
    let events = read(&bus, Topic::Events, |records| {
        records.iter().filter(|record| record.key.starts_with("lnk_")).count() >= 4
    })
    .await;
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

#[tokio::test]
async fn tags_are_counted_and_renamed_on_all_links() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let tags = [json!(["sosial", "a&b"]), json!(["sosial", "social"]), json!(["social"])];
    for (n, tags) in tags.iter().enumerate() {
        let body = json!({"destination": "https://a.example/", "external_id": n.to_string(), "tags": tags});
        assert_eq!(api.post("/v1/links", body).await.status, 201);
    }
    let tag = |name: &str, links: u32| json!({"tag": name, "links": links});
    let first = api.get("/v1/tags?limit=2").await;
    assert_eq!(first.body["data"], json!([tag("a&b", 1), tag("social", 2)]), "{first:?}");
    let second = api.get(&format!("/v1/tags?limit=2&cursor={}", first.body["next"].as_str().unwrap())).await;
    assert_eq!((&second.body["data"], second.body.get("next")), (&json!([tag("sosial", 2)]), None));
    let renamed = api.post("/v1/tags/rename", json!({"from": "sosial", "to": "social"})).await;
    assert_eq!((renamed.status, &renamed.body), (200, &json!({"renamed": 2, "left": 0})), "{renamed:?}");
    assert_eq!(api.get("/v1/tags").await.body["data"], json!([tag("a&b", 1), tag("social", 3)]));
    let link = api.get("/v1/links?external_id=1").await;
    assert_eq!((&link.body["data"][0]["tags"], &link.body["data"][0]["revision"]), (&json!(["social"]), &json!(2)));
    let wrong = api.post("/v1/tags/rename", json!({"from": "a", "to": ""})).await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["to"]));
    assert_eq!(api.get("/v1/tags?cursor=zz").await.status, 422);

    // Links are also deleted by a POST, whose body no proxy drops.
    let deleted = api.post("/v1/links/delete", json!({"external_ids": ["0", "2"]})).await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert_eq!(api.get("/v1/tags").await.body["data"], json!([tag("social", 1)]));
    instance.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_known_is_not_sent_again_and_a_link_that_is_there_is_not_made_again() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let upsert = async |headers: &str, slug: &str| {
        let body = json!({"slug": slug, "destination": "https://a.example/"}).to_string();
        api.send("PUT", "/v1/links/upsert", headers, &body).await
    };
    assert_eq!(upsert("If-Match: *\r\n", "sale").await.status, 412);
    let made = upsert("If-None-Match: *\r\n", "sale").await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(upsert("If-None-Match: *\r\n", "sale").await.status, 412);
    assert_eq!(upsert("If-Match: *\r\n", "sale").await.status, 200);
    let path = made.header("location").unwrap();
    let known = api.send("GET", path, "If-None-Match: \"7\", W/\"1\"\r\n", "").await;
    assert_eq!((known.status, known.etag_revision(), &known.body), (304, Some("1"), &json!("")));
    assert_eq!(api.send("GET", path, "If-None-Match: \"7\"\r\n", "").await.status, 200);

    // A link that was deleted and made again is another, and has another ETag.
    let first = format!("If-Match: {}\r\n", made.header("etag").unwrap());
    assert_eq!(api.delete(path).await.status, 204);
    let again = upsert("If-None-Match: *\r\n", "sale").await;
    assert_eq!((again.status, again.etag_revision()), (201, Some("1")));
    assert_eq!(upsert(&first, "sale").await.status, 412);
    assert_eq!(upsert(&format!("If-Match: {}\r\n", again.header("etag").unwrap()), "sale").await.status, 200);
    instance.stop().await;
}

#[tokio::test]
async fn links_are_sorted_archived_and_found_again() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    for (slug, path) in [("b", "x"), ("c", "y"), ("a", "xx")] {
        let body = json!({"destination": format!("https://a.example/{path}"), "slug": slug, "tags": ["t"]});
        assert_eq!(api.post("/v1/links", body).await.status, 201);
    }
    let slugs = async |query: &str| {
        let page = api.get(&format!("/v1/links?{query}")).await;
        assert_eq!(page.status, 200, "{query}: {page:?}");
        let links = page.body["data"].as_array().unwrap().iter();
        let slugs: Vec<String> = links.map(|link| link["slug"].as_str().unwrap().to_owned()).collect();
        (slugs.join(" "), page.body["next"].as_str().map(ToOwned::to_owned))
    };
    for (query, expected) in [
        ("sort=slug", "a b c"),
        ("sort=slug&order=desc", "c b a"),
        ("sort=destination", "b a c"),
        ("sort=destination&destination=https://a.example/x", "b a"),
        ("destination=https://a.example/x", "a b"),
        ("sort=created&order=desc", "a c b"),
    ] {
        assert_eq!(slugs(query).await, (expected.to_owned(), None), "{query}");
    }
    let (first, next) = slugs("sort=slug&limit=2").await;
    assert_eq!(first, "a b");
    assert_eq!(slugs(&format!("sort=slug&limit=2&cursor={}", next.unwrap())).await, ("c".to_owned(), None));
    assert_eq!(api.get("/v1/links?sort=slug&cursor=x").await.fields(), ["cursor"]);
    assert_eq!(api.get("/v1/links?order=asc").await.fields(), ["order"]);

    let link = api.get("/v1/links?slug=b").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let archived = api.patch(&format!("/v1/links/{link}"), json!({"archived": true})).await;
    assert_eq!(archived.body["archived"], true, "{archived:?}");
    for (query, expected) in [("sort=slug", "a c"), ("archived=true", "b"), ("archived=any&sort=slug", "a b c")] {
        assert_eq!(slugs(query).await.0, expected, "{query}");
    }
    let restored = api.patch(&format!("/v1/links/{link}"), json!({"archived": false})).await;
    assert_eq!(restored.body.get("archived"), None, "{restored:?}");

    // A creation that asks for a link with the same fields gets it.
    let same = json!({"destination": "https://a.example/y", "tags": ["t"]});
    let found = api.post("/v1/links?find_if_exists=true", same.clone()).await;
    assert_eq!((found.status, &found.body["slug"]), (200, &json!("c")), "{found:?}");
    let other = json!({"destination": "https://a.example/y", "tags": ["t"], "campaign": "w"});
    assert_eq!(api.post("/v1/links?find_if_exists=true", other).await.status, 201);
    assert_eq!(api.post("/v1/links", same).await.status, 201);
    instance.stop().await;
}

#[tokio::test]
async fn an_old_slug_can_go_on_answering() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let to = "https://a.example/";
    let made = api.post("/v1/links", json!({"destination": to, "slug": "old"})).await;
    let path = made.header("location").unwrap();
    let moved = api.patch(path, json!({"slug": "new", "keep_old": true})).await;
    assert_eq!((&moved.body["slug"], &moved.body["former_slugs"]), (&json!("new"), &json!(["old"])), "{moved:?}");
    for slug in ["old", "new"] {
        let taken = api.post("/v1/links", json!({"destination": to, "slug": slug})).await;
        assert_eq!((taken.status, taken.fields()), (409, vec!["slug"]), "{slug}");
    }
    let wrong = api.patch(path, json!({"former_slugs": ["other"]})).await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["former_slugs"]));
    assert_eq!(api.patch(path, json!({"former_slugs": null})).await.body.get("former_slugs"), None);
    let other = api.post("/v1/links", json!({"destination": to, "slug": "old"})).await;
    assert_eq!(other.status, 201, "{other:?}");
    assert_eq!(api.patch(path, json!({"slug": "old", "keep_old": true})).await.status, 409);
    // A slug that is not kept is free, as always.
    assert_eq!(api.patch(path, json!({"slug": "newer"})).await.body.get("former_slugs"), None);
    assert_eq!(api.post("/v1/links", json!({"destination": to, "slug": "new"})).await.status, 201);
    instance.stop().await;
}

#[tokio::test]
async fn links_are_exported_and_imported_as_csv() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let csv = "external_id,slug,destination,tags,max_clicks,campaign,metadata.color\r\n\
        1,one,https://a.example/1,a|b,5,'=sum(),red\r\n\
        2,two,\"https://a.example/2\",,,,\r\n\
        3,q,nowhere,,x,,\r\n";
    let import =
        async |api: Api, body: &str| api.send("POST", "/v1/links/import", "Content-Type: text/csv\r\n", body).await;
    let first = import(api, csv).await;
    assert_eq!((&first.body["created"], &first.body["rejected_total"]), (&json!(2), &json!(1)), "{first:?}");
    assert_eq!(first.body["rejected"][0]["line"], 4);
    let one = &api.get("/v1/links?external_id=1").await.body["data"][0];
    assert_eq!(
        (&one["campaign"], &one["tags"], &one["metadata"]["color"]),
        (&json!("=sum()"), &json!(["a", "b"]), &json!("red"))
    );
    let exported = api.get("/v1/links/export?format=csv").await;
    let text = exported.body.as_str().unwrap();
    assert!(exported.header("content-type").unwrap().starts_with("text/csv"), "{exported:?}");
    assert!(text.contains("'=sum()"), "{text}");

    let other = api.workspace("acme").await;
    api.within("acme").proven_domain(json!({"name": "go.acme.co", "is_default": true})).await;
    let lines: Vec<String> = dechunked(text).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{text}");
    let again = import(other, &lines.join("\n")).await;
    assert_eq!((&again.body["created"], &again.body["rejected_total"]), (&json!(2), &json!(0)), "{again:?}");
    assert_eq!(import(api, &lines.join("\n")).await.body["unchanged"], 2);
    let wrong = import(api, "slug,colour\na,b\n").await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["(head)"]), "{wrong:?}");
    assert_eq!(wrong.body["created"], 0);
    instance.stop().await;
}

/// Returns the content of a chunked body.
fn dechunked(body: &str) -> String {
    let mut rest = body;
    let mut content = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        content.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    content
}
