//! `clickhook listen` and `clickhook verify`, as typed: what they print, answer
//! and exit with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use dispatcher::webhook::sign::{ATTEMPT, EVENT, ID, SIGNATURE, SIMPLE_SIGNATURE, Signer, TIMESTAMP};
use schemas::{EventName, Timestamp, sample};
use service::secret::{Secret, mint};

/// A `clickhook listen` that is running.
struct Listening {
    child: Child,
    out: BufReader<ChildStdout>,
    url: String,
}

impl Listening {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_clickhook"))
            .args(["listen", "--port", "0"])
            .args(args)
            .env_remove("CLICKHOOK_ENDPOINT_SECRET")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut welcome = String::new();
        if args.contains(&"--json") {
            BufReader::new(child.stderr.take().unwrap()).read_line(&mut welcome).unwrap();
        } else {
            out.read_line(&mut welcome).unwrap();
        }
        let url = welcome.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        Self { child, out, url }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn body() -> String {
    serde_json::to_string(&sample::event(EventName::LinkClicked, Timestamp::now())).unwrap()
}

/// Sends `body`, signed as if it were `signed`; gives back the status.
fn send(url: &str, secret: &Secret, signed: &str, body: &str) -> u16 {
    let (signer, at) = (Signer::new(secret).unwrap(), Timestamp::now().as_secs());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let answer = agent
        .post(url)
        .header("content-type", "application/json")
        .header(ID, "evt_1")
        .header(TIMESTAMP, at.to_string())
        .header(SIGNATURE, signer.standard("evt_1", at, signed.as_bytes()))
        .header(SIMPLE_SIGNATURE, signer.simple(signed.as_bytes()))
        .header(EVENT, "link.clicked")
        .header(ATTEMPT, "1")
        .send(body);
    answer.unwrap().status().as_u16()
}

fn verify(folder: &Path, headers: &str, body: &str, secret: &Secret) -> (ExitStatus, String) {
    fs::write(folder.join("headers"), headers).unwrap();
    fs::write(folder.join("body"), body).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_clickhook"))
        .args(["verify", "--body", "body", "--headers", "headers"])
        .env("CLICKHOOK_ENDPOINT_SECRET", secret.expose())
        .current_dir(folder)
        .output()
        .unwrap();
    (output.status, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_secret_may_come_after_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (path, secret, body) = (folder.path().join("listen.secret"), mint(), body());
    let mut listening = Listening::start(&["--secret-file", path.to_str().unwrap()]);
    assert_eq!(send(&listening.url, &secret, &body, &body), 200);
    assert!(listening.line().contains("not verified: no secret"));

    fs::write(&path, format!("{}\n", secret.expose())).unwrap();
    assert_eq!(send(&listening.url, &secret, &body, &body), 200);
    let line = listening.line();
    assert!(line.ends_with("attempt 1  verified ✓\n"), "{line}");
    assert!(line.contains("link.clicked  https://go.acme.co/sale  US mobile Safari instagram"), "{line}");

    assert_eq!(send(&listening.url, &mint(), &body, &body), 401);
    assert!(listening.line().contains("NOT GENUINE"));
    assert!(listening.line().contains("another endpoint's secret"));
    let pretty = format!("{:#}", serde_json::from_str::<serde_json::Value>(r#"{"a":1}"#).unwrap());
    assert_eq!(send(&listening.url, &secret, r#"{"a":1}"#, &pretty), 401);
    listening.line();
    assert!(listening.line().contains("reformatted"));
}

#[test]
fn a_line_of_json_is_all_that_verify_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, body) = (mint(), body());
    let listening = Listening::start(&["--secret", secret.expose(), "--json", "--count", "1"]);
    assert_eq!(send(&listening.url, &secret, &body, &body), 200);
    let (status, line) = listening.end();
    assert!(status.success(), "it exits after --count webhooks");
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&parsed["verified"], parsed["body"].as_str().unwrap()), (&true.into(), body.as_str()));

    let (status, text) = verify(folder.path(), &line, &body, &secret);
    assert!(status.success() && text.starts_with("verified"), "{text}");
    let (status, text) = verify(folder.path(), &line, &format!("{body}\n"), &secret);
    assert!(status.code() == Some(1) && text.contains("line break"), "{text}");
}

#[test]
fn it_fails_and_hangs_when_told_to() {
    let (secret, body) = (mint(), body());
    let listening = Listening::start(&["--fail", "503", "--count", "1"]);
    assert_eq!(send(&listening.url, &secret, &body, &body), 503);
    assert!(listening.end().0.success());

    let hanging = Listening::start(&["--hang", "--count", "1"]);
    let url = hanging.url.clone();
    // Cut off when the listener exits, without an answer.
    let answered =
        std::thread::spawn(move || ureq::post(&url).send("x").is_ok_and(|answer| answer.status().is_success()));
    assert!(hanging.end().0.success());
    assert!(!answered.join().unwrap());
}
