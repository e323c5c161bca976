//! Links by the thousand: upserts, bulk changes and imports.

use std::collections::BTreeMap;

use schemas::{Link, Topic};
use serde_json::{Value, json};
use testbed::{Read, eventually, read};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{Api, KEY, leader};

/// Returns the number of links.
async fn count(api: Api) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page = api.get(&format!("/v1/links?limit=200{cursor}")).await;
        count += page.body["data"].as_array().unwrap().len();
        match page.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return count,
        }
    }
}

#[tokio::test]
async fn a_link_is_made_what_it_should_be() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let put = async |body: Value| api.send("PUT", "/v1/links/upsert", "", &body.to_string()).await;

    let created =
        put(json!({"external_id": "1", "slug": "über", "destination": "https://a.example/", "tags": ["x"]})).await;
    assert_eq!((created.status, created.etag_revision()), (201, Some("1")), "{created:?}");
    assert_eq!(created.body["short_url"], "https://go.example/%C3%BCber");
    let changed = put(json!({"external_id": "1", "destination": "https://b.example/"})).await;
    assert_eq!((changed.status, changed.etag_revision(), &changed.body["tags"]), (200, Some("2"), &json!(["x"])));
    let same = put(json!({"slug": "u\u{308}ber", "destination": "https://b.example/"})).await;
    assert_eq!((same.status, same.body), (200, changed.body));
    let stale = json!({"external_id": "1", "destination": "https://c.example/"}).to_string();
    let stale = api.send("PUT", "/v1/links/upsert", "If-Match: \"1\"\r\n", &stale).await;
    assert_eq!(stale.status, 412, "{stale:?}");
    let unmade = json!({"external_id": "2", "destination": "https://c.example/"}).to_string();
    assert_eq!(api.send("PUT", "/v1/links/upsert", "If-Match: \"1\"\r\n", &unmade).await.status, 412);
    let neither = put(json!({"destination": "https://b.example/"})).await;
    assert_eq!((neither.status, neither.fields()), (422, vec!["external_id"]));
    instance.stop().await;
}

#[tokio::test]
async fn many_links_are_changed_and_deleted_at_once_each_for_itself() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let mut ids = Vec::new();
    for n in 0..3 {
        let body = json!({"destination": "https://a.example/", "external_id": n.to_string()});
        ids.push(api.post("/v1/links", body).await.body["id"].take());
    }
    assert_eq!(api.delete(&format!("/v1/links/{}", ids[2].as_str().unwrap())).await.status, 204);

    let changed = api.patch("/v1/links", json!({"ids": ids, "set": {"campaign": "w"}})).await;
    let outcomes: Vec<&str> =
        changed.body["data"].as_array().unwrap().iter().map(|done| done["outcome"].as_str().unwrap()).collect();
    assert_eq!((changed.status, outcomes), (200, vec!["updated", "updated", "refused"]), "{changed:?}");
    let again = api.patch("/v1/links", json!({"external_ids": ["0", "9"], "set": {"campaign": "w"}})).await;
    assert_eq!(again.body["data"][0], json!({"external_id": "0", "outcome": "unchanged"}));
    assert_eq!(again.body["data"][1]["outcome"], "refused");

    let one = api.patch("/v1/links", json!({"ids": ids, "set": {"slug": "a"}})).await;
    assert_eq!((one.status, one.fields()), (422, vec!["set.slug"]));
    for unclear in [json!({}), json!({"ids": []}), json!({"ids": ids, "external_ids": ["0"]})] {
        let refused = api.send("DELETE", "/v1/links", "", &unclear.to_string()).await;
        assert_eq!((refused.status, refused.fields()), (422, vec!["ids"]), "{unclear}");
    }
    let twice = api.patch("/v1/links", json!({"ids": [ids[0], ids[0]], "set": {"campaign": "w"}})).await;
    assert_eq!((twice.status, twice.fields()), (422, vec!["ids"]));
    let much: BTreeMap<String, &str> = (0..60_000).map(|n| (format!("\t{n}"), "")).collect();
    let much = api.patch("/v1/links", json!({"ids": ids, "set": {"metadata": much}})).await;
    assert_eq!((much.status, much.fields()), (422, vec!["set.metadata"]));
    let too_many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let refused = api.send("DELETE", "/v1/links", "", &json!({"external_ids": too_many}).to_string()).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["external_ids"]));
    let deleted = api.send("DELETE", "/v1/links", "", &json!({"external_ids": ["0", "1"]}).to_string()).await;
    assert_eq!((deleted.status, &deleted.body["data"][1]["outcome"]), (200, &json!("deleted")), "{deleted:?}");
    assert_eq!(count(api).await, 0);
    instance.stop().await;
}

