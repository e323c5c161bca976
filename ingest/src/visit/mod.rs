//! The visit that a request is: a pure function of the request and the address that
//! it came from. Strangers control everything that is read here.

pub(crate) mod forwarded;
mod hints;
pub(crate) mod limits;
pub(crate) mod path;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use schemas::{ClickClass, ClickId, Timestamp, click::Visit, hints::Hints};

use crate::{
    Config,
    http::{Headers, RequestHead},
    visit::{
        forwarded::{RequestOrigin, is_in},
        hints::{AskedAhead, ProxyTrust, RequestHints},
        limits::RateKey,
        path::{RequestedPath, ScanMark, read_path, read_query},
    },
};

const USER_AGENT_BYTES: usize = 1 << 10;
const REFERER_BYTES: usize = 2 << 10;
const QUERY_BYTES: usize = 4 << 10;

/// A request by its method.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RequestKind<'r> {
    /// A visitor wants to be redirected. Most links take GET and HEAD alone.
    Visit(Visitor<'r>),
    /// CONNECT or TRACE, which ask a proxy or the server itself.
    NoVisit,
}

/// Whether a redirect is a click.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountsAs {
    /// A click or a scan.
    Click(ClickClass),
    /// A click or a scan by a method other than GET: only a link with status 307 or 308
    /// takes it, since its redirect keeps the method.
    OtherMethod(ClickClass),
    /// No click: only the headers were asked for.
    Head,
    /// No click: the browser asks ahead, and asks again when a person clicks.
    Prefetch,
    /// No click: a program shows what is behind the link.
    Preview,
}

/// A visitor who wants to be redirected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Visitor<'r> {
    pub(crate) host: Option<&'r str>,
    pub(crate) path: RequestedPath<'r>,
    /// The path as it was sent.
    pub(crate) raw_path: &'r str,
    pub(crate) counts_as: CountsAs,
    pub(crate) ip: IpAddr,
    /// The bucket in which the request is counted.
    pub(crate) rate_key: RateKey,
    pub(crate) user_agent: Option<Cow<'r, str>>,
    pub(crate) referer: Option<Cow<'r, str>>,
    /// The query without `qr=1`; never empty.
    pub(crate) query: Option<Cow<'r, str>>,
    pub(crate) hints: Hints,
    pub(crate) traceparent: Option<&'r str>,
}

/// A visit that is to be recorded: one line of a bundle, but for its id.
#[derive(Debug)]
pub(crate) struct VisitRecord<'d> {
    pub(crate) visitor: &'d Visitor<'d>,
    pub(crate) at: Timestamp,
    pub(crate) class: ClickClass,
    /// Whether the address asks for more than a person would.
    pub(crate) rate_limited: bool,
    /// The end of the line, with the facts of the link.
    pub(crate) tail: Cow<'d, [u8]>,
}

impl VisitRecord<'_> {
    /// Appends the visit's line under `id` to `out`.
    pub(crate) fn write_line(&self, id: ClickId, out: &mut Vec<u8>) {
        self.visit(id).write_line(&self.tail, out);
    }

    fn visit(&self, id: ClickId) -> Visit<'_> {
        let visitor = self.visitor;
        Visit {
            id,
            class: self.class,
            rate_limited: self.rate_limited,
            ip: visitor.ip,
            user_agent: visitor.user_agent.as_deref(),
            referer: visitor.referer.as_deref(),
            query: visitor.query.as_deref().map(|query| &query[..query.floor_char_boundary(QUERY_BYTES)]),
            hints: visitor.hints,
            traceparent: visitor.traceparent,
        }
    }
}

