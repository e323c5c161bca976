//! The way of a request through the redirector without I/O, and what must hold
//! of it whatever comes in. For fuzzing and tests; not part of the crate's API.

#![allow(missing_docs, clippy::missing_panics_doc, reason = "what does not hold is told by panicking")]

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use schemas::{
    AppSchemes, ClickClass, ClickId, Domain, DomainId, Link, LinkId, RawClick, Timestamp,
    sample::{plain_domain, plain_link},
    workspace::{SlugCase, TrailingSlash},
};
use service::Metrics;
use url::{Position, Url};

use crate::{
    Config,
    http::answer::{RedirectResponse, ResponseContext},
    http::date::DateHeader,
    http::{self, Parsed, Persistence},
    metrics::IngestMetrics,
    redirect::Redirects,
    table::domains::{Domains, DomainsWriter},
    table::links::LinksWriter,
    visit,
    visit::limits::VisitLimits,
};

/// The time of all requests.
const NOW: Timestamp = Timestamp::from_millis(1_770_301_425_120);
/// The only headers that an answer has.
const HEADERS: [&str; 10] = [
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "location",
    "referrer-policy",
    "retry-after",
    "x-robots-tag",
];

/// The answer to a request, and the line that was recorded of it.
#[derive(Debug, PartialEq, Eq)]
pub struct FuzzOutcome {
    pub status: u16,
    pub location: Option<String>,
    pub line: Option<Vec<u8>>,
}

/// A redirector without network and Kafka.
pub struct FuzzedRedirector {
    redirects: Redirects,
    peer: SocketAddr,
    links: HashSet<LinkId>,
    /// The addresses to which it may redirect, without query and fragment.
    allowed: HashSet<String>,
}

impl FuzzedRedirector {
    /// Makes a redirector with these links and domains. Its peer is a trusted proxy.
    ///
    /// # Errors
    /// When a link cannot be served.
    pub fn new(links: &[Link], domains: &[Domain], app_schemes: AppSchemes) -> Result<Self, String> {
        let trusted_proxies = vec!["127.0.0.0/8".parse().map_err(|error| format!("{error}"))?];
        let (unknown_per_min, orphans_per_min) = (0, 1_000_000);
        let config = Config { app_schemes, trusted_proxies, unknown_per_min, orphans_per_min, ..Config::default() };
        let metrics = IngestMetrics::new(&Metrics::default());
        let known = Domains::default();
        let mut writer = DomainsWriter::new(known.clone(), (&config).into());
        domains.iter().for_each(|domain| writer.put(domain));
        let mut writer = LinksWriter::new(known.clone(), (&config).into());
        for link in links {
            writer.put(link).map_err(|error| format!("{link:?}: {error}"))?;
        }
        let own = domains.iter().flat_map(|domain| [&domain.root_url, &domain.fallback_url, &domain.expired_url]);
        let urls = links.iter().flat_map(|link| [Some(&link.destination), link.expired_url.as_ref()]);
        let urls = own.map(Option::as_ref).chain(urls).flatten();
        let redirects = Redirects {
            limits: VisitLimits::new(&config, metrics.clone()),
            config: Arc::new(config),
            links: writer.links(),
            domains: known,
            complete: true.into(),
            metrics,
        };
        Ok(Self {
            redirects,
            peer: SocketAddr::from(([127, 0, 0, 1], 50_000)),
            links: links.iter().map(|link| link.id).collect(),
            allowed: urls.map(|url| base(url)).collect(),
        })
    }

