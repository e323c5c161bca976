//! An attempt: one delivery's exchange with its endpoint, from the endpoint's
//! current settings to the record that says how the exchange ended. Which
//! delivery is attempted when is decided elsewhere (`deliver.rs`, `lane/`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use schemas::{Attempt, Outcome, Timestamp};
use tracing::{debug, info, warn};

use super::{
    config::Config,
    delivery::InFlight,
    endpoints::{Endpoints, NO_SUCH_ENDPOINT, Readiness, Recipient, Route},
    error::Error,
    exchange::{HttpClient, InUse},
    health::{HealthChange, HealthSign, Learned},
    metrics::WebhookMetrics,
    outbox::WebhookOutbox,
    outcome::{EndpointAnswer, Exchange, Verdict, judge},
    retry::{RetryPolicy, RetryTiming},
    sign::{ATTEMPT, EVENT, ID, SIGNATURE, SIMPLE_SIGNATURE, TIMESTAMP},
};

/// The part of an answer's body that is kept for the log.
const KEPT_BYTES: usize = 1024;

/// Makes attempts.
pub(super) struct Attempts {
    timing: RetryTiming,
    client: HttpClient,
    endpoints: Arc<Endpoints>,
    outbox: Arc<WebhookOutbox>,
    metrics: WebhookMetrics,
}

/// An exchange that has ended, in either way.
struct FinishedExchange {
    started_at: Timestamp,
    took: Duration,
    exchange: Exchange,
}

impl Attempts {
    /// # Errors
    /// When endpoints cannot be reached as the configuration says.
    pub(super) fn new(
        config: &Config,
        endpoints: Arc<Endpoints>,
        outbox: Arc<WebhookOutbox>,
        metrics: WebhookMetrics,
    ) -> Result<Self, Error> {
        Ok(Self {
            client: HttpClient::new(config, metrics.names.clone())?,
            timing: config.retry_timing(),
            endpoints,
            outbox,
            metrics,
        })
    }

    /// Returns the exchanges and connections that are in use.
    pub(super) fn in_use(&self) -> InUse {
        self.client.in_use()
    }

    /// Attempts a delivery once, and returns when Kafka has what follows from it.
    /// A delivery that must not be sent now is skipped, or left to the new owner
    /// of its partition.
    pub(super) async fn attempt(&self, delivery: InFlight) {
        if !delivery.claim.is_owned() {
            debug!(endpoint = %delivery.endpoint, "delivery left to the partition's new owner");
            return;
        }
        // The endpoint as it is now: it may have changed while the delivery waited.
        let Some(recipient) = self.endpoints.get(delivery.endpoint) else {
            return self.outbox.skip(delivery, NO_SUCH_ENDPOINT);
        };
        match recipient.readiness() {
            Readiness::Ready => {}
            Readiness::Paused => return self.outbox.hold(delivery).await,
            Readiness::Gone(why) => return self.outbox.skip(delivery, why),
        }
        let finished = self.exchange(&recipient, &delivery).await;
        self.metrics.exchange.observe(finished.took.as_secs_f64());
        let retries = RetryPolicy { schedule: recipient.retry_schedule, timing: self.timing };
        let verdict = judge(&finished.exchange, delivery.attempt, retries, rand::random());
        self.metrics.count_exchange(&finished.exchange, &verdict, delivery.attempt);
        if verdict == Verdict::Delivered && delivery.attempt == 1 {
            self.metrics.latency.observe(Timestamp::now().since(delivery.message.at).as_secs_f64());
        }
        if let Some(sign) = health_sign(&finished.exchange) {
            recipient.lane.learn(sign, Instant::now());
            let learned = recipient.learn(sign, Timestamp::now());
            self.tell_health(learned, &delivery).await;
        }
        self.conclude(delivery, finished, verdict).await;
    }

    /// Logs and reports a change of the endpoint's health. The report is in Kafka before the
    /// delivery is concluded, so that no crash loses it.
    async fn tell_health(&self, learned: Learned, delivery: &InFlight) {
        if let Some(change) = learned.change {
            log_health(delivery, change);
        }
        if let Some(report) = learned.report {
            self.outbox.report_health(&report).await;
        }
    }

    async fn exchange(&self, recipient: &Recipient, delivery: &InFlight) -> FinishedExchange {
        let started_at = Timestamp::now();
        let start = Instant::now();
        let exchange = match &recipient.route {
            Ok(route) => {
                let request = || request(route, delivery, started_at);
                self.client.exchange(&route.target, request, recipient.timeout).await
            }
            Err(reason) => Exchange::Failed(reason.clone()),
        };
        FinishedExchange { started_at, took: start.elapsed(), exchange }
    }

