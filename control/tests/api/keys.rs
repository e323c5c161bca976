//! Keys: their scopes, their validity, and their secrets, which are shown once.

use std::time::Duration;

use control::Config;
use schemas::{Key, KeyId, Timestamp, Topic, keyring};
use serde_json::{Value, json};
use testbed::{PATIENCE, eventually, read};
use tokio::time::timeout;

use crate::support::{Answer, Api, config, configured, leader, store};

/// The installation's own key.
const ADMIN: KeyId = KeyId::from_bits(0);

fn path(key: &Answer) -> String {
    format!("/v1/keys/{}", key.body["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_key_shows_its_secret_once_and_its_hash_never() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let made = api.post("/v1/keys", json!({"name": "crm", "scopes": ["links", "stats"]})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("chk_") && secret.len() == 47, "{secret}");
    assert_eq!(made.body["hint"], secret[..8]);
    let seen = api.get(&path(&made)).await;
    assert_eq!((seen.status, seen.body.get("secret"), seen.body.get("hash")), (200, None, None));
    assert_eq!((&seen.body["workspace"], seen.etag_revision()), (&json!("default"), Some("1")));
    let listed = api.get("/v1/keys").await;
    assert!(!listed.body.to_string().contains("hash"), "{listed:?}");
    let ids: Vec<&Value> = listed.body["data"].as_array().unwrap().iter().map(|key| &key["id"]).collect();
    assert_eq!(ids, [&seen.body["id"], &json!(ADMIN)]);

    // Neither the topic nor the answers have the secret in them.
    let records = read(&bus, Topic::Keys, |records| records.len() >= 2).await;
    assert!(records.iter().all(|record| !record.value.contains(&secret)));
    let kept: Key = serde_json::from_str(&records[1].value).unwrap();
    assert_eq!(kept.hash, keyring::hash(&secret));

    let renamed = api.patch(&path(&made), json!({"name": "erp", "scopes": ["endpoints"]})).await;
    assert_eq!((renamed.status, renamed.etag_revision()), (200, Some("2")), "{renamed:?}");
    let key = api.with(&secret);
    assert_eq!((key.get("/v1/endpoints").await.status, key.get("/v1/links").await.status), (200, 403));
    assert_eq!(api.delete(&path(&made)).await.status, 204);
    assert_eq!(key.get("/v1/endpoints").await.status, 401);
    instance.stop().await;
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say_and_no_more() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let stats = format!("/v1/stats/links/{}", schemas::LinkId::mint());
    let routes = [
        ("/v1/links", "links"),
        ("/v1/endpoints", "endpoints"),
        (stats.as_str(), "stats"),
        ("/v1/keys", "admin"),
        ("/v1/workspaces", "operator"),
    ];
    for scopes in [&["links"][..], &["endpoints", "stats"], &["conversions"], &["admin"], &["operator"]] {
        let key = api.scoped(scopes).await;
        for (route, scope) in routes {
            let answer = key.get(route).await;
            let may = match scopes[0] {
                "operator" => true,
                "admin" => scope != "operator",
                _ => scopes.contains(&scope),
            };
            assert_eq!(answer.status != 403, may, "{scopes:?} {route} {answer:?}");
            if !may {
                assert!(answer.body["detail"].as_str().unwrap().contains(&format!("`{scope}`")), "{answer:?}");
            }
        }
        assert_eq!(key.get("/v1/event-types").await.status, 200);
    }
    let token = api.scoped(&["postback"]).await;
    for (route, _) in routes {
        assert_eq!(token.get(route).await.status, 403);
    }
    assert_eq!(token.get("/v1/event-types").await.status, 403);
    instance.stop().await;
}

#[tokio::test]
async fn nobody_gives_or_takes_more_than_they_have() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let above = operator.post("/v1/keys", json!({"name": "root", "scopes": ["operator"]})).await;
    let admin = operator.scoped(&["admin"]).await;

    let refused = admin.post("/v1/keys", json!({"name": "a", "scopes": ["links", "operator"]})).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("operator"));
    let own = admin.post("/v1/keys", json!({"name": "a", "scopes": ["links"]})).await;
    assert_eq!(admin.patch(&path(&own), json!({"scopes": ["operator"]})).await.status, 403);
    // A caller cannot rotate, change or delete another's stronger key.
    let rotate = format!("{}/rotate", path(&above));
    for refused in [
        admin.send("POST", &rotate, "", "").await,
        admin.patch(&path(&above), json!({"scopes": ["links"]})).await,
        admin.delete(&path(&above)).await,
    ] {
        assert_eq!(refused.status, 403, "{refused:?}");
    }
    let installation = format!("/v1/keys/{ADMIN}");
    for refused in [
        operator.delete(&installation).await,
        operator.patch(&installation, json!({"name": "a"})).await,
        operator.send("POST", &format!("{installation}/rotate"), "", "").await,
    ] {
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.body["detail"].as_str().unwrap().contains("control.admin_key"), "{refused:?}");
    }
    assert_eq!(operator.delete(&path(&above)).await.status, 204);
    instance.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_named() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    for (body, field) in [
        (json!({"name": "", "scopes": ["links"]}), "name"),
        (json!({"name": "a", "scopes": []}), "scopes"),
        (json!({"name": "a"}), "scopes"),
        (json!({"name": "a", "scopes": ["link"]}), "scopes[0]"),
        (json!({"name": "a", "scopes": ["links", "links"]}), "scopes[1]"),
        (json!({"name": "a", "scopes": ["postback", "links"]}), "scopes"),
        (json!({"name": "a", "scopes": ["links"], "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"name": "a", "scopes": ["links"], "secret": "x"}), "secret"),
    ] {
        let refused = api.post("/v1/keys", body.clone()).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]), "{body} {refused:?}");
    }
    let made = api.post("/v1/keys", json!({"name": "a", "scopes": ["links"]})).await;
    let rotation = api.post(&format!("{}/rotate", path(&made)), json!({"overlap_s": 99_999_999})).await;
    assert_eq!((rotation.status, rotation.fields()), (422, vec!["overlap_s"]));
    instance.stop().await;
}

