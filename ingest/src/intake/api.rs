//! The intake's routes: a report is read, recorded, and only then answered
//! with 202.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, RawQuery, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use iso_currency::Currency;
use schemas::{ConversionId, RawConversion, Timestamp, WorkspaceId, conversion::Reported};
use serde::Serialize;
use service::{
    headers::idempotency_key,
    json,
    problem::{Kind, Problem, RejectedLine},
};
use tokio::time::timeout;
use tracing::warn;

use super::{
    batch::{BODY_BYTES, ReportBatch, ReportShape, without_mark},
    callers::Callers,
    conversion::{Repeat, record},
    metrics::IntakeMetrics,
    outbox::ConversionOutbox,
    postback::{self, PostbackFields},
};
use crate::visit::traceparent;

/// How long a request's body may take.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// The state that the routes share.
pub(crate) struct IntakeState {
    pub(crate) callers: Arc<Callers>,
    pub(crate) outbox: ConversionOutbox,
    pub(crate) currency: Currency,
    pub(crate) metrics: IntakeMetrics,
}

/// Returns all routes.
pub(crate) fn routes(intake: Arc<IntakeState>) -> Router {
    let postback = get(postback_of).post(postback_of).head(|| async { no_method() });
    Router::new()
        .route("/v1/conversions", post(report))
        .route("/v1/postback/{token}", postback)
        .route("/healthz", get(|| async { "ok\n" }))
        // Nothing of the path comes back: it may hold a token.
        .fallback(|| async { Problem::new(Kind::NotFound, "There is no such address here") })
        .method_not_allowed_fallback(|| async { no_method() })
        .layer(middleware::from_fn_with_state(Arc::clone(&intake), finish))
        .with_state(intake)
}

fn no_method() -> Problem {
    Problem::new(Kind::MethodNotAllowed, "Conversions are reported by POST, postbacks by GET or POST")
}

/// Adds the headers that every answer has, and counts refusals.
async fn finish(State(intake): State<Arc<IntakeState>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(kind) = response.extensions_mut().remove::<Kind>() {
        intake.metrics.refused(kind);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[derive(Serialize)]
struct Accepted {
    id: ConversionId,
}

#[derive(Serialize)]
struct AcceptedLines {
    accepted: usize,
    rejected: Vec<RejectedLine>,
}

/// `POST /v1/conversions`.
async fn report(State(intake): State<Arc<IntakeState>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let now = Timestamp::now();
    // Before the body is read: strangers' bodies are nobody's to keep.
    let workspace = intake.callers.bearer(&headers, now)?;
    let repeat = idempotency_key(&headers)?;
    let body = bytes(body).await?;
    match ReportShape::of(content_type(&headers), &body) {
        ReportShape::One => {
            let reported: Reported = json::parse(without_mark(&body))?;
            let repeat = repeat.map_or(Repeat::Unknown, Repeat::Request);
            let conversion = record(reported, &workspace, repeat, now).map_err(Problem::invalid)?;
            intake.one(conversion, &headers, |metrics| &metrics.reported).await
        }
        ReportShape::Lines => intake.lines(&body, &workspace, repeat, &headers, now).await,
    }
}

/// `GET` or `POST /v1/postback/{token}`: the fields are in the query or in the body.
async fn postback_of(
    State(intake): State<Arc<IntakeState>>,
    token: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let now = Timestamp::now();
    // What is no text is no token either.
    let token = token.map(|Path(token)| token).unwrap_or_default();
    let key = intake.callers.token(&token, now)?;
    let body = bytes(body).await?;
    let fields = PostbackFields::read(query.as_deref().unwrap_or_default(), content_type(&headers), &body)?;
    let conversion = postback::report(fields, intake.currency)
        .and_then(|reported| record(reported, &key.workspace, Repeat::Unknown, now))
        .map_err(Problem::invalid)?;
    intake.one(conversion, &headers, |metrics| &metrics.called_back).await
}

impl IntakeState {
    async fn one(
        &self,
        conversion: RawConversion,
        headers: &HeaderMap,
        counter: impl Fn(&IntakeMetrics) -> &prometheus_client::metrics::counter::Counter,
    ) -> Result<Response, Problem> {
        let id = conversion.id;
        self.record(&[conversion], headers).await?;
        counter(&self.metrics).inc();
        Ok((StatusCode::ACCEPTED, Json(Accepted { id })).into_response())
    }

    async fn lines(
        &self,
        body: &[u8],
        workspace: &WorkspaceId,
        repeat: Option<&str>,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Response, Problem> {
        let ReportBatch { taken, rejected } = ReportBatch::read(body, workspace, repeat, now)?;
        let answer = AcceptedLines { accepted: taken.len(), rejected };
        if taken.is_empty() {
            let problem = Problem::new(Kind::Invalid, "No line is a conversion: `rejected` says why");
            return Ok(problem.with(answer));
        }
        self.record(&taken, headers).await?;
        self.metrics.reported.inc_by(taken.len() as u64);
        self.metrics.lines_refused.inc_by(answer.rejected.len() as u64);
        Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
    }

    async fn record(&self, conversions: &[RawConversion], headers: &HeaderMap) -> Result<(), Problem> {
        let trace = headers.get("traceparent").and_then(|value| traceparent(value.as_bytes()));
        self.outbox.record(conversions, trace).await.map_err(|error| {
            warn!(%error, "conversions are answered with 503");
            Problem::unavailable("The conversion may not have been recorded: send it again")
        })
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

async fn bytes(body: Body) -> Result<Bytes, Problem> {
    let unread = || Problem::new(Kind::Malformed, "The body could not be read to its end");
    let read = timeout(BODY_WITHIN, to_bytes(body, BODY_BYTES)).await.map_err(|_| unread())?;
    read.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return Problem::new(Kind::TooLarge, format!("A body may have at most {BODY_BYTES} bytes"));
            }
            cause = error.source();
        }
        unread()
    })
}
