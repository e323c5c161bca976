//! The reading of requests: bodies whose errors name the field or the place, queries, and preconditions.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use service::{
    json::parse,
    problem::{FieldError, Kind, Problem},
};

use crate::state::entity::Entity;

/// The most bytes of a body.
pub(crate) const BODY_BYTES: usize = 1 << 20;

/// A JSON body, whatever `Content-Type` the request has.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse(&bytes(request, state).await?).map(Self)
    }
}

/// A JSON body that can be missing.
pub(crate) struct OptionalJsonBody<T>(pub(crate) Option<T>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() { Ok(Self(None)) } else { parse(&bytes).map(|body| Self(Some(body))) }
    }
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::new(Kind::TooLarge, format!("A body may have at most {BODY_BYTES} bytes"))
        } else {
            Problem::new(Kind::Malformed, "The body could not be read to its end")
        }
    })
}

/// The query of a list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// The most entries of the page; 50 by default.
    #[schemars(range(min = 1, max = MAX_LIMIT))]
    pub(crate) limit: Option<usize>,
    /// The `next` of the page before.
    pub(crate) cursor: Option<String>,
}

/// A request for a page of a list.
pub(crate) struct PageRequest<T: Entity> {
    pub(crate) limit: usize,
    pub(crate) before: Option<T::Id>,
}

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

impl<T, S> FromRequestParts<S> for PageRequest<T>
where
    T: Entity,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(query) = Query::<PageQuery>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::new(Kind::Malformed, rejection.body_text()))?;
        Self::from_query(&query)
    }
}

impl<T: Entity> PageRequest<T> {
    /// Checks a query.
    pub(crate) fn from_query(query: &PageQuery) -> Result<Self, Problem> {
        let mut errors = Vec::new();
        let limit = page_limit(query.limit, &mut errors);
        let before = query.cursor.as_deref().map(str::parse::<T::Id>).transpose();
        let Ok(before) = before else {
            errors.push(FieldError::new("cursor", "is not one that a list has given as `next`"));
            return Err(Problem::invalid(errors));
        };
        if errors.is_empty() { Ok(Self { limit, before }) } else { Err(Problem::invalid(errors)) }
    }
}

/// Returns the most entries of a page, and notes where a query asks for too many or none.
pub(crate) fn page_limit(asked: Option<usize>, errors: &mut Vec<FieldError>) -> usize {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        errors.push(FieldError::new("limit", format!("is {limit}, must be 1 to {MAX_LIMIT}")));
    }
    limit
}

/// Returns the revision in `If-Match`, if the request depends on one.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let revision = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    revision.map(Some).ok_or_else(|| {
        Problem::new(Kind::Malformed, "If-Match must be the ETag of an earlier answer, such as \"3\", or *")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{endpoint::NewEndpoint, link::NewLink};

    fn field_of(problem: Problem) -> (String, String) {
        assert_eq!(problem.kind, Kind::Invalid, "{problem:?}");
        let error = problem.errors.into_iter().next().unwrap();
        (error.field, error.reason)
    }

    fn link(body: &str) -> Problem {
        parse::<NewLink>(body.as_bytes()).err().unwrap()
    }

    #[test]
    fn a_wrong_body_is_answered_with_the_field() {
        for (body, field, words) in [
            ("{}", "destination", "missing field"),
            (r#"{"destination":"https://a.example/","slog":"x"}"#, "slog", "expected one of"),
            (r#"{"destination":"a","destination":"b"}"#, "destination", "duplicate"),
            (r#"{"destination":3}"#, "destination", "expected a string"),
            (r#"{"destination":"a","tags":["a",3]}"#, "tags[1]", "expected a string"),
            (r#"{"destination":"a","metadata":{"k":3}}"#, "metadata.k", "expected a string"),
            (r#"{"destination":"a","status_code":"302"}"#, "status_code", "expected u16"),
            (r#"{"destination":"a","status_code":70000}"#, "status_code", "expected u16"),
            ("[]", "(body)", "must be an object"),
            ("3", "(body)", "expected struct"),
        ] {
            let (found, reason) = field_of(link(body));
            assert_eq!(found, field, "{body}: {reason}");
            assert!(reason.contains(words), "{body}: {reason}");
        }
    }

    #[test]
    fn what_an_endpoint_cannot_ask_for_is_answered_with_what_it_can() {
        let endpoint = |body: &str| field_of(parse::<NewEndpoint>(body.as_bytes()).err().unwrap());
        let (field, reason) = endpoint(r#"{"url":"https://a.example/","events":["link.*","link.klicked"]}"#);
        assert_eq!(field, "events[1]");
        assert!(reason.contains("link.clicked"), "{reason}");
        let (field, reason) = endpoint(r#"{"url":"a","events":["*"],"filters":{"contry":"US"}}"#);
        assert!(field.starts_with("filters"), "{field}");
        assert!(reason.contains("country"), "{reason}");
    }

    #[test]
    fn what_is_not_json_is_answered_with_the_place() {
        for body in ["", "{", "{\"destination\":\n\"a\",}", "{\"destination\":\"\\ud800\"}", "{} x", "\u{7f}"] {
            let problem = link(body);
            if problem.kind == Kind::Malformed {
                assert!(problem.detail.contains("line"), "{}", problem.detail);
            } else {
                assert_eq!(body, "{} x", "{problem:?}");
            }
        }
    }

    #[test]
    fn a_precondition_is_an_etag() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, value.parse().unwrap());
            if_match(&headers)
        };
        assert_eq!(if_match(&HeaderMap::new()), Ok(None));
        assert_eq!(with("\"3\""), Ok(Some(3)));
        assert_eq!(with("*"), Ok(None));
        assert_eq!(with("3").unwrap_err().kind, Kind::Malformed);
    }
}