/// Reads a request that came from `peer`.
pub(crate) fn read<'r>(head: &RequestHead<'r>, peer: SocketAddr, config: &Config) -> RequestKind<'r> {
    if matches!(head.method, "CONNECT" | "TRACE") {
        return RequestKind::NoVisit;
    }
    let headers = head.headers;
    let is_proxy = is_in(peer.ip().to_canonical(), &config.trusted_proxies);
    let trust = if is_proxy { ProxyTrust::Believed } else { ProxyTrust::Ignored };
    let RequestHints { asked_ahead, forwarding, hints } = RequestHints::read(headers, trust);
    let origin = RequestOrigin::read(headers, peer.ip().to_canonical(), trust, forwarding, config);
    let (path, path_mark) = read_path(head.path);
    let (query, query_mark) = read_query(head.query);
    let scanned = path_mark == ScanMark::Scanned || query_mark == ScanMark::Scanned;
    let class = if scanned { ClickClass::Qr } else { ClickClass::Click };
    let counts_as = match (head.method, asked_ahead) {
        ("HEAD", _) => CountsAs::Head,
        ("GET", Some(AskedAhead::Prefetch)) => CountsAs::Prefetch,
        ("GET", Some(AskedAhead::Preview)) => CountsAs::Preview,
        ("GET", None) => CountsAs::Click(class),
        _ => CountsAs::OtherMethod(class),
    };
    RequestKind::Visit(Visitor {
        host: origin.host.or(head.host),
        path,
        raw_path: head.path,
        counts_as,
        ip: origin.ip,
        rate_key: origin.rate_key,
        user_agent: text(headers, "user-agent", USER_AGENT_BYTES),
        referer: text(headers, "referer", REFERER_BYTES),
        query,
        hints,
        traceparent: headers.get("traceparent").and_then(traceparent),
    })
}

/// Reads a header as text of at most `max` bytes; bytes that are not UTF-8 are replaced.
fn text<'r>(headers: Headers<'r>, name: &str, max: usize) -> Option<Cow<'r, str>> {
    let value = headers.get(name)?;
    // A character has at most 4 bytes: nothing behind these can matter.
    let value = &value[..value.len().min(max + 4)];
    let text = cut(String::from_utf8_lossy(value), max);
    (!text.is_empty()).then_some(text)
}

