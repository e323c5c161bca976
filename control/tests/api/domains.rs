//! Domains: their owners, their proofs, and the links on them.

use std::time::Duration;

use bus::Outgoing;
use schemas::{
    Domain, DomainId, LinkId, Timestamp, Topic,
    sample::{plain_domain, plain_link},
};
use serde_json::{Value, json};
use testbed::{PATIENCE, eventually, read};
use tokio::time::timeout;

use crate::support::{Answer, Instance, config, configured, leader, store};

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
    assert_eq!((proven.status, proven.etag_revision()), (200, Some("2")), "{proven:?}");
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
    let operator = instance.api().within("acme");
    let pending = api.post("/v1/domains", body.clone()).await;
    // A domain is the default one once it is proven.
    let early = api.post("/v1/links", link("Sale")).await;
    assert_eq!((early.status, early.fields()), (422, vec!["domain"]), "{early:?}");
    assert_eq!(api.delete(&path(&pending)).await.status, 204);
    let first = operator.proven_domain(body).await;
    let on_first = api.post("/v1/links", link("Sale")).await;
    assert_eq!((&on_first.body["domain"], &on_first.body["slug"]), (&json!("a.acme.co"), &json!("sale")));
    let taken = api.post("/v1/links", link("SALE")).await;
    assert_eq!((taken.status, taken.fields()), (409, vec!["slug"]));

    let second = operator.proven_domain(json!({"name": "b.acme.co"})).await;
    let changed = api.patch(&path(&second), json!({"is_default": true})).await;
    assert_eq!(&changed.body["is_default"], &json!(true));
    let before = api.get(&path(&first)).await;
    assert_eq!((&before.body["is_default"], before.etag_revision()), (&json!(false), Some("3")));
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
    let made = api.proven_domain(json!({"name": "go.acme.co", "is_default": true})).await;
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

/// Publishes TXT records at the name of a proof.
fn publish(instance: &Instance, name: &str, texts: &[&str]) {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    instance.texts.lock().unwrap().insert(format!("_clickhook.{name}."), texts);
}

fn token(domain: &Answer) -> &str {
    domain.body["verification"].as_str().unwrap()
}

#[tokio::test]
async fn a_name_belongs_to_whoever_proves_it() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let squatter = operator.workspace("squatter").await;
    let owner = operator.workspace("owner").await;
    let body = json!({"name": "go.acme.co"});
    let squatted = squatter.post("/v1/domains", body.clone()).await;
    let owned = owner.post("/v1/domains", body.clone()).await;
    assert_eq!((squatted.status, owned.status), (201, 201), "{owned:?}");
    assert_ne!(token(&squatted), token(&owned));
    let twice = owner.post("/v1/domains", body).await;
    assert_eq!((twice.status, twice.fields()), (409, vec!["name"]));
    // Both can prepare links, each for itself.
    let link = json!({"destination": "https://a.example/", "domain": "go.acme.co", "slug": "sale"});
    assert_eq!(squatter.post("/v1/links", link.clone()).await.status, 201);
    assert_eq!(owner.post("/v1/links", link).await.status, 201);
    let served = async || operator.get("/v1/tls/ask?domain=go.acme.co").await.status;
    assert_eq!(served().await, 404);

    publish(&instance, "go.acme.co", &[token(&squatted), token(&owned)]);
    let verify = |domain: &Answer| format!("{}/verify", path(domain));
    assert_eq!(squatter.send("POST", &verify(&squatted), "", "").await.status, 200);
    assert_eq!(served().await, 200);
    // The proof of the workspace that has the name is still there.
    let refused = owner.send("POST", &verify(&owned), "", "").await;
    assert_eq!((refused.status, refused.fields()), (409, vec!["name"]), "{refused:?}");
    assert!(!refused.body.to_string().contains("squatter"), "{refused:?}");
    let vouched = operator.within("owner").post(&verify(&owned), json!({"vouch": true})).await;
    assert_eq!(vouched.status, 409, "{vouched:?}");
    // It is gone, and the other one is there.
    publish(&instance, "go.acme.co", &[token(&owned)]);
    assert_eq!(owner.send("POST", &verify(&owned), "", "").await.status, 200);
    let lost = squatter.get(&path(&squatted)).await;
    assert!(lost.body.get("verified_at").is_none() && lost.body["lapsed_at"].is_string(), "{lost:?}");
    assert_eq!(squatter.send("POST", &verify(&squatted), "", "").await.status, 422);

    // Nobody takes over from an operator's word, but another operator.
    let vouched = operator.within("squatter").proven_domain(json!({"name": "b.acme.co"})).await;
    let other = owner.post("/v1/domains", json!({"name": "b.acme.co"})).await;
    publish(&instance, "b.acme.co", &[token(&other)]);
    assert_eq!(owner.send("POST", &verify(&other), "", "").await.status, 409);
    assert_eq!(operator.within("owner").post(&verify(&other), json!({"vouch": true})).await.status, 200);
    assert!(squatter.get(&path(&vouched)).await.body["lapsed_at"].is_string());
    let events = read(&bus, Topic::Events, |records| {
        records.iter().filter(|record| record.value.contains("domain.lapsed")).count() == 2
    })
    .await;
    assert!(events.iter().any(|record| record.value.contains("The domain go.acme.co")));
    instance.stop().await;
}

