//! The reading of requests: bodies whose errors name the field or the place, queries, and preconditions.

use std::{future::Future, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, StatusCode, header, request::Parts},
};
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use service::{
    json::parse,
    problem::{FieldError, Kind, Problem},
};
use tokio::time::timeout;

use crate::state::entity::{Entity, Expected, VersionTag};

/// The most bytes of a body.
pub(crate) const BODY_BYTES: usize = 1 << 20;
/// The longest time until a body has arrived.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

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
    within_deadline(Bytes::from_request(request, state)).await?.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            body_too_large()
        } else {
            Problem::new(Kind::Malformed, "The body could not be read to its end")
        }
    })
}

/// Returns the problem of a body that is too large.
pub(crate) fn body_too_large() -> Problem {
    Problem::new(Kind::TooLarge, format!("A body may have at most {BODY_BYTES} bytes"))
}

/// Waits for a body, but not for longer than a body may take: a caller that sends none must not keep a connection.
pub(crate) async fn within_deadline<T>(body: impl Future<Output = T>) -> Result<T, Problem> {
    within(BODY_TIMEOUT, body).await
}

async fn within<T>(limit: Duration, body: impl Future<Output = T>) -> Result<T, Problem> {
    timeout(limit, body).await.map_err(|_| {
        let detail = format!("The body did not arrive within {} s", limit.as_secs());
        Problem::new(Kind::Malformed, detail)
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

/// Returns the query of a request, or the problem where it cannot be read.
pub(crate) fn read_query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|rejection| Problem::new(Kind::Malformed, rejection.body_text()))
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
        Self::from_query(&read_query(Query::<PageQuery>::from_request_parts(parts, state).await)?)
    }
}

impl<T: Entity> PageRequest<T> {
    /// Checks a query.
    pub(crate) fn from_query(query: &PageQuery) -> Result<Self, Problem> {
        let mut errors = Vec::new();
        let limit = page_limit(query.limit, &mut errors);
        let before = query.cursor.as_deref().map(str::parse::<T::Id>).transpose();
        let Ok(before) = before else {
            errors.append(&mut wrong_cursor().errors);
            return Err(Problem::invalid(errors));
        };
        if errors.is_empty() { Ok(Self { limit, before }) } else { Err(Problem::invalid(errors)) }
    }
}

/// Returns the problem of a cursor that no list has given.
pub(crate) fn wrong_cursor() -> Problem {
    Problem::invalid(vec![FieldError::new("cursor", "is not one that a list has given as `next`")])
}

/// Returns the most entries of a page, and notes where a query asks for too many or none.
pub(crate) fn page_limit(asked: Option<usize>, errors: &mut Vec<FieldError>) -> usize {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        errors.push(FieldError::new("limit", format!("is {limit}, must be 1 to {MAX_LIMIT}")));
    }
    limit
}

/// Returns the versions for which `If-Match` and `If-None-Match` ask (RFC 9110, section 13.1).
///
/// # Errors
/// When a header is no list of entity tags, or both are there.
pub(crate) fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let matching = ETags::read(headers, &header::IF_MATCH)?;
    let none_matching = ETags::read(headers, &header::IF_NONE_MATCH)?;
    match (matching, none_matching) {
        (None, None) => Ok(Expected::Anything),
        (Some(ETags::Any), None) => Ok(Expected::Existing),
        // A weak ETag never matches here: the comparison is strong.
        (Some(ETags::Listed(tags)), None) => {
            let strong = tags.iter().filter(|tag| tag.strength == Strength::Strong);
            Ok(Expected::OneOf(strong.filter_map(|tag| VersionTag::parse(&tag.text)).collect()))
        }
        (None, Some(ETags::Any)) => Ok(Expected::Nothing),
        (None, Some(ETags::Listed(tags))) => {
            Ok(Expected::NoneOf(tags.iter().filter_map(|tag| VersionTag::parse(&tag.text)).collect()))
        }
        (Some(_), Some(_)) => {
            Err(Problem::new(Kind::Malformed, "If-Match and If-None-Match are both there: send the one that you mean"))
        }
    }
}

/// Tells whether `If-None-Match` names the version, which the caller then has already.
pub(crate) fn is_known<T: Entity>(headers: &HeaderMap, found: &T) -> bool {
    match ETags::read(headers, &header::IF_NONE_MATCH) {
        Ok(Some(ETags::Any)) => true,
        Ok(Some(ETags::Listed(tags))) => {
            tags.iter().filter_map(|tag| VersionTag::parse(&tag.text)).any(|tag| tag.names(found))
        }
        Ok(None) | Err(_) => false,
    }
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, PartialEq, Eq)]
enum ETags {
    /// Any version: `*`.
    Any,
    Listed(Vec<ETag>),
}

