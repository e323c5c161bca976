//! HTTP/1.1 (RFC 9112) as far as a redirector needs it: requests are heads, and
//! answers are written in one piece. The syntax is read by httparse, hyper's own
//! parser; here it is decided what of it is a request that can be answered.
//!
//! A body is never read. A request that announces one is answered and its
//! connection closed, so that no byte of a body can pass for another request.

pub(crate) mod answer;
pub(crate) mod date;

use std::mem::MaybeUninit;

use httparse::{Error, Header, Request, Status};

/// The most bytes of a head.
pub(crate) const HEAD_BYTES: usize = 32 << 10;
/// The most bytes of a request's target.
const TARGET_BYTES: usize = 16 << 10;
/// The most headers of a head.
const HEADERS: usize = 64;

/// The result of reading the head at the beginning of a connection's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    /// The head is not complete yet.
    Partial,
    /// The value that was made of a complete head, and the length of the head in bytes.
    Whole(T, usize),
    /// The bytes are no head that can be answered.
    Refused(Refusal),
}

/// The reason for which a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The head is no HTTP, or contradicts itself.
    Malformed,
    /// The target is too long.
    TargetTooLong,
    /// The head has too many bytes or headers.
    HeadTooLarge,
    /// The head is of another version of HTTP.
    Version,
    /// The head did not arrive in time.
    TooSlow,
}

impl Refusal {
    /// The refusal's name in metrics.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::Version => "version",
            Self::TooSlow => "too_slow",
        }
    }
}

/// Whether a connection stays open after a response (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// The connection waits for the next request.
    KeepAlive,
    /// The connection waits for the next request, and the response says so, as HTTP/1.0 wants it.
    KeepAliveSaid,
    /// The connection is closed.
    Close,
}

/// A request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead<'b> {
    pub(crate) method: &'b str,
    /// The requested host, with its port; HTTP/1.0 may leave it out.
    pub(crate) host: Option<&'b str>,
    /// The path, which begins with `/`.
    pub(crate) path: &'b str,
    /// The query, without its `?`.
    pub(crate) query: Option<&'b str>,
    pub(crate) headers: Headers<'b>,
    pub(crate) after: Persistence,
}

/// The headers of a head, in their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers<'b>(pub(crate) &'b [Header<'b>]);

impl<'b> Headers<'b> {
    /// Returns the first header of that name.
    pub(crate) fn get(self, name: &str) -> Option<&'b [u8]> {
        self.all(name).next()
    }

    /// Returns every header of that name.
    pub(crate) fn all(self, name: &str) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}

/// Reads the head at the beginning of `bytes` and gives it to `make`.
pub(crate) fn parse<T>(bytes: &[u8], make: impl FnOnce(RequestHead<'_>) -> T) -> Parsed<T> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(len)) if !lines_end_alike(&bytes[..len]) => Parsed::Refused(Refusal::Malformed),
        Ok(Status::Complete(len)) => match head(&request) {
            Err(Refusal::TargetTooLong) => Parsed::Refused(Refusal::TargetTooLong),
            _ if len > HEAD_BYTES => Parsed::Refused(Refusal::HeadTooLarge),
            Ok(head) => Parsed::Whole(make(head), len),
            Err(refusal) => Parsed::Refused(refusal),
        },
        Ok(Status::Partial) if bytes.len() < HEAD_BYTES => Parsed::Partial,
        Ok(Status::Partial) if memchr::memchr(b'\n', bytes).is_none_or(|line| line > TARGET_BYTES) => {
            Parsed::Refused(Refusal::TargetTooLong)
        }
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => Parsed::Refused(Refusal::HeadTooLarge),
        Err(Error::Version) if is_other_version(bytes) => Parsed::Refused(Refusal::Version),
        Err(_) => Parsed::Refused(Refusal::Malformed),
    }
}

/// Whether every line of a head ends with CR LF, and at most one empty line is before it
/// (RFC 9112 §2.2). A party in front of this one may not take a bare LF for the end of a
/// line, and would see other requests.
fn lines_end_alike(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).all(|at| at > 0 && head[at - 1] == b'\r') && !head.starts_with(b"\r\n\r\n")
}

/// Whether a request line names a version of HTTP; a line without one is no request.
fn is_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let mut words = line.trim_ascii().split(|byte| *byte == b' ');
    let (_, _, version) = (words.next(), words.next(), words.next());
    let version = version.and_then(|version| version.strip_prefix(b"HTTP/"));
    words.next().is_none()
        && matches!(version, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn head<'h>(request: &'h Request<'_, 'h>) -> Result<RequestHead<'h>, Refusal> {
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Refusal::Malformed);
    };
    if target.len() > TARGET_BYTES {
        return Err(Refusal::TargetTooLong);
    }
    let framing = Framing::read(request.headers, minor)?;
    // `*` asks for no link: whoever asks for OPTIONS is told which methods do.
    if target == "*" && method != "OPTIONS" {
        return Err(Refusal::Malformed);
    }
    let (authority, target) = split(target).ok_or(Refusal::Malformed)?;
    // A fragment is the browser's own business: one that comes nonetheless says nothing.
    let target = target.split_once('#').map_or(target, |(target, _)| target);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Ok(RequestHead {
        method,
        host: authority.or(framing.host),
        path: if path.is_empty() { "/" } else { path },
        query,
        headers: Headers(request.headers),
        after: framing.after,
    })
}

/// Splits a target into its authority, if it has one, and the rest (RFC 9112 §3.2).
fn split(target: &str) -> Option<(Option<&str>, &str)> {
    if target.starts_with('/') {
        return Some((None, target));
    }
    if target == "*" {
        return Some((None, "/"));
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    is_authority(authority).then_some((Some(authority), target))
}

/// Whether a text is a host with or without a port. A user's name is not allowed there.
pub(crate) fn is_authority(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&byte))
}

