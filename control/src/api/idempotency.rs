//! `Idempotency-Key` on a POST: a call that is repeated under the same key within a day is answered as before, and its
//! change is not made a second time. The answer is committed in the transaction of the change, so a call is recognised
//! even if its answer was lost with a leader. Only answers to changes are kept: a call that was refused can be repeated.

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
    api::{context::Api, request::BODY_BYTES},
    caller::Caller,
    state::{answers::record_key, draft::Draft},
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The path of imports, whose bodies stream, and which can be repeated without a key.
const IMPORT: &str = "/v1/links/import";

/// The answer to a call that made a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeAnswer {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) location: Option<String>,
    /// The JSON of the body.
    pub(super) body: String,
}

impl IntoResponse for ChangeAnswer {
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

/// The idempotency of a call: its fingerprint, if it has an `Idempotency-Key`.
#[derive(Clone)]
pub(crate) struct Idempotent(Option<Fingerprint>);

/// The facts by which a repeated call is recognised.
#[derive(Clone)]
struct Fingerprint {
    /// The key of the answer's record.
    key: Arc<str>,
    /// The SHA-256 of the caller's key id, the method, the path and the body, in hexadecimal.
    asked: String,
}

/// Reads the `Idempotency-Key` and fingerprints the request.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    match fingerprint(request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn fingerprint(mut request: Request) -> Result<Request, Problem> {
    let key = if request.method() == Method::POST && request.uri().path() != IMPORT {
        idempotency_key(request.headers())?.map(str::to_owned)
    } else {
        None
    };
    let Some((key, caller)) = key.zip(request.extensions().get::<Caller>().cloned()) else {
        request.extensions_mut().insert(Idempotent(None));
        return Ok(request);
    };
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES)
        .await
        .map_err(|_| Problem::new(Kind::TooLarge, format!("A body may have at most {BODY_BYTES} bytes")))?;
    let mut hash = Sha256::new();
    // Another key must not see the answer, which may have a secret in it.
    let who = caller.key.id.to_string();
    for part in [who.as_bytes(), parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), &body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let asked = hex::encode(hash.finalize());
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(Idempotent(Some(Fingerprint { key: record_key(&caller.workspace, &key), asked })));
    Ok(request)
}

/// The outcome of an idempotent change.
enum IdempotentOutcome {
    Fresh(ChangeAnswer),
    Replayed(SealedSecret),
}

impl Idempotent {
    /// Makes a change and waits until it is committed with its answer, unless it was made under the same key before.
    ///
    /// # Errors
    /// When the change is refused, the key was used for another call, or it is unknown whether the change was committed.
    pub(crate) async fn write(
        self,
        api: &Api,
        change: impl FnOnce(&mut Draft<'_>) -> Result<ChangeAnswer, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let leader = api.leader()?;
        let Some(Fingerprint { key, asked }) = self.0 else { return Ok(leader.write(change).await?.into_response()) };
        let vault = Arc::clone(&api.vault);
        let context = Arc::clone(&key);
        let outcome = leader.write(move |draft| {
            if let Some(kept) = draft.kept_answer(&key) {
                if kept.asked != asked {
                    return Err(wrong_idempotency_key(OTHER_CALL));
                }
                return Ok(IdempotentOutcome::Replayed(kept.answer.clone()));
            }
            let answer = change(draft)?;
            let sealed = vault.seal(&key, &serde_json::to_vec(&answer).map_err(|error| unusable_answer(&error))?);
            draft.keep_answer(key, KeptAnswer { v: 1, asked, at: draft.at(), answer: sealed })?;
            Ok(IdempotentOutcome::Fresh(answer))
        });
        match outcome.await? {
            IdempotentOutcome::Fresh(answer) => Ok(answer.into_response()),
            IdempotentOutcome::Replayed(sealed) => {
                let opened = api.vault.open(&context, &sealed).map_err(|error| unusable_answer(&error))?;
                let answer: ChangeAnswer = serde_json::from_slice(&opened).map_err(|error| unusable_answer(&error))?;
                let mut response = answer.into_response();
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                Ok(response)
            }
        }
    }
}

const OTHER_CALL: &str =
    "was used for another call within a day: give each call a key of its own, and repeat a call unchanged";

fn unusable_answer(error: &dyn std::fmt::Display) -> Problem {
    Problem::unavailable(format!("The answer cannot be kept, or cannot be read any more: {error}"))
}
