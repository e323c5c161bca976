//! The limits of an endpoint on a real Kafka.

use std::time::Duration;

use dispatcher::webhook::Config;
use schemas::{DelayTier, Delivery, Endpoint, Topic};

use super::{
    receiver::{Receiver, Reply},
    rig::{Rig, click, config},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_gets_no_more_webhooks_a_second_than_it_asks_for() {
    let rig = Rig::new().await;
    let limited = Receiver::start(&[]).await;
    let unlimited = Receiver::start(&[]).await;
    let (endpoint, _) = rig.endpoint(&limited.url);
    rig.write(&Endpoint { rate_limit: Some(50), ..endpoint }).await;
    rig.add(&unlimited.url).await;
    let running = rig.start(config()).await;
    for _ in 0..100 {
        rig.emit(&click(), None).await;
    }
    unlimited.wait(100).await;
    let received = limited.wait(100).await;
    assert_eq!(received.len(), 100, "each once");
    let took = received[99].at.duration_since(received[0].at);
    // A hundred at 50 a second take two seconds, wherever they wait meanwhile.
    assert!(took >= Duration::from_millis(1_700), "{took:?}");
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_has_no_more_exchanges_in_flight_than_it_asks_for() {
    let rig = Rig::new().await;
    let hanging = Receiver::start(&[Reply::Hang]).await;
    let healthy = Receiver::start(&[]).await;
    let (endpoint, _) = rig.endpoint(&hanging.url);
    rig.write(&Endpoint { max_in_flight: Some(2), timeout_ms: 60_000, ..endpoint }).await;
    rig.add(&healthy.url).await;
    let running = rig.start(Config { retry_speedup: 1, drain_ms: 0, ..config() }).await;
    for _ in 0..40 {
        rig.emit(&click(), None).await;
    }
    healthy.wait(40).await;
    let waiting: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Seconds5), 30).await;
    assert!(waiting.iter().all(|delivery| delivery.attempt == 1));
    assert_eq!(hanging.received().len(), 2);
    running.stop().await;
}
