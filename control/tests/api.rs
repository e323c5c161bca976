//! The API against a real Kafka and a real ClickHouse: what callers see, what is
//! in the topics by then, and what survives a change of leaders.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bus::Bus;
use control::{Config, Running};
use schemas::{Endpoint, EndpointId, Link, LinkId, Topic};
use serde_json::{Value, json};
use service::{Health, Metrics, Shutdown, vault::Vault};
use store::{Store, StoreConfig};
use testbed::{PATIENCE, eventually, read, unique};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const KEY: &str = "0123456789abcdef-admin";

struct Instance {
    running: Running,
    health: Health,
    shutdown: Shutdown,
    vault: Arc<Vault>,
}

fn store(database: &str) -> Store {
    let config = StoreConfig { url: testbed::clickhouse(), database: database.to_owned(), ..StoreConfig::default() };
    Store::new(config).unwrap()
}

async fn instance(bus: &Bus, store: Store) -> Instance {
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        short_url_base: "https://go.example".to_owned(),
        admin_key: KEY.to_owned(),
        ..Config::default()
    };
    let (health, shutdown) = (Health::default(), Shutdown::new());
    let vault = Arc::new(Vault::from_hex(&Vault::generate()).unwrap());
    let running = control::start(
        config,
        bus.clone(),
        Arc::clone(&vault),
        store,
        Metrics::default(),
        health.clone(),
        shutdown.clone(),
    );
    Instance { running: running.await.unwrap(), health, shutdown, vault }
}

/// An instance alone, leading. Only the statistics ask the database.
async fn leader(bus: &Bus) -> Instance {
    let instance = instance(bus, store("nothing")).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    instance
}

impl Instance {
    fn api(&self) -> Api {
        Api { address: self.running.local_addr(), key: KEY }
    }

    async fn stop(self) {
        self.shutdown.trigger();
        timeout(PATIENCE, self.running.wait()).await.unwrap().unwrap();
    }
}

#[derive(Clone, Copy)]
struct Api {
    address: SocketAddr,
    key: &'static str,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value)
    }

    /// The fields that a problem names.
    fn fields(&self) -> Vec<&str> {
        self.body["errors"]
            .as_array()
            .map_or_else(Vec::new, |errors| errors.iter().map(|error| error["field"].as_str().unwrap()).collect())
    }
}

impl Api {
    async fn send(self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (key, length) = (self.key, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        // A body that is refused may not be read to its end.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())),
        }
    }

    async fn get(self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    async fn post(self, path: &str, body: Value) -> Answer {
        self.send("POST", path, "", &body.to_string()).await
    }

    async fn patch(self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, "", &body.to_string()).await
    }

    async fn delete(self, path: &str) -> Answer {
        self.send("DELETE", path, "", "").await
    }
}

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

    // The topic holds it sealed for this endpoint.
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

