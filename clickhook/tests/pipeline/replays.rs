//! Deliveries are given up, and made once more: from dead letters, by outcome, by time and by id.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use axum::http::StatusCode;
use bus::{Bus, BusConfig, Outgoing};
use schemas::{ClickId, DelayTier, Delivery, Envelope, EventId, EventName, Timestamp, Topic, sample};
use serde_json::{Value, json};

use crate::{
    roles::Installation,
    support::{PipelineApi, eventually, folder},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that counts how often each event came, and can be told to refuse.
struct CountingReceiver {
    address: SocketAddr,
    taken: Arc<Mutex<BTreeMap<String, usize>>>,
    refusing: Arc<AtomicBool>,
}

impl CountingReceiver {
    fn start() -> Self {
        let taken = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let refusing = Arc::new(AtomicBool::new(true));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, refuses) = (Arc::clone(&taken), Arc::clone(&refusing));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let take = move |body: String| {
                    let is_refused = refuses.load(Ordering::SeqCst);
                    let event: Value = serde_json::from_str(&body).unwrap();
                    if !is_refused {
                        *seen.lock().unwrap().entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
                    }
                    async move { if is_refused { StatusCode::IM_A_TEAPOT } else { StatusCode::OK } }
                };
                let routes = axum::Router::new().fallback(take);
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), routes).await.unwrap();
            });
        });
        Self { address, taken, refusing }
    }

    /// Waits until each event came this often.
    fn until(&self, counts: &[(&String, usize)]) {
        let wanted: BTreeMap<String, usize> =
            counts.iter().filter(|(_, count)| *count > 0).map(|(id, count)| ((*id).clone(), *count)).collect();
        eventually(&format!("{wanted:?}"), PATIENCE, || (*self.taken.lock().unwrap() == wanted).then_some(()));
    }
}