#[tokio::test]
async fn a_rotated_key_opens_with_both_secrets_for_a_while() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let opens =
        async |answer: &Answer| api.with(answer.body["secret"].as_str().unwrap()).get("/v1/links").await.status == 200;
    let first = api.post("/v1/keys", json!({"name": "a", "scopes": ["links"]})).await;
    let rotate = format!("{}/rotate", path(&first));
    let second = api.send("POST", &rotate, "", "").await;
    assert_eq!((second.status, &second.body["revision"]), (200, &json!(2)), "{second:?}");
    assert!(second.body["previous_expires_at"].is_string());
    assert!(opens(&first).await && opens(&second).await);
    let third = api.post(&rotate, json!({"overlap_s": 0})).await;
    assert_eq!(third.body.get("previous_expires_at"), None);
    assert!(!opens(&first).await && !opens(&second).await && opens(&third).await);
    let stale = api.send("POST", &rotate, "If-Match: \"1\"\r\n", "").await;
    assert_eq!(stale.status, 412);
    instance.stop().await;
}

#[tokio::test]
async fn a_key_gives_none_that_outlasts_it_and_a_rotated_secret_gives_none() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let end = Timestamp::now().plus(Duration::from_secs(3600)).to_string();
    let brief = api.post("/v1/keys", json!({"name": "brief", "scopes": ["admin"], "expires_at": end})).await;
    let holder = api.with(brief.body["secret"].as_str().unwrap());
    let lasting = holder.post("/v1/keys", json!({"name": "a", "scopes": ["admin"]})).await;
    assert_eq!(lasting.status, 403, "{lasting:?}");
    assert!(lasting.body["detail"].as_str().unwrap().contains("expires_at"), "{lasting:?}");
    assert_eq!(holder.patch(&path(&brief), json!({"expires_at": null})).await.status, 403);
    // Nor does a key that lasts get more than it has from one that ends.
    let lasting = api.post("/v1/keys", json!({"name": "lasting", "scopes": ["stats"]})).await;
    let grown = holder.patch(&path(&lasting), json!({"scopes": ["stats", "admin"]})).await;
    assert_eq!(grown.status, 403, "{grown:?}");
    assert_eq!(holder.patch(&path(&lasting), json!({"name": "other"})).await.status, 200);
    let other = api.post("/v1/keys", json!({"name": "other", "scopes": ["admin"]})).await;
    let rotate = format!("{}/rotate", path(&other));
    assert_eq!(holder.send("POST", &rotate, "", "").await.status, 403);
    assert_eq!(holder.post("/v1/keys", json!({"name": "a", "scopes": ["links"], "expires_at": end})).await.status, 201);

    let renewed = api.send("POST", &rotate, "", "").await;
    let (before, after) = (other.body["secret"].as_str().unwrap(), renewed.body["secret"].as_str().unwrap());
    let stolen = api.with(before);
    assert_eq!(stolen.get("/v1/keys").await.status, 200);
    assert_eq!(stolen.post(&rotate, json!({"overlap_s": 0})).await.status, 403);
    assert_eq!(stolen.post("/v1/keys", json!({"name": "a", "scopes": ["admin"]})).await.status, 403);
    assert_eq!(api.with(after).post(&rotate, json!({"overlap_s": 0})).await.status, 200);
    instance.stop().await;
}

#[tokio::test]
async fn an_expired_key_is_answered_like_an_unknown_one() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let soon = Timestamp::now().plus(Duration::from_secs(2)).to_string();
    let made = api.post("/v1/keys", json!({"name": "a", "scopes": ["links"], "expires_at": soon})).await;
    let key = api.with(made.body["secret"].as_str().unwrap());
    assert_eq!(key.get("/v1/links").await.status, 200, "{made:?}");
    let expired = eventually("it expires", async || {
        let answer = key.get("/v1/links").await;
        (answer.status == 401).then_some(answer)
    })
    .await;
    assert_eq!(expired.body, api.with("chk_nobody").get("/v1/links").await.body);
    instance.stop().await;
}

