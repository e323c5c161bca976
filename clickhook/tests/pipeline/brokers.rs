//! Three brokers, of which one is away: each is killed in turn and one is frozen under
//! load, and the two others do its work. With one replica of each partition, the
//! partitions of the one that is away wait for it alone. `bench outage brokers` freezes
//! each, twice round, and measures.

use std::{path::Path, process::Command, time::Duration};

use engines::{Engines, Options};
use tokio::runtime::Runtime;

use crate::{
    roles::{Installation, RoleProcess},
    support::{ClickReceiver, PipelineApi, Visitors, check_promise, eventually, folder, set_up, until_redirects},
};

const BROKERS: usize = 3;
/// Redirects that a broker is away for at least.
const VISITS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);
/// The size of the spool where one replica of each partition is kept, in bytes.
const SPOOL: u32 = 4 << 20;

/// A Kafka of three brokers.
struct Cluster {
    runtime: Runtime,
    /// `None` once it was stopped.
    engines: Option<Engines>,
}

impl Cluster {
    fn start(dir: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let mut options = Options::new(dir.join("kafka"));
        options.brokers = u16::try_from(BROKERS).unwrap();
        // Given one, it starts none.
        options.clickhouse = Some(testbed::clickhouse());
        let engines = runtime.block_on(Engines::start(options)).unwrap();
        Self { runtime, engines: Some(engines) }
    }

    fn engines(&self) -> &Engines {
        self.engines.as_ref().unwrap()
    }

    fn addresses(&self) -> String {
        self.engines().kafka_brokers()
    }

    fn kill(&mut self, broker: usize) {
        self.runtime.block_on(self.engines.as_mut().unwrap().kill_broker(broker));
    }

    fn start_again(&mut self, broker: usize) {
        self.runtime.block_on(self.engines.as_mut().unwrap().start_broker(broker)).unwrap();
    }

    fn signal(&self, broker: usize, signal: &str) {
        let pid = self.engines().broker_pid(broker).unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn until_in_sync(&self) {
        self.runtime.block_on(self.engines().wait_until_in_sync(PATIENCE)).unwrap();
    }

    /// Returns the broker that leads a partition of a topic.
    fn leader(&self, topic: &str, index: i32) -> usize {
        let partitions = self.runtime.block_on(self.engines().partitions()).unwrap();
        let partition = partitions.iter().find(|partition| partition.topic == topic && partition.index == index);
        partition.and_then(|partition| partition.leader).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(engines) = self.engines.take() {
            self.runtime.block_on(engines.shutdown());
        }
    }
}

/// One process of each role, and a link that they know.
struct Roles {
    ingest: RoleProcess,
    _others: [RoleProcess; 3],
}

impl Roles {
    fn start(installation: &Installation, receiver: &ClickReceiver) -> Self {
        let control = installation.start("control");
        control.until_ready("control is the leader");
        set_up(&PipelineApi::new(control.serves), "sale", receiver);
        let ingest = installation.start("ingest");
        let [enricher, dispatcher] = ["enricher", "dispatcher"].map(|role| installation.start(role));
        for process in [&ingest, &enricher, &dispatcher] {
            process.until_ready("a role is ready");
        }
        until_redirects(ingest.serves, "sale");
        Self { ingest, _others: [enricher, dispatcher, control] }
    }
}

#[test]
fn each_of_three_brokers_may_be_away() {
    let (_keep, dir) = folder();
    let mut cluster = Cluster::start(&dir);
    with_three_replicas(&mut cluster, &dir);
    with_one_replica(&mut cluster, &dir);
}

/// No redirect fails, and webhooks go on while a broker is away.
fn with_three_replicas(cluster: &mut Cluster, dir: &Path) {
    let settings = vec![("CLICKHOOK_KAFKA_REPLICATION", "3".to_owned())];
    let installation = Installation::with_settings(dir.to_owned(), cluster.addresses(), settings);
    let receiver = ClickReceiver::start();
    let roles = Roles::start(&installation, &receiver);
    cluster.until_in_sync();
    let load = Visitors::start(vec![roles.ingest.serves], "sale", 4);
    load.wait_for(100);
    for broker in 0..BROKERS {
        cluster.kill(broker);
        load.wait_for(VISITS);
        receiver.until_received(&load.answered());
        cluster.start_again(broker);
        cluster.until_in_sync();
    }
    // A frozen broker keeps its connections, and this one leads a partition.
    let frozen = cluster.leader(&format!("{}.clicks.raw", installation.prefix), 0);
    cluster.signal(frozen, "-STOP");
    load.wait_for(VISITS);
    receiver.until_received(&load.answered());
    cluster.signal(frozen, "-CONT");
    cluster.until_in_sync();
    load.wait_for(100);
    assert_eq!(load.failed(), 0, "redirects failed");
    let answered = load.stop();
    check(&answered, cluster, &installation, &receiver);
}

/// Redirects and webhooks go on through the partitions that are there, and the spool stays
/// small.
fn with_one_replica(cluster: &mut Cluster, dir: &Path) {
    let settings = vec![("CLICKHOOK_INGEST_SPOOL_MAX_BYTES", SPOOL.to_string())];
    let installation = Installation::with_settings(dir.to_owned(), cluster.addresses(), settings);
    let receiver = ClickReceiver::start();
    let roles = Roles::start(&installation, &receiver);
    let load = Visitors::start(vec![roles.ingest.serves], "sale", 4);
    load.wait_for(100);
    // Kafka places partitions by chance. Best is a broker without which what the enricher
    // makes of some records has nowhere to go; `replayed` has a single partition.
    let leader = |topic: &str, index| cluster.leader(&format!("{}.{topic}", installation.prefix), index);
    let outputs = (0..4).filter(|index| leader("clicks.raw", *index) != leader("clicks", *index));
    let apart = outputs.map(|index| leader("clicks", index)).find(|broker| *broker != leader("replayed", 0));
    let broker = apart.unwrap_or_else(|| leader("clicks.raw", 0));
    cluster.kill(broker);
    load.wait_for(3 * VISITS);
    let spooled = roles.ingest.metric("clickhook_ingest_spool_bytes");
    assert!(spooled > 0.0 && spooled < f64::from(SPOOL) / 10.0, "{spooled} bytes are in the spool");
    if apart.is_some() {
        // The transaction that has records for it never ends, and another is begun without.
        let is_stopped = || installation.log_of("enricher").contains("has no leader");
        eventually("a partition is stopped", PATIENCE, || is_stopped().then_some(()));
        let before = receiver.received().len();
        eventually("webhooks go on", PATIENCE, || (receiver.received().len() > before + VISITS).then_some(()));
    }
    cluster.start_again(broker);
    eventually("nothing is on disk alone", PATIENCE, || {
        (roles.ingest.metric("clickhook_ingest_spool_bundles") == 0.0).then_some(())
    });
    load.wait_for(100);
    assert_eq!(load.failed(), 0, "redirects failed");
    let answered = load.stop();
    check(&answered, cluster, &installation, &receiver);
}

fn check(
    answered: &std::collections::BTreeSet<String>,
    cluster: &Cluster,
    installation: &Installation,
    receiver: &ClickReceiver,
) {
    let Installation { prefix, database, .. } = installation;
    check_promise(answered, &cluster.addresses(), prefix, &testbed::clickhouse(), database, receiver);
}
