//! Leading: taking over, standing by, and being fenced.

use std::time::Duration;

use axum::{Json, Router, extract::Request, http::StatusCode};
use bus::Bus;
use control::Config;
use serde_json::{Value, json};
use testbed::eventually;
use tokio::net::TcpListener;

use crate::support::{Api, Instance, KEY, config, configured, instance, leader, store};

/// Starts two instances and waits until both are ready; returns the leader and the standby.
async fn two(bus: &Bus) -> (Instance, Instance) {
    let first = leader(bus).await;
    let second = instance(bus, store("nothing")).await;
    // The group can elect either of them.
    eventually("one of two leads and both are ready", async || {
        (first.leads() != second.leads() && first.health.is_ready() && second.health.is_ready()).then_some(())
    })
    .await;
    if first.leads() { (first, second) } else { (second, first) }
}

#[tokio::test]
async fn a_standby_takes_over_and_nothing_acknowledged_is_lost() {
    let bus = testbed::bus().await;
    let (leader, standby) = two(&bus).await;
    let mut acknowledged = Vec::new();
    for (n, api) in [leader.api(), standby.api()].into_iter().cycle().take(6).enumerate() {
        let body = json!({"destination": "https://a.example/", "slug": format!("s{n}")});
        let created = api.post("/v1/links", body).await;
        assert_eq!(created.status, 201, "{created:?}");
        acknowledged.push(created.body["id"].clone());
    }
    leader.stop().await;
    eventually("the standby leads", async || standby.leads().then_some(())).await;
    let listed = standby.api().get("/v1/links").await;
    let mut ids: Vec<Value> = listed.body["data"].as_array().unwrap().iter().map(|link| link["id"].clone()).collect();
    ids.reverse();
    assert_eq!(ids, acknowledged);
    let again = standby.api().post("/v1/links", json!({"destination": "https://a.example/", "slug": "s0"})).await;
    assert_eq!(again.status, 409);
    standby.stop().await;
}

#[tokio::test]
async fn a_standby_answers_what_the_leader_answers() {
    let bus = testbed::bus().await;
    let (leader, standby) = two(&bus).await;
    let (leading, standing) = (leader.api(), standby.api());
    let created = standing.post("/v1/links", json!({"destination": "https://a.example/", "slug": "sale"})).await;
    let path = created.header("location").unwrap();
    assert_eq!((created.status, created.etag_revision()), (201, Some("1")), "{created:?}");
    // A write is visible at once, at the leader and at the standby.
    assert_eq!(leading.get(path).await.body, created.body);
    assert_eq!(leading.patch(path, json!({"campaign": "w"})).await.status, 200);
    assert_eq!(standing.get(path).await.body["campaign"], "w");
    for (method, path, headers, body) in [
        ("PATCH", path, "If-Match: \"1\"\r\n", "{}"),
        ("POST", "/v1/links", "", "{\"destination\":"),
        ("POST", "/v1/links", "", "{\"destination\":\"javascript:alert(1)\"}"),
        ("PUT", "/v1/links", "", ""),
        ("GET", "/v1/nothing", "", ""),
        ("GET", "/v1/links?limit=0", "", ""),
        ("DELETE", path, "", ""),
    ] {
        let (there, here) =
            (standing.send(method, path, headers, body).await, leading.send(method, path, headers, body));
        if method == "DELETE" {
            assert_eq!((there.status, here.await.status), (204, 404));
        } else {
            let here = here.await;
            assert_eq!((there.status, &there.body), (here.status, &here.body), "{method} {path}");
        }
    }
    let wrong = Api { key: "0123456789abcdef-wrong", ..standing };
    assert_eq!(wrong.get("/v1/links").await.status, 401);
    let large = standing.post("/v1/links", json!({"destination": "a".repeat(2 << 20)})).await;
    assert_eq!(large.status, 413);
    // A forwarded request is not forwarded again.
    let circle = standing.send("GET", "/v1/links", "X-Clickhook-Hops: 1\r\n", "").await;
    assert_eq!((circle.status, circle.header("retry-after")), (503, Some("1")));
    leader.stop().await;
    standby.stop().await;
}

#[tokio::test]
async fn conversions_are_handed_on_to_the_intake() {
    let bus = testbed::bus().await;
    let none = leader(&bus).await;
    for (method, path) in [("POST", "/v1/conversions"), ("GET", "/v1/postback/chk_secret?payout=1")] {
        let told = none.api().send(method, path, "", "").await;
        assert_eq!(told.status, 503);
        assert!(told.body["detail"].as_str().unwrap().contains("control.intake_url"), "{told:?}");
    }
    none.stop().await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let intake_url = format!("http://{}", listener.local_addr().unwrap());
    let echo = |request: Request| async move {
        let header = |name: &str| request.headers().get(name).unwrap().to_str().unwrap().to_owned();
        let told = json!({"method": request.method().as_str(), "path": request.uri().to_string(),
            "for": header("x-forwarded-for"), "key": header("authorization")});
        (StatusCode::ACCEPTED, Json(told))
    };
    let intake = tokio::spawn(axum::serve(listener, Router::new().fallback(echo)).into_future());
    let instance = configured(&bus, store("nothing"), Config { intake_url, ..config() }).await;
    let api = instance.api();
    let taken = api.send("GET", "/v1/postback/chk_secret?payout=1", "X-Forwarded-For: 192.0.2.1\r\n", "").await;
    assert_eq!(taken.status, 202);
    assert_eq!(
        taken.body,
        json!({"method": "GET", "path": "/v1/postback/chk_secret?payout=1", "for": "192.0.2.1, 127.0.0.1",
            "key": format!("Bearer {KEY}")})
    );
    intake.abort();
    drop(intake.await);
    let gone = eventually("the intake is gone", async || {
        let answer = api.post("/v1/conversions", json!({})).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(gone.header("retry-after"), Some("1"));
    instance.stop().await;
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
