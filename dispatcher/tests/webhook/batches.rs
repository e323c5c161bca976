//! Batches on a real Kafka: the bytes of a list and its retries, events that a receiver names as
//! failed, and the records that remain.

use std::collections::HashSet;

use schemas::{
    Attempt, BatchLimits, Dead, DelayTier, Delivery, Endpoint, EventId, Outcome, Packing, RetrySchedule, Topic,
};
use service::secret::Secret;

use super::{
    assert_verified,
    receiver::{Receiver, Reply},
    rig::{Rig, TRACE, click, config},
};

/// More than a busy machine needs to read a few events.
const LONG_MS: u32 = 10_000;

impl Rig {
    /// Writes an endpoint that gets batches of at most `max_events`.
    async fn add_batched(&self, url: &str, max_events: u32, retries: usize) -> (Endpoint, Secret) {
        let (mut endpoint, secret) = self.endpoint(url);
        endpoint.batch = Some(BatchLimits { max_events, max_wait_ms: LONG_MS, max_bytes: 100_000 });
        endpoint.retry_schedule = RetrySchedule::first(retries);
        self.write(&endpoint).await;
        (endpoint, secret)
    }

    /// Produces clicks, and returns their ids and bodies.
    async fn emit_clicks(&self, count: usize) -> (Vec<EventId>, Vec<String>) {
        let (mut ids, mut bodies) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let event = click();
            ids.push(event.id);
            bodies.push(self.emit(&event, None).await);
        }
        (ids, bodies)
    }
}

