//! What is refused, and in which words.

use schemas::{EndpointId, LinkId};
use serde_json::json;

use crate::support::leader;

#[tokio::test]
async fn what_is_refused_is_named() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();

    let wrong = api.with("0123456789abcdef-wrong").get("/v1/links").await;
    assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(wrong.header("content-type"), Some("application/problem+json"));
    assert_eq!(
        wrong.body,
        json!({"type": "urn:clickhook:problem:unauthorized", "title": "The API key is missing or wrong", "status": 401,
            "detail": "This API key opens nothing here: it is unknown, revoked or has expired"})
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
