//! A test's installation on the running Kafka: topics, endpoints, events, and the
//! dispatcher's webhook half, started and stopped at will.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{
    Assigned, Assignments, Bus, BusConfig, Commit, Isolation, Membership, Outgoing, Partition, Producer, Revoked,
};
use dispatcher::webhook::{self, Config};
use schemas::{
    ClickId, Endpoint, EndpointId, EndpointStatus, Envelope, Event, EventId, EventName, RetrySchedule, Timestamp,
    Topic, WebhookFormat, WorkspaceId, sample,
};
use serde::de::DeserializeOwned;
use service::{
    Health, Metrics, Process, Shutdown,
    secret::{self, Secret},
    vault::Vault,
};
use tokio::task::JoinHandle;

pub(crate) struct Rig {
    pub(crate) bus: Bus,
    pub(crate) vault: Arc<Vault>,
    producer: Producer,
}

/// A running webhook half.
pub(crate) struct Running {
    pub(crate) health: Health,
    metrics: Metrics,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), webhook::Error>>,
}

/// Quick retries (after 200 ms and 1 s), and endpoints on this machine.
pub(crate) fn config() -> Config {
    Config { allow_private: true, allow_http: true, retry_speedup: 300, ..Config::default() }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with_partitions(4).await
    }

    pub(crate) async fn with_partitions(partitions: u16) -> Self {
        Self::with_config(BusConfig { partitions, ..testbed::bus_config() }).await
    }

    pub(crate) async fn with_config(config: BusConfig) -> Self {
        let bus = Bus::new(config);
        bus.migrate().await.unwrap();
        let producer = bus.producer("test", Duration::ZERO, Duration::from_secs(20)).unwrap();
        Self { bus, vault: Arc::new(Vault::from_hex(&Vault::generate()).unwrap()), producer }
    }

    /// Makes an endpoint that asks for everything, without writing it.
    pub(crate) fn endpoint(&self, url: &str) -> (Endpoint, Secret) {
        let (id, secret, now) = (EndpointId::mint(), secret::mint(), Timestamp::now());
        let endpoint = Endpoint {
            id,
            workspace: WorkspaceId::default(),
            url: url.to_owned(),
            events: serde_json::from_str(r#"["*"]"#).unwrap(),
            filters: serde_json::from_str("{}").unwrap(),
            timeout_ms: 5000,
            retry_schedule: RetrySchedule::first(2),
            headers: std::collections::BTreeMap::new(),
            batch: None,
            format: WebhookFormat::default(),
            rate_limit: None,
            max_in_flight: None,
            status: EndpointStatus::Active,
            status_reason: None,
            failing_since: None,
            enabled_at: None,
            subscribed_at: None,
            secret: self.vault.seal(&id.to_string(), secret.expose().as_bytes()),
            retiring_secrets: Vec::new(),
            created_at: now,
            updated_at: now,
            revision: 1,
        };
        (endpoint, secret)
    }

    pub(crate) async fn write(&self, endpoint: &Endpoint) {
        let key = endpoint.id.to_string();
        let value = serde_json::to_vec(endpoint).unwrap();
        let out = Outgoing::keyed(Topic::Endpoints, key.as_bytes(), Some(&value));
        self.producer.produce(&out).await.unwrap();
    }

    /// Writes an active endpoint that asks for everything.
    pub(crate) async fn add(&self, url: &str) -> (EndpointId, Secret) {
        let (endpoint, secret) = self.endpoint(url);
        self.write(&endpoint).await;
        (endpoint.id, secret)
    }

    /// Produces bytes to a partition of a topic.
    pub(crate) async fn produce(&self, topic: Topic, partition: i32, value: &[u8], headers: &[(&str, &[u8])]) -> i64 {
        let out = Outgoing { topic, partition: Some(partition), key: None, value: Some(value), headers };
        self.producer.produce(&out).await.unwrap().1
    }

    /// Produces an event as the enricher does, and returns its body.
    pub(crate) async fn emit(&self, event: &Event<'_>, endpoint: Option<EndpointId>) -> String {
        let body = serde_json::to_string(event).unwrap();
        self.emit_body(event.event, &body, endpoint).await;
        body
    }

    pub(crate) async fn emit_body(&self, name: EventName, body: &str, endpoint: Option<EndpointId>) {
        let event: &serde_json::value::RawValue = serde_json::from_str(body).unwrap();
        let envelope = Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint, event };
        let value = serde_json::to_vec(&envelope).unwrap();
        let click = matches!(name, EventName::LinkClicked | EventName::QrScanned);
        let topic = if click && endpoint.is_none() { Topic::Clicks } else { Topic::Events };
        self.produce(topic, 0, &value, &[("traceparent", TRACE.as_bytes())]).await;
    }

    /// Produces a click to a partition of its topic, and returns its id.
    pub(crate) async fn emit_at(&self, partition: i32) -> String {
        let event = click();
        let id = event.id.to_string();
        let envelope = Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint: None, event };
        self.produce(Topic::Clicks, partition, &serde_json::to_vec(&envelope).unwrap(), &[]).await;
        id
    }

    /// Starts the webhook half, and waits until it is ready.
    pub(crate) async fn start(&self, config: Config) -> Running {
        let process = Process::default();
        let Process { health, metrics, shutdown } = process.clone();
        let running = webhook::run(config, self.bus.clone(), Arc::clone(&self.vault), process);
        // The part must exist before its readiness is waited for.
        let part = health.part("webhook");
        let task = tokio::spawn(running);
        tokio::time::timeout(Duration::from_secs(20), health.ready()).await.expect("ready within 20 s");
        drop(part);
        Running { health, metrics, shutdown, task }
    }

    /// Reads `topic` from its beginning until `count` records have come.
    pub(crate) async fn read<T: DeserializeOwned>(&self, topic: Topic, count: usize) -> Vec<T> {
        let records = testbed::read(&self.bus, topic, move |records| records.len() >= count).await;
        records.iter().map(|record| serde_json::from_str(&record.value).unwrap()).collect()
    }

    /// Returns the number of records that the partitions of `topic` were given so far.
    pub(crate) async fn written(&self, topic: Topic) -> i64 {
        let bus = self.bus.clone();
        let count = tokio::task::spawn_blocking(move || {
            let reader = bus.log_reader("test").unwrap();
            let indexes = 0..i32::from(bus.partitions(topic));
            indexes.map(|index| reader.range(Partition { topic, index }).unwrap().end).sum()
        });
        count.await.unwrap()
    }

    /// Takes the static membership of a running member of `group` away: a member with the
    /// same instance joins, and leaves again.
    pub(crate) async fn take_membership(&self, group: &str, topic: Topic) {
        self.join(group, topic, Membership::Static).await;
    }

    /// Returns what `group` has committed in the partitions of `topic`. It must have no
    /// running member.
    pub(crate) async fn committed(&self, group: &str, topic: Topic) -> HashMap<i32, i64> {
        self.join(group, topic, Membership::Dynamic).await
    }

    /// Joins `group` until partitions are assigned, and returns their committed offsets.
    async fn join(&self, group: &str, topic: Topic, membership: Membership) -> HashMap<i32, i64> {
        #[derive(Default)]
        struct Starts(parking_lot::Mutex<HashMap<i32, i64>>);
        impl Assignments for Starts {
            fn assigned(&self, partitions: &[Assigned]) {
                self.0.lock().extend(partitions.iter().map(|assigned| (assigned.partition.index, assigned.offset)));
            }
            fn revoked(&self, _: &Revoked<'_>) -> Vec<Commit> {
                Vec::new()
            }
        }
        let bus = self.bus.clone();
        let group = group.to_owned();
        let asking = tokio::task::spawn_blocking(move || {
            let starts = Arc::new(Starts::default());
            let consumer =
                bus.consumer(&group, &[topic], Isolation::Committed, membership, Arc::clone(&starts)).unwrap();
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            while starts.0.lock().is_empty() {
                assert!(std::time::Instant::now() < deadline, "no assignment");
                consumer.poll(Duration::from_millis(50)).unwrap();
            }
            starts.0.lock().clone()
        });
        asking.await.unwrap()
    }
}

impl Running {
    /// Waits until a metric has at least this value.
    pub(crate) async fn until_metric(&self, metric: &str, value: i64) {
        testbed::eventually(metric, async || {
            let text = self.metrics.text();
            let found = text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse::<i64>().ok());
            found.filter(|found| *found >= value)
        })
        .await;
    }

    /// Stops the webhook half, and waits until it has drained.
    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap().unwrap();
    }
}

pub(crate) const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Makes a click with an id of its own.
pub(crate) fn click() -> Event<'static> {
    let at = Timestamp::now();
    let id = ClickId::new(at, 0, rand::random());
    let mut event = sample::event(EventName::LinkClicked, at);
    event.id = EventId::of("default", EventName::LinkClicked, &id.to_string(), "", at);
    if let Some(facts) = &mut event.click {
        facts.id = id;
    }
    event
}
