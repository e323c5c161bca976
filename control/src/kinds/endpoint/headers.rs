//! The headers that a customer adds to the requests of an endpoint. Their values are sealed, and never shown.

use std::collections::{BTreeMap, HashSet};

use axum::http::{HeaderName, HeaderValue};
use schemas::{Endpoint, EndpointId, endpoint::HeaderText};
use service::vault::Vault;

use crate::check::Checker;

/// The most headers of an endpoint.
pub(super) const HEADERS: usize = 20;
const HEADER_BYTES: usize = 4096;
/// The text that stands for the value of a header, which is never shown.
pub(super) const MASK: &str = "***";

/// The headers that clickhook sets itself, or that belong to the connection (RFC 9110, section 7.6.1).
const RESERVED_HEADERS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const RESERVED_PREFIXES: [&str; 3] = ["content-", "webhook-", "x-webhook-"];

/// Changes the headers by a merge patch. The mask keeps a value, and so does the value itself.
pub(super) fn patch_headers(
    endpoint: &mut Endpoint,
    patch: BTreeMap<String, Option<String>>,
    vault: &Vault,
    checker: &mut Checker,
) {
    for (name, value) in patch {
        let Some(value) = value else {
            endpoint.headers.remove(&name);
            continue;
        };
        let known = endpoint.headers.get(&name);
        let is_kept = known.is_some_and(|text| value == MASK || holds(endpoint.id, &name, text, &value, vault));
        if !is_kept {
            check_header(&name, &value, checker);
            let sealed = seal(endpoint.id, &name, &value, vault);
            endpoint.headers.insert(name, sealed);
        }
    }
}

/// Seals the value of a header.
pub(super) fn seal(id: EndpointId, name: &str, value: &str, vault: &Vault) -> HeaderText {
    HeaderText::Sealed(vault.seal(&Endpoint::header_context(id, name), value.as_bytes()))
}

/// Tells whether a header has this value and is sealed.
pub(super) fn holds(id: EndpointId, name: &str, text: &HeaderText, value: &str, vault: &Vault) -> bool {
    match text {
        HeaderText::Sealed(sealed) => {
            let opened = vault.open(&Endpoint::header_context(id, name), sealed);
            opened.is_ok_and(|opened| opened.as_slice() == value.as_bytes())
        }
        HeaderText::Clear(_) => false,
    }
}

/// Checks the names of all headers.
pub(super) fn check_header_names(headers: &BTreeMap<String, HeaderText>, checker: &mut Checker) {
    if headers.len() > HEADERS {
        checker.wrong("headers", format!("has {}, at most {HEADERS} are allowed", headers.len()));
    }
    let mut seen = HashSet::new();
    for name in headers.keys() {
        let lower = name.to_ascii_lowercase();
        let field = header_field(name);
        if HeaderName::from_bytes(name.as_bytes()).is_err() || name.len() > 128 {
            checker.wrong(&field, "is no header's name: letters, digits and - are allowed");
        } else if RESERVED_HEADERS.contains(&lower.as_str())
            || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
        {
            checker.wrong(&field, "is reserved: clickhook sets it, or it belongs to the connection");
        } else if !seen.insert(lower) {
            checker.wrong(&field, "stands there twice: names of headers ignore case");
        }
    }
}

/// Checks the value of a header before it is sealed.
pub(super) fn check_header(name: &str, value: &str, checker: &mut Checker) {
    let clean = value.chars().all(|c| c == '\t' || !c.is_control());
    if value == MASK {
        checker.wrong(
            header_field(name),
            format!("is {MASK}, which stands for a value that is not shown: give the value"),
        );
    } else if !clean || !value.is_ascii() || HeaderValue::from_str(value).is_err() || value.len() > HEADER_BYTES {
        let reason = format!("must be at most {HEADER_BYTES} ASCII characters, none of them a control character");
        checker.wrong(header_field(name), reason);
    }
}

fn header_field(name: &str) -> String {
    format!("headers.{}", name.chars().take(64).collect::<String>())
}
