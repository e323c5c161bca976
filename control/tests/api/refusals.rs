//! Refused requests, and the words of the refusals.

use control::Config;
use schemas::{AppSchemes, EndpointId, LinkId};
use serde_json::json;
use testbed::PATIENCE;
use tokio::time::timeout;

use crate::support::{config, configured, leader, store};

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
            "detail": "Values are not allowed for: slug, destination", "errors": [
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
async fn addresses_have_the_schemes_that_are_configured_and_no_others() {
    let bus = testbed::bus().await;
    let app_schemes = AppSchemes::try_from(vec!["myapp".to_owned(), "intent".to_owned()]).unwrap();
    let instance = configured(&bus, store("nothing"), Config { app_schemes, ..config() }).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    let api = instance.api();
    let link = api.post("/v1/links", json!({"destination": "myapp://open/1", "expired_url": "intent:over"})).await;
    assert_eq!((link.status, &link.body["destination"]), (201, &json!("myapp://open/1")), "{link:?}");
    let urls = json!({"name": "go.acme.co", "root_url": "myapp:home", "fallback_url": "intent:a",
        "expired_url": "https://a.example/"});
    let domain = api.post("/v1/domains", urls).await;
    assert_eq!(domain.status, 201, "{domain:?}");
    let link = link.header("location").unwrap();
    let domain = format!("/v1/domains/{}", domain.body["id"].as_str().unwrap());
    for (path, field) in [
        (link, "destination"),
        (link, "expired_url"),
        (&domain, "root_url"),
        (&domain, "fallback_url"),
        (&domain, "expired_url"),
    ] {
        assert_eq!(api.patch(path, json!({field: "myapp://open/2"})).await.status, 200, "{field}");
        for scheme in ["other", "javascript", "myapp2"] {
            let refused = api.patch(path, json!({field: format!("{scheme}:a")})).await;
            let reason = format!("begins with {scheme}:, must begin with http://, https://, myapp: or intent:");
            assert_eq!((refused.status, refused.fields()), (422, vec![field]), "{refused:?}");
            assert_eq!(refused.body["errors"][0]["reason"], reason);
        }
    }
    // A redirect can lead to an app, but a webhook cannot be sent to one.
    let endpoint = api.post("/v1/endpoints", json!({"url": "myapp://hook", "events": ["*"]})).await;
    assert_eq!((endpoint.status, endpoint.fields()), (422, vec!["url"]));
    instance.stop().await;
}
