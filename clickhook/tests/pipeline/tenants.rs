//! Fifty tenants of one installation, four of whom take what they can: one imports to its
//! quota, one opens connections that send nothing, one asks for whatever costs most, and one
//! lists other people's domains. Nothing is refused to the others, and memory stays bounded.
//! `bench tenants` measures how much slower the others become.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::{
    roles::{Installation, RoleProcess},
    support::{PHONE, PipelineApi, eventually, folder, http},
};

const TENANTS: usize = 50;
const QUOTA_LINKS: usize = 2000;
const QUOTA_DOMAINS: usize = 100;
/// The connections that send nothing: as many as the API and the redirector serve at once.
const IDLE: usize = 2000;
/// The bytes of a head that is nearly as long as it may be.
const LONG_HEAD: usize = 30_000;
/// The calls that the others make while all this goes on.
const CALLS: usize = 30;
/// The memory that a role may have, in kilobytes: with fifty tenants' quotas it has a fifth.
const MEMORY_KB: u64 = 400_000;

/// A tenant's key.
struct Tenant {
    api: SocketAddr,
    secret: String,
}

impl Tenant {
    fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = axum::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.api))
            .header("authorization", format!("Bearer {}", self.secret));
        let answered = if body.is_empty() {
            http().run(request.body(()).unwrap())
        } else {
            http().run(request.body(body.to_owned()).unwrap())
        };
        let Ok(mut answer) = answered else { return (0, Value::Null) };
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Calls, and takes nothing but success.
    fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.call(method, path, &body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }
}

fn redirect(redirector: SocketAddr, host: &str, slug: &str) -> u16 {
    let visit = http().get(format!("http://{redirector}/{slug}")).header("host", host).header("user-agent", PHONE);
    visit.call().map_or(0, |answer| answer.status().as_u16())
}

/// Imports more links than the workspace may have.
fn import(tenant: &Tenant) {
    let link = |n: usize| json!({"external_id": n.to_string(), "destination": "https://a.example/", "tags": ["t"]});
    let lines: Vec<String> = (0..QUOTA_LINKS + 500).map(|n| link(n).to_string()).collect();
    let (status, report) = tenant.call("POST", "/v1/links/import", &lines.join("\n"));
    assert_eq!((status, &report["created"], &report["rejected_total"]), (200, &json!(QUOTA_LINKS), &json!(500)));
}

