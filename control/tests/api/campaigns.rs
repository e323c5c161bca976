//! Tests of the campaigns of the API.

use serde_json::json;
use testbed::eventually;

use crate::support::leader;

#[tokio::test]
async fn a_campaign_is_created_read_changed_listed_and_deleted() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api().scoped(&["links"]).await;
    let made = api.post("/v1/campaigns", json!({"name": "winter", "goal": {"conversions": 50}})).await;
    assert_eq!((made.status, made.etag_revision()), (201, Some("1")), "{made:?}");
    assert_eq!(made.body["milestones"], json!([100, 500, 1000, 5000, 10000]));
    assert_eq!(made.body["goal"], json!({"conversions": 50}));
    let taken = api.post("/v1/campaigns", json!({"name": "winter"})).await;
    assert_eq!((taken.status, taken.fields()), (409, vec!["name"]));
    let path = format!("/v1/campaigns/{}", made.body["id"].as_str().unwrap());
    let changed = api.patch(&path, json!({"name": "spring", "goal": null, "milestones": [10, 20]})).await;
    assert_eq!((changed.status, changed.body.get("goal")), (200, None), "{changed:?}");
    assert_eq!(api.send("PATCH", &path, "If-Match: \"1\"\r\n", "{}").await.status, 412);
    let wrong = api.patch(&path, json!({"milestones": [20, 10]})).await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["milestones[1]"]));
    // The name that the campaign gave up is free.
    assert_eq!(api.post("/v1/campaigns", json!({"name": "winter"})).await.status, 201);
    assert_eq!(api.get("/v1/campaigns").await.body["data"][1], changed.body);
    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.get(&path).await.status, 404);
    instance.stop().await;
}

#[tokio::test]
async fn a_new_name_of_a_campaign_is_written_to_its_links() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let made = api.post("/v1/campaigns", json!({"name": "winter"})).await;
    let path = made.header("location").unwrap();
    let lines: Vec<String> = (0..1200)
        .map(|n| {
            let campaign = if n % 2 == 0 { "winter" } else { "other" };
            json!({"slug": format!("s{n}"), "destination": "https://a.example/", "campaign": campaign}).to_string()
        })
        .collect();
    let import = api.send("POST", "/v1/links/import", "", &lines.join("\n")).await;
    assert_eq!(import.body["created"], 1200, "{import:?}");
    let renamed = api.patch(path, json!({"name": "winter-2026"})).await;
    assert_eq!((renamed.status, &renamed.body["name"]), (200, &json!("winter-2026")), "{renamed:?}");
    // The old name is taken until no link has it any more.
    let done = eventually("all links have the new name", async || {
        let campaign = api.get(path).await;
        campaign.body.get("renamed_from").is_none().then_some(campaign)
    })
    .await;
    assert_eq!(done.etag_revision(), Some("2"), "{done:?}");
    let first =
        async |campaign: &str| api.get(&format!("/v1/links?limit=1&campaign={campaign}")).await.body["data"].clone();
    assert_eq!(first("winter").await, json!([]));
    assert_eq!(first("winter-2026").await[0]["slug"], "s1198");
    assert_eq!(first("other").await[0]["slug"], "s1199");
    assert_eq!(api.post("/v1/campaigns", json!({"name": "winter"})).await.status, 201);
    instance.stop().await;
}