#[tokio::test]
async fn a_proof_that_is_gone_when_it_is_looked_at_again_lapses() {
    let bus = testbed::bus().await;
    let first = leader(&bus).await;
    let api = first.api();
    let made = api.post("/v1/domains", json!({"name": "go.acme.co", "is_default": true})).await;
    let kept = api.post("/v1/domains", json!({"name": "kept.acme.co"})).await;
    let vouched = api.proven_domain(json!({"name": "vouched.acme.co"})).await;
    for domain in [&made, &kept] {
        publish(&first, domain.body["name"].as_str().unwrap(), &[token(domain)]);
        assert_eq!(api.send("POST", &format!("{}/verify", path(domain)), "", "").await.status, 200);
    }
    first.stop().await;

    // The next leader looks at all proofs. Without days of grace, a record that is gone counts at once.
    let next = configured(&bus, store("nothing"), control::Config { domain_grace_s: 0, ..config() }).await;
    publish(&next, "kept.acme.co", &[token(&kept)]);
    timeout(PATIENCE, next.health.ready()).await.unwrap();
    let api = next.api();
    let lapsed = eventually("the proof lapses", async || {
        let domain = api.get(&path(&made)).await;
        domain.body["lapsed_at"].is_string().then_some(domain)
    })
    .await;
    assert_eq!(lapsed.body.get("verified_at"), None, "{lapsed:?}");
    assert!(api.get(&path(&vouched)).await.body["verified_at"].is_string());
    assert!(api.get(&path(&kept)).await.body["verified_at"].is_string());
    assert_eq!(api.get("/v1/tls/ask?domain=go.acme.co").await.status, 404);
    assert_eq!(api.get("/v1/tls/ask?domain=Kept.acme.co.").await.status, 200);
    assert_eq!(api.get("/v1/tls/ask?domain=go.example").await.status, 200);
    // A domain that served stays known to redirectors, but not to the API.
    assert_eq!(api.delete(&path(&made)).await.status, 204);
    assert_eq!(api.get(&path(&made)).await.status, 404);
    let id = made.body["id"].as_str().unwrap().to_owned();
    let records = read(&bus, Topic::Domains, |records| records.iter().any(|r| r.value.contains("deleted_at"))).await;
    let last = records.iter().rfind(|record| record.key == id).unwrap();
    assert!(serde_json::from_str::<Domain>(&last.value).unwrap().deleted_at.is_some());
    assert_eq!(api.post("/v1/domains", json!({"name": "go.acme.co"})).await.status, 201);
    next.stop().await;

    let after = leader(&bus).await;
    // A leader that is late to renew its lease answers that it is not ready.
    let listed = eventually("the domains are listed", async || {
        let listed = after.api().get("/v1/domains").await;
        (listed.status == 200).then_some(listed)
    })
    .await;
    let names: Vec<&Value> = listed.body["data"].as_array().unwrap().iter().map(|domain| &domain["name"]).collect();
    assert_eq!(names, ["go.acme.co", "vouched.acme.co", "kept.acme.co"]);
    after.stop().await;
}

#[tokio::test]
async fn a_host_is_asked_about_without_a_key() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let stranger = instance.api().with("nobody");
    let asked = stranger.get("/v1/tls/ask?domain=go.acme.co").await;
    assert_eq!((asked.status, asked.header("content-type")), (404, Some("application/problem+json")), "{asked:?}");
    assert_eq!(stranger.get("/v1/tls/ask").await.status, 400);
    instance.stop().await;
}

#[tokio::test]
async fn a_name_that_nobody_proves_is_deleted_after_a_month_unless_it_has_links() {
    let bus = testbed::bus().await;
    let old = Timestamp::from_millis(Timestamp::now().as_millis() - 31 * 24 * 3600 * 1000);
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let pending = |id: u128, name: &str, created_at: Timestamp| {
        let domain = plain_domain(DomainId::from_bits(id), name);
        Domain { verified_at: None, proof: None, created_at, ..domain }
    };
    let domains =
        [pending(1, "old.acme.co", old), pending(2, "new.acme.co", Timestamp::now()), pending(3, "used.acme.co", old)];
    for domain in &domains {
        let (key, value) = (domain.id.to_string(), serde_json::to_vec(domain).unwrap());
        producer.produce(&Outgoing::keyed(Topic::Domains, key.as_bytes(), Some(&value))).await.unwrap();
    }
    let mut link = plain_link(LinkId::from_bits(1), "s", "https://a.example/");
    link.domain = Some("used.acme.co".to_owned());
    let (key, value) = (link.id.to_string(), serde_json::to_vec(&link).unwrap());
    producer.produce(&Outgoing::keyed(Topic::Links, key.as_bytes(), Some(&value))).await.unwrap();
    let instance = leader(&bus).await;
    let api = instance.api();
    let left = eventually("the abandoned name is deleted", async || {
        let listed = api.get("/v1/domains").await.body["data"].as_array()?.clone();
        (listed.len() == 2).then_some(listed)
    })
    .await;
    let names: Vec<&str> = left.iter().map(|domain| domain["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["used.acme.co", "new.acme.co"]);
    instance.stop().await;
}
