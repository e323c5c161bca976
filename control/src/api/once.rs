//! `Idempotency-Key` on a POST: whoever repeats a call under the same key within a
//! day is answered as before, and nothing is done a second time. The answer is
//! committed in the transaction of the change, so also a call whose answer was
//! lost with a leader is known again. Only what was done is kept: a call that was
//! refused can be made anew.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::{SealedSecret, idempotency::KeptAnswer};
use serde::{Deserialize, Serialize};
use service::{
    headers::{idempotency_key, wrong_idempotency_key},
    problem::{Kind, Problem},
};
use sha2::{Digest, Sha256};

use crate::{
    answers::record_key,
    api::{context::Api, request::BODY_BYTES},
    caller::Caller,
    draft::Draft,
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Streams, and can be repeated as it is.
const IMPORT: &str = "/v1/links/import";

/// What is answered to a call that did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) location: Option<String>,
    /// JSON.
    pub(super) body: String,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], self.body).into_response();
        for (name, value) in [(header::ETAG, self.etag), (header::LOCATION, self.location)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// By what a call would be known again.
#[derive(Clone)]
pub(crate) struct Once(Option<Named>);

#[derive(Clone)]
struct Named {
    /// The key of the answer's record.
    key: Arc<str>,
    /// SHA-256 of the caller's key id, method, path and body, in hexadecimal.
    asked: String,
}

/// Finds out by what a call would be known again.
pub(crate) async fn name(request: Request, next: Next) -> Response {
    match named(request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn named(mut request: Request) -> Result<Request, Problem> {
    let key = if request.method() == Method::POST && request.uri().path() != IMPORT {
        idempotency_key(request.headers())?.map(str::to_owned)
    } else {
        None
    };
    let Some((key, caller)) = key.zip(request.extensions().get::<Caller>().cloned()) else {
        request.extensions_mut().insert(Once(None));
        return Ok(request);
    };
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES)
        .await
        .map_err(|_| Problem::new(Kind::TooLarge, format!("A body may have at most {BODY_BYTES} bytes")))?;
    let mut hash = Sha256::new();
    // Another key may not see what this one was answered, a secret perhaps.
    let who = caller.key.id.to_string();
    for part in [who.as_bytes(), parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), &body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let asked = hex::encode(hash.finalize());
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(Once(Some(Named { key: record_key(&caller.workspace, &key), asked })));
    Ok(request)
}

/// What came of a change.
enum Said {
    Now(Answer),
    Before(SealedSecret),
}

impl Once {
    /// Makes a change and waits until it is committed along with its answer; a
    /// change that was made under the same key is not made again.
    ///
    /// # Errors
    /// When it is refused, the key stands for another call, or nobody knows
    /// whether it was committed.
    pub(crate) async fn write(
        self,
        api: &Api,
        change: impl FnOnce(&mut Draft<'_>) -> Result<Answer, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let leader = api.leader()?;
        let Some(Named { key, asked }) = self.0 else { return Ok(leader.write(change).await?.into_response()) };
        let (vault, context) = (Arc::clone(&api.vault), Arc::clone(&key));
        let said = leader.write(move |draft| {
            if let Some(kept) = draft.answered(&key) {
                let same = kept.asked == asked;
                return if same { Ok(Said::Before(kept.answer.clone())) } else { Err(wrong_idempotency_key(OTHER)) };
            }
            let answer = change(draft)?;
            let sealed = vault.seal(&key, &serde_json::to_vec(&answer).map_err(|error| unwritten(&error))?);
            draft.answer(key, KeptAnswer { v: 1, asked, at: draft.at(), answer: sealed })?;
            Ok(Said::Now(answer))
        });
        match said.await? {
            Said::Now(answer) => Ok(answer.into_response()),
            Said::Before(sealed) => {
                let opened = api.vault.open(&context, &sealed).map_err(|error| unwritten(&error))?;
                let answer: Answer = serde_json::from_slice(&opened).map_err(|error| unwritten(&error))?;
                let mut response = answer.into_response();
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                Ok(response)
            }
        }
    }
}

const OTHER: &str =
    "was used for another call within a day: give each call a key of its own, and repeat a call unchanged";

fn unwritten(error: &dyn std::fmt::Display) -> Problem {
    Problem::unavailable(format!("The answer cannot be kept, or is not readable any more: {error}"))
}
