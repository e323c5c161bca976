//! What the API answers when it does not do what it was asked to: a problem
//! (RFC 9457) that names the field, the reason and what would do.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FieldError {
    /// The field, as a path: `tags[3]`, `metadata.color`.
    pub(crate) field: String,
    /// What is wrong, and what would do.
    pub(crate) reason: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Malformed,
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    Conflict,
    Changed,
    TooLarge,
    Invalid,
    Unavailable,
}

impl Kind {
    const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Changed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("urn:clickhook:problem:malformed", "The request cannot be read"),
            Self::Unauthorized => ("urn:clickhook:problem:unauthorized", "The API key is missing or wrong"),
            Self::NotFound => ("urn:clickhook:problem:not-found", "There is no such thing"),
            Self::MethodNotAllowed => ("urn:clickhook:problem:method-not-allowed", "This cannot be done here"),
            Self::Conflict => ("urn:clickhook:problem:conflict", "Something else has it already"),
            Self::Changed => ("urn:clickhook:problem:changed", "It was changed in the meantime"),
            Self::TooLarge => ("urn:clickhook:problem:too-large", "The request is too large"),
            Self::Invalid => ("urn:clickhook:problem:invalid", "A field has a value that is not allowed"),
            Self::Unavailable => ("urn:clickhook:problem:unavailable", "Not now"),
        }
    }
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
    pub(crate) errors: Vec<FieldError>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new() }
    }

    /// Fields have values that are not allowed.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        Self { kind: Kind::Invalid, detail: format!("Not allowed: {}", fields.join(", ")), errors }
    }

    /// A field has a value that something else has.
    pub(crate) fn conflict(field: &str, reason: String) -> Self {
        Self { kind: Kind::Conflict, detail: reason.clone(), errors: vec![FieldError::new(field, reason)] }
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (r#type, title) = self.kind.name();
        let status = self.kind.status();
        let body = Body { r#type, title, status: status.as_u16(), detail: &self.detail, errors: &self.errors };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.kind {
            Kind::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Kind::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