/// The facts that headers state about the message itself.
struct Framing<'h> {
    host: Option<&'h str>,
    after: Persistence,
}

impl<'h> Framing<'h> {
    fn read(headers: &'h [Header<'h>], minor: u8) -> Result<Self, Refusal> {
        let (mut host, mut length, mut encoded) = (None, None, false);
        let (mut close, mut keep) = (false, false);
        for header in headers {
            // The length of a name rules most of them out.
            match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") => {
                    let value =
                        str::from_utf8(header.value).ok().filter(|value| value.is_empty() || is_authority(value));
                    if host.replace(value.ok_or(Refusal::Malformed)?).is_some() {
                        return Err(Refusal::Malformed);
                    }
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for option in header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let text =
                        str::from_utf8(header.value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                    let bytes = text.and_then(|text| text.parse::<u64>().ok()).ok_or(Refusal::Malformed)?;
                    if length.replace(bytes).is_some() {
                        return Err(Refusal::Malformed);
                    }
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    // Two parties that read different ends of a body are how requests are smuggled.
                    if encoded || minor == 0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Refusal::Malformed);
                    }
                    encoded = true;
                }
                _ => {}
            }
        }
        if (encoded && length.is_some()) || (minor > 0 && host.is_none()) {
            return Err(Refusal::Malformed);
        }
        let has_body = encoded || length.is_some_and(|bytes| bytes > 0);
        let after = match minor {
            _ if has_body || close => Persistence::Close,
            0 if keep => Persistence::KeepAliveSaid,
            0 => Persistence::Close,
            _ => Persistence::KeepAlive,
        };
        Ok(Self { host: host.filter(|host| !host.is_empty()), after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method, host, path and query of a request, and whether its connection stays open.
    type Seen = (String, Option<String>, String, Option<String>, Persistence);

    fn read(bytes: &[u8]) -> Parsed<Seen> {
        parse(bytes, |head| {
            let own = |text: &str| text.to_owned();
            (own(head.method), head.host.map(own), own(head.path), head.query.map(own), head.after)
        })
    }

    #[test]
    fn a_head_says_what_is_asked_of_whom() {
        let host = Some("go.acme.co");
        for (target, expected) in [
            ("/", (host, "/", None)),
            ("/s", (host, "/s", None)),
            ("/s?", (host, "/s", Some(""))),
            ("/s?a=?#b", (host, "/s", Some("a=?"))),
            ("/s#?a", (host, "/s", None)),
            ("//x/s", (host, "//x/s", None)),
            ("http://b.example", (Some("b.example"), "/", None)),
            ("HTTPS://b.example:1/s?a", (Some("b.example:1"), "/s", Some("a"))),
            ("http://b.example?a", (Some("b.example"), "/", Some("a"))),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: go.acme.co\r\n\r\nGET /next");
            let Parsed::Whole((_, host, path, query, after), len) = read(bytes.as_bytes()) else { panic!("{target}") };
            assert_eq!((host.as_deref(), &*path, query.as_deref()), expected, "{target}");
            assert_eq!((after, &bytes[len..]), (Persistence::KeepAlive, "GET /next"), "{target}");
        }
    }

    #[test]
    fn a_connection_goes_on_where_both_sides_say_so() {
        use Persistence::{Close, KeepAlive, KeepAliveSaid};
        for (version, headers, expected) in [
            ("1.1", "", KeepAlive),
            ("1.1", "Connection: close\r\n", Close),
            ("1.1", "Connection: Upgrade, CLOSE\r\n", Close),
            ("1.1", "Content-Length: 0\r\n", KeepAlive),
            ("1.1", "Content-Length: 3\r\n", Close),
            ("1.1", "Transfer-Encoding: chunked\r\n", Close),
            ("1.0", "", Close),
            ("1.0", "Connection: keep-alive\r\n", KeepAliveSaid),
            ("1.0", "Connection: keep-alive\r\nContent-Length: 1\r\n", Close),
        ] {
            let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n{headers}\r\n");
            let Parsed::Whole((.., after), _) = read(bytes.as_bytes()) else { panic!("{headers}") };
            assert_eq!(after, expected, "{version} {headers}");
        }
    }

    #[test]
    fn a_head_that_contradicts_itself_is_refused() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refusal::Malformed),
            ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET s HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
                Refusal::Malformed,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Refusal::Malformed),
            ("GET /\u{0} HTTP/1.1\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1x\r\n", Refusal::Malformed),
            ("GET /a b HTTP/1.1\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\nHost: a\n\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\n\r\n", Refusal::Malformed),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/20\r\n", Refusal::Malformed),
            ("GET / HTTP/2.0\r\n", Refusal::Version),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Version),
        ] {
            assert_eq!(read(head.as_bytes()), Parsed::Refused(expected), "{head:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_ends() {
        let long = |n: usize| "a".repeat(n);
        for (head, expected) in [
            (format!("GET /{}", long(100)), Parsed::Partial),
            (format!("GET /{}", long(HEAD_BYTES)), Parsed::Refused(Refusal::TargetTooLong)),
            (format!("GET /{} HTTP/1.0\r\n\r\n", long(TARGET_BYTES)), Parsed::Refused(Refusal::TargetTooLong)),
            (format!("GET / HTTP/1.1\r\nX: {}", long(100)), Parsed::Partial),
            (format!("GET / HTTP/1.1\r\nX: {}", long(HEAD_BYTES)), Parsed::Refused(Refusal::HeadTooLarge)),
            (
                format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1)),
                Parsed::Refused(Refusal::HeadTooLarge),
            ),
        ] {
            assert_eq!(read(head.as_bytes()), expected, "{}", head.len());
        }
    }
}
