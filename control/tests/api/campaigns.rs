//! Tests of the campaigns of the API.

use serde_json::json;

use crate::support::leader;

#[tokio::test]
async fn a_campaign_is_created_read_changed_listed_and_deleted() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api().scoped(&["links"]).await;
    let made = api.post("/v1/campaigns", json!({"name": "winter", "goal": {"conversions": 50}})).await;
    assert_eq!((made.status, made.header("etag")), (201, Some("\"1\"")), "{made:?}");
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
