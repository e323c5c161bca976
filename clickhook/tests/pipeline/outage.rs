//! Kafka goes away under load, on a Kafka of this test's own: frozen, killed, and
//! killed together with the redirector. No redirect fails meanwhile, and every one
//! is one click, one row and one event afterwards. `bench outage` does the same for
//! a minute each.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use engines::Engines;
use tokio::runtime::Runtime;

use crate::{
    roles::{Installation, RoleProcess},
    support::{ClickReceiver, PipelineApi, Visitors, check_promise, eventually, folder, set_up, until_redirects},
};

/// Redirects that Kafka is away for: some seconds, longer than its session with
/// its controller, so that it comes back as one that was given up.
const VISITS: usize = 1500;

/// A Kafka that the test kills and starts again.
struct OutageKafka {
    runtime: Runtime,
    dir: PathBuf,
    /// None while it is killed.
    engines: Option<Engines>,
}

impl OutageKafka {
    fn start(dir: &Path) -> Self {
        let mut kafka = Self { runtime: Runtime::new().unwrap(), dir: dir.join("kafka"), engines: None };
        kafka.start_again();
        kafka
    }

    fn start_again(&mut self) {
        let mut options = engines::Options::new(&self.dir);
        // Given one, it starts none.
        options.clickhouse = Some(testbed::clickhouse());
        self.engines = Some(self.runtime.block_on(Engines::start(options)).unwrap());
    }

    fn brokers(&self) -> String {
        self.engines.as_ref().unwrap().kafka_brokers()
    }

    fn signal(&self, signal: &str) {
        let pid = self.engines.as_ref().unwrap().pids().kafka.unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn kill(&mut self) {
        self.signal("-KILL");
        // So that nobody starts it again.
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(engines) = self.engines.take() {
            self.runtime.block_on(engines.shutdown());
        }
    }
}

impl Drop for OutageKafka {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn no_redirect_fails_while_kafka_is_away_and_no_click_is_lost_or_doubled() {
    let (_keep, dir) = folder();
    let mut kafka = OutageKafka::start(&dir);
    let installation = Installation::new(dir, kafka.brokers());
    let receiver = ClickReceiver::start();
    let control = installation.start("control");
    control.until_ready("control is the leader");
    set_up(&PipelineApi::new(control.serves), "sale", &receiver);
    let mut ingest = installation.start("ingest");
    let others = ["enricher", "dispatcher"].map(|role| installation.start(role));
    for process in std::iter::once(&ingest).chain(&others) {
        process.until_ready("a role is ready");
    }
    until_redirects(ingest.serves, "sale");
    until(&ingest, "the links are on disk", "clickhook_ingest_links_snapshot 1");

    let load = Visitors::start(vec![ingest.serves], "sale", 4);
    load.wait_for(300);
    kafka.signal("-STOP");
    load.wait_for(VISITS);
    assert!(ingest.says("clickhook_ingest_kafka_late 1"));
    kafka.signal("-CONT");
    until_back(&ingest);

    load.wait_for(300);
    kafka.kill();
    load.wait_for(VISITS);
    kafka.start_again();
    until_back(&ingest);

    load.wait_for(300);
    kafka.kill();
    load.wait_for(VISITS / 2);
    // Whoever asks while no redirector is there is refused, and not by us.
    load.rest();
    let address = ingest.serves;
    ingest.kill();
    ingest = installation.start_at("ingest", address, "again");
    ingest.until_ready("the redirector is back without Kafka");
    assert!(ingest.says("clickhook_ingest_links_from_snapshot 1"));
    load.aim(vec![address]);
    load.wait_for(VISITS / 2);
    kafka.start_again();
    until_back(&ingest);
    load.wait_for(300);
    assert_eq!(load.failed(), 0, "redirects failed");
    let answered = load.stop();

    let Installation { prefix, database, .. } = &installation;
    check_promise(&answered, &kafka.brokers(), prefix, &testbed::clickhouse(), database, &receiver);
}

fn until(process: &RoleProcess, what: &str, metric: &str) {
    eventually(what, Duration::from_secs(60), || process.says(metric).then_some(()));
}

fn until_back(ingest: &RoleProcess) {
    until(ingest, "Kafka acknowledges in time", "clickhook_ingest_kafka_late 0");
    until(ingest, "nothing is on disk alone", "clickhook_ingest_spool_bundles 0");
}