fn cut(text: Cow<'_, str>, max: usize) -> Cow<'_, str> {
    let end = text.floor_char_boundary(max);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

/// W3C Trace Context, version 00: `00-<32 hex>-<16 hex>-<2 hex>`, lower case.
pub(crate) fn traceparent(value: &[u8]) -> Option<&str> {
    let value = str::from_utf8(value).ok()?;
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let parts: Vec<&str> = value.splitn(5, '-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return None };
    let valid = *version == "00" && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && !zero(trace) && !zero(span);
    valid.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Parsed, parse};

    /// The bytes of a request.
    fn request(method: &str, uri: &str, headers: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = format!("{method} {uri} HTTP/1.0\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    fn with<T>(bytes: &[u8], make: impl FnOnce(RequestHead<'_>) -> T) -> T {
        match parse(bytes, make) {
            Parsed::Whole(made, len) if len == bytes.len() => made,
            _ => panic!("{}", String::from_utf8_lossy(bytes)),
        }
    }

    fn peer() -> SocketAddr {
        "[::ffff:192.0.2.1]:5000".parse().unwrap()
    }

    fn visit<T>(bytes: &[u8], look: impl FnOnce(&Visitor<'_>) -> T) -> T {
        with(bytes, |head| match read(&head, peer(), &Config::default()) {
            RequestKind::Visit(visitor) => look(&visitor),
            RequestKind::NoVisit => panic!("{}", head.method),
        })
    }

    #[test]
    fn a_visit_is_a_click_or_a_scan() {
        for (uri, slug, class) in [
            ("/sale", "sale", ClickClass::Click),
            ("/sale?", "sale", ClickClass::Click),
            ("/sale?qr=1", "sale", ClickClass::Qr),
            ("/sale?QR=1", "sale", ClickClass::Qr),
            ("/sale?a=1&qr=1&b=2", "sale", ClickClass::Qr),
            ("/sale?qr=0", "sale", ClickClass::Click),
            ("/q/sale", "sale", ClickClass::Qr),
            ("/Q/sale", "sale", ClickClass::Qr),
            ("http://go.acme.co/sale", "sale", ClickClass::Click),
        ] {
            visit(&request("GET", uri, &[]), |visitor| {
                let expected = (RequestedPath::Slug(slug.into()), CountsAs::Click(class));
                assert_eq!((&visitor.path, visitor.counts_as), (&expected.0, expected.1), "{uri}");
            });
            visit(&request("POST", uri, &[]), |visitor| {
                assert_eq!(visitor.counts_as, CountsAs::OtherMethod(class), "{uri}");
            });
        }
        for uri in ["/", "/?a", "/#a"] {
            visit(&request("GET", uri, &[]), |visitor| assert_eq!(visitor.path, RequestedPath::Root, "{uri}"));
        }
        for method in ["CONNECT", "TRACE"] {
            with(&request(method, "/sale", &[]), |head| {
                assert_eq!(read(&head, peer(), &Config::default()), RequestKind::NoVisit, "{method}");
            });
        }
    }

    #[test]
    fn only_people_who_follow_a_link_are_counted() {
        for (method, headers, expected) in [
            ("GET", &[][..], CountsAs::Click(ClickClass::Click)),
            ("HEAD", &[], CountsAs::Head),
            ("HEAD", &[("purpose", b"prefetch".as_slice())], CountsAs::Head),
            ("GET", &[("sec-purpose", b"prefetch;prerender")], CountsAs::Prefetch),
            ("GET", &[("sec-purpose", b"x"), ("sec-purpose", b"PreFetch")], CountsAs::Prefetch),
            ("GET", &[("purpose", b"prefetch")], CountsAs::Prefetch),
            ("GET", &[("x-purpose", b"preview")], CountsAs::Preview),
            ("GET", &[("purpose", b"preview"), ("sec-purpose", b"prefetch")], CountsAs::Prefetch),
            ("POST", &[("sec-purpose", b"prefetch")], CountsAs::OtherMethod(ClickClass::Click)),
            ("GET", &[("x-moz", b"prefetch")], CountsAs::Prefetch),
            ("GET", &[("sec-purpose", b"navigate")], CountsAs::Click(ClickClass::Click)),
            ("GET", &[("purpose", b"\xff")], CountsAs::Click(ClickClass::Click)),
        ] {
            let bytes = request(method, "/sale", headers);
            visit(&bytes, |visitor| assert_eq!(visitor.counts_as, expected, "{method} {headers:?}"));
        }
    }

    #[test]
    fn texts_are_cut_between_characters_and_repaired() {
        let long = "\u{fc}".repeat(2000);
        let bytes = request(
            "GET",
            &format!("/s?{}", "a".repeat(5000)),
            &[("user-agent", long.as_bytes()), ("referer", b"a\xffb")],
        );
        visit(&bytes, |long| {
            assert_eq!(long.user_agent.as_deref(), Some(&*"\u{fc}".repeat(512)));
            assert_eq!(long.referer.as_deref(), Some("a\u{fffd}b"));
            assert_eq!(long.query.as_deref().map(str::len), Some(5000));
            let at = Timestamp::from_millis(0);
            let tail = b"}".into();
            let record = VisitRecord { visitor: long, at, class: ClickClass::Click, rate_limited: false, tail };
            assert_eq!(record.visit(ClickId::new(at, 0, 0)).query.map(str::len), Some(4096));
        });
        let odd = format!("a{}", "\u{1f600}".repeat(2000));
        visit(&request("GET", "/s", &[("user-agent", odd.as_bytes()), ("referer", b"")]), |cut| {
            assert_eq!(cut.user_agent.as_deref(), Some(&*format!("a{}", "\u{1f600}".repeat(255))));
            assert_eq!(cut.referer, None);
        });
    }

    #[test]
    fn the_host_is_the_one_that_was_asked_for() {
        for (uri, host, expected) in [
            ("/s", "go.acme.co:8080", Some("go.acme.co:8080")),
            ("http://go.acme.co/s", "other", Some("go.acme.co")),
            ("/s", "", None),
        ] {
            visit(&request("GET", uri, &[("host", host.as_bytes())]), |visitor| assert_eq!(visitor.host, expected));
        }
    }

    #[test]
    fn a_trace_goes_on_only_if_it_is_one() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (value, expected) in [
            (valid, Some(valid)),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", None),
            ("", None),
        ] {
            let bytes = request("GET", "/s", &[("traceparent", value.as_bytes())]);
            visit(&bytes, |visitor| assert_eq!(visitor.traceparent, expected, "{value}"));
        }
    }
}
