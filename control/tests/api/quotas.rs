//! The quotas of workspaces: what a workspace may have, what it has, and the rate of its requests.

use control::Config;
use serde_json::{Value, json};
use testbed::PATIENCE;
use tokio::time::timeout;

use crate::support::{Answer, config, configured, leader, store};

fn quota(answer: &Answer) -> (u16, &str, &str) {
    let text = |value: &'static str| answer.body.pointer(value).and_then(Value::as_str).unwrap_or_default();
    (answer.status, text("/type"), text("/quota/name"))
}

const REACHED: &str = "urn:clickhook:problem:quota";

#[tokio::test]
async fn a_workspace_has_no_more_than_it_may_have_and_others_are_not_affected() {
    let bus = testbed::bus().await;
    let limits = Config { quota_endpoints: 2, quota_campaigns: 1, quota_domains: 1, quota_keys: 3, ..config() };
    let instance = configured(&bus, store("nothing"), limits).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    let operator = instance.api();
    let acme = operator.workspace("acme").await;
    let other = operator.workspace("other").await;
    let endpoint = json!({"url": "https://a.example/", "events": ["*"]});
    let first = acme.post("/v1/endpoints", endpoint.clone()).await;
    assert_eq!(acme.post("/v1/endpoints", endpoint.clone()).await.status, 201);
    let refused = acme.post("/v1/endpoints", endpoint.clone()).await;
    assert_eq!(quota(&refused), (403, REACHED, "endpoints"), "{refused:?}");
    assert_eq!(refused.body["quota"], json!({"name": "endpoints", "limit": 2, "used": 2}));
    assert!(refused.body["detail"].as_str().unwrap().contains("has 2 endpoints and may have 2"), "{refused:?}");
    assert_eq!(other.post("/v1/endpoints", endpoint.clone()).await.status, 201);
    // Changing and deleting is always possible, and makes room.
    let one = format!("/v1/endpoints/{}", first.body["id"].as_str().unwrap());
    assert_eq!(acme.patch(&one, json!({"status": "paused"})).await.status, 200);
    assert_eq!(acme.delete(&one).await.status, 204);
    assert_eq!(acme.post("/v1/endpoints", endpoint.clone()).await.status, 201);
    for (path, name, body) in
        [("/v1/campaigns", "campaigns", json!({"name": "a"})), ("/v1/domains", "domains", json!({"name": "a.acme.co"}))]
    {
        assert_eq!(acme.post(path, body.clone()).await.status, 201);
        let mut second = body;
        second["name"] = json!("b.acme.co");
        assert_eq!(quota(&acme.post(path, second).await), (403, REACHED, name));
    }

    // An operator gives more, and the workspace's own admin does not.
    assert_eq!(acme.patch("/v1/workspaces/acme", json!({"limits": {"endpoints": 9}})).await.status, 403);
    let raised = operator.patch("/v1/workspaces/acme", json!({"limits": {"endpoints": 3, "keys": 1}})).await;
    assert_eq!((raised.status, &raised.body["limits"]), (200, &json!({"endpoints": 3, "keys": 1})), "{raised:?}");
    assert_eq!(acme.post("/v1/endpoints", endpoint.clone()).await.status, 201);
    assert_eq!(quota(&acme.post("/v1/endpoints", endpoint).await), (403, REACHED, "endpoints"));
    let usage = acme.get("/v1/usage").await;
    assert_eq!(usage.status, 200, "{usage:?}");
    for (name, used, limit) in [("endpoints", 3, 3), ("campaigns", 1, 1), ("domains", 1, 1), ("keys", 1, 1)] {
        assert_eq!(usage.body[name], json!({"used": used, "limit": limit}), "{name}");
    }
    assert_eq!((&usage.body["workspace"], &usage.body["links"]["used"]), (&json!("acme"), &json!(0)));
    let wrong = operator.patch("/v1/workspaces/acme", json!({"limits": {"requests_per_s": 0}})).await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["limits.requests_per_s"]));
    let back = operator.patch("/v1/workspaces/acme", json!({"limits": {"endpoints": null, "keys": null}})).await;
    assert_eq!(back.body.get("limits"), None, "{back:?}");
    instance.stop().await;

    // The next leader has counted the same.
    let next = leader(&bus).await;
    let again = next.api().within("acme").get("/v1/usage").await;
    assert_eq!(again.body["endpoints"], json!({"used": 3, "limit": 200}), "{again:?}");
    next.stop().await;
}