#[tokio::test]
async fn what_is_refused_is_named() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();

    let wrong = Api { key: "0123456789abcdef-wrong", ..api }.get("/v1/links").await;
    assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(wrong.header("content-type"), Some("application/problem+json"));
    assert_eq!(
        wrong.body,
        json!({"type": "urn:clickhook:problem:unauthorized", "title": "The API key is missing or wrong", "status": 401,
            "detail": "This API key is not known here"})
    );

    let nowhere = api.get("/v1/nothing").await;
    assert_eq!((nowhere.status, &nowhere.body["detail"]), (404, &json!("There is no /v1/nothing")));
    let method = api.send("PUT", "/v1/links", "", "").await;
    assert_eq!((method.status, &method.body["status"]), (405, &json!(405)));
    assert!(method.header("allow").unwrap().contains("POST"), "{method:?}");
    assert_eq!(api.get("/v1/links/lnk_1").await.status, 404);
    assert_eq!(api.get(&format!("/v1/links/{}", LinkId::mint())).await.status, 404);
    assert_eq!(api.get(&format!("/v1/endpoints/{}", EndpointId::mint())).await.status, 404);
    assert_eq!(api.get("/v1/links?limit=0").await.fields(), ["limit"]);
    assert_eq!(api.get("/v1/links?cursor=x").await.fields(), ["cursor"]);
    assert_eq!(api.get("/v1/links?page=2").await.status, 400);

    let syntax = api.send("POST", "/v1/links", "", "{\"destination\":\n,}").await;
    assert_eq!(syntax.status, 400);
    assert_eq!(syntax.body["detail"], "The body is not JSON: expected value at line 2 column 1");
    let unknown = api.post("/v1/links", json!({"destination": "https://a.example/", "slog": "a"})).await;
    assert_eq!((unknown.status, unknown.fields()), (422, vec!["slog"]));
    let several = api.post("/v1/links", json!({"destination": "javascript:alert(1)", "slug": "q"})).await;
    assert_eq!(
        several.body,
        json!({"type": "urn:clickhook:problem:invalid", "title": "A field has a value that is not allowed", "status": 422,
            "detail": "Not allowed: slug, destination", "errors": [
            {"field": "slug", "reason": "`q` is reserved: choose another"},
            {"field": "destination", "reason": "begins with javascript:, must begin with http:// or https://"}]})
    );
    let private = json!({"url": "http://169.254.169.254/", "events": ["*"]});
    assert_eq!(api.post("/v1/endpoints", private).await.fields(), ["url", "url"]);
    let large = api.post("/v1/links", json!({"destination": "a".repeat(2 << 20)})).await;
    assert_eq!(large.status, 413);
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
async fn a_standby_takes_over_and_nothing_acknowledged_is_lost() {
    let bus = testbed::bus().await;
    let first = leader(&bus).await;
    let second = instance(&bus, store("nothing")).await;
    // Whichever the group elects now, one leads and the other stands by.
    let leads = async |instance: &Instance| instance.health.is_ready().then_some(());
    eventually("one of two leads", async || {
        let (a, b) = (leads(&first).await, leads(&second).await);
        a.xor(b)
    })
    .await;
    let mut acknowledged = Vec::new();
    for n in 0..5 {
        let body = json!({"destination": "https://a.example/", "slug": format!("s{n}")});
        let id = eventually("a link is created", async || {
            for api in [first.api(), second.api()] {
                let answer = api.post("/v1/links", body.clone()).await;
                match answer.status {
                    201 => return Some(answer.body["id"].clone()),
                    // An attempt whose outcome was unknown had succeeded.
                    409 => return Some(Value::Null),
                    503 => assert_eq!(answer.header("retry-after"), Some("1")),
                    _ => panic!("{answer:?}"),
                }
            }
            None
        })
        .await;
        acknowledged.push(id);
    }
    let (leader, standby) = if first.health.is_ready() { (first, second) } else { (second, first) };
    leader.stop().await;
    timeout(PATIENCE, standby.health.ready()).await.unwrap();
    let listed = standby.api().get("/v1/links").await;
    let ids: Vec<Value> = listed.body["data"].as_array().unwrap().iter().map(|link| link["id"].clone()).collect();
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert!(acknowledged.iter().filter(|id| !id.is_null()).all(|id| ids.contains(id)));
    let again = standby.api().post("/v1/links", json!({"destination": "https://a.example/", "slug": "s0"})).await;
    assert_eq!(again.status, 409);
    standby.stop().await;
}

#[tokio::test]
async fn a_leader_that_was_fenced_forgets_and_is_elected_anew() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let before = api.post("/v1/links", json!({"destination": "https://a.example/", "slug": "before"})).await;
    assert_eq!(before.status, 201);
    let usurper = {
        let bus = bus.clone();
        tokio::task::spawn_blocking(move || bus.transaction("control", Duration::ZERO))
    };
    drop(usurper.await.unwrap().unwrap());
    let fenced = api.post("/v1/links", json!({"destination": "https://a.example/", "slug": "fenced"})).await;
    assert_eq!((fenced.status, fenced.header("retry-after")), (503, Some("1")), "{fenced:?}");
    let after = eventually("it leads again", async || {
        let answer = api.post("/v1/links", json!({"destination": "https://a.example/", "slug": "fenced"})).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_eq!(after.status, 201, "{after:?}");
    assert_eq!(api.get("/v1/links").await.body["data"].as_array().unwrap().len(), 2);
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
