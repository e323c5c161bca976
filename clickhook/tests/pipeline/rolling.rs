//! An upgrade: three processes of every role, and each is restarted in order, one after
//! another, under load. `bench outage rolling` does the same, and measures.

use std::net::SocketAddr;

use crate::{
    roles::{Installation, RoleProcess},
    support::{ClickReceiver, PipelineApi, Visitors, check_promise, eventually, folder, set_up, until_redirects},
};

const ROLES: [&str; 4] = ["control", "ingest", "enricher", "dispatcher"];
const OF_EACH: usize = 3;

/// A process that is started again at its address and under its name.
struct Restartable {
    role: &'static str,
    name: String,
    address: SocketAddr,
    process: RoleProcess,
}

impl Restartable {
    fn start(installation: &Installation, role: &'static str, number: usize) -> Self {
        let (name, address) = (format!("{role}-{number}"), testbed::free_address());
        let process = installation.start_at(role, address, &name);
        Self { role, name, address, process }
    }

    fn restart(&mut self, installation: &Installation) {
        self.process.until_ended();
        self.process = installation.start_at(self.role, self.address, &self.name);
        self.process.until_ready("a process is ready again");
    }
}

#[test]
fn no_redirect_fails_while_every_process_is_restarted() {
    let (_keep, dir) = folder();
    // A load balancer looks at the readiness, and needs a moment for that.
    let settings = vec![("CLICKHOOK_INGEST_DRAIN_DELAY_MS", "2000".to_owned())];
    let installation = Installation::with_settings(dir, testbed::kafka(), settings);
    let receiver = ClickReceiver::start();
    let mut processes: Vec<Restartable> = ROLES
        .into_iter()
        .flat_map(|role| (1..=OF_EACH).map(move |number| (role, number)))
        .map(|(role, number)| Restartable::start(&installation, role, number))
        .collect();
    for process in &processes {
        process.process.until_ready("a role is ready");
    }
    let leader = eventually("one leads", testbed::PATIENCE, || {
        processes.iter().find(|process| process.role == "control" && process.process.leads())
    });
    set_up(&PipelineApi::new(leader.address), "sale", &receiver);
    let redirectors: Vec<SocketAddr> =
        processes.iter().filter(|process| process.role == "ingest").map(|process| process.address).collect();
    for redirector in &redirectors {
        until_redirects(*redirector, "sale");
    }

    let load = Visitors::start(redirectors.clone(), "sale", 4);
    load.wait_for(300);
    for process in &mut processes {
        process.process.terminate();
        if process.role == "ingest" {
            eventually("the load balancer sees it", testbed::PATIENCE, || (!process.process.is_ready()).then_some(()));
            load.aim(redirectors.iter().copied().filter(|redirector| *redirector != process.address).collect());
        }
        process.restart(&installation);
        load.aim(redirectors.clone());
        load.wait_for(200);
    }
    receiver.until_received(&load.answered());
    assert_eq!(load.failed(), 0, "redirects failed");
    let answered = load.stop();
    let Installation { brokers, prefix, database, .. } = &installation;
    check_promise(&answered, brokers, prefix, &testbed::clickhouse(), database, &receiver);
}
