//! Conversions from the visit to the webhook, the row and the statistics: a shop's order
//! with its commission, a payment provider's sale and refund, an affiliate network's
//! postback, and the ad that brought the visitor.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{PHONE, PipelineApi, Up, eventually, folder, http, query, until_redirects};

const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that keeps the bodies of `link.converted`.
struct ConversionReceiver {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl ConversionReceiver {
    fn start() -> Self {
        let bodies = Arc::<Mutex<Vec<Value>>>::default();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::clone(&bodies);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let take = move |body: String| {
                    let event: Value = serde_json::from_str(&body).unwrap();
                    if event["event"] == "link.converted" {
                        seen.lock().unwrap().push(event);
                    }
                    async {}
                };
                let routes = axum::Router::new().fallback(take);
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), routes).await.unwrap();
            });
        });
        Self { address, bodies }
    }

    /// Waits for the event of a status of an order.
    fn until_told(&self, order: &str, status: &str) -> Value {
        eventually("the webhook of the conversion comes", PATIENCE, || {
            let bodies = self.bodies.lock().unwrap();
            let told =
                |event: &&Value| event["conversion"]["order_id"] == order && event["conversion"]["status"] == status;
            bodies.iter().find(told).cloned()
        })
    }
}

/// Follows a link with a query, and returns the click's id from the destination.
fn click(redirector: SocketAddr, visit: &str) -> String {
    let answer = http().get(format!("http://{redirector}/{visit}")).header("user-agent", PHONE).call().unwrap();
    let location = answer.headers().get("location").unwrap().to_str().unwrap().to_owned();
    let (_, id) = location.split_once("ch_click_id=").unwrap();
    id.split('&').next().unwrap().to_owned()
}

#[test]
fn every_kind_of_sale_finds_its_click() {
    let (_keep, dir) = folder();
    let up = Up::start(&dir);
    let (redirector, address) = (up.address("redirect"), up.address("api"));
    let api = PipelineApi::new(address);
    let receiver = ConversionReceiver::start();
    let link = api.post(
        "/v1/links",
        &json!({"slug": "sale", "destination": "https://shop.example/", "append_click_id": true, "campaign": "winter"}),
    );
    let url = format!("http://{}/", receiver.address);
    api.post("/v1/endpoints", &json!({"url": url, "events": ["link.converted"]}));
    until_redirects(redirector, "sale");
    let link = link["id"].as_str().unwrap();

    // A shop's order with its commission, of a visitor whom an ad brought.
    let first = click(redirector, "sale?referrerAdCreative=story-7&utm_source=instagram");
    let order = json!({
        "click_id": first, "name": "purchase", "order_id": "A-1", "status": "approved", "product": "jacket",
        "amount": {"value": 12_950, "currency": "EUR"}, "commission": {"value": 1295, "currency": "EUR"},
        "affiliate_id": "aff-7", "customer_id": "cus-1",
    });
    api.post("/v1/conversions", &order);
    let told = receiver.until_told("A-1", "approved");
    assert_eq!((&told["click"]["id"], &told["link"]["id"]), (&json!(first), &json!(link)), "{told}");
    assert_eq!(told["attribution"]["referrer_ad_creative"], "story-7", "{told}");
    assert_eq!(told["utm"]["source"], "instagram", "{told}");
    let conversion = &told["conversion"];
    for (field, value) in order.as_object().unwrap().iter().filter(|(field, _)| *field != "click_id") {
        assert_eq!(conversion[field], *value, "{field}: {told}");
    }
    assert_eq!(conversion["attributed"], true, "{told}");

    // A payment provider's sale, its repetition, and its refund, which names no click.
    let second = click(redirector, "sale");
    let payment = json!({
        "click_id": second, "name": "purchase", "order_id": "pi_1", "status": "approved",
        "amount": {"value": 5000, "currency": "usd"}, "customer_id": "cus-2",
    });
    api.post("/v1/conversions", &payment);
    api.post("/v1/conversions", &payment);
    let sale = receiver.until_told("pi_1", "approved");
    api.post("/v1/conversions", &json!({"name": "purchase", "order_id": "pi_1", "status": "refunded"}));
    let refund = receiver.until_told("pi_1", "refunded");
    assert_eq!(refund["conversion"]["id"], sale["conversion"]["id"], "a refund is another conversion");
    assert_ne!(refund["id"], sale["id"]);
    assert_eq!(refund["click"]["id"], json!(second), "{refund}");

    // An affiliate network's postback, with macros that it left in place.
    let token = api.post("/v1/keys", &json!({"name": "network", "scopes": ["postback"]}));
    let token = token["secret"].as_str().unwrap();
    let third = click(redirector, "sale");
    let postback = format!(
        "http://{address}/v1/postback/{token}?cid={third}&txid=T-1&payout=12.5&currency=eur&status=pending&et=purchase\
         &affiliate_id=(affiliate)&product=%24%7BPRODUCT%7D"
    );
    // Whoever takes conversions learns of a new token a moment later.
    eventually("the token is known", PATIENCE, || {
        (http().get(&postback).call().unwrap().status() == 202).then_some(())
    });
    let told = receiver.until_told("T-1", "pending");
    assert_eq!(told["conversion"]["amount"], json!({"value": 1250, "currency": "EUR"}), "{told}");
    assert!(told["conversion"].get("affiliate_id").is_none(), "{told}");
    assert!(told["conversion"].get("product").is_none(), "{told}");

    // The statistics count each once, in its current status.
    let stats = eventually("the statistics count the conversions", PATIENCE, || {
        let stats = api.get(&format!("/v1/stats/links/{link}"));
        (stats["conversions"]["total"] == 2 && stats["conversions"]["taken_back"] == 1).then_some(stats)
    });
    let revenue = json!([{"currency": "EUR", "value": 14_200, "commission": 1295}]);
    assert_eq!(stats["conversions"]["revenue"], revenue, "{stats}");
    assert_eq!(stats["ads"], json!([{"ad_creative": "story-7", "clicks": 1, "conversions": 1}]), "{stats}");
    let listed = api.get("/v1/conversions?order_id=pi_1");
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!((&listed["data"][0]["status"], &listed["data"][0]["click_id"]), (&json!("refunded"), &json!(second)));
    let rows = query(&up.text("clickhouse"), "clickhook", "SELECT count(), uniqExact(id) FROM conversions");
    assert_eq!(rows.trim(), "4\t4");
    let by_ad = "SELECT (SELECT count() FROM clicks WHERE ad_creative = 'story-7'), \
                 (SELECT count() FROM conversions WHERE ad_creative = 'story-7')";
    assert_eq!(query(&up.text("clickhouse"), "clickhook", by_ad).trim(), "1\t1");

    // The first customer wants to be forgotten.
    let erased = api.delete("/v1/people/cus-1");
    assert_eq!(erased["erased"], json!({"clicks": 1, "conversions": 1}), "{erased}");
    assert_eq!(erased["remaining"], json!({"clicks": 0, "conversions": 0}), "{erased}");
    assert_eq!(api.get("/v1/conversions?customer_id=cus-1")["data"], json!([]));
    assert_eq!(api.get("/v1/conversions?customer_id=cus-2")["data"].as_array().unwrap().len(), 1);
}