/// Asks for what costs most, until told to stop; its own refusals are its own.
fn hammer(tenant: &Tenant, stop: &AtomicBool) {
    let link = tenant.must("POST", "/v1/links", &json!({"slug": "h", "destination": "https://a.example/"}));
    let id = link["id"].as_str().unwrap();
    let domain = tenant.must("POST", "/v1/domains", &json!({"name": "hammer.example"}));
    let domain = domain["id"].as_str().unwrap();
    while !stop.load(Ordering::Relaxed) {
        for path in [
            format!("/v1/links/{id}/qr.png?size=2048"),
            "/v1/links?search=zz&limit=200".to_owned(),
            "/v1/links?domain=nowhere.example".to_owned(),
            "/v1/links/export".to_owned(),
            "/v1/tags".to_owned(),
            "/v1/stats/workspace/series?window=90d&interval=hour".to_owned(),
            "/v1/audit?limit=200".to_owned(),
        ] {
            let (status, answer) = tenant.call("GET", &path, "");
            assert!(status < 500 || status == 503, "{path}: {status} {answer}");
        }
        tenant.call("POST", "/v1/tags/rename", r#"{"from":"a","to":"b"}"#);
        tenant.call("DELETE", &format!("/v1/domains/{domain}"), "");
    }
}

/// Lists domains until there may be no more, the victim's among them.
fn squat(tenant: &Tenant) {
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for part in 0..8 {
            let refused = &refused;
            scope.spawn(move || {
                for n in (part..QUOTA_DOMAINS + 10).step_by(8) {
                    let name = if n == 0 { "go.victim.example".to_owned() } else { format!("d{n}.example") };
                    let (status, answer) = tenant.call("POST", "/v1/domains", &json!({"name": name}).to_string());
                    assert!(status == 201 || answer["quota"]["name"] == "domains", "{name}: {status} {answer}");
                    refused.fetch_add(usize::from(status == 403), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(refused.into_inner(), 10);
}

/// Opens connections, lets those to the redirector make one request with a long head, and keeps
/// them.
fn idle(api: SocketAddr, redirector: SocketAddr) -> Vec<TcpStream> {
    let request = format!("GET /s HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(LONG_HEAD));
    let mut held: Vec<TcpStream> = (0..IDLE / 2).map(|_| TcpStream::connect(api).unwrap()).collect();
    held.extend((0..IDLE / 2).map(|_| {
        let mut stream = TcpStream::connect(redirector).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream
    }));
    held
}

/// Raises the limit of open files, which shells set to 1024, for the connections.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn check_memory(role: &RoleProcess) {
    let used = role.memory_kb();
    assert!(used < MEMORY_KB, "{used} kB");
}

#[test]
fn nothing_is_refused_to_a_tenant_whatever_others_do() {
    raise_open_files();
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let quotas = [
        ("CLICKHOOK_CONTROL_QUOTA_LINKS", QUOTA_LINKS.to_string()),
        ("CLICKHOOK_CONTROL_QUOTA_DOMAINS", QUOTA_DOMAINS.to_string()),
    ];
    let control = installation.start_with("control", &quotas);
    // As many connections as there are idle ones, like the API's: each further one needs room.
    let few = [("CLICKHOOK_INGEST_MAX_CONNECTIONS", (IDLE / 2).to_string())];
    let ingest = installation.start_with("ingest", &few);
    control.until_ready("control is the leader");
    ingest.until_ready("the redirector knows the links");
    let operator = PipelineApi::new(control.serves);
    let tenants: Vec<Tenant> = (0..TENANTS)
        .map(|n| {
            let id = format!("t{n}");
            operator.post("/v1/workspaces", &json!({"id": id}));
            let key = operator.post_in(&id, "/v1/keys", &json!({"name": "admin", "scopes": ["admin"]}));
            Tenant { api: control.serves, secret: key["secret"].as_str().unwrap().to_owned() }
        })
        .collect();
    let [importing, hammering, squatting, victim, others @ ..] = &tenants[..] else { panic!("four tenants at least") };
    for (id, name) in [("t0", "go.t0.example"), ("t1", "go.t1.example"), ("t3", "go.victim.example")] {
        let domain = operator.post_in(id, "/v1/domains", &json!({"name": name, "is_default": true}));
        let verify = format!("/v1/domains/{}/verify", domain["id"].as_str().unwrap());
        operator.post_in(id, &verify, &json!({"vouch": true}));
    }
    victim.must("POST", "/v1/links", &json!({"slug": "s", "destination": "https://v.example/"}));
    eventually("the redirector knows the link", std::time::Duration::from_secs(30), || {
        (redirect(ingest.serves, "go.victim.example", "s") == 302).then_some(())
    });

    let stop = AtomicBool::new(false);
    let before = ingest.memory_kb();
    let held = idle(control.serves, ingest.serves);
    // Idle connections do not keep the memory of their long heads.
    let gained = ingest.memory_kb().saturating_sub(before);
    assert!(gained < (LONG_HEAD * IDLE / 2 / 1024 / 2) as u64, "{gained} kB");
    thread::scope(|scope| {
        scope.spawn(|| import(importing));
        scope.spawn(|| hammer(hammering, &stop));
        scope.spawn(|| squat(squatting));
        let calls = scope.spawn(|| {
            for n in 0..CALLS {
                let body = json!({"slug": format!("sale-{n}"), "destination": "https://v.example/"});
                let made = victim.must("POST", "/v1/links", &body);
                victim.must("GET", &format!("/v1/links/{}", made["id"].as_str().unwrap()), &Value::Null);
                assert_eq!(redirect(ingest.serves, "go.victim.example", "s"), 302);
            }
            for other in others {
                other.must("GET", "/v1/usage", &Value::Null);
            }
        });
        let ended = calls.join();
        stop.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
    drop(held);
    check_memory(&control);
    check_memory(&ingest);
    // The squatter has claimed nothing, and its names lead to nobody's links.
    assert_eq!(redirect(ingest.serves, "go.victim.example", "s"), 302);
    assert_eq!(redirect(ingest.serves, "d1.example", "s"), 404);
}