#[test]
fn what_was_given_up_is_delivered_once_more() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let control = installation.start("control");
    let dispatcher = installation.start("dispatcher");
    control.until_ready("control leads");
    dispatcher.until_ready("the dispatcher is ready");
    let api = PipelineApi::new(control.serves);
    let receiver = CountingReceiver::start();
    let url = format!("http://{}/", receiver.address);
    let endpoint = api.post("/v1/endpoints", &json!({"url": url, "events": ["link.created"], "retry_schedule": []}));
    let id = endpoint["id"].as_str().unwrap();
    let path = format!("/v1/endpoints/{id}");

    for slug in ["a", "b", "c"] {
        api.post("/v1/links", &json!({"slug": slug, "destination": "https://example.com/"}));
    }
    let attempts = |outcome: &str, count: usize| {
        eventually(&format!("{count} are {outcome}"), PATIENCE, || {
            let listed = api.get(&format!("{path}/attempts?outcome={outcome}"));
            let listed = listed["data"].as_array().unwrap().clone();
            (listed.len() == count).then_some(listed)
        })
    };
    let dead = attempts("dead", 3);
    assert!(dead.iter().all(|attempt| attempt["status"] == 418 && attempt["event"] == "link.created"), "{dead:?}");
    let mut ids: Vec<String> = dead.iter().map(|attempt| attempt["event_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    let [a, b, c] = &ids[..] else { panic!("{ids:?}") };

    // One dead letter by hand.
    receiver.refusing.store(false, Ordering::SeqCst);
    let list = run(&installation, "dead", &["ls"]);
    let places: Vec<&str> = list.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(places.len(), 3, "{list}");
    let place = places.iter().find(|place| run(&installation, "dead", &["show", place]).contains(a.as_str())).unwrap();
    assert!(run(&installation, "dead", &["replay", place]).contains("nothing was produced"));
    receiver.until(&[]);
    assert!(run(&installation, "dead", &["replay", place, "--yes"]).contains("1 are delivered once more"));
    receiver.until(&[(a, 1)]);
    attempts("delivered", 1);

    // The others failed, and only they are recovered.
    let replay = api.post(&format!("{path}/recover"), &json!({"since": "2020-01-01T00:00:00Z"}));
    let until_done = |replay: &Value| {
        eventually("the replay is done", PATIENCE, || {
            let replay = api.get(&format!("{path}/replays/{}", replay["id"].as_str().unwrap()));
            (replay["state"] == "done").then_some(replay)
        })
    };
    assert_eq!(until_done(&replay)["sent"], 2);
    receiver.until(&[(a, 1), (b, 1), (c, 1)]);

    // By time, and by id with the tool.
    let since = endpoint["created_at"].as_str().unwrap();
    let replay = api.post(&format!("{path}/replay"), &json!({"since": since}));
    assert_eq!(until_done(&replay)["sent"], 3);
    receiver.until(&[(a, 2), (b, 2), (c, 2)]);
    let url = format!("http://{}", control.serves);
    let told = run(&installation, "endpoints", &["replay", id, "--event-id", c, "--wait", "--api", &url]);
    assert!(told.contains("done"), "{told}");
    receiver.until(&[(a, 2), (b, 2), (c, 3)]);

    // The tool changes the endpoint, and shows no header's value.
    let header = installation.dir.join("header");
    std::fs::write(&header, "Bearer hush\n").unwrap();
    let from = format!("Authorization={}", header.display());
    let moved = format!("http://{}/moved", receiver.address);
    let update = |args: &[&str]| {
        let told = run(&installation, "endpoints", &[&["update", id], args, &["--json", "--api", &url]].concat());
        assert!(!told.contains("hush"), "{told}");
        serde_json::from_str::<Value>(&told).unwrap()
    };
    let changed = update(&["--url", &moved, "--events", "link.*", "--header-from", &from]);
    assert_eq!((&changed["url"], &changed["events"]), (&json!(moved), &json!(["link.*"])));
    assert_eq!(changed["headers"], json!({"Authorization": "***"}));
    let changed = update(&["--filter", "country=DE", "--no-header", "Authorization", "--timeout-ms", "1000"]);
    assert_eq!((&changed["filters"], &changed["timeout_ms"]), (&json!({"country": ["DE"]}), &json!(1000)));
    assert!(changed["headers"].as_object().is_none_or(serde_json::Map::is_empty), "{changed}");
    assert_eq!(update(&["--no-filter", "country"])["filters"], json!({}));

    // All dead letters of the endpoint.
    let told = run(&installation, "dead", &["replay", "--endpoint", id, "--yes"]);
    assert!(told.contains("3 are delivered once more"), "{told}");
    receiver.until(&[(a, 3), (b, 3), (c, 4)]);
}

#[test]
fn a_replay_goes_on_where_a_killed_leader_stopped() {
    const EVENTS: usize = 4_000;
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let address = testbed::free_address();
    let start = || installation.start_at("control", address, "control-1");
    let control = start();
    control.until_ready("control leads");
    let api = PipelineApi::new(address);
    let body = json!({"url": "https://hooks.example/", "events": ["link.clicked"], "filters": {"bot": [true, false]}});
    let endpoint = api.post("/v1/endpoints", &body);
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    let config = BusConfig {
        brokers: installation.brokers.clone(),
        prefix: installation.prefix.clone(),
        ..BusConfig::default()
    };
    let bus = Bus::new(config);
    let clicks = produce_clicks(&bus, EVENTS);

    let replay = api.post(&format!("{path}/replay"), &json!({"since": endpoint["created_at"]}));
    let path = format!("{path}/replays/{}", replay["id"].as_str().unwrap());
    eventually("the replay has begun", PATIENCE, || (api.get(&path)["sent"] != 0).then_some(()));
    control.kill();
    let control = start();
    control.until_ready("control leads again");
    let sent_so_far = api.get(&path)["sent"].as_u64().unwrap();
    assert!((1..EVENTS as u64).contains(&sent_so_far), "it was killed amid the replay: {sent_so_far}");
    let done = eventually("the replay is done", PATIENCE, || {
        let replay = api.get(&path);
        (replay["state"] == "done").then_some(replay)
    });
    assert_eq!(done["sent"], json!(EVENTS));
    // It reads the audit log's events too, and they are none of the endpoint's.
    assert!(done["read"].as_u64() >= Some(EVENTS as u64), "{done}");

    // Each event was handed over, and once: the steps are transactions.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let enough = move |records: &[testbed::Read]| records.len() >= EVENTS;
    let handed = runtime.block_on(testbed::read(&bus, Topic::Delay(DelayTier::Seconds5), enough));
    assert_eq!(handed.len(), EVENTS);
    let event = |record: &testbed::Read| serde_json::from_str::<Delivery>(&record.value).unwrap().events[0].id;
    assert_eq!(handed.iter().map(event).collect::<BTreeSet<EventId>>(), clicks);
}

/// Produces clicks as the enricher does, and returns the ids of their events.
fn produce_clicks(bus: &Bus, count: usize) -> BTreeSet<EventId> {
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let partitions = i32::from(bus.partitions(Topic::Clicks));
    let mut ids = BTreeSet::new();
    for partition in (0..partitions).cycle().take(count) {
        let at = Timestamp::now();
        let mut event = sample::event(EventName::LinkClicked, at);
        event.id =
            EventId::of("default", EventName::LinkClicked, &ClickId::new(at, 0, rand::random()).to_string(), "", at);
        ids.insert(event.id);
        let envelope = Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint: None, event };
        let value = serde_json::to_vec(&envelope).unwrap();
        let out =
            Outgoing { topic: Topic::Clicks, partition: Some(partition), key: None, value: Some(&value), headers: &[] };
        producer.send(&out, |acked| assert!(acked.is_ok(), "{acked:?}")).unwrap();
    }
    assert_eq!(producer.drain(PATIENCE), 0);
    ids
}

/// Runs a command without a terminal, and returns its output.
fn run(installation: &Installation, command: &str, args: &[&str]) -> String {
    let output = installation.command(command).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
