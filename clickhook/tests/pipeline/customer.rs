//! A customer of the installation, from the keys to the sale: each role in a
//! process of its own, and nothing asked of any but what the API says.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::{
    roles::Installation,
    support::{PHONE, PipelineApi, eventually, folder, http},
};

/// The answer to a visitor of `/slug` at the customer's domain.
struct VisitAnswer {
    status: u16,
    location: String,
}

fn visit(redirector: SocketAddr, domain: &str, slug: &str) -> VisitAnswer {
    let answer = http()
        .get(format!("http://{redirector}/{slug}"))
        .header("host", domain)
        .header("user-agent", PHONE)
        .call()
        .unwrap();
    let location = answer.headers().get("location").map(|location| location.to_str().unwrap().to_owned());
    VisitAnswer { status: answer.status().as_u16(), location: location.unwrap_or_default() }
}

fn key(admin: &PipelineApi, scope: &str, address: SocketAddr) -> PipelineApi {
    let made = admin.post("/v1/keys", &json!({"name": scope, "scopes": [scope]}));
    PipelineApi::with(address, made["secret"].as_str().unwrap())
}

#[test]
fn a_key_makes_a_link_whose_click_becomes_a_sale() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let intake = testbed::free_address();
    let ingest = installation.start_with("ingest", &[("CLICKHOOK_INGEST_INTAKE_LISTEN", intake.to_string())]);
    let control = installation.start_with("control", &[("CLICKHOOK_CONTROL_INTAKE_URL", format!("http://{intake}"))]);
    let others = ["enricher", "dispatcher"].map(|role| installation.start(role));
    for process in [&control, &ingest].into_iter().chain(&others) {
        process.until_ready("a role is ready");
    }

    let admin = PipelineApi::new(control.serves);
    let (maker, shop) = (key(&admin, "links", control.serves), key(&admin, "conversions", control.serves));
    let domain = admin.post("/v1/domains", &json!({"name": "go.acme.example"}));
    let domain = domain["id"].as_str().unwrap();
    admin.post(&format!("/v1/domains/{domain}/verify"), &json!({"vouch": true}));
    let link = maker.post(
        "/v1/links",
        &json!({
            "domain": "go.acme.example", "slug": "sale", "destination": "https://shop.acme.example/?item=1",
            "append_click_id": true, "max_clicks": 1,
        }),
    );
    assert_eq!(link["short_url"], "https://go.acme.example/sale");

    let first = eventually("the redirector knows the link", Duration::from_secs(30), || {
        Some(visit(ingest.serves, "go.acme.example", "sale")).filter(|first| first.status == 302)
    });
    assert_eq!(visit(ingest.serves, "other.example", "sale").status, 404, "only its domain knows it");
    let click = first.location.strip_prefix("https://shop.acme.example/?item=1&ch_click_id=").unwrap();

    let sale = json!({
        "click_id": click, "name": "purchase", "order_id": "1001", "amount": {"value": 4990, "currency": "EUR"},
    });
    // Reported twice, as by a shop that did not hear the first answer.
    let reports = [(); 2].map(|()| shop.post("/v1/conversions", &sale));
    let config = bus::BusConfig {
        brokers: installation.brokers.clone(),
        prefix: installation.prefix.clone(),
        ..bus::BusConfig::default()
    };
    let recorded = tokio::runtime::Runtime::new().unwrap().block_on(testbed::read(
        &bus::Bus::new(config),
        schemas::Topic::ConversionsRaw,
        |records| records.len() == 2,
    ));
    for (record, report) in recorded.iter().zip(reports) {
        let sale: Value = serde_json::from_str(&record.value).unwrap();
        assert_eq!((&sale["id"], &sale["click_id"]), (&report["id"], &json!(click)), "{sale}");
        assert_eq!(
            (&sale["workspace"], &sale["same_as"]),
            (&json!("default"), &json!("order/purchase/1001")),
            "{sale}"
        );
    }

    eventually("the link has had its one click", Duration::from_secs(60), || {
        (visit(ingest.serves, "go.acme.example", "sale").status == 410).then_some(())
    });
}