#[tokio::test]
async fn links_and_their_bytes_are_counted_however_they_are_made() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let api = operator.workspace("acme").await;
    operator.within("acme").proven_domain(json!({"name": "go.acme.co", "is_default": true})).await;
    let limit = async |limits: Value| {
        let set = operator.patch("/v1/workspaces/acme", json!({"limits": limits})).await;
        assert_eq!(set.status, 200, "{set:?}");
    };
    limit(json!({"links": 3})).await;
    let link = |n: u32| json!({"destination": "https://a.example/", "external_id": n.to_string()});
    let made = api.post("/v1/links", link(1)).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(api.send("PUT", "/v1/links/upsert", "", &link(2).to_string()).await.status, 201);
    let lines: Vec<String> = (1..6).map(|n| link(n).to_string()).collect();
    let import = api.send("POST", "/v1/links/import", "", &lines.join("\n")).await;
    assert_eq!((&import.body["created"], &import.body["unchanged"]), (&json!(1), &json!(2)), "{import:?}");
    assert_eq!(import.body["rejected_total"], 2);
    let told = import.body["rejected"][0]["errors"][0]["reason"].as_str().unwrap();
    assert!(told.contains("has 3 links and may have 3"), "{told}");
    assert_eq!(quota(&api.post("/v1/links", link(7)).await), (403, REACHED, "links"));
    assert_eq!(quota(&api.send("PUT", "/v1/links/upsert", "", &link(8).to_string()).await), (403, REACHED, "links"));

    // Bytes count where links grow, too.
    let used = api.get("/v1/usage").await.body["link_bytes"]["used"].as_u64().unwrap();
    assert!((600..3000).contains(&used), "{used}");
    limit(json!({"link_bytes": used + 100})).await;
    let one = format!("/v1/links/{}", made.body["id"].as_str().unwrap());
    let grown = api.patch(&one, json!({"metadata": {"note": "x".repeat(500)}})).await;
    assert_eq!(quota(&grown), (403, REACHED, "link_bytes"), "{grown:?}");
    let bulk = json!({"external_ids": ["1", "2"], "set": {"segment": "x".repeat(120)}});
    let bulk = api.patch("/v1/links", bulk).await;
    let outcomes: Vec<&Value> = bulk.body["data"].as_array().unwrap().iter().map(|done| &done["outcome"]).collect();
    assert_eq!(outcomes, ["refused", "refused"], "{bulk:?}");
    assert_eq!(api.patch(&one, json!({"disabled": true})).await.status, 200);
    assert_eq!(api.delete(&one).await.status, 204);
    let after = api.get("/v1/usage").await;
    assert_eq!(after.body["links"], json!({"used": 2, "limit": 3}));
    assert!(after.body["link_bytes"]["used"].as_u64().unwrap() < used);
    instance.stop().await;
}

#[tokio::test]
async fn the_keys_of_a_workspace_share_its_rate_and_answers_say_what_is_left() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let acme = operator.workspace("acme").await;
    let second = acme.scoped(&["links"]).await;
    let answer = acme.get("/v1/links").await;
    let policy = answer.header("ratelimit-policy").unwrap();
    assert_eq!(policy, "\"key\";q=2000;w=4, \"workspace\";q=8000;w=4");
    assert!(answer.header("ratelimit").unwrap().contains("\"workspace\";r=79"), "{answer:?}");
    operator.patch("/v1/workspaces/acme", json!({"limits": {"requests_per_s": 1}})).await;
    let mut refused = None;
    for n in 0..20 {
        let api = if n % 2 == 0 { acme } else { second };
        let answer = api.get("/v1/links").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the keys together are too fast");
    assert!(refused.body["detail"].as_str().unwrap().contains("requests_per_s"), "{refused:?}");
    assert!(refused.header("retry-after").is_some() && refused.header("ratelimit").unwrap().contains("r=0"));
    assert_eq!(operator.get("/v1/links").await.status, 200);
    instance.stop().await;
}
