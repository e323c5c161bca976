//! The description of the API, compared with its behaviour.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Api, leader};

/// Returns a path of the description with a value for each parameter.
fn filled(path: &str) -> String {
    if path == "/v1/tls/ask" {
        return format!("{path}?domain=go.example");
    }
    path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_method_is_described_and_every_description_has_a_method() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let document = Api { key: "", ..api }.get("/openapi.json").await;
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    assert_eq!(document.body["openapi"], "3.1.0");
    for (path, item) in document.body["paths"].as_object().unwrap() {
        let described: BTreeSet<String> = item.as_object().unwrap().keys().map(|name| name.to_uppercase()).collect();
        let refused = api.send("BREW", &filled(path), "", "").await;
        // The intake, which another process serves, answers 503 here.
        if refused.status == 503 {
            continue;
        }
        assert_eq!(refused.status, 405, "{path}: {refused:?}");
        let served = refused.header("allow").unwrap().split(',').filter(|name| *name != "HEAD").map(str::to_owned);
        assert_eq!(described, served.collect(), "{path}");
    }
    instance.stop().await;
}

#[tokio::test]
async fn only_the_description_and_health_are_open() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let stranger = Api { key: "0123456789abcdef-wrong", ..instance.api() };
    let document = stranger.get("/openapi.json").await.body;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let answer = stranger.send(&method.to_uppercase(), &filled(path), "", "").await;
            let open = operation.get("security") == Some(&Value::Array(Vec::new()));
            // 503: another process serves the path, and it does not run.
            let allowed = if open { [200, 503] } else { [401, 503] };
            assert!(allowed.contains(&answer.status), "{method} {path}: {answer:?}");
        }
    }
    instance.stop().await;
}
