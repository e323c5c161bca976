//! Cross-origin requests (CORS, of the Fetch standard): pages of the origins that a key names may use the key. A browser
//! asks before it sends a key, so this answer is the same for all; the request itself is refused where the key does not name
//! its origin.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemas::Key;
use service::problem::{Kind, Problem};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, x-clickhook-workspace",
);
const ANSWER_HEADERS: HeaderValue =
    HeaderValue::from_static("etag, location, retry-after, ratelimit, ratelimit-policy, idempotent-replayed");
/// The seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Returns the answer to a browser that asks whether it may send a request; nothing for other requests.
pub(crate) fn preflight(request: &Request) -> Option<Response> {
    let headers = request.headers();
    let origin = headers.get(header::ORIGIN)?;
    if request.method() != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let allowed: [(HeaderName, HeaderValue); 5] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        (header::VARY, HeaderValue::from_static("Origin")),
    ];
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().extend(allowed);
    Some(response)
}

/// Returns the origin of a request that the key names; nothing for a request of a program.
///
/// # Errors
/// When the key is for pages of other origins.
pub(crate) fn allowed_origin(headers: &HeaderMap, key: &Key) -> Result<Option<HeaderValue>, Problem> {
    let Some(origin) = headers.get(header::ORIGIN).filter(|_| !key.origins.is_empty()) else { return Ok(None) };
    if key.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
        return Ok(Some(origin.clone()));
    }
    let shown: String = String::from_utf8_lossy(origin.as_bytes()).chars().take(100).collect();
    Err(Problem::new(
        Kind::Forbidden,
        format!("Pages of {shown} may not use this key: add the origin to its `origins`"),
    ))
}

/// Lets pages of the origin read an answer.
pub(crate) fn allow(origin: HeaderValue, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