    async fn conclude(&self, delivery: InFlight, finished: FinishedExchange, verdict: Verdict) {
        let (outcome, mut error) = match &verdict {
            Verdict::Delivered => (Outcome::Delivered, None),
            Verdict::Retry { why, .. } => (Outcome::Retrying, Some(why.clone())),
            Verdict::Dead { why } => (Outcome::Dead, Some(why.clone())),
            // The endpoint was not asked, so that there is no attempt to be recorded.
            Verdict::Postponed { after, why } => {
                let due = Timestamp::now().plus(*after);
                self.metrics.postponed.inc();
                debug!(endpoint = %delivery.endpoint, event = %delivery.message.event_id, %due, why, "delivery postponed: its endpoint was not asked");
                let attempt = delivery.attempt;
                return self.outbox.delay(delivery, attempt, due).await;
            }
        };
        let answer = match finished.exchange {
            Exchange::Answered(answer) => Some(answer),
            Exchange::Failed(_) | Exchange::Ours(_) => None,
        };
        if let Some(EndpointAnswer { status, flaw: Some(flaw), .. }) = &answer {
            error = Some(format!("the endpoint answered {status}, but {flaw}"));
        }
        let duration_ms = u32::try_from(finished.took.as_millis()).unwrap_or(u32::MAX);
        let entry = delivery.log_entry(finished.started_at, outcome);
        let status = answer.as_ref().map(|answer| answer.status);
        let response = answer.and_then(|answer| excerpt(&answer.body));
        self.metrics.count_attempt(outcome);
        let entry = Attempt { duration_ms, status, response, error, ..entry };
        match verdict {
            Verdict::Delivered | Verdict::Postponed { .. } => self.outbox.log_last_attempt(&entry, delivery.claim),
            Verdict::Retry { after, why } => {
                self.outbox.log_attempt(&entry);
                let next = delivery.attempt + 1;
                let due = Timestamp::now().plus(after);
                debug!(endpoint = %delivery.endpoint, event = %delivery.message.event_id, next, %due, why, "delivery failed: retry scheduled");
                self.outbox.delay(delivery, next, due).await;
            }
            Verdict::Dead { why } => {
                self.outbox.log_attempt(&entry);
                self.outbox.dead_letter(delivery, why).await;
            }
        }
    }
}

/// Returns the part of an answer's body that the log keeps.
fn excerpt(body: &[u8]) -> Option<String> {
    let kept = &body[..body.len().min(KEPT_BYTES)];
    (!kept.is_empty()).then(|| String::from_utf8_lossy(kept).into_owned())
}

/// Returns what an exchange says about its endpoint. An exchange that was not begun says
/// nothing.
const fn health_sign(exchange: &Exchange) -> Option<HealthSign> {
    match exchange {
        Exchange::Answered(EndpointAnswer { status: 200..=299, .. }) => Some(HealthSign::Success),
        Exchange::Answered(EndpointAnswer { status: 410, .. }) => Some(HealthSign::Gone),
        Exchange::Answered(_) | Exchange::Failed(_) => Some(HealthSign::Failure),
        Exchange::Ours(_) => None,
    }
}

fn log_health(delivery: &InFlight, change: HealthChange) {
    match change {
        HealthChange::Failing { failures } => {
            warn!(endpoint = %delivery.endpoint, failures, "endpoint failing: its deliveries are retried");
        }
        HealthChange::Gone => {
            warn!(endpoint = %delivery.endpoint, "endpoint answered 410: nothing more is sent to it");
        }
        HealthChange::Recovered { failures } => info!(endpoint = %delivery.endpoint, failures, "endpoint recovered"),
    }
}

/// Builds the request of an attempt at `at`: the body's exact bytes, signed. The connection
/// adds the target.
fn request(route: &Route, delivery: &InFlight, at: Timestamp) -> Result<Request<Full<Bytes>>, http::Error> {
    let message = &delivery.message;
    let id = message.event_id.to_string();
    let mut request = Request::builder().method(Method::POST);
    if let Some(headers) = request.headers_mut() {
        headers.clone_from(&route.headers);
        let mut set = |name, value: String| -> Result<(), http::Error> {
            headers.insert(name, HeaderValue::try_from(value)?);
            Ok(())
        };
        set(SIGNATURE, route.signer.standard(&id, at.as_secs(), &message.body))?;
        set(SIMPLE_SIGNATURE, route.signer.simple(&message.body))?;
        set(ID, id)?;
        set(TIMESTAMP, at.as_secs().to_string())?;
        set(ATTEMPT, delivery.attempt.to_string())?;
        headers.insert(EVENT, HeaderValue::from_static(message.event.as_str()));
        // The trace context is a visitor's text: a value that no header may have
        // is left out.
        if let Some(trace) = message.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert("traceparent", trace);
        }
    }
    request.body(Full::new(message.body.clone()))
}
