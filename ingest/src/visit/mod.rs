//! The visit that a request is: a pure function of the request and the address that
//! it came from. Strangers control everything that is read here.

pub(crate) mod forwarded;
mod hints;
pub(crate) mod limits;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use schemas::{ClickClass, ClickId, Timestamp, click::Visit, hints::Hints};

use crate::{
    http::{Headers, RequestHead},
    visit::{
        forwarded::{is_in, origin},
        hints::{ProxyTrust, RequestHints},
    },
};

const USER_AGENT_BYTES: usize = 1 << 10;
const REFERER_BYTES: usize = 2 << 10;
const QUERY_BYTES: usize = 4 << 10;

/// A request by its method.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RequestKind<'r> {
    /// GET or HEAD: a visitor wants to be redirected.
    Visit(Visitor<'r>),
    /// Any other method.
    OtherMethod,
}

/// The address that a visitor asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RequestedPath<'r> {
    /// The root, `/`.
    Root,
    /// A slug; a link may have it.
    Slug(Cow<'r, str>),
    /// A path that no link can have.
    Other(&'r str),
}

/// Whether a redirect is a click.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountsAs {
    /// A click or a scan.
    Click(ClickClass),
    /// No click: only the headers were asked for.
    Head,
    /// No click: the browser asked ahead, before any person clicked.
    Prefetch,
}

/// A visitor who wants to be redirected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Visitor<'r> {
    pub(crate) host: Option<&'r str>,
    pub(crate) path: RequestedPath<'r>,
    pub(crate) counts_as: CountsAs,
    pub(crate) ip: IpAddr,
    /// The two addresses that proxies claim for the visitor, where they disagree.
    pub(crate) claims: Option<[IpAddr; 2]>,
    pub(crate) user_agent: Option<Cow<'r, str>>,
    pub(crate) referer: Option<Cow<'r, str>>,
    /// The query without `qr`; never empty.
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

impl Visitor<'_> {
    /// The addresses whose request rate is counted.
    pub(crate) fn rate_limit_keys(&self) -> &[IpAddr] {
        self.claims.as_ref().map_or(std::slice::from_ref(&self.ip), |claims| claims)
    }
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
pub(crate) fn read<'r>(head: &RequestHead<'r>, peer: SocketAddr, trusted: &[IpNet]) -> RequestKind<'r> {
    if head.method != "GET" && head.method != "HEAD" {
        return RequestKind::OtherMethod;
    }
    let headers = head.headers;
    let origin = origin(headers, peer.ip(), trusted);
    let trust = if is_in(peer.ip().to_canonical(), trusted) { ProxyTrust::Believed } else { ProxyTrust::Ignored };
    let RequestHints { is_prefetch, hints } = RequestHints::read(headers, trust);
    let (path, scanned) = path(head.path);
    let (query, marked) = query(head.query);
    let counts_as = if head.method == "HEAD" {
        CountsAs::Head
    } else if is_prefetch {
        CountsAs::Prefetch
    } else {
        CountsAs::Click(if scanned || marked { ClickClass::Qr } else { ClickClass::Click })
    };
    RequestKind::Visit(Visitor {
        host: origin.host.or(head.host),
        path,
        counts_as,
        ip: origin.ip,
        claims: origin.claims,
        user_agent: text(headers, "user-agent", USER_AGENT_BYTES),
        referer: text(headers, "referer", REFERER_BYTES),
        query,
        hints,
        traceparent: headers.get("traceparent").and_then(traceparent),
    })
}

/// Reads a path, and whether it is the path of a QR code.
fn path(path: &str) -> (RequestedPath<'_>, bool) {
    if path == "/" {
        return (RequestedPath::Root, false);
    }
    let slug = path.strip_prefix('/').unwrap_or(path);
    let (slug, scanned) = slug.strip_prefix("q/").map_or((slug, false), |slug| (slug, true));
    match percent_decode_str(slug).decode_utf8() {
        Ok(slug) if !slug.is_empty() && !slug.contains('/') => (RequestedPath::Slug(slug), scanned),
        _ => (RequestedPath::Other(path), scanned),
    }
}

/// Removes `qr` from the query; says whether it was `qr=1`.
fn query(query: Option<&str>) -> (Option<Cow<'_, str>>, bool) {
    let Some(query) = query else { return (None, false) };
    let is_qr = |pair: &&str| *pair == "qr" || pair.starts_with("qr=");
    let (kept, marked) = if query.split('&').any(|pair| is_qr(&pair)) {
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_qr(pair)).collect();
        (Cow::Owned(kept.join("&")), query.split('&').any(|pair| pair == "qr=1"))
    } else {
        (Cow::Borrowed(query), false)
    };
    ((!kept.is_empty()).then_some(kept), marked)
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
        with(bytes, |head| match read(&head, peer(), &[]) {
            RequestKind::Visit(visitor) => look(&visitor),
            RequestKind::OtherMethod => panic!("{}", head.method),
        })
    }

    #[test]
    fn paths_lead_to_slugs() {
        for (uri, slug, class) in [
            ("/sale", "sale", ClickClass::Click),
            ("/sale?", "sale", ClickClass::Click),
            ("/sale?qr=1", "sale", ClickClass::Qr),
            ("/sale?a=1&qr=1&b=2", "sale", ClickClass::Qr),
            ("/sale?qr=0", "sale", ClickClass::Click),
            ("/sale?xqr=1", "sale", ClickClass::Click),
            ("/q/sale", "sale", ClickClass::Qr),
            ("/q", "q", ClickClass::Click),
            ("/s%61le", "sale", ClickClass::Click),
            ("/caf%C3%A9", "caf\u{e9}", ClickClass::Click),
            ("http://go.acme.co/sale", "sale", ClickClass::Click),
        ] {
            visit(&request("GET", uri, &[]), |visitor| {
                assert_eq!(
                    (&visitor.path, visitor.counts_as),
                    (&RequestedPath::Slug(slug.into()), CountsAs::Click(class)),
                    "{uri}"
                );
            });
        }
        for uri in ["/q/", "/a/b", "/sale/", "/%ff", "/a%2Fb", "//"] {
            visit(&request("GET", uri, &[]), |visitor| assert_eq!(visitor.path, RequestedPath::Other(uri)));
        }
        for uri in ["/", "/?a", "/#a"] {
            visit(&request("GET", uri, &[]), |visitor| assert_eq!(visitor.path, RequestedPath::Root, "{uri}"));
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            with(&request(method, "/sale", &[]), |head| {
                assert_eq!(read(&head, peer(), &[]), RequestKind::OtherMethod, "{method}");
            });
        }
    }

    #[test]
    fn qr_is_stripped_from_the_query_and_nothing_else() {
        for (uri, expected) in [
            ("/s", None),
            ("/s?", None),
            ("/s?qr=1", None),
            ("/s?qr", None),
            ("/s?qr=1&utm_source=a%20b", Some("utm_source=a%20b")),
            ("/s?a=1&qr=1&a=2&qr=2", Some("a=1&a=2")),
            ("/s?&&a", Some("&&a")),
            ("/s?qrs=1", Some("qrs=1")),
        ] {
            visit(&request("GET", uri, &[]), |visitor| assert_eq!(visitor.query.as_deref(), expected, "{uri}"));
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
            ("GET", &[("x-purpose", b"preview")], CountsAs::Prefetch),
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
