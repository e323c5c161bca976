//! Who leads: taking over, and being fenced.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{PATIENCE, eventually};
use tokio::time::timeout;

use crate::support::{Instance, instance, leader, store};

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
