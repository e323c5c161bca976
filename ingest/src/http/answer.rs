//! The responses of the redirector, each written in one piece into the connection's
//! output.

use schemas::{ClickId, link::ReferrerPolicy};

use crate::{
    http::{Persistence, Refusal},
    table::location::Location,
};

/// A response to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedirectResponse<'a> {
    /// The visitor is sent on.
    Redirect { status: u16, location: Location<'a>, referrer_policy: Option<ReferrerPolicy> },
    /// No link has this address. The domain may have a page in HTML that says so.
    NotFound { page: Option<&'a str> },
    /// The link has expired, as a page of the domain may say.
    Gone { page: Option<&'a str> },
    /// The browser asks ahead, and shall ask again when a person clicks.
    PrefetchRefused,
    /// The redirector lives.
    Healthy,
    /// The rules for crawlers.
    Robots,
    /// The address asks too often; it may ask again after `retry_after_s`.
    TooMany { retry_after_s: u64 },
    /// Another method than GET and HEAD, which the link does not take.
    MethodNotAllowed,
    /// Temporarily unavailable: not all links are known yet, or the click could not be
    /// recorded.
    Unavailable,
    /// The head cannot be answered.
    Refused(Refusal),
}

/// The facts of the connection that a response depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseContext {
    pub(crate) after: Persistence,
    /// Whether the request was HEAD, whose response has no body.
    pub(crate) bodiless: bool,
    /// The `Date` header's value (RFC 9110 §5.6.7).
    pub(crate) date: [u8; 29],
}

/// The first lines of a response. Every visit must reach the redirector: no shared
/// cache may answer in its place.
macro_rules! head {
    ($status:literal $(, $header:literal)*) => {
        concat!("HTTP/1.1 ", $status, "\r\ncache-control: private, no-store\r\n", $($header, "\r\n",)*).as_bytes()
    };
}
const TEXT: &[u8] = b"content-type: text/plain; charset=utf-8\r\n";
const HTML: &[u8] = b"content-type: text/html; charset=utf-8\r\n";
/// Crawlers may ask for every link: they read in the answer that it is not to be listed.
const ROBOTS: &str = "User-agent: *\nDisallow:\n";

impl<'a> RedirectResponse<'a> {
    /// A 302 to a fallback address of a link or domain.
    pub(crate) fn found(url: &'a [u8]) -> Self {
        Self::Redirect { status: 302, location: Location::new(url), referrer_policy: None }
    }

    /// Sets the id of the recorded click, which some links tell their destination.
    pub(crate) const fn with_click_id(self, id: Option<ClickId>) -> Self {
        match self {
            Self::Redirect { status, location, referrer_policy } => {
                Self::Redirect { status, location: location.with_click_id(id), referrer_policy }
            }
            other => other,
        }
    }

    /// Appends the response to `out`.
    pub(crate) fn write(self, sent: ResponseContext, out: &mut Vec<u8>) {
        let (head, body) = self.parts();
        out.extend_from_slice(head);
        match self {
            Self::Redirect { location, referrer_policy, .. } => {
                out.extend_from_slice(b"location: ");
                location.write(out);
                out.extend_from_slice(b"\r\n");
                if let Some(policy) = referrer_policy {
                    out.extend_from_slice(b"referrer-policy: ");
                    out.extend_from_slice(policy.as_str().as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
            }
            // A Vec takes every write.
            Self::TooMany { retry_after_s } => {
                drop(std::io::Write::write_fmt(out, format_args!("retry-after: {retry_after_s}\r\n")));
            }
            _ => {}
        }
        if body.is_empty() {
            out.extend_from_slice(b"content-length: 0\r\ndate: ");
        } else {
            out.extend_from_slice(match self {
                Self::NotFound { page: Some(_) } | Self::Gone { page: Some(_) } => HTML,
                _ => TEXT,
            });
            out.extend_from_slice(b"content-length: ");
            // A Vec takes every write.
            let _ = std::io::Write::write_fmt(out, format_args!("{}", body.len()));
            out.extend_from_slice(b"\r\ndate: ");
        }
        out.extend_from_slice(&sent.date);
        out.extend_from_slice(match sent.after {
            Persistence::KeepAlive => b"\r\n\r\n",
            Persistence::KeepAliveSaid => b"\r\nconnection: keep-alive\r\n\r\n",
            Persistence::Close => b"\r\nconnection: close\r\n\r\n",
        });
        if !sent.bodiless {
            out.extend_from_slice(body.as_bytes());
        }
    }

    /// The lines that never change, and the body.
    fn parts(self) -> (&'static [u8], &'a str) {
        match self {
            Self::Redirect { status: 301, .. } => (head!("301 Moved Permanently", "x-robots-tag: noindex"), ""),
            Self::Redirect { status: 307, .. } => (head!("307 Temporary Redirect", "x-robots-tag: noindex"), ""),
            Self::Redirect { status: 308, .. } => (head!("308 Permanent Redirect", "x-robots-tag: noindex"), ""),
            Self::Redirect { .. } => (head!("302 Found", "x-robots-tag: noindex"), ""),
            Self::NotFound { page } => (head!("404 Not Found"), page.unwrap_or("There is no such link.\n")),
            Self::Gone { page } => (head!("410 Gone"), page.unwrap_or("This link has expired.\n")),
            Self::PrefetchRefused => {
                (head!("503 Service Unavailable", "retry-after: 1"), "This link is not followed ahead of a click.\n")
            }
            Self::Healthy => (head!("200 OK"), "ok\n"),
            Self::Robots => (head!("200 OK"), ROBOTS),
            Self::TooMany { .. } => (head!("429 Too Many Requests"), "Too many requests come from your address.\n"),
            Self::MethodNotAllowed => {
                (head!("405 Method Not Allowed", "allow: GET, HEAD"), "A link can be followed with GET or HEAD.\n")
            }
            Self::Unavailable => {
                (head!("503 Service Unavailable", "retry-after: 1"), "Please try again in a moment.\n")
            }
            Self::Refused(Refusal::Malformed) => (head!("400 Bad Request"), "This is not a request that HTTP knows.\n"),
            Self::Refused(Refusal::TargetTooLong) => (head!("414 URI Too Long"), "The address is too long.\n"),
            Self::Refused(Refusal::HeadTooLarge) => {
                (head!("431 Request Header Fields Too Large"), "The request has too many or too long headers.\n")
            }
            Self::Refused(Refusal::Version) => {
                (head!("505 HTTP Version Not Supported"), "HTTP/1.1 and HTTP/1.0 are spoken here.\n")
            }
            Self::Refused(Refusal::TooSlow) => (head!("408 Request Timeout"), "The request did not come in time.\n"),
        }
    }
}
