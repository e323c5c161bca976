//! Who calls. There is one key for now, which may do everything in the default
//! workspace. Only its hash is kept, and it is compared in constant time.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::WorkspaceId;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    api::Api,
    problem::{Kind, Problem},
};

/// The hash of a key.
pub(crate) struct AdminKey([u8; 32]);

impl AdminKey {
    pub(crate) fn new(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn is(&self, key: &str) -> bool {
        // Hashes have one length, so that not even the key's is told.
        self.0.ct_eq(&Self::new(key).0).into()
    }
}

/// A caller whose key is right.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) workspace: WorkspaceId,
}

/// Lets only callers through.
pub(crate) async fn require(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    match key(request.headers()) {
        Some(key) if api.key.is(key) => {
            request.extensions_mut().insert(Caller { workspace: WorkspaceId::default() });
            next.run(request).await
        }
        Some(_) => Problem::new(Kind::Unauthorized, "This API key is not known here").into_response(),
        None => {
            let detail = "Send the API key with the request: `Authorization: Bearer <key>`";
            Problem::new(Kind::Unauthorized, detail).into_response()
        }
    }
}

/// The key of an `Authorization` header (RFC 6750).
fn key(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_is_the_key() {
        let admin = AdminKey::new("0123456789abcdef");
        assert!(admin.is("0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef "] {
            assert!(!admin.is(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_comes_as_a_bearer_token() {
        for (value, expected) in
            [("Bearer a", Some("a")), ("bearer  a", Some("a")), ("Basic a", None), ("a", None), ("Bearer", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(key(&headers), expected, "{value}");
        }
    }
}
