//! Domains: their owners, their proofs, and the links on them.

use serde_json::json;

use crate::support::{Answer, leader};

fn path(domain: &Answer) -> String {
    format!("/v1/domains/{}", domain.body["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_domain_is_proven_by_dns_or_by_an_operators_word() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let admin = operator.scoped(&["admin"]).await;
    let made = admin.post("/v1/domains", json!({"name": "go.acme.co", "slug_case": "insensitive"})).await;
    assert_eq!((made.status, made.body.get("verified_at")), (201, None), "{made:?}");
    let token = made.body["verification"].as_str().unwrap().to_owned();
    let verify = format!("{}/verify", path(&made));

    let nothing = admin.send("POST", &verify, "", "").await;
    assert_eq!((nothing.status, nothing.fields()), (422, vec!["verification"]));
    let reason = nothing.body["errors"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("no TXT record at _clickhook.go.acme.co") && reason.contains(&token), "{reason}");
    let says = |text: &str| {
        instance.texts.lock().unwrap().insert("_clickhook.go.acme.co.".to_owned(), vec![text.to_owned()]);
    };
    says("v=spf1 -all");
    let other = admin.send("POST", &verify, "", "").await;
    assert!(other.body["errors"][0]["reason"].as_str().unwrap().contains("`v=spf1 -all`"), "{other:?}");
    says(&token);
    let proven = admin.send("POST", &verify, "", "").await;
    assert_eq!((proven.status, proven.header("etag")), (200, Some("\"2\"")), "{proven:?}");
    assert!(proven.body["verified_at"].is_string());
    assert_eq!(admin.send("POST", &verify, "", "").await.body, proven.body);

    let second = admin.post("/v1/domains", json!({"name": "b.acme.co"})).await;
    let verify = format!("{}/verify", path(&second));
    let refused = admin.post(&verify, json!({"vouch": true})).await;
    assert_eq!(refused.status, 403);
    assert!(refused.body["detail"].as_str().unwrap().contains("`operator`"));
    let vouched = operator.post(&verify, json!({"vouch": true})).await;
    assert!(vouched.status == 200 && vouched.body["verified_at"].is_string(), "{vouched:?}");
    instance.stop().await;
}

#[tokio::test]
async fn a_workspace_has_one_default_domain_and_links_answer_on_it() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api().workspace("acme").await;
    let link = |slug: &str| json!({"destination": "https://a.example/", "slug": slug});
    // The hosts that are no domain belong to the first workspace alone.
    let nowhere = api.post("/v1/links", link("a")).await;
    assert_eq!((nowhere.status, nowhere.fields()), (422, vec!["domain"]));

    let body = json!({"name": "a.acme.co", "is_default": true, "slug_case": "insensitive"});
    let first = api.post("/v1/domains", body).await;
    let on_first = api.post("/v1/links", link("Sale")).await;
    assert_eq!((&on_first.body["domain"], &on_first.body["slug"]), (&json!("a.acme.co"), &json!("sale")));
    let taken = api.post("/v1/links", link("SALE")).await;
    assert_eq!((taken.status, taken.fields()), (409, vec!["slug"]));

    let second = api.post("/v1/domains", json!({"name": "b.acme.co"})).await;
    let changed = api.patch(&path(&second), json!({"is_default": true})).await;
    assert_eq!(&changed.body["is_default"], &json!(true));
    let before = api.get(&path(&first)).await;
    assert_eq!((&before.body["is_default"], before.header("etag")), (&json!(false), Some("\"2\"")));
    assert_eq!(api.post("/v1/links", link("SALE")).await.body["short_url"], "https://b.acme.co/SALE");
    // A link stays on the host on which it was created.
    let id = on_first.body["id"].as_str().unwrap();
    let patched = api.patch(&format!("/v1/links/{id}"), json!({"tags": ["x"]})).await;
    assert_eq!(patched.body["domain"], "a.acme.co");

    let full = api.delete(&path(&first)).await;
    assert_eq!(full.status, 409);
    assert!(full.body["detail"].as_str().unwrap().contains("a.acme.co"), "{full:?}");
    assert_eq!(api.delete(&format!("/v1/links/{id}")).await.status, 204);
    assert_eq!(api.delete(&path(&first)).await.status, 204);
    instance.stop().await;
}

#[tokio::test]
async fn what_the_first_workspace_has_without_a_domain_stays_there() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let link = |slug: &str| json!({"destination": "https://a.example/", "slug": slug});
    let before = api.post("/v1/links", link("Sale")).await;
    assert_eq!(before.body.get("domain"), None);
    let made = api.post("/v1/domains", json!({"name": "go.acme.co", "is_default": true})).await;
    assert_eq!(api.post("/v1/links", link("Sale")).await.body["domain"], "go.acme.co");
    let one = format!("/v1/links/{}", before.body["id"].as_str().unwrap());
    let patched = api.patch(&one, json!({"slug": "Other"})).await;
    assert_eq!((patched.body.get("domain"), &patched.body["short_url"]), (None, &json!("https://go.example/Other")));
    // The name belongs to one domain, and cannot be changed.
    let taken = api.post("/v1/domains", json!({"name": "go.acme.co"})).await;
    assert_eq!((taken.status, taken.fields()), (409, vec!["name"]));
    for field in ["name", "slug_case", "verified_at"] {
        let refused = api.patch(&path(&made), json!({field: "x"})).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]));
    }
    let url = api.patch(&path(&made), json!({"root_url": "javascript:alert(1)"})).await;
    assert_eq!((url.status, url.fields()), (422, vec!["root_url"]));
    instance.stop().await;
}
