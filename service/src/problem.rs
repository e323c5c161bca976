//! The answer of an API to a request that it refuses or cannot serve: a problem
//! (RFC 9457) that names the field, the reason and the remedy.

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

/// The error of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FieldError {
    /// The field, as a path: `tags[3]`, `metadata.color`.
    pub field: String,
    /// The reason why the value is wrong, and the values that are allowed.
    pub reason: String,
}

impl FieldError {
    /// `field` is wrong because of `reason`.
    #[must_use]
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// A line that is refused. The other lines of the request are not affected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RejectedLine {
    /// The number of the line, from 1.
    pub line: u64,
    /// The errors of its fields.
    pub errors: Vec<FieldError>,
}

/// The limit that a workspace has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct QuotaUse {
    /// The name of the limit, as in the workspace's `limits`.
    pub name: &'static str,
    /// The most that the workspace may have.
    pub limit: u64,
    /// The amount that the workspace has now.
    pub used: u64,
}

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400: the request cannot be read.
    Malformed,
    /// 401: the caller is not known.
    Unauthorized,
    /// 403: the caller is known, but has no right to do this.
    Forbidden,
    /// 403: the workspace has as much of something as it may have.
    Quota(QuotaUse),
    /// 404: the resource does not exist, or not for this caller.
    NotFound,
    /// 405: the resource exists, but does not support the method.
    MethodNotAllowed,
    /// 409: another resource already uses the value.
    Conflict,
    /// 412: the resource has another version than the caller knows.
    Changed,
    /// 413: the request is larger than the limit.
    TooLarge,
    /// 422: a field has a value that is not allowed.
    Invalid,
    /// 429: the caller sends too many requests.
    Limited {
        /// The seconds after which the caller may ask again.
        retry_after_s: u32,
    },
    /// 503: the service cannot do this at present; a later request may succeed.
    Unavailable,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Quota(QuotaUse { name: "links", limit: 0, used: 0 }),
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::Changed,
        Self::TooLarge,
        Self::Invalid,
        Self::Limited { retry_after_s: 1 },
        Self::Unavailable,
    ];

    /// Returns the status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::Quota(_) => StatusCode::FORBIDDEN,
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

    /// Returns the `type` and the `title`.
    #[must_use]
    pub const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("urn:clickhook:problem:malformed", "The request cannot be read"),
            Self::Unauthorized => ("urn:clickhook:problem:unauthorized", "The API key is missing or wrong"),
            Self::Forbidden => ("urn:clickhook:problem:forbidden", "The API key may not do this"),
            Self::Quota(_) => ("urn:clickhook:problem:quota", "The workspace has reached a limit"),
            Self::NotFound => ("urn:clickhook:problem:not-found", "The resource does not exist"),
            Self::MethodNotAllowed => {
                ("urn:clickhook:problem:method-not-allowed", "The method is not allowed for this resource")
            }
            Self::Conflict => ("urn:clickhook:problem:conflict", "The value is already in use"),
            Self::Changed => ("urn:clickhook:problem:changed", "The resource was changed in the meantime"),
            Self::TooLarge => ("urn:clickhook:problem:too-large", "The request is too large"),
            Self::Invalid => ("urn:clickhook:problem:invalid", "A field has a value that is not allowed"),
            Self::Limited { .. } => ("urn:clickhook:problem:rate-limited", "Too many requests"),
            Self::Unavailable => ("urn:clickhook:problem:unavailable", "Temporarily unavailable"),
        }
    }
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// The cause in this case, and the remedy.
    pub detail: String,
    /// The errors of single fields.
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of a kind.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new() }
    }

    /// Returns the problem of a caller with too many requests, who may ask again after
    /// `wait`.
    #[must_use]
    pub fn limited(detail: impl Into<String>, wait: Duration) -> Self {
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let retry_after_s = u32::try_from(whole.max(1)).unwrap_or(u32::MAX);
        Self::new(Kind::Limited { retry_after_s }, detail)
    }

    /// Returns the problem of a workspace that has reached a limit.
    #[must_use]
    pub fn quota(quota: QuotaUse, detail: impl Into<String>) -> Self {
        Self::new(Kind::Quota(quota), detail)
    }

    /// Returns the problem of fields with values that are not allowed.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        Self { kind: Kind::Invalid, detail: format!("Values are not allowed for: {}", fields.join(", ")), errors }
    }

    /// Returns the problem of a field with a value that another resource uses.
    #[must_use]
    pub fn conflict(field: &str, reason: String) -> Self {
        Self { kind: Kind::Conflict, detail: reason.clone(), errors: vec![FieldError::new(field, reason)] }
    }

    /// Returns the problem of a service that is temporarily unavailable.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail)
    }
}

/// A problem as it is written (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemBody<'a> {
    /// The kind of problem, for programs.
    r#type: &'a str,
    /// The kind in words.
    title: &'a str,
    /// The status of the answer.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// The cause in this case, and the remedy.
    detail: &'a str,
    /// The errors of single fields.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    /// The limit that the workspace has reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<QuotaUse>,
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
        let quota = match self.kind {
            Kind::Quota(quota) => Some(quota),
            _ => None,
        };
        ProblemBody { r#type, title, status, detail: &self.detail, errors: &self.errors, quota }
    }

    fn response(&self, body: &impl Serialize) -> Response {
        let mut response = (self.kind.status(), Json(body)).into_response();
        // The metrics of answers read the kind from here.
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