fn list(bodies: &[String]) -> String {
    format!("[{}]", bodies.join(","))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_a_list_of_bodies_and_every_retry_has_its_bytes() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(500), Reply::Status(200)]).await;
    let (endpoint, secret) = rig.add_batched(&receiver.url, 3, 2).await;
    let running = rig.start(config()).await;
    let (ids, bodies) = rig.emit_clicks(3).await;
    receiver.wait(1).await;
    let waiting: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Minute1), 1).await;
    assert_eq!(waiting[0].packing, Some(Packing::Batch));
    assert_eq!(waiting[0].attempt, 2);
    assert_eq!(waiting[0].events.iter().map(|event| event.id).collect::<Vec<_>>(), ids);
    // A restart changes nothing, nor does an endpoint that wants no batches any more.
    running.stop().await;
    rig.write(&Endpoint { batch: None, revision: 2, ..endpoint.clone() }).await;
    let running = rig.start(config()).await;

    let received = receiver.wait(2).await;
    for (received, attempt) in received.iter().zip(["1", "2"]) {
        assert_eq!(received.body, list(&bodies));
        assert_eq!(received.header("x-webhook-attempt"), attempt);
        assert_eq!(received.header("x-webhook-event"), "link.clicked");
        assert_eq!(received.headers.get("traceparent"), None, "there are three of them");
        assert_verified(received, &secret);
    }
    let id = received[0].header("webhook-id");
    assert!(id.starts_with("bat_"), "{id}");
    assert_eq!(received[1].header("webhook-id"), id);
    let mut attempts: Vec<Attempt> = rig.read(Topic::Attempts, 2).await;
    attempts.sort_by_key(|attempt| attempt.attempt);
    for (attempt, outcome) in attempts.iter().zip([Outcome::Retrying, Outcome::Delivered]) {
        assert_eq!(attempt.endpoint, endpoint.id);
        assert_eq!(attempt.batch.unwrap().to_string(), id);
        assert_eq!(attempt.events.iter().map(|event| event.id).collect::<Vec<_>>(), ids);
        assert_eq!(attempt.outcome, outcome);
    }
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_named_as_failed_come_again_alone() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::SecondFailed, Reply::Status(200)]).await;
    let (_, secret) = rig.add_batched(&receiver.url, 3, 2).await;
    let running = rig.start(config()).await;
    let (ids, bodies) = rig.emit_clicks(3).await;
    let received = receiver.wait(2).await;
    assert_eq!(received[0].body, list(&bodies));
    assert_eq!(received[1].body, list(&bodies[1..2]));
    assert_eq!(received[1].header("x-webhook-attempt"), "2");
    assert_ne!(received[1].header("webhook-id"), received[0].header("webhook-id"));
    assert_verified(&received[1], &secret);
    let mut attempts: Vec<Attempt> = rig.read(Topic::Attempts, 2).await;
    attempts.sort_by_key(|attempt| attempt.attempt);
    let ends: Vec<_> = attempts[0].events.iter().map(|event| (event.id, attempts[0].end_of(event).0)).collect();
    assert_eq!(ends, [(ids[0], Outcome::Delivered), (ids[1], Outcome::Retrying), (ids[2], Outcome::Delivered)]);
    assert_eq!(attempts[1].outcome, Outcome::Delivered);
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_given_up_is_a_dead_letter_for_each_event() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(500)]).await;
    let (endpoint, _) = rig.add_batched(&receiver.url, 3, 0).await;
    let running = rig.start(config()).await;
    let (ids, bodies) = rig.emit_clicks(3).await;
    let dead: Vec<Dead> = rig.read(Topic::Dead, 3).await;
    let mut given_up = HashSet::new();
    for (dead, offset) in dead.iter().zip(0..) {
        assert!(dead.reason.contains("500") && dead.reason.contains("1 of 1"), "{}", dead.reason);
        assert_eq!(dead.origin.topic, rig.bus.topics().name(Topic::Clicks));
        let delivery = dead.delivery.as_ref().unwrap();
        assert_eq!((delivery.endpoint, delivery.packing), (endpoint.id, None));
        let event = &delivery.events[0];
        let nth = ids.iter().position(|id| *id == event.id).unwrap();
        assert_eq!(event.body, bodies[nth]);
        assert_eq!(event.traceparent.as_deref(), Some(TRACE));
        assert_eq!(usize::try_from(dead.origin.offset).unwrap(), nth, "letter {offset} has its event's origin");
        given_up.insert(event.id);
    }
    assert_eq!(given_up.len(), 3);
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_batch_holds_up_no_other_endpoint_and_leaves_at_a_stop() {
    let rig = Rig::new().await;
    let patient = Receiver::start(&[]).await;
    let other = Receiver::start(&[]).await;
    rig.add_batched(&patient.url, 100, 2).await;
    rig.add(&other.url).await;
    let running = rig.start(config()).await;
    let (_, bodies) = rig.emit_clicks(2).await;
    other.wait(2).await;
    assert!(patient.received().is_empty(), "the batch is not due");
    running.stop().await;
    // Which of the two was read first is not known: both came from one partition, in order.
    assert_eq!(patient.wait(1).await[0].body, list(&bodies));
    assert_eq!(rig.written(Topic::Delay(DelayTier::Seconds5)).await, 0);
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_a_batch_that_is_too_large_for_kafka_come_in_halves() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(500), Reply::Status(200)]).await;
    let (mut endpoint, _) = rig.endpoint(&receiver.url);
    endpoint.batch = Some(BatchLimits { max_events: 4, max_wait_ms: LONG_MS, max_bytes: u32::MAX });
    rig.write(&endpoint).await;
    let running = rig.start(config()).await;
    // As a JSON string, each of these quotes takes twice as much again.
    let padding = r#"\""#.repeat(300_000);
    for _ in 0..4 {
        let event = click();
        let body = serde_json::to_string(&event).unwrap().replacen('{', &format!(r#"{{"padding":"{padding}","#), 1);
        rig.emit_body(event.event, &body, None).await;
    }
    let received = receiver.wait(3).await;
    let events = |nth: usize| serde_json::from_slice::<Vec<serde_json::Value>>(&received[nth].body).unwrap();
    let ids = |nth: usize| events(nth).iter().map(|event| event["id"].to_string()).collect::<HashSet<_>>();
    assert_eq!((events(1).len(), events(2).len()), (2, 2));
    assert_eq!(ids(0), ids(1).union(&ids(2)).cloned().collect());
    running.stop().await;
    assert_eq!(rig.committed("webhook.clicks", Topic::Clicks).await[&0], 4);
}
