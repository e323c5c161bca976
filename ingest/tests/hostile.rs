//! The redirect port against what the internet sends it: each request has its
//! answer, nothing of it leads anywhere else, and what is recorded of it is one
//! line that says what was sent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use common::{attacks::attacks, bundles, redirector, write, write_domain};
use ingest::{
    Config,
    fuzz::{FuzzedRedirector, example},
};
use schemas::{AppSchemes, ClickClass, RawClick};
use testbed::{PATIENCE, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Sends these bytes, says that there are no more, and reads all answers.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    // An answer may come, and the connection end, before everything was sent.
    let send = async {
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
    };
    let (_, received) = timeout(PATIENCE, async { tokio::join!(send, read.read_to_end(&mut answer)) }).await.unwrap();
    received.unwrap();
    String::from_utf8(answer).unwrap()
}

fn statuses(answers: &str) -> Vec<u16> {
    let starts = answers.match_indices("HTTP/1.1 ");
    // A body may speak of HTTP/1.1, too.
    starts.filter_map(|(at, start)| answers.get(at + start.len()..at + start.len() + 3)?.parse().ok()).collect()
}

#[tokio::test]
async fn each_attack_has_its_answer_and_leads_nowhere_else() {
    let bus = testbed::bus().await;
    let (links, domains) = example();
    for link in &links {
        write(&bus, link.id, Some(link)).await;
    }
    for domain in &domains {
        write_domain(&bus, domain).await;
    }
    // What comes from here would be a proxy's word otherwise.
    let redirector = redirector(&bus, Config { orphans_per_min: 1_000_000, ..Config::default() }).await;
    let address = redirector.running.local_addr();

    let attacks = attacks();
    assert!(attacks.len() >= 350, "{}", attacks.len());
    let own: Vec<&str> = links
        .iter()
        .map(|link| &*link.destination)
        .chain(domains.iter().flat_map(|domain| {
            [&domain.root_url, &domain.fallback_url, &domain.expired_url].into_iter().flatten().map(String::as_str)
        }))
        .map(|url| url.split(['?', '#']).next().unwrap())
        .collect();
    let mut wrong = Vec::new();
    for attack in &attacks {
        let answers = exchange(address, &attack.bytes).await;
        if statuses(&answers) != attack.statuses {
            wrong.push(format!("{}: {:?}, not {:?}", attack.what, statuses(&answers), attack.statuses));
        }
        for line in answers.lines().filter_map(|line| line.strip_prefix("location: ")) {
            assert!(line.bytes().all(|byte| byte.is_ascii_graphic()), "{}: {line:?}", attack.what);
            assert!(own.contains(&line.split(['?', '#']).next().unwrap()), "{}: {line}", attack.what);
        }
        for line in answers.lines() {
            let lower = line.to_ascii_lowercase();
            assert!(!lower.starts_with("set-cookie") && !lower.starts_with("<script"), "{}: {line}", attack.what);
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attacks.len(), wrong.join("\n"));

    let redirects = |text: &str, class: &str| -> u64 {
        let start = format!("clickhook_ingest_redirects_total{{class=\"{class}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |count| count.parse().unwrap())
    };
    let text = redirector.metrics.text();
    let counted = redirects(&text, "click") + redirects(&text, "qr");
    let expected = counted as usize + redirects(&text, "prefetch") as usize;
    let lines = eventually("what was answered is recorded", async || {
        let bus = bus.clone();
        let bundles = tokio::task::spawn_blocking(move || bundles(&bus)).await.unwrap();
        let lines: Vec<String> = bundles.into_iter().flat_map(|bundle| bundle.lines).collect();
        (lines.iter().filter(|line| !line.contains("\"class\":\"orphan\"")).count() >= expected).then_some(lines)
    })
    .await;
    let known: HashSet<_> = links.iter().map(|link| link.id).collect();
    let (mut ids, mut clicks) = (HashSet::new(), 0);
    for line in &lines {
        let click: RawClick<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(ids.insert(click.id), "{line}");
        assert_eq!((&*click.ip, &*click.workspace, click.rate_limited), ("127.0.0.1", "default", false), "{line}");
        clicks += u64::from(click.class.counts());
        match click.link {
            Some(link) => assert!(known.contains(&link.id), "{line}"),
            None => assert!(click.class == ClickClass::Orphan && click.asked.is_some(), "{line}"),
        }
    }
    assert_eq!(clicks, counted);
    redirector.stop().await;
}

#[tokio::test]
async fn who_sends_slowly_is_not_waited_for() {
    let bus = testbed::bus().await;
    let redirector = redirector(&bus, Config { header_timeout_ms: 300, keep_alive_ms: 300, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    for (bytes, expected) in [
        // Between requests, nobody is owed an answer.
        ("", &[][..]),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[404]),
        ("G", &[408]),
        ("GET / HTTP/1.1\r\nHost: a\r\n", &[408]),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /", &[404, 408]),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(statuses(&answer), expected, "{bytes:?}");
    }
    // A byte now and then is no progress.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let drip = async {
        loop {
            if write.write_all(b"a").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = String::new();
    tokio::select! {
        () = drip => {}
        received = timeout(PATIENCE, read.read_to_string(&mut answer)) => { let _ = received.unwrap(); }
    }
    assert_eq!(statuses(&answer), [408]);
    redirector.stop().await;
}

#[test]
fn the_way_without_io_answers_the_same() {
    let (links, domains) = example();
    let redirector = FuzzedRedirector::new(&links, &domains, AppSchemes::default()).unwrap();
    let mut wrong = Vec::new();
    for attack in attacks() {
        // Its peer is a trusted proxy, which these try to be.
        if attack.what.contains("Forwarded") {
            continue;
        }
        let statuses: Vec<u16> = redirector.answer(&attack.bytes).iter().map(|outcome| outcome.status).collect();
        if statuses != attack.statuses {
            wrong.push(format!("{}: {statuses:?}, not {:?}", attack.what, attack.statuses));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_nearly_an_attack_breaks_nothing() {
    let (links, domains) = example();
    let redirector = FuzzedRedirector::new(&links, &domains, AppSchemes::default()).unwrap();
    let seeds: Vec<Vec<u8>> = attacks().into_iter().map(|attack| attack.bytes).filter(|b| b.len() < 4096).collect();
    let mut answers = 0;
    for bytes in testbed::mutate::mutated(&seeds, 4, 50_000) {
        answers += redirector.answer(&bytes).len();
    }
    assert!(answers > 20_000, "{answers}");
}