#[derive(Debug, PartialEq, Eq)]
struct ETag {
    text: String,
    strength: Strength,
}

/// Whether an entity tag stands for the bytes of an answer, or for its meaning alone (`W/`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strength {
    Strong,
    Weak,
}

/// The most entity tags that a header may list.
const MAX_ETAGS: usize = 64;

impl ETags {
    /// Reads a header, which may stand there several times.
    fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, Problem> {
        let malformed = || {
            let detail = format!("{name} must be the ETag of an earlier answer, such as \"3\", a list of them, or *");
            Problem::new(Kind::Malformed, detail)
        };
        let mut listed = Vec::new();
        let mut given = false;
        for value in headers.get_all(name) {
            let text = value.to_str().map_err(|_| malformed())?.trim();
            if text == "*" && !given {
                return Ok(Some(Self::Any));
            }
            given = true;
            let mut rest = text;
            while !rest.is_empty() && listed.len() <= MAX_ETAGS {
                let (tag, behind) = ETag::split_from(rest).ok_or_else(malformed)?;
                listed.push(tag);
                rest = behind;
            }
        }
        if given && (listed.is_empty() || listed.len() > MAX_ETAGS) {
            return Err(malformed());
        }
        Ok(given.then_some(Self::Listed(listed)))
    }
}

impl ETag {
    /// Reads an entity tag at the beginning of a list; returns the rest of the list, too.
    fn split_from(list: &str) -> Option<(Self, &str)> {
        let (strength, tag) = match list.strip_prefix("W/") {
            Some(tag) => (Strength::Weak, tag),
            None => (Strength::Strong, list),
        };
        let (text, rest) = tag.strip_prefix('"')?.split_once('"')?;
        let rest = rest.trim_start();
        let rest = if rest.is_empty() { rest } else { rest.strip_prefix(',')?.trim_start() };
        Some((Self { text: text.to_owned(), strength }, rest))
    }
}

#[cfg(test)]
mod tests {
    use schemas::{Link, LinkId, sample::plain_link};

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

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let problem = within(Duration::from_millis(10), std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(problem.kind, Kind::Malformed);
        assert!(problem.detail.contains("did not arrive within"), "{}", problem.detail);
        assert_eq!(within_deadline(std::future::ready(7)).await, Ok(7));
    }

    #[test]
    fn a_precondition_is_a_list_of_etags() {
        let with = |name: HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            expected(&headers)
        };
        assert_eq!(expected(&HeaderMap::new()), Ok(Expected::Anything));
        let tag = |text: &str| VersionTag::parse(text).unwrap();
        for (value, wanted) in [
            ("\"3\"", Expected::OneOf(vec![tag("3")])),
            ("\"3-AB\", \"x,y\" ,\"5\"", Expected::OneOf(vec![tag("3-AB"), tag("5")])),
            ("W/\"3\"", Expected::OneOf(vec![])),
            ("*", Expected::Existing),
        ] {
            assert_eq!(with(header::IF_MATCH, value), Ok(wanted), "{value}");
        }
        assert_eq!(with(header::IF_NONE_MATCH, "*"), Ok(Expected::Nothing));
        assert_eq!(with(header::IF_NONE_MATCH, "W/\"3\""), Ok(Expected::NoneOf(vec![tag("3")])));
        for (name, value) in [
            (header::IF_MATCH, "3"),
            (header::IF_MATCH, "\"3"),
            (header::IF_MATCH, "\"3\" \"4\""),
            (header::IF_MATCH, ""),
            (header::IF_NONE_MATCH, "3"),
        ] {
            assert_eq!(with(name, value).unwrap_err().kind, Kind::Malformed, "{value}");
        }
    }

    #[test]
    fn an_answer_that_is_known_is_told_by_any_of_its_etags() {
        let link = Link { revision: 3, ..plain_link(LinkId::from_bits(7), "s", "https://a.example/") };
        let own = VersionTag::of(&link).to_string();
        assert_eq!(own, "3-00000007");
        for (value, known) in [
            ("\"3\"", true),
            ("W/\"3-00000007\"", true),
            ("\"2\", \"3-00000007\"", true),
            ("*", true),
            ("\"2\"", false),
            ("\"3-00000008\"", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            assert_eq!(is_known(&headers, &link), known, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), &link));
    }
}
