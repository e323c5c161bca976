//! `Idempotency-Key` on a POST: a call that is repeated under the same key within a day is answered as before, and its
//! change is not made a second time. The answer is committed in the transaction of the change, so a call is recognised
//! even if its answer was lost with a leader. Only answers to changes are kept: a call that was refused can be repeated.
//!
//! Answers are kept for each API key by itself, for 24 hours, within a bound of memory (`state/answers.rs`). They are
//! looked for before anything that depends on the moment is checked. An answer's secret is shown again for some minutes
//! only, to the caller whose connection broke: later, a caller with a key of the past must not learn a new one.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::{Timestamp, idempotency::KeptAnswer};
use serde::{Deserialize, Serialize};
use service::{
    headers::{idempotency_key, wrong_idempotency_key},
    problem::Problem,
    vault::Vault,
};
use sha2::{Digest, Sha256};

use crate::{
    api::{
        context::Api,
        request::{BODY_BYTES, body_too_large, within_deadline},
    },
    caller::Caller,
    state::{answers::record_key, audit::Author, draft::Draft},
};

/// The time for which a repeated call is answered with the secret that it created.
const SECRET_REPLAYED: Duration = Duration::from_secs(600);
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The path of imports, whose bodies stream, and which can be repeated without a key.
pub(crate) const IMPORT: &str = "/v1/links/import";

/// The answer to a call that made a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeAnswer {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) location: Option<String>,
    /// The JSON of the body.
    pub(super) body: String,
    /// Whether the body shows a secret.
    #[serde(default)]
    pub(super) secrecy: Secrecy,
}

/// Whether an answer shows a secret, in the field `secret`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Secrecy {
    #[default]
    Open,
    Secret,
}

