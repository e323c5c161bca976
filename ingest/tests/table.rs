//! The redirector's contract, row by row: domains, links with a beginning and an
//! end, what is passed on, who is told, and what of it is recorded.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{asked, bundles, domain, get, header, link, raw, redirector, status, write, write_domain};
use ingest::Config;
use schemas::{
    AppSchemes, ClickClass, ClickId, Domain, Link, RawClick, Timestamp, WorkspaceId,
    link::ReferrerPolicy,
    workspace::{SlugCase, TrailingSlash},
};
use testbed::eventually;

fn url(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Returns the recorded visits by the address that was asked for: a link's slug, or an
/// address that no link has.
async fn recorded(bus: &bus::Bus) -> BTreeMap<String, Vec<ClickClass>> {
    let bus = bus.clone();
    let bundles = tokio::task::spawn_blocking(move || bundles(&bus)).await.unwrap();
    let mut recorded: BTreeMap<String, Vec<ClickClass>> = BTreeMap::new();
    for line in bundles.iter().flat_map(|bundle| &bundle.lines) {
        let click: RawClick<'_> = serde_json::from_str(line).unwrap();
        let asked =
            click.link.map_or_else(|| format!("{} {}", click.workspace, click.asked.unwrap()), |l| l.slug.into());
        recorded.entry(asked).or_default().push(click.class);
    }
    for classes in recorded.values_mut() {
        classes.sort_by_key(|class| class.as_str());
    }
    recorded
}

#[tokio::test]
async fn a_domain_answers_for_its_links_and_for_what_is_missing() {
    let bus = testbed::bus().await;
    let (past, future) = (Timestamp::from_millis(1), Timestamp::from_millis(1 << 42));
    let full = Domain {
        workspace: WorkspaceId::new("acme"),
        slug_case: SlugCase::Insensitive,
        root_url: url("https://acme.example/"),
        fallback_url: url("https://acme.example/missing"),
        expired_url: url("https://acme.example/over"),
        ..domain("go.acme.co")
    };
    write_domain(&bus, &full).await;
    write_domain(&bus, &Domain { workspace: full.workspace.clone(), ..domain("bare.acme.co") }).await;
    let page = |text: &str| Some(format!("<!doctype html><p>{text}</p>"));
    write_domain(
        &bus,
        &Domain { fallback_html: page("None."), expired_html: page("Over \u{1f3c1}."), ..domain("page.acme.co") },
    )
    .await;
    write_domain(
        &bus,
        &Domain {
            trailing_slash: TrailingSlash::Ignored,
            root_url: url("https://loop.acme.co"),
            fallback_url: url("https://loop.acme.co/nowhere"),
            expired_url: url("https://loop.acme.co/gone?x"),
            ..domain("loop.acme.co")
        },
    )
    .await;
    write_domain(&bus, &Domain { verified_at: None, root_url: url("https://x.example/"), ..domain("claimed.co") })
        .await;
    let on = |domain: &str, slug: &str| Link {
        workspace: full.workspace.clone(),
        domain: Some(domain.to_owned()),
        ..link(slug)
    };
    let links = [
        link("sale"),
        on("go.acme.co", "sale"),
        on("go.acme.co", "caf\u{e9}"),
        Link { expires_at: Some(past), ..on("go.acme.co", "over") },
        Link { expires_at: Some(past), expired_url: url("https://own.example/"), ..on("go.acme.co", "own") },
        Link { exhausted_at: Some(past), ..on("bare.acme.co", "used") },
        Link { disabled: true, ..on("go.acme.co", "off") },
        Link { starts_at: Some(future), ..on("go.acme.co", "soon") },
        Link { starts_at: Some(past), expires_at: Some(future), ..on("go.acme.co", "now") },
        Link { status_code: 308, ..on("bare.acme.co", "hook") },
        Link { domain: url("page.acme.co"), expires_at: Some(past), ..link("late") },
        Link { domain: url("loop.acme.co"), expires_at: Some(past), ..link("gone") },
        Link { domain: url("loop.acme.co"), ..link("\u{2764}") },
        on("claimed.co", "sale2"),
        Link { workspace: WorkspaceId::new("other"), ..on("go.acme.co", "theirs") },
    ];
    for link in &links {
        write(&bus, link.id, Some(link)).await;
    }
    let redirector = redirector(&bus, Config { own_host: "any".to_owned(), ..Config::default() }).await;
    let address = redirector.running.local_addr();

    let (missing, destination) = ("https://acme.example/missing", |slug: &str| format!("https://acme.example/{slug}"));
    for (host, target, status, location) in [
        ("any", "/sale", 302, &*destination("sale")),
        ("any", "/SALE", 404, ""),
        ("any", "/", 404, ""),
        ("go.acme.co", "/sale", 302, &destination("sale")),
        ("GO.acme.co:8443", "/SaLe", 302, &destination("sale")),
        ("go.acme.co.", "/CAFE%CC%81", 302, &destination("caf%C3%A9")),
        ("go.acme.co", "/", 302, "https://acme.example/"),
        ("go.acme.co", "/?a=b", 302, "https://acme.example/"),
        ("go.acme.co", "/nothing", 302, missing),
        ("go.acme.co", "/a/b", 302, missing),
        ("go.acme.co", "/off", 302, missing),
        ("go.acme.co", "/soon", 302, missing),
        ("go.acme.co", "/theirs", 302, missing),
        ("go.acme.co", "/now", 302, &destination("now")),
        ("go.acme.co", "/over?a=b", 302, "https://acme.example/over"),
        ("go.acme.co", "/own", 302, "https://own.example/"),
        ("bare.acme.co", "/used", 410, ""),
        ("bare.acme.co", "/sale", 404, ""),
        ("bare.acme.co", "/", 404, ""),
        ("bare.acme.co", "/hook/", 404, ""),
        ("page.acme.co", "/none", 404, ""),
        ("page.acme.co", "/late", 410, ""),
        ("page.acme.co", "/robots.txt", 200, ""),
        ("go.acme.co", "/favicon.ico", 404, ""),
        ("go.acme.co", "/.well-known/security.txt", 404, ""),
        ("go.acme.co", "/healthz", 200, ""),
        // Nothing leads to itself.
        ("loop.acme.co", "/", 404, ""),
        ("loop.acme.co", "/other", 302, "https://loop.acme.co/nowhere"),
        ("loop.acme.co", "/nowhere", 404, ""),
        ("loop.acme.co", "/gone", 410, ""),
        ("loop.acme.co", "/%E2%9D%A4%EF%B8%8F/", 302, &destination("%E2%9D%A4")),
        ("claimed.co", "/sale2", 404, ""),
        ("claimed.co", "/sale", 404, ""),
    ] {
        let expected = (status, location.to_owned());
        assert_eq!(asked(address, "HEAD", host, target, "").await, expected, "HEAD {host}{target}");
        assert_eq!(asked(address, "GET", host, target, "").await, expected, "{host}{target}");
    }

    for (path, text) in [("/none", "None."), ("/late", "Over \u{1f3c1}.")] {
        let answer = raw(address, &format!("GET {path} HTTP/1.0\r\nHost: page.acme.co\r\n\r\n")).await;
        assert_eq!(header(&answer, "content-type"), Some("text/html; charset=utf-8"), "{answer}");
        assert_eq!(answer.split("\r\n\r\n").nth(1), page(text).as_deref());
    }

    use ClickClass::{Click, Expired, Orphan};
    let expected: BTreeMap<String, Vec<ClickClass>> = [
        ("sale", vec![Click; 3]),
        ("caf\u{e9}", vec![Click]),
        ("now", vec![Click]),
        ("over", vec![Expired]),
        ("own", vec![Expired]),
        ("used", vec![Expired]),
        ("default any/SALE", vec![Orphan]),
        ("acme go.acme.co/nothing", vec![Orphan]),
        ("acme go.acme.co/a/b", vec![Orphan]),
        ("acme go.acme.co/off", vec![Orphan]),
        ("acme go.acme.co/theirs", vec![Orphan]),
        ("acme bare.acme.co/sale", vec![Orphan]),
        ("acme bare.acme.co/hook/", vec![Orphan]),
        ("late", vec![Expired; 2]),
        ("gone", vec![Expired]),
        ("\u{2764}", vec![Click]),
        ("default page.acme.co/none", vec![Orphan; 2]),
        ("default loop.acme.co/other", vec![Orphan]),
        ("default loop.acme.co/nowhere", vec![Orphan]),
        ("default claimed.co/sale2", vec![Orphan]),
        ("default claimed.co/sale", vec![Orphan]),
    ]
    .into_iter()
    .map(|(asked, classes)| (asked.to_owned(), classes))
    .collect();
    // What nobody waits for may still be on its way.
    eventually("every visit is recorded", async || {
        let recorded = recorded(&bus).await;
        (recorded.values().flatten().count() >= expected.values().flatten().count()).then_some(recorded)
    })
    .await;
    assert_eq!(recorded(&bus).await, expected);
    redirector.stop().await;
}

#[tokio::test]
async fn a_link_passes_on_what_it_says() {
    let bus = testbed::bus().await;
    let links = [
        Link { passthrough: true, destination: "https://a.example/?own=1#part".to_owned(), ..link("pass") },
        Link { append_click_id: true, status_code: 307, ..link("tell") },
        Link { referrer_policy: Some(ReferrerPolicy::UnsafeUrl), status_code: 301, ..link("refer") },
        Link { destination: "myapp://open".to_owned(), status_code: 308, ..link("app") },
        Link { destination: "otherapp://open".to_owned(), ..link("other") },
    ];
    for link in &links {
        write(&bus, link.id, Some(link)).await;
    }
    let schemes = AppSchemes::try_from(vec!["myapp".to_owned()]).unwrap();
    let config = Config { app_schemes: schemes, click_id_param: "cid".to_owned(), ..Config::default() };
    let redirector = redirector(&bus, config).await;
    let address = redirector.running.local_addr();

    for (target, status, location) in [
        ("/pass", 302, "https://a.example/?own=1#part"),
        ("/pass?qr=1&own=2&b=%0D%0A&c", 302, "https://a.example/?own=1&b=%0D%0A&c#part"),
        ("/tell?a=b", 307, "https://acme.example/tell"),
        ("/app?a=b", 308, "myapp://open"),
        ("/other", 404, ""),
    ] {
        let (got, at) = asked(address, "GET", "any", target, "").await;
        assert_eq!(got, status, "{target}");
        if target.starts_with("/tell") {
            let (before, id) = at.split_once("?cid=").unwrap();
            assert_eq!((before, id.parse::<ClickId>().is_ok()), (location, true), "{at}");
        } else {
            assert_eq!(at, location, "{target}");
        }
    }
    assert_eq!(asked(address, "HEAD", "any", "/tell", "").await.1, "https://acme.example/tell");
    // A preview is no click, so there is no click to tell of.
    let preview = asked(address, "GET", "any", "/tell", "X-Purpose: preview\r\n").await;
    assert_eq!(preview, (307, "https://acme.example/tell".to_owned()));
    // A redirect that keeps the method takes every method, and the body stays unread.
    let put = "PUT /tell HTTP/1.1\r\nHost: any\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    let answer = raw(address, put).await;
    assert_eq!((status(&answer), header(&answer, "connection")), (307, Some("close")), "{answer}");
    let told = header(&answer, "location").unwrap().split_once("?cid=").unwrap().1;
    assert!(told.parse::<ClickId>().is_ok(), "{answer}");
    assert_eq!(asked(address, "POST", "any", "/pass", "").await.0, 405);
    let answer = get(address, "/refer", "").await;
    assert_eq!((status(&answer), header(&answer, "referrer-policy")), (301, Some("unsafe-url")));
    assert_eq!(header(&get(address, "/pass", "").await, "referrer-policy"), None);
    redirector.stop().await;
}

#[tokio::test]
async fn an_address_is_marked_then_refused_and_proxies_say_whose_it_is() {
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    write_domain(&bus, &Domain { root_url: url("https://acme.example/"), ..domain("go.acme.co") }).await;
    let config = Config {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        marked_per_min: 2,
        refused_per_min: 3,
        own_host: "go.example".to_owned(),
        ..Config::default()
    };
    let redirector = redirector(&bus, config).await;
    let address = redirector.running.local_addr();
    for (n, expected) in [302, 302, 302, 429].into_iter().enumerate() {
        let answer = get(address, &format!("/sale?n={n}"), "X-Forwarded-For: 2001:db8::1\r\n").await;
        assert_eq!(status(&answer), expected, "{n}");
        assert_eq!(header(&answer, "retry-after"), (expected == 429).then_some("20"));
    }
    assert_eq!(asked(address, "GET", "go.example", "/sale", "X-Forwarded-For: 192.0.2.1\r\n").await.0, 302);
    let forwarded = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: go.acme.co\r\n";
    assert_eq!(asked(address, "GET", "inner", "/", forwarded).await, (302, "https://acme.example/".to_owned()));

    let read = bus.clone();
    let bundles = tokio::task::spawn_blocking(move || bundles(&read)).await.unwrap();
    let mut seen: Vec<(String, bool)> = Vec::new();
    for line in bundles.iter().flat_map(|bundle| &bundle.lines) {
        let click: RawClick<'_> = serde_json::from_str(line).unwrap();
        seen.push((click.ip.into_owned(), click.rate_limited));
    }
    seen.sort();
    let expected = [("192.0.2.1", false), ("2001:db8::1", false), ("2001:db8::1", false), ("2001:db8::1", true)];
    assert_eq!(seen, expected.map(|(ip, marked)| (ip.to_owned(), marked)));
    redirector.stop().await;
}

#[tokio::test]
async fn somebody_who_tries_out_slugs_is_seen_and_fills_nothing() {
    let bus = testbed::bus().await;
    let config =
        Config { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], unknown_per_min: 5, ..Config::default() };
    let redirector = redirector(&bus, config).await;
    let address = redirector.running.local_addr();
    let request = "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n".repeat(50);
    let last = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = raw(address, &(request + last)).await;
    assert_eq!(answers.matches("HTTP/1.1 404 Not Found").count(), 51);
    let text = redirector.metrics.text();
    for line in [
        "clickhook_ingest_orphans_total 51",
        "clickhook_ingest_orphans_recorded_total 6",
        "clickhook_ingest_enumerations_total 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    redirector.stop().await;
}
