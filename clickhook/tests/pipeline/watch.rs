//! Milestones through the whole pipeline: a link is clicked past 100 and 500 while the leader of the
//! control plane is killed, and each milestone comes to the receiver under one id.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use testbed::free_address;

use crate::{
    roles::{Installation, RoleProcess},
    support::{PipelineApi, Visitors, eventually, folder, query, until_redirects},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that keeps the ids of the milestones that came, by their thresholds.
struct MilestoneReceiver {
    address: SocketAddr,
    ids: Arc<Mutex<BTreeMap<u64, BTreeSet<String>>>>,
}

impl MilestoneReceiver {
    fn start() -> Self {
        let ids = Arc::<Mutex<BTreeMap<u64, BTreeSet<String>>>>::default();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::clone(&ids);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let take = move |body: String| {
                    let event: Value = serde_json::from_str(&body).unwrap();
                    let threshold = event["milestone"]["threshold"].as_u64().unwrap();
                    let id = event["id"].as_str().unwrap().to_owned();
                    seen.lock().unwrap().entry(threshold).or_default().insert(id);
                    async {}
                };
                let routes = axum::Router::new().fallback(take);
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), routes).await.unwrap();
            });
        });
        Self { address, ids }
    }

    fn received(&self) -> BTreeMap<u64, BTreeSet<String>> {
        self.ids.lock().unwrap().clone()
    }
}

#[test]
fn a_milestone_is_told_once_whichever_leader_is_killed() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let names = ["control-0", "control-1"];
    let addresses = [free_address(), free_address()];
    let start = |which: usize| installation.start_at("control", addresses[which], names[which]);
    let mut controls: Vec<Option<RoleProcess>> = vec![Some(start(0)), Some(start(1))];
    let leader = |controls: &[Option<RoleProcess>]| {
        eventually("one leads", PATIENCE, || {
            controls.iter().position(|process| process.as_ref().is_some_and(RoleProcess::leads))
        })
    };
    let first = leader(&controls);
    let receiver = MilestoneReceiver::start();
    let api = PipelineApi::new(addresses[first]);
    api.post("/v1/links", &json!({"slug": "sale", "destination": "https://example.com/"}));
    let url = format!("http://{}/", receiver.address);
    api.post("/v1/endpoints", &json!({"url": url, "events": ["link.milestone"]}));
    let roles = ["ingest", "enricher", "dispatcher"].map(|role| installation.start(role));
    for process in &roles {
        process.until_ready("a role is ready");
    }
    let redirector = roles[0].serves;
    until_redirects(redirector, "sale");

    let load = Visitors::start(vec![redirector], "sale", 4);
    load.wait_for(101);
    // The moment at which the milestone is found is not known: the leader dies around it.
    controls[first].take().unwrap().kill();
    load.wait_for(300);
    let second = leader(&controls);
    eventually("the first milestone comes", PATIENCE, || receiver.received().contains_key(&100).then_some(()));
    load.wait_for(120);
    let answered = load.stop();
    assert!(answered.len() > 500, "{}", answered.len());
    controls[first] = Some(start(first));
    controls[second].take().unwrap().kill();
    // The link is clicked on while a leader is elected, how often depends on the machine.
    let clicks = answered.len() as u64;
    let expected: Vec<u64> =
        schemas::campaign::MILESTONES.into_iter().filter(|threshold| *threshold <= clicks).collect();
    eventually("all milestones come", PATIENCE, || (receiver.received().len() == expected.len()).then_some(()));
    leader(&controls);
    let rows = "SELECT count() FROM clicks WHERE NOT bot";
    eventually("all clicks are rows", PATIENCE, || {
        let found = query(&testbed::clickhouse(), &installation.database, rows);
        (found.trim() == answered.len().to_string()).then_some(())
    });

    // Each is one event in Kafka, and one id at the receiver.
    let config = bus::BusConfig {
        brokers: installation.brokers.clone(),
        prefix: installation.prefix.clone(),
        ..bus::BusConfig::default()
    };
    let bus = bus::Bus::new(config);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let records = runtime.block_on(testbed::read(&bus, schemas::Topic::Events, |_| true));
    let events = records.iter().map(|record| serde_json::from_str::<Value>(&record.value).unwrap());
    let told = events.filter(|envelope| envelope["event"]["event"] == "link.milestone");
    let mut told: Vec<u64> = told.map(|told| told["event"]["milestone"]["threshold"].as_u64().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, expected);
    let received = receiver.received();
    assert_eq!(received.keys().copied().collect::<Vec<_>>(), expected);
    assert!(received.values().all(|ids| ids.len() == 1), "{received:?}");
}
