//! What an API answers when it does not do what it was asked to: a problem
//! (RFC 9457) that names the field, the reason and what would do.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FieldError {
    /// The field, as a path: `tags[3]`, `metadata.color`.
    pub field: String,
    /// What is wrong, and what would do.
    pub reason: String,
}

impl FieldError {
    /// `field` is wrong because of `reason`.
    #[must_use]
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// A line of many that is not taken, and keeps no other from being taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RejectedLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong.
    pub errors: Vec<FieldError>,
}

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400: what was sent cannot be read.
    Malformed,
    /// 401: who calls is not known.
    Unauthorized,
    /// 403: who calls is known, and may not.
    Forbidden,
    /// 404: there is no such thing, or not for this caller.
    NotFound,
    /// 405: there is such a thing, but this cannot be done to it.
    MethodNotAllowed,
    /// 409: something else has it already.
    Conflict,
    /// 412: it is not the version that the caller knows.
    Changed,
    /// 413: more was sent than is read.
    TooLarge,
    /// 422: a field has a value that is not allowed.
    Invalid,
    /// 429: the caller asks too often.
    Limited {
        /// When to ask again.
        retry_after_s: u32,
    },
    /// 503: it would be done at another time.
    Unavailable,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::Changed,
        Self::TooLarge,
        Self::Invalid,
        Self::Limited { retry_after_s: 1 },
        Self::Unavailable,
    ];

    /// The status that it is answered with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Changed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Its `type` and `title`.
    #[must_use]
    pub const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("urn:clickhook:problem:malformed", "The request cannot be read"),
            Self::Unauthorized => ("urn:clickhook:problem:unauthorized", "The API key is missing or wrong"),
            Self::Forbidden => ("urn:clickhook:problem:forbidden", "The API key may not do this"),
            Self::NotFound => ("urn:clickhook:problem:not-found", "There is no such thing"),
            Self::MethodNotAllowed => ("urn:clickhook:problem:method-not-allowed", "This cannot be done here"),
            Self::Conflict => ("urn:clickhook:problem:conflict", "Something else has it already"),
            Self::Changed => ("urn:clickhook:problem:changed", "It was changed in the meantime"),
            Self::TooLarge => ("urn:clickhook:problem:too-large", "The request is too large"),
            Self::Invalid => ("urn:clickhook:problem:invalid", "A field has a value that is not allowed"),
            Self::Limited { .. } => ("urn:clickhook:problem:rate-limited", "Too many requests"),
            Self::Unavailable => ("urn:clickhook:problem:unavailable", "Not now"),
        }
    }
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// What happened this time, to what, and what would do.
    pub detail: String,
    /// What is wrong with which field.
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of a kind.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new() }
    }

    /// The caller asks too often, and may again after `wait`.
    #[must_use]
    pub fn limited(detail: impl Into<String>, wait: Duration) -> Self {
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let retry_after_s = u32::try_from(whole.max(1)).unwrap_or(u32::MAX);
        Self::new(Kind::Limited { retry_after_s }, detail)
    }

    /// Fields have values that are not allowed.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        Self { kind: Kind::Invalid, detail: format!("Not allowed: {}", fields.join(", ")), errors }
    }

    /// A field has a value that something else has.
    #[must_use]
    pub fn conflict(field: &str, reason: String) -> Self {
        Self { kind: Kind::Conflict, detail: reason.clone(), errors: vec![FieldError::new(field, reason)] }
    }

    /// It would be done at another time.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail)
    }
}

/// A problem as it is written (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemBody<'a> {
    /// Which kind of problem it is: what programs look at.
    r#type: &'a str,
    /// The kind in words.
    title: &'a str,
    /// The status of the answer.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// What happened this time, to what, and what would do.
    detail: &'a str,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// A problem with members of its own.
#[derive(Serialize)]
struct Extended<'a, M> {
    #[serde(flatten)]
    problem: ProblemBody<'a>,
    #[serde(flatten)]
    members: M,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.response(&self.body())
    }
}

impl Problem {
    /// The answer, with further members that this problem has (RFC 9457 §3.2).
    #[must_use]
    pub fn with(self, members: impl Serialize) -> Response {
        self.response(&Extended { problem: self.body(), members })
    }

    fn body(&self) -> ProblemBody<'_> {
        let (r#type, title) = self.kind.name();
        let status = self.kind.status().as_u16();
        ProblemBody { r#type, title, status, detail: &self.detail, errors: &self.errors }
    }

    fn response(&self, body: &impl Serialize) -> Response {
        let mut response = (self.kind.status(), Json(body)).into_response();
        // For whoever counts answers.
        response.extensions_mut().insert(self.kind);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        match self.kind {
            Kind::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Kind::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Kind::Limited { retry_after_s } => {
                headers.insert(header::RETRY_AFTER, retry_after_s.into());
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_when_to_ask_again() {
        for (wait, header) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (90_000, "90")] {
            let response = Problem::limited("slower", Duration::from_millis(wait)).into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[header::RETRY_AFTER], header, "{wait} ms");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        }
    }
}