#[tokio::test]
async fn an_import_reports_what_it_rejected_and_can_be_repeated() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let line = |n: u32, to: &str| {
        let to = format!("https://a.example/{to}?{}", "x".repeat(400));
        json!({"external_id": n.to_string(), "slug": format!("s{n}"), "destination": to}).to_string()
    };
    let mut lines: Vec<String> = (0..3500).map(|n| line(n, "1")).collect();
    lines.insert(10, r#"{"slug":"q","destination":"x"}"#.to_owned());
    lines.insert(2000, "{".to_owned());
    lines.insert(3000, format!(r#"{{"slug":"{}"}}"#, "a".repeat(70_000)));
    lines.insert(3001, r#"{"slug":"s0","external_id":"other","destination":"https://a.example/"}"#.to_owned());
    let body = lines.join("\n");
    assert!(body.len() > 1 << 20);

    let first = api.send("POST", "/v1/links/import", "", &body).await;
    assert_eq!(first.status, 200, "{first:?}");
    let counts =
        |answer: &Value| ["created", "updated", "unchanged", "rejected_total"].map(|n| answer[n].as_u64().unwrap());
    assert_eq!(counts(&first.body), [3500, 0, 0, 4]);
    let rejected = first.body["rejected"].as_array().unwrap();
    let told: Vec<_> =
        rejected.iter().map(|r| (r["line"].as_u64().unwrap(), r["errors"][0]["field"].as_str().unwrap())).collect();
    assert_eq!(told, [(11, "slug"), (2001, "(line)"), (3001, "(line)"), (3002, "slug")]);
    assert_eq!(rejected[0]["errors"].as_array().unwrap().len(), 2);

    let again = api.send("POST", "/v1/links/import", "", &body).await;
    assert_eq!(counts(&again.body), [0, 0, 3500, 4]);
    let changed = line(7, "2");
    let untold = api.send("POST", "/v1/links/import?events=false", "", &changed).await;
    assert_eq!((counts(&untold.body), untold.body.get("more")), ([0, 1, 0, 0], None));
    assert_eq!(api.send("POST", "/v1/links/import?event=false", "", "").await.status, 400);

    // Each link has one event, and the change without events has none.
    let links = read(&bus, Topic::Links, |records| records.len() >= 3501).await;
    assert_eq!(links.len(), 3501);
    let last: Link = serde_json::from_str(&links[3500].value).unwrap();
    assert_eq!((last.slug.as_str(), last.revision), ("s7", 2));
    let of_links = |records: &[Read]| records.iter().filter(|record| record.key.starts_with("lnk_")).count();
    let events = read(&bus, Topic::Events, move |records| of_links(records) >= 3500).await;
    assert_eq!(of_links(&events), 3500);
    instance.stop().await;
}

#[tokio::test]
async fn a_workspace_leaves_room_for_the_imports_of_others() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let ours = instance.api();
    let theirs = ours.workspace("theirs").await;
    // Two imports are running, and a third is refused.
    let mut begun = Vec::new();
    for n in 0..2 {
        let head = format!(
            "POST /v1/links/import HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 999999\r\n\r\n"
        );
        let mut stream = TcpStream::connect(ours.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let lines: String = (0..1000)
            .map(|line| format!("{{\"slug\":\"s{n}-{line}\",\"destination\":\"https://a.example/\"}}\n"))
            .collect();
        stream.write_all(lines.as_bytes()).await.unwrap();
        begun.push(stream);
    }
    eventually("both have begun", async || (count(ours).await == 2000).then_some(())).await;
    let third = ours.send("POST", "/v1/links/import", "", "").await;
    assert_eq!((third.status, third.header("retry-after")), (429, Some("10")), "{third:?}");
    assert_eq!(theirs.send("POST", "/v1/links/import", "", "").await.status, 200);
    drop(begun);
    instance.stop().await;
}

#[tokio::test]
async fn an_import_that_breaks_off_leaves_whole_chunks() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let body: String =
        (0..2500).map(|n| format!("{{\"slug\":\"s{n}\",\"destination\":\"https://a.example/\"}}\n")).collect();
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let head = format!(
        "POST /v1/links/import HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {}\r\n\r\n",
        body.len() + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    eventually("whole chunks are there", async || (count(api).await == 2000).then_some(())).await;
    drop(stream);
    let whole = api.send("POST", "/v1/links/import", "", &body).await;
    assert_eq!((&whole.body["created"], &whole.body["unchanged"]), (&json!(500), &json!(2000)), "{whole:?}");
    instance.stop().await;
}
