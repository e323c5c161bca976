//! The redirector against a real Kafka: what it answers, and what it has
//! recorded by then.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Instant;

use common::{bundles, get, header, link, raw, redirector, status, write};
use ingest::{Config, Durability};
use schemas::{ClickClass, RawClick, Topic};
use service::Process;
use testbed::{PATIENCE, eventually};

#[tokio::test]
async fn a_redirect_is_in_kafka_before_it_is_answered() {
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector = redirector(&bus, Config::default()).await;
    let address = redirector.running.local_addr();

    let answer =
        get(address, "/sale?utm_source=ig&qr=1", "User-Agent: Test/1\r\nReferer: https://a.example/\r\n").await;
    assert_eq!(status(&answer), 302, "{answer}");
    assert_eq!(header(&answer, "location"), Some("https://acme.example/sale"));
    assert_eq!(header(&answer, "cache-control"), Some("private, no-store"));
    assert_eq!(header(&answer, "x-robots-tag"), Some("noindex"));

    let bundles = tokio::task::spawn_blocking({
        let bus = bus.clone();
        move || bundles(&bus)
    })
    .await
    .unwrap();
    let [bundle] = bundles.as_slice() else { panic!("{} bundles", bundles.len()) };
    assert_eq!((bundle.count, bundle.lines.len()), (1, 1));
    assert_eq!(uuid::Uuid::parse_str(&bundle.id).unwrap().get_version_num(), 7);
    let click: RawClick<'_> = serde_json::from_str(&bundle.lines[0]).unwrap();
    assert_eq!(click.id.partition(bus.partitions(Topic::ClicksRaw)), bundle.partition);
    assert_eq!(click.class, ClickClass::Qr);
    assert_eq!(click.link, Some(sale.facts()));
    assert_eq!(click.ip, "127.0.0.1");
    assert_eq!(click.user_agent.as_deref(), Some("Test/1"));
    assert_eq!(click.referer.as_deref(), Some("https://a.example/"));
    assert_eq!(click.query.as_deref(), Some("utm_source=ig"));
    redirector.stop().await;
}

#[tokio::test]
async fn every_answered_redirect_is_recorded_once_and_nothing_else() {
    const CLICKS: usize = 400;
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector = redirector(&bus, Config::default()).await;
    let address = redirector.running.local_addr();

    let clicks: Vec<_> = (0..CLICKS)
        .map(|index| tokio::spawn(async move { status(&get(address, &format!("/sale?n={index}"), "").await) }))
        .collect();
    for click in clicks {
        assert_eq!(click.await.unwrap(), 302);
    }
    let head = raw(address, "HEAD /sale HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!((status(&head), header(&head, "location")), (302, Some("https://acme.example/sale")));
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let prefetch = get(address, "/sale", "Sec-Purpose: prefetch\r\n").await;
    let refused = (status(&prefetch), header(&prefetch, "retry-after"), header(&prefetch, "location"));
    assert_eq!(refused, (503, Some("1"), None), "{prefetch}");
    assert_eq!(header(&prefetch, "cache-control"), Some("private, no-store"), "{prefetch}");
    assert_eq!(status(&get(address, "/sale", "X-Purpose: preview\r\n").await), 302);
    assert_eq!(status(&get(address, "/nothing", "").await), 404);
    assert_eq!(status(&get(address, "/", "").await), 404);
    let post = raw(address, "POST /sale HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((status(&post), header(&post, "allow")), (405, Some("GET, HEAD")));

    // What nobody waits for may still be on its way.
    let bundles = eventually("all is recorded", async || {
        let bus = bus.clone();
        let bundles = tokio::task::spawn_blocking(move || bundles(&bus)).await.unwrap();
        (bundles.iter().map(|bundle| bundle.count).sum::<usize>() >= CLICKS + 2).then_some(bundles)
    })
    .await;
    let (mut queries, mut others) = (Vec::new(), Vec::new());
    for bundle in &bundles {
        assert_eq!(bundle.count, bundle.lines.len());
        for line in &bundle.lines {
            let click: RawClick<'_> = serde_json::from_str(line).unwrap();
            assert_eq!(click.id.partition(4), bundle.partition);
            match click.class {
                ClickClass::Click => queries.push(click.query.unwrap().into_owned()),
                other => others.push(other.as_str()),
            }
        }
    }
    queries.sort_unstable();
    others.sort_unstable();
    assert_eq!((queries.len(), others), (CLICKS, vec!["orphan", "prefetch"]));
    queries.dedup();
    assert_eq!(queries.len(), CLICKS);
    let text = redirector.metrics.text();
    assert!(text.contains(&format!("clickhook_ingest_redirects_total{{class=\"click\"}} {CLICKS}")), "{text}");
    assert!(text.contains("clickhook_ingest_orphans_total 1"), "{text}");
    assert!(text.contains("clickhook_ingest_prefetches_refused_total 1"), "{text}");
    redirector.stop().await;
}

#[tokio::test]
async fn a_link_changes_and_goes_while_it_is_served() {
    let bus = testbed::bus().await;
    let mut sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector = redirector(&bus, Config::default()).await;
    let address = redirector.running.local_addr();
    let until = async |path: &str, expected: u16| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = get(address, path, "").await;
            if status(&answer) == expected {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} never answers {expected}: {answer}");
        }
    };
    until("/sale", 302).await;
    sale.destination = "https://b\u{fc}cher.example/\u{fc}".to_owned();
    sale.status_code = 307;
    write(&bus, sale.id, Some(&sale)).await;
    let answer = until("/q/sale", 307).await;
    assert_eq!(header(&answer, "location"), Some("https://xn--bcher-kva.example/%C3%BC"));
    write(&bus, sale.id, None).await;
    until("/sale", 404).await;
    redirector.stop().await;
}

#[tokio::test]
async fn without_kafka_nothing_is_promised() {
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector =
        redirector(&bus, Config { durability: Durability::Acked, ack_timeout_ms: 1, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    // A broker on the same machine may answer within the millisecond.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(address, "/sale", "").await;
        if status(&answer) == 503 {
            assert_eq!(header(&answer, "retry-after"), Some("1"));
            assert_eq!(header(&answer, "location"), None);
            break;
        }
        assert_eq!(status(&answer), 302);
        assert!(Instant::now() < deadline, "every acknowledgement came within a millisecond");
    }
    redirector.stop().await;
}

#[tokio::test]
async fn hostile_requests_are_refused_and_a_taken_address_is_named() {
    let bus = testbed::bus().await;
    let redirector = redirector(&bus, Config { header_timeout_ms: 200, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    for (request, expected) in [
        ("GET /sale\x01 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("NONSENSE\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000)), 414),
        (format!("GET /s HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(70)), 431),
        // A head that never ends is not waited for.
        ("GET /s HTTP/1.1\r\nHost: a\r\n".to_owned(), 408),
    ] {
        let answer = raw(address, &request).await;
        assert_eq!(status(&answer), expected, "{answer}");
    }

    let config = Config { listen: address, ..Config::default() };
    let second = ingest::start(config, bus, Process::default()).await;
    let error = second.err().expect("the address is taken").to_string();
    assert!(error.contains(&address.to_string()) && error.contains("ingest.listen"), "{error}");
    redirector.stop().await;
}
