//! The shared topics get more partitions under load: every click is found once, also by
//! static members, whether they run meanwhile or are restarted.

use std::{process::Stdio, time::Duration};

use schemas::Topic;

use crate::{
    roles::Installation,
    support::{ClickReceiver, PipelineApi, Visitors, check_promise, eventually, folder, set_up, until_redirects},
};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn partitions_are_widened_under_load_without_a_restart_and_with_one() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let receiver = ClickReceiver::start();
    let named = |role: &str, name: &str| installation.start_at(role, testbed::free_address(), name);
    let control = named("control", "control-0");
    control.until_ready("control is the leader");
    set_up(&PipelineApi::new(control.serves), "sale", &receiver);
    let ingest = installation.start("ingest");
    let mut enricher = [named("enricher", "e-0"), named("enricher", "e-1")];
    let mut dispatcher = named("dispatcher", "d-0");
    for process in enricher.iter().chain([&ingest, &dispatcher]) {
        process.until_ready("a role is ready");
    }
    until_redirects(ingest.serves, "sale");
    let load = Visitors::start(vec![ingest.serves], "sale", 4);
    load.wait_for(200);

    // All go on with the new partitions.
    widen(&installation, 6);
    until_used(&installation, 5);
    load.wait_for(200);

    // A static member that is away, and back within its session.
    let [first, second] = enricher;
    first.kill();
    dispatcher.kill();
    widen(&installation, 8);
    enricher = [named("enricher", "e-0"), second];
    dispatcher = named("dispatcher", "d-0");
    until_used(&installation, 7);
    load.wait_for(200);
    assert_eq!(load.failed(), 0, "redirects failed");
    let answered = load.stop();

    let Installation { prefix, database, .. } = &installation;
    check_promise(&answered, &testbed::kafka(), prefix, &testbed::clickhouse(), database, &receiver);
    for process in enricher.iter().chain([&ingest, &dispatcher, &control]) {
        process.until_ready("a role is ready");
    }
}

fn widen(installation: &Installation, to: u16) {
    let mut command = installation.command("partitions");
    command.args(["widen", "--to", &to.to_string()]).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
}

/// Waits until records were written to a partition of `clicks.raw` and of `clicks`.
fn until_used(installation: &Installation, index: i32) {
    let config = bus::BusConfig {
        brokers: installation.brokers.clone(),
        prefix: installation.prefix.clone(),
        ..bus::BusConfig::default()
    };
    let reader = bus::Bus::new(config).log_reader("test").unwrap();
    for topic in [Topic::ClicksRaw, Topic::Clicks] {
        eventually("a new partition is used", PATIENCE, || {
            let range = reader.range(bus::Partition { topic, index }).ok()?;
            (range.end > 0).then_some(())
        });
    }
}
