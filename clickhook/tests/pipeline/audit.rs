//! The audit: whatever endpoints do and whichever dispatcher is killed, each captured event
//! is delivered, waiting, dead or skipped for each endpoint that asks for it; and one that
//! is not is named.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    roles::Installation,
    support::{ClickReceiver, PipelineApi, Visitors, eventually, folder, until_redirects},
};

/// The result of `clickhook audit --json`.
struct Audit {
    balanced: bool,
    report: Value,
}

impl Audit {
    fn run(installation: &Installation, args: &[&str]) -> Self {
        let output = installation.command("audit").arg("--json").args(args).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let balanced = output.status.success();
        assert_eq!(report["balanced"], balanced, "{report:#}");
        Self { balanced, report }
    }

    /// Returns the number of deliveries of clicks to an endpoint that have this fate.
    fn clicks_of(&self, endpoint: &Value, fate: &str) -> u64 {
        let endpoints = self.report["deliveries"]["endpoints"].as_array().unwrap();
        let row = endpoints.iter().find(|row| row["endpoint"] == *endpoint && row["topic"] == "clicks");
        row.map_or(0, |row| row.pointer(fate).unwrap().as_u64().unwrap())
    }
}

#[test]
fn everything_that_is_captured_is_accounted_for() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let [control, ingest, enricher] = ["control", "ingest", "enricher"].map(|role| installation.start(role));
    let address = testbed::free_address();
    let start_dispatcher = || installation.start_at("dispatcher", address, "dispatcher-1");
    let dispatcher = start_dispatcher();
    for process in [&control, &ingest, &enricher, &dispatcher] {
        process.until_ready("a role is ready");
    }
    let api = PipelineApi::new(control.serves);
    let (taking, refusing) = (ClickReceiver::start(), ClickReceiver::start());
    refusing.refuse();
    let endpoint = |receiver: &ClickReceiver, mut fields: Value| {
        fields["url"] = json!(format!("http://{}/", receiver.address));
        api.post("/v1/endpoints", &fields)["id"].clone()
    };
    let taking = endpoint(&taking, json!({"events": ["*"]}));
    let waits = endpoint(&refusing, json!({"events": ["link.*"]}));
    let gives_up = endpoint(&refusing, json!({"events": ["link.clicked"], "retry_schedule": []}));
    let paused = endpoint(&refusing, json!({"events": ["link.clicked"]}));
    api.patch(&format!("/v1/endpoints/{}", paused.as_str().unwrap()), &json!({"status": "paused"}));
    let elsewhere = endpoint(&refusing, json!({"events": ["link.clicked"], "filters": {"country": "AQ"}}));
    api.post("/v1/links", &json!({"slug": "sale", "destination": "https://example.com/"}));
    until_redirects(ingest.serves, "sale");

    let load = Visitors::start(vec![ingest.serves], "sale", 4);
    load.wait_for(150);
    dispatcher.kill();
    // Nobody delivers, and everything is accounted for; so it is while a dispatcher starts.
    assert!(Audit::run(&installation, &[]).balanced);
    let mut dispatcher = start_dispatcher();
    let audit = Audit::run(&installation, &[]);
    assert!(audit.balanced, "{:#}", audit.report);
    load.wait_for(150);
    let answered = load.stop().len() as u64;

    eventually("all clicks are delivered, and accounted for where they are not", Duration::from_secs(60), || {
        let audit = Audit::run(&installation, &[]);
        assert!(audit.balanced, "{:#}", audit.report);
        // A visit that was cut off may have been recorded all the same.
        let clicks = audit.report["clicks"]["recorded"].as_u64().unwrap();
        assert!(audit.report["clicks"]["waiting"] != 0 || clicks >= answered, "{:#}", audit.report);
        assert_eq!(audit.clicks_of(&elsewhere, "/captured"), 0);
        // What fails waits for the probes of its endpoint's breaker.
        assert!(clicks < answered || audit.clicks_of(&gives_up, "/dead") > 0, "{:#}", audit.report);
        let ended =
            [(&taking, "/delivered"), (&paused, "/waiting/held"), (&gives_up, "/captured"), (&waits, "/captured")];
        let ended = ended.iter().all(|(endpoint, fate)| audit.clicks_of(endpoint, fate) == clicks);
        let stored = audit.report["rows"].as_array().unwrap().iter().find(|row| row["topic"] == "clicks");
        (clicks >= answered && ended && stored.unwrap()["stored"] == clicks).then_some(())
    });

    // An event that a person lets the group leave out is missing.
    dispatcher.terminate();
    dispatcher.until_ended();
    let taking = taking.as_str().unwrap();
    let event = api.post(&format!("/v1/endpoints/{taking}/test"), &json!({"event": "webhook.test"}));
    let set = ["set", "--group", "webhook.events", "--to", "latest", "--all"];
    eventually("the group's session has ended", Duration::from_secs(60), || {
        installation.command("offsets").args(set).output().unwrap().status.success().then_some(())
    });
    let audit = Audit::run(&installation, &["--differences", "--endpoint", taking]);
    assert!(!audit.balanced);
    let missing = audit.report["differences"]["deliveries"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "{:#}", audit.report);
    assert_eq!((&missing[0]["event"], missing[0]["endpoint"].as_str()), (&event["id"], Some(taking)));

    let output = installation.command("audit").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let command = text.lines().last().unwrap();
    assert!(command.contains("clickhook audit --since") && command.ends_with("--differences"), "{text}");
}