#[tokio::test]
async fn the_last_use_of_a_key_is_shown_whoever_was_called() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let made = api.post("/v1/keys", json!({"name": "a", "scopes": ["links"]})).await;
    assert_eq!(api.get(&path(&made)).await.body.get("last_used_at"), None);
    let key = api.with(made.body["secret"].as_str().unwrap());
    for _ in 0..3 {
        assert_eq!(key.get("/v1/links").await.status, 200);
    }
    let used = api.get(&path(&made)).await.body["last_used_at"].clone();
    assert!(used.is_string());
    // Uses are recorded once a minute, so the topic has one record.
    let id = made.body["id"].as_str().unwrap().to_owned();
    let key_of = id.clone();
    let told = read(&bus, Topic::KeyUses, move |records| records.iter().any(|record| record.key == key_of)).await;
    let told: Vec<_> = told.iter().filter(|record| record.key == id).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(serde_json::from_str::<Value>(&told[0].value).unwrap(), json!({"v": 1, "last_used_at": used}));
    // A use that another process records is shown too.
    let later = Timestamp::now().plus(Duration::from_secs(60)).to_string();
    let value = json!({"v": 1, "last_used_at": later}).to_string();
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let record = bus::Outgoing::keyed(Topic::KeyUses, id.as_bytes(), Some(value.as_bytes()));
    producer.produce(&record).await.unwrap();
    eventually("it is shown", async || (api.get(&path(&made)).await.body["last_used_at"] == later).then_some(())).await;
    instance.stop().await;
}

#[tokio::test]
async fn the_configurations_key_is_a_record_and_a_new_one_replaces_it() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let records = read(&bus, Topic::Keys, |records| !records.is_empty()).await;
    let first: Key = serde_json::from_str(&records[0].value).unwrap();
    assert_eq!((first.id, first.revision), (ADMIN, 1));
    instance.stop().await;

    let next = "fedcba9876543210-the-admin-of-tests";
    let config = Config { admin_key: next.to_owned(), ..config() };
    let instance = configured(&bus, store("nothing"), config).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    let api = instance.api();
    assert_eq!(api.get("/v1/links").await.status, 401);
    assert_eq!(api.with(next).get("/v1/workspaces").await.status, 200);
    let records = read(&bus, Topic::Keys, |records| records.len() >= 2).await;
    let second: Key = serde_json::from_str(&records[1].value).unwrap();
    assert_eq!((second.id, second.revision, second.hash), (ADMIN, 2, keyring::hash(next)));
    instance.stop().await;
}

#[tokio::test]
async fn a_key_that_calls_too_often_is_told_to_wait_and_others_are_not() {
    let bus = testbed::bus().await;
    let config = Config { rate_per_s: 1, rate_burst: 5, ..config() };
    let instance = configured(&bus, store("nothing"), config).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    let api = instance.api();
    let other = api.scoped(&["links"]).await;
    let limited = async |api: Api| {
        for _ in 0..20 {
            let answer = api.get("/v1/links").await;
            if answer.status != 200 {
                return answer;
            }
        }
        panic!("no request was refused");
    };
    let refused = limited(api).await;
    assert_eq!((refused.status, refused.header("content-type")), (429, Some("application/problem+json")));
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{refused:?}");
    assert_eq!(other.get("/v1/links").await.status, 200);
    instance.stop().await;
}

#[tokio::test]
async fn a_key_is_used_by_pages_of_its_origins_alone() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let origins = json!(["https://app.example.com", "http://localhost:3000"]);
    let made = api.post("/v1/keys", json!({"name": "pages", "scopes": ["links"], "origins": origins})).await;
    assert_eq!((made.status, &made.body["origins"]), (201, &origins), "{made:?}");
    let pages = api.with(made.body["secret"].as_str().unwrap());
    let from = async |api: Api, origin: &str| api.send("GET", "/v1/links", &format!("Origin: {origin}\r\n"), "").await;
    let allowed = from(pages, "https://app.example.com").await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some("https://app.example.com")));
    assert!(allowed.header("access-control-expose-headers").unwrap().contains("ratelimit"));
    let other = from(pages, "https://evil.example").await;
    assert_eq!((other.status, other.header("access-control-allow-origin")), (403, None), "{other:?}");
    assert_eq!(pages.get("/v1/links").await.status, 200);
    // A key without origins lets no page read its answers.
    let program = from(api, "https://app.example.com").await;
    assert_eq!((program.status, program.header("access-control-allow-origin")), (200, None));
    let asks = "Origin: https://app.example.com\r\nAccess-Control-Request-Method: POST\r\n";
    let preflight = api.with("nobody").send("OPTIONS", "/v1/links", asks, "").await;
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (204, Some("https://app.example.com"))
    );
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    for wrong in ["*", "https://app.example.com/", "app.example.com", "null", "ftp://a.example"] {
        let refused = api.post("/v1/keys", json!({"name": "a", "scopes": ["links"], "origins": [wrong]})).await;
        assert_eq!((refused.status, refused.fields()), (422, vec!["origins[0]"]), "{wrong}");
    }
    instance.stop().await;
}