impl ChangeAnswer {
    /// Marks an answer that shows a secret.
    pub(super) fn with_secret(self) -> Self {
        Self { secrecy: Secrecy::Secret, ..self }
    }
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

/// A call that may be repeated: its author, and its fingerprint if it has an `Idempotency-Key`.
#[derive(Clone)]
pub(crate) struct Idempotent {
    author: Author,
    fingerprint: Option<Fingerprint>,
}

/// The facts by which a repeated call is recognised.
#[derive(Clone)]
struct Fingerprint {
    /// The key of the answer's record.
    key: Arc<str>,
    /// The SHA-256 of the caller's key id, the method, the path with its query, and the body, in hexadecimal.
    asked: String,
}

/// Reads the `Idempotency-Key` and fingerprints the request. A call that is repeated is answered here.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let request = match fingerprint(request).await {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    let extensions = request.extensions();
    let kept = match (extensions.get::<Idempotent>(), extensions.get::<Arc<Api>>()) {
        (Some(Idempotent { fingerprint: Some(fingerprint), .. }), Some(api)) => fingerprint.replayed(api),
        _ => Ok(None),
    };
    match kept {
        Ok(None) => next.run(request).await,
        Ok(Some(response)) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn fingerprint(mut request: Request) -> Result<Request, Problem> {
    let key = if request.method() == Method::POST && request.uri().path() != IMPORT {
        idempotency_key(request.headers())?.map(str::to_owned)
    } else {
        None
    };
    let Some(caller) = request.extensions().get::<Caller>().cloned() else { return Ok(request) };
    let author = caller.author();
    let Some(key) = key else {
        request.extensions_mut().insert(Idempotent { author, fingerprint: None });
        return Ok(request);
    };
    let (parts, body) = request.into_parts();
    let body = within_deadline(to_bytes(body, BODY_BYTES)).await?.map_err(|_| body_too_large())?;
    let mut hash = Sha256::new();
    // Another key must not see the answer, which may have a secret in it.
    let who = caller.key.id.to_string();
    let target = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |target| target.as_str());
    for part in [who.as_bytes(), parts.method.as_str().as_bytes(), target.as_bytes(), &body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let asked = hex::encode(hash.finalize());
    let mut request = Request::from_parts(parts, Body::from(body));
    let fingerprint = Some(Fingerprint { key: record_key(&caller.workspace, caller.key.id, &key), asked });
    request.extensions_mut().insert(Idempotent { author, fingerprint });
    Ok(request)
}

/// The outcome of an idempotent change.
enum IdempotentOutcome {
    Fresh(ChangeAnswer),
    Replayed(Arc<KeptAnswer>),
}

impl Fingerprint {
    /// Returns the answer that was given to this call before.
    ///
    /// # Errors
    /// When the key was used for another call, or the answer cannot be read any more.
    fn replayed(&self, api: &Api) -> Result<Option<Response>, Problem> {
        let at = Timestamp::now();
        let Some(kept) = api.leader()?.read(|state| state.answers.get(&self.key, at)) else { return Ok(None) };
        self.check(&kept)?;
        self.replay(&kept, &api.vault, at).map(Some)
    }

    /// Checks that an answer was given to this call, and not to another under the same key.
    fn check(&self, kept: &KeptAnswer) -> Result<(), Problem> {
        if kept.asked == self.asked { Ok(()) } else { Err(wrong_idempotency_key(OTHER_CALL)) }
    }

    /// Returns an answer again, without its secret unless the call was made just now.
    fn replay(&self, kept: &KeptAnswer, vault: &Vault, at: Timestamp) -> Result<Response, Problem> {
        let opened = vault.open(&self.key, &kept.answer).map_err(|error| unusable_answer(&error))?;
        let mut answer: ChangeAnswer = serde_json::from_slice(&opened).map_err(|error| unusable_answer(&error))?;
        if answer.secrecy == Secrecy::Secret && at >= kept.at.plus(SECRET_REPLAYED) {
            answer.body = without_secret(&answer.body)?;
        }
        let mut response = answer.into_response();
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }
}

/// Returns the body of an answer without the field `secret`.
fn without_secret(body: &str) -> Result<String, Problem> {
    let mut body: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(body).map_err(|error| unusable_answer(&error))?;
    body.remove("secret");
    serde_json::to_string(&body).map_err(|error| unusable_answer(&error))
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
        let Self { author, fingerprint } = self;
        let Some(fingerprint) = fingerprint else { return Ok(leader.write(author, change).await?.into_response()) };
        let vault = Arc::clone(&api.vault);
        let asked = fingerprint.clone();
        let outcome = leader.write(author, move |draft| {
            // The same call may have been made since the kept answers were looked at.
            if let Some(kept) = draft.kept_answer(&asked.key) {
                asked.check(&kept)?;
                return Ok(IdempotentOutcome::Replayed(kept));
            }
            let answer = change(draft)?;
            let written = serde_json::to_vec(&answer).map_err(|error| unusable_answer(&error))?;
            let Fingerprint { key, asked } = asked;
            let sealed = vault.seal(&key, &written);
            draft.keep_answer(key, KeptAnswer { v: 1, asked, at: draft.at(), answer: sealed })?;
            Ok(IdempotentOutcome::Fresh(answer))
        });
        match outcome.await? {
            IdempotentOutcome::Fresh(answer) => Ok(answer.into_response()),
            IdempotentOutcome::Replayed(kept) => fingerprint.replay(&kept, &api.vault, Timestamp::now()),
        }
    }
}

const OTHER_CALL: &str =
    "was used for another call within a day: give each call a key of its own, and repeat a call unchanged";

fn unusable_answer(error: &dyn std::fmt::Display) -> Problem {
    Problem::unavailable(format!("The answer cannot be kept, or cannot be read any more: {error}"))
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_shown_again_for_some_minutes_only() {
        let vault = Vault::from_hex(&"11".repeat(32)).unwrap();
        let fingerprint = Fingerprint { key: "acme/key/1".into(), asked: "a".to_owned() };
        let body = r#"{"id":"key_1","secret":"chk_x"}"#.to_owned();
        let answer = ChangeAnswer { status: 201, etag: None, location: None, body, secrecy: Secrecy::Secret };
        let sealed = vault.seal(&fingerprint.key, &serde_json::to_vec(&answer).unwrap());
        let at = Timestamp::from_millis(0);
        let kept = KeptAnswer { v: 1, asked: "a".to_owned(), at, answer: sealed };
        for (seconds, shown) in [(599, true), (600, false), (80_000, false)] {
            let later = at.plus(Duration::from_secs(seconds));
            let response = fingerprint.replay(&kept, &vault, later).unwrap();
            assert_eq!(
                (response.status(), response.headers()[REPLAYED].as_bytes()),
                (StatusCode::CREATED, b"true".as_slice())
            );
            let body = to_bytes(response.into_body(), 1000).await.unwrap();
            assert_eq!(body.windows(5).any(|part| part == b"chk_x"), shown, "{seconds} s");
            assert!(body.windows(5).any(|part| part == b"key_1"));
        }
    }
}
