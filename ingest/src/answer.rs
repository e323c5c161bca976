//! What the redirector answers.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER},
};
use http_body_util::Full;

use crate::links::Row;

const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");
/// Every visit must reach us, and no shared cache may answer in our place.
const NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(crate) type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    if !body.is_empty() {
        answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    }
    answer
}

/// To where the link leads.
pub(crate) fn redirect(row: &Row) -> Answer {
    let Ok(location) = HeaderValue::from_bytes(row.location()) else { return not_found() };
    let mut answer = answer(StatusCode::from_u16(row.status()).unwrap_or(StatusCode::FOUND), "");
    answer.headers_mut().insert(LOCATION, location);
    answer.headers_mut().insert(ROBOTS, HeaderValue::from_static("noindex"));
    answer
}

/// No link has this address.
pub(crate) fn not_found() -> Answer {
    answer(StatusCode::NOT_FOUND, "There is no such link.\n")
}

/// Only GET and HEAD make sense here.
pub(crate) fn method_not_allowed() -> Answer {
    let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, "A link can be followed with GET or HEAD.\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

/// Not now: the links are not all there yet, or the click could not be recorded.
pub(crate) fn unavailable() -> Answer {
    let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE, "Please try again in a moment.\n");
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}
