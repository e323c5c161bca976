//! Every Kafka producer of every role fails for good under load, one after the other. A
//! topic that refuses a record is fatal to a client that is told to leave no gaps, and a
//! transactional producer is fenced off by another with its id: both are what a client
//! does that a broker has let down, without a broker that lets it down.

use std::{net::SocketAddr, time::Duration};

use bus::{Bus, BusConfig, Outgoing};
use schemas::{DelayTier, Topic, topics::Cleanup};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    roles::Installation,
    support::{
        ADMIN_KEY, ClickReceiver, PipelineApi, Visitors, check_promise, eventually, folder, http, set_up,
        until_redirects,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The log line of a client that has failed for good.
const FAILED: &str = "Kafka client failed for good";
/// The name of the processes, and so the transactional id of the enricher.
const INSTANCE: &str = "one";

/// The installation, and the ways to let its producers fail.
struct Faults {
    installation: Installation,
    bus: Bus,
    runtime: Runtime,
}

impl Faults {
    fn topic(&self, topic: Topic) -> String {
        self.bus.topics().name(topic)
    }

    /// From now on, Kafka refuses the records of a topic.
    fn refuse(&self, topic: Topic) {
        let too_old = [("message.timestamp.type", Some("CreateTime")), ("message.timestamp.before.max.ms", Some("0"))];
        testbed::broker::set_topic(&self.installation.brokers, &self.topic(topic), &too_old);
    }

    /// Undoes [`Faults::refuse`].
    fn accept(&self, topic: Topic) {
        let as_before = [
            ("message.timestamp.type", (topic.cleanup() != Cleanup::Compact).then_some("LogAppendTime")),
            ("message.timestamp.before.max.ms", None),
        ];
        testbed::broker::set_topic(&self.installation.brokers, &self.topic(topic), &as_before);
    }

    fn failures(&self, role: &str) -> usize {
        self.installation.log_of(role).matches(FAILED).count()
    }

    /// Lets Kafka refuse a topic until a client of `role` has failed, while `meanwhile`
    /// produces what is refused.
    fn fail(&self, role: &str, topic: Topic, mut meanwhile: impl FnMut()) {
        let before = self.failures(role);
        self.refuse(topic);
        eventually(&format!("a client of {role} fails on {topic:?}"), PATIENCE, || {
            meanwhile();
            (self.failures(role) > before).then_some(())
        });
        self.accept(topic);
    }

    /// Fences a transactional producer off, as another process with its id does.
    fn fence(&self, id: &str) {
        drop(self.bus.transaction(id, Duration::ZERO).unwrap());
    }

    /// Produces a record that nobody can read.
    fn produce_garbage(&self, topic: Topic) {
        let producer = self.bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
        let out = Outgoing { topic, partition: Some(0), key: None, value: Some(b"{"), headers: &[] };
        self.runtime.block_on(producer.produce(&out)).unwrap();
    }
}

/// Asks for something, and returns the status of the answer.
fn post(address: SocketAddr, path: &str, body: &Value) -> u16 {
    let answer = http()
        .post(format!("http://{address}{path}"))
        .header("authorization", format!("Bearer {ADMIN_KEY}"))
        .send_json(body);
    answer.unwrap().status().as_u16()
}

fn until_answered(address: SocketAddr, path: &str, body: &Value) {
    eventually(&format!("{path} is answered"), PATIENCE, || (post(address, path, body) < 300).then_some(()));
}

#[test]
fn nothing_is_lost_or_stuck_when_any_kafka_producer_fails_for_good() {
    let (_keep, dir) = folder();
    let properties = r#"{ "enable.idempotence" = "true", "enable.gapless.guarantee" = "true" }"#;
    let settings = vec![("CLICKHOOK_KAFKA_PROPERTIES", properties.to_owned())];
    let installation = Installation::with_settings(dir, testbed::kafka(), settings);
    let (brokers, prefix) = (installation.brokers.clone(), installation.prefix.clone());
    let bus = Bus::new(BusConfig { brokers, prefix, ..BusConfig::default() });
    let faults = Faults { installation, bus, runtime: Runtime::new().unwrap() };
    let Faults { installation, .. } = &faults;
    let receiver = ClickReceiver::start();

    let start = |role: &str| installation.start_at(role, testbed::free_address(), INSTANCE);
    let control = start("control");
    control.until_ready("control is the leader");
    let api = PipelineApi::new(control.serves);
    set_up(&api, "sale", &receiver);
    let intake = testbed::free_address();
    let ingest = installation.start_with("ingest", &[("CLICKHOOK_INGEST_INTAKE_LISTEN", intake.to_string())]);

    // The key of the day is proposed when an enricher starts, and again until it is there.
    faults.refuse(Topic::Daykeys);
    let enricher = start("enricher");
    eventually("a client of the enricher fails on day keys", PATIENCE, || {
        (faults.failures("enricher") > 0).then_some(())
    });
    faults.accept(Topic::Daykeys);
    let dispatcher = start("dispatcher");
    for process in [&ingest, &enricher, &dispatcher] {
        process.until_ready("a role is ready");
    }
    until_redirects(ingest.serves, "sale");
    let load = Visitors::start(vec![ingest.serves], "sale", 3);
    load.wait_for(200);
    let goes_on = || {
        load.wait_for(200);
        receiver.until_received(&load.answered());
    };

    faults.fail("ingest", Topic::ClicksRaw, || {});
    goes_on();
    let key = api.post("/v1/keys", &json!({"name": "shop", "scopes": ["conversions"]}));
    let shop = Shop { intake, secret: key["secret"].as_str().unwrap().to_owned() };
    eventually("a conversion is recorded", PATIENCE, || (shop.report() == 202).then_some(()));
    faults.fail("ingest", Topic::ConversionsRaw, || {
        shop.report();
    });
    eventually("a conversion is recorded", PATIENCE, || (shop.report() == 202).then_some(()));

    for half in ["a", "b"] {
        let before = enricher.metric("clickhook_enricher_restarts_total");
        faults.fence(&format!("enricher.{INSTANCE}.{half}"));
        eventually("the enricher makes a new pair", PATIENCE, || {
            (enricher.metric("clickhook_enricher_restarts_total") > before).then_some(())
        });
        goes_on();
        enricher.until_ready("the enricher has recovered");
    }

    faults.fail("dispatcher", Topic::Attempts, || {});
    goes_on();
    receiver.refuse();
    faults.fail("dispatcher", Topic::Delay(DelayTier::Minute1), || {});
    receiver.accept();
    goes_on();
    let failures = faults.failures("dispatcher");
    faults.refuse(Topic::Dead);
    faults.produce_garbage(Topic::Attempts);
    eventually("the warehouse's client fails on a dead letter", PATIENCE, || {
        (faults.failures("dispatcher") > failures).then_some(())
    });
    faults.accept(Topic::Dead);
    let dead = faults.runtime.block_on(testbed::read(&faults.bus, Topic::Dead, |records| !records.is_empty()));
    assert_eq!(dead.len(), 1, "{dead:?}");
    goes_on();

    let endpoint = api.get("/v1/endpoints")["data"][0]["id"].as_str().unwrap().to_owned();
    let test_event = format!("/v1/endpoints/{endpoint}/test");
    // Each key's first use is recorded.
    faults.fail("control", Topic::KeyUses, || {
        let key = api.post("/v1/keys", &json!({"name": "reader", "scopes": ["links"]}));
        PipelineApi::with(control.serves, key["secret"].as_str().unwrap()).get("/v1/links");
    });
    // A transaction that fails ends the leader's term, and the next term begins.
    faults.refuse(Topic::Events);
    assert!(post(control.serves, &test_event, &json!({})) >= 500, "no event was recorded");
    faults.accept(Topic::Events);
    until_answered(control.serves, &test_event, &json!({}));
    faults.fence("control");
    until_answered(control.serves, "/v1/links", &json!({"slug": "after", "destination": "https://example.com/"}));
    control.until_ready("control leads again");

    goes_on();
    assert_eq!(load.failed(), 0, "redirects failed");
    let answered = load.stop();
    let Installation { brokers, prefix, database, .. } = installation;
    check_promise(&answered, brokers, prefix, &testbed::clickhouse(), database, &receiver);
    for role in ["ingest", "enricher", "dispatcher", "control"] {
        let log = installation.log_of(role);
        let errors: Vec<&str> =
            log.lines().filter(|line| line.contains("ERROR") && !line.contains("librdkafka")).collect();
        assert!(errors.is_empty(), "{role}: {errors:#?}");
    }
    drop([ingest, enricher, dispatcher, control]);
}

/// Someone who reports conversions.
struct Shop {
    intake: SocketAddr,
    secret: String,
}

impl Shop {
    fn report(&self) -> u16 {
        let sale = json!({
            "click_id": schemas::ClickId::new(schemas::Timestamp::now(), 0, rand::random()).to_string(),
            "name": "purchase",
        });
        let answer = http()
            .post(format!("http://{}/v1/conversions", self.intake))
            .header("authorization", format!("Bearer {}", self.secret))
            .send_json(&sale);
        answer.unwrap().status().as_u16()
    }
}