    /// Follows a link that the API has taken, with a visitor's query: it is served,
    /// unless it is disabled.
    pub fn follow(link: &Link, query: &[u8], app_schemes: AppSchemes) {
        let redirector = Self::new(std::slice::from_ref(link), &[], app_schemes).expect("what the API takes is served");
        let slug = utf8_percent_encode(&link.slug, NON_ALPHANUMERIC).to_string();
        let query: Vec<u8> = query.iter().copied().filter(|byte| byte.is_ascii_graphic() && *byte != b'#').collect();
        let query = String::from_utf8_lossy(&query);
        for method in ["GET", "HEAD"] {
            let request = format!("{method} /{slug}?{query} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            let outcomes = redirector.answer(request.as_bytes());
            let [outcome] = outcomes.as_slice() else { panic!("{request}: {outcomes:?}") };
            let expected = match (link.expires_at, link.starts_at) {
                // The query is as long as it likes.
                _ if outcome.status == 414 => continue,
                _ if link.disabled => 404,
                (Some(end), _) if end <= NOW => {
                    if link.expired_url.is_some() {
                        302
                    } else {
                        410
                    }
                }
                (_, Some(start)) if start > NOW => 404,
                _ => link.status_code,
            };
            assert_eq!(outcome.status, expected, "{request}: {link:?}");
        }
    }

    /// Answers what a connection sends, checks every answer and line, and gives
    /// them back.
    #[must_use]
    pub fn answer(&self, mut bytes: &[u8]) -> Vec<FuzzOutcome> {
        let mut outcomes = Vec::new();
        loop {
            let mut out = Vec::new();
            let mut line = None;
            let context = |after, bodiless| ResponseContext { after, bodiless, date: DateHeader::default().at(NOW) };
            if memchr::memchr(b'\n', bytes).is_none() && bytes.len() < http::HEAD_BYTES {
                // As in a connection: it is not parsed yet.
                return outcomes;
            }
            let parsed = http::parse(bytes, |head| {
                let head_only = head.method == "HEAD";
                let tables = self.redirects.view();
                let request = visit::read(&head, self.peer, &self.redirects.config);
                let decision = self.redirects.decide(&request, &tables, NOW);
                let id = decision.visit().map(|visit| {
                    let id = ClickId::new(visit.at, 42, 7);
                    visit.write_line(id, line.insert(Vec::new()));
                    id
                });
                decision.write(id, context(head.after, head_only), &mut out);
                let awaited = decision.visit().map(|visit| visit.class).filter(|class| class.counts());
                (head.after, head_only, awaited)
            });
            let (after, head_only, awaited) = match parsed {
                Parsed::Partial => return outcomes,
                Parsed::Refused(refusal) => {
                    RedirectResponse::Refused(refusal).write(context(Persistence::Close, false), &mut out);
                    (Persistence::Close, false, None)
                }
                Parsed::Whole(whole, len) => {
                    assert!(len > 0 && len <= bytes.len());
                    bytes = &bytes[len..];
                    whole
                }
            };
            let location = self.check_answer(&out, head_only);
            if let Some(line) = &line {
                let class = self.check_line(line);
                assert_eq!(
                    awaited,
                    class.counts().then_some(class),
                    "clicks and scans are waited for, and nothing else"
                );
                assert!(!head_only, "HEAD is recorded");
            }
            assert!(line.is_some() || awaited.is_none());
            let status = str::from_utf8(&out[9..12]).ok().and_then(|status| status.parse().ok());
            outcomes.push(FuzzOutcome { status: status.expect("a status is a number"), location, line });
            if after == Persistence::Close {
                return outcomes;
            }
        }
    }

    /// An answer is one head of known headers and a body of the length that it
    /// says, and leads only where links and domains do.
    fn check_answer(&self, out: &[u8], head_only: bool) -> Option<String> {
        let text = str::from_utf8(out).expect("an answer is ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
        let mut lines = head.split("\r\n");
        assert!(lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 ")), "{head}");
        let mut location = None;
        for line in lines {
            assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
            let (name, value) = line.split_once(": ").expect("a header has a name");
            assert!(HEADERS.contains(&name), "{line:?}");
            match name {
                "content-length" => assert!(head_only || value == body.len().to_string(), "{text}"),
                "location" => assert_eq!(location.replace(value.to_owned()), None, "{head}"),
                _ => {}
            }
        }
        assert!(!head_only || body.is_empty(), "{text}");
        if let Some(location) = &location {
            let is_reference = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
            assert!(location.bytes().all(is_reference), "{location:?} is no reference (RFC 3986)");
            assert!(self.allowed.contains(&base(location)), "{location:?} leads elsewhere");
        }
        assert_eq!(location.is_some(), text.starts_with("HTTP/1.1 30"), "{text}");
        location
    }

    /// A line is one line, and says what was seen within its bounds.
    fn check_line(&self, line: &[u8]) -> ClickClass {
        let (newline, text) = line.split_last().expect("a line is not empty");
        assert!(*newline == b'\n' && !text.contains(&b'\n'), "{}", String::from_utf8_lossy(line));
        let click: RawClick<'_> = serde_json::from_slice(text).expect("a line is a click");
        click.ip.parse::<std::net::IpAddr>().expect("an address");
        for (text, max) in
            [(click.user_agent, 1 << 10), (click.referer, 2 << 10), (click.query, 4 << 10), (click.asked, 2 << 10)]
        {
            assert!(text.is_none_or(|text| text.len() <= max && !text.is_empty()));
        }
        match click.link {
            Some(link) => assert!(self.links.contains(&link.id) && click.class != ClickClass::Orphan),
            None => assert_eq!(click.class, ClickClass::Orphan),
        }
        click.class
    }
}

/// An address without what a visit may add to it, as a browser reads it, decoded:
/// whether a character is encoded makes no other address.
fn base(url: &str) -> String {
    let url = Url::parse(url).expect("an address is a URL");
    percent_decode_str(&url[..Position::AfterPath]).decode_utf8_lossy().into_owned()
}

/// Links and a domain for strangers to try: `sale`, `café`, a heart, one whose destination
/// ends with its host, one with a query of its own, one that tells the click's id, one that
/// has expired, one that takes every method, and one on the domain. The domain leads every
/// other address to a slug of its own that no link has.
#[must_use]
pub fn example() -> (Vec<Link>, Vec<Domain>) {
    let to = |id, slug: &str, destination: &str| plain_link(LinkId::from_bits(id), slug, destination);
    let links = vec![
        to(1, "sale", "https://acme.example/sale"),
        to(2, "caf\u{e9}", "https://acme.example/"),
        to(3, "bare", "https://acme.example"),
        to(4, "own", "https://acme.example/?own=1&%6bept=2#part"),
        Link { append_click_id: true, ..to(5, "tell", "https://acme.example/?a#part") },
        Link { expires_at: Some(Timestamp::from_millis(1)), ..to(6, "over", "https://acme.example/over") },
        Link { status_code: 308, ..to(7, "keep", "https://acme.example/keep") },
        Link {
            domain: Some("go.acme.co".to_owned()),
            status_code: 307,
            ..to(8, "poster", "https://acme.example/poster")
        },
        to(9, "\u{2764}", "https://acme.example/heart"),
    ];
    let domain = Domain {
        slug_case: SlugCase::Insensitive,
        trailing_slash: TrailingSlash::Ignored,
        root_url: Some("https://acme.example/root".to_owned()),
        fallback_url: Some("https://go.acme.co/missing".to_owned()),
        ..plain_domain(DomainId::from_bits(1), "go.acme.co")
    };
    (links, vec![domain])
}
