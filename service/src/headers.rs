//! The headers in which callers of an API send their key and their
//! `Idempotency-Key`.

use axum::http::{HeaderMap, header};

use crate::problem::{FieldError, Kind, Problem};

/// The longest `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS: usize = 255;

/// The key of an `Authorization` header (RFC 6750).
///
/// # Errors
/// When there is none.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
        .ok_or_else(|| {
            Problem::new(Kind::Unauthorized, "Send the API key with the request: `Authorization: Bearer <key>`")
        })
}

/// The `Idempotency-Key`, if the caller gives one.
///
/// # Errors
/// When it is empty, too long, or has anything but visible ASCII.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| {
        (1..=IDEMPOTENCY_KEY_CHARS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    text.map(Some).ok_or_else(|| {
        wrong_idempotency_key(format!("must have 1 to {IDEMPOTENCY_KEY_CHARS} visible ASCII characters"))
    })
}

/// Returns the problem of a wrong `Idempotency-Key`.
#[must_use]
pub fn wrong_idempotency_key(reason: impl Into<String>) -> Problem {
    Problem::invalid(vec![FieldError::new("Idempotency-Key", reason)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_as_a_bearer_token() {
        for (value, expected) in
            [("Bearer a", Some("a")), ("bearer  a", Some("a")), ("Basic a", None), ("a", None), ("Bearer", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers).ok(), expected, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()).unwrap_err().kind, Kind::Unauthorized);
    }
}
