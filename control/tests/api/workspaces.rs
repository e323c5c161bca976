//! Workspaces, and their separation: no entity is visible or can be changed from another workspace.

use schemas::{Topic, Workspace};
use serde_json::{Value, json};
use testbed::read;

use crate::support::leader;

#[tokio::test]
async fn a_workspace_is_made_renamed_and_deleted_once_it_is_empty() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    // The first leader created the workspace that every installation has.
    let records = read(&bus, Topic::Workspaces, |records| !records.is_empty()).await;
    let home: Workspace = serde_json::from_str(&records[0].value).unwrap();
    assert_eq!(home.id.as_str(), "default");

    let made = api.post("/v1/workspaces", json!({"id": "acme"})).await;
    assert_eq!((made.status, made.header("location")), (201, Some("/v1/workspaces/acme")), "{made:?}");
    assert_eq!(made.body["name"], "acme");
    let again = api.post("/v1/workspaces", json!({"id": "acme", "name": "Other"})).await;
    assert_eq!((again.status, again.fields()), (409, vec!["id"]));
    for (body, field) in [
        (json!({"id": "Acme"}), "id"),
        (json!({"id": ""}), "id"),
        (json!({"id": "a".repeat(41)}), "id"),
        (json!({"id": "a", "name": ""}), "name"),
        (json!({}), "id"),
    ] {
        let refused = api.post("/v1/workspaces", body).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]), "{refused:?}");
    }
    let renamed = api.patch("/v1/workspaces/acme", json!({"name": "Acme Inc."})).await;
    assert_eq!((renamed.status, &renamed.body["name"]), (200, &json!("Acme Inc.")));
    assert_eq!(api.get("/v1/workspaces/acme").await.body, renamed.body);
    let listed = api.get("/v1/workspaces").await;
    let ids: Vec<&Value> = listed.body["data"].as_array().unwrap().iter().map(|workspace| &workspace["id"]).collect();
    assert_eq!(ids, ["default", "acme"]);
    let page = api.get("/v1/workspaces?limit=1&cursor=default").await;
    assert_eq!((&page.body["data"][0]["id"], page.body.get("next")), (&json!("acme"), None));
    let description = api.get("/openapi.json").await;
    let described = &description.body["paths"]["/v1/workspaces"]["get"]["summary"];
    assert_eq!(described, "List workspaces, from the last id to the first");

    let inside = api.within("acme");
    let key = inside.post("/v1/keys", json!({"name": "a", "scopes": ["links"]})).await;
    assert_eq!(key.body["workspace"], "acme");
    let full = api.delete("/v1/workspaces/acme").await;
    assert_eq!(full.status, 409);
    assert!(full.body["detail"].as_str().unwrap().contains("keys: 1"), "{full:?}");
    let key = format!("/v1/keys/{}", key.body["id"].as_str().unwrap());
    assert_eq!(api.get(&key).await.status, 404);
    assert_eq!(inside.delete(&key).await.status, 204);
    assert_eq!(api.delete("/v1/workspaces/acme").await.status, 204);
    assert_eq!((api.get("/v1/workspaces/acme").await.status, inside.get("/v1/keys").await.status), (404, 404));
    assert_eq!(api.delete("/v1/workspaces/default").await.status, 409);
    // Rows of the former workspace have the id, so no other gets it.
    let again = api.post("/v1/workspaces", json!({"id": "acme"})).await;
    assert_eq!((again.status, again.fields()), (409, vec!["id"]), "{again:?}");
    instance.stop().await;
    let next = leader(&bus).await;
    assert_eq!(next.api().post("/v1/workspaces", json!({"id": "acme"})).await.status, 409);
    assert_eq!(next.api().get("/v1/workspaces/acme").await.status, 404);
    next.stop().await;
}

#[tokio::test]
async fn an_operator_acts_in_any_workspace_and_nobody_else_does() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let operator = instance.api();
    let admin = operator.workspace("acme").await;
    let made =
        operator.within("acme").post("/v1/endpoints", json!({"url": "https://a.example/", "events": ["*"]})).await;
    assert_eq!((made.status, &made.body["workspace"]), (201, &json!("acme")), "{made:?}");
    let unknown = operator.within("nobody").get("/v1/links").await;
    assert_eq!((unknown.status, &unknown.body["detail"]), (404, &json!("There is no workspace nobody")));
    assert_eq!(operator.within("No/body").get("/v1/links").await.status, 404);
    let refused = admin.within("default").get("/v1/links").await;
    assert_eq!(refused.status, 403);
    assert!(refused.body["detail"].as_str().unwrap().contains("`operator`"));
    assert_eq!(admin.within("acme").get("/v1/endpoints").await.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(admin.get("/v1/workspaces").await.status, 403);
    instance.stop().await;
}

#[tokio::test]
async fn nothing_is_seen_or_changed_across_workspaces() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let ours = instance.api().scoped(&["admin"]).await;
    let theirs = instance.api().workspace("acme").await;
    instance.api().within("acme").proven_domain(json!({"name": "go.acme.co", "is_default": true})).await;
    let to = "https://a.example/";
    let kinds = [
        ("/v1/links", json!({"destination": to, "slug": "sale", "external_id": "1"}), json!({"tags": ["x"]})),
        ("/v1/campaigns", json!({"name": "winter"}), json!({"milestones": [1]})),
        ("/v1/endpoints", json!({"url": to, "events": ["*"]}), json!({"status": "paused"})),
        ("/v1/domains", json!({"name": "b.acme.co"}), json!({"root_url": to})),
        ("/v1/keys", json!({"name": "crm", "scopes": ["links"]}), json!({"name": "x"})),
    ];
    for (path, body, patch) in kinds {
        let before = ours.get(path).await.body;
        let made = theirs.post(path, body.clone()).await;
        assert_eq!((made.status, &made.body["workspace"]), (201, &json!("acme")), "{made:?}");
        let one = format!("{path}/{}", made.body["id"].as_str().unwrap());
        assert_eq!(theirs.get(&one).await.status, 200);
        assert_eq!(ours.get(&one).await.status, 404);
        assert_eq!(ours.patch(&one, patch).await.status, 404);
        assert_eq!(ours.delete(&one).await.status, 404);
        for action in ["test", "rotate", "verify"] {
            assert_eq!(ours.send("POST", &format!("{one}/{action}"), "", "").await.status, 404, "{one}/{action}");
        }
        assert_eq!(ours.get(path).await.body, before, "{path}");
        // Values that are unique in a workspace are free in another, as is a host that is not proven.
        let same = ours.post(path, body).await;
        assert_eq!(same.status, 201, "{same:?}");
    }
    let link = theirs.get("/v1/links").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(ours.get(&format!("/v1/stats/links/{link}")).await.status, 404);
    let there = ours.post("/v1/links", json!({"destination": to, "domain": "go.acme.co"})).await;
    assert_eq!((there.status, there.fields()), (422, vec!["domain"]));
    let upserted = ours.send("PUT", "/v1/links/upsert", "", r#"{"external_id":"1","tags":["ours"]}"#).await;
    assert_eq!((upserted.status, &upserted.body["workspace"]), (200, &json!("default")), "{upserted:?}");
    assert_ne!(upserted.body["id"], json!(link));
    instance.stop().await;
}
