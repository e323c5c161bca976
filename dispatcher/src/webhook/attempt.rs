//! An attempt: one delivery's exchange with its endpoint, from the endpoint's
//! current settings to the record that says how the exchange ended. Which
//! delivery is attempted when is decided elsewhere (`deliver.rs`, `lane/`).

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use schemas::{Attempt, EventId, Packing, Timestamp};
use tracing::{debug, info, warn};

use super::{
    claims::{GRACE, Tenure},
    config::Config,
    delivery::InFlight,
    endpoints::{Endpoints, NO_SUCH_ENDPOINT, Readiness, Recipient},
    error::Error,
    exchange::{ExchangeLimits, HttpClient, InUse},
    health::{HealthChange, HealthSign, Learned},
    metrics::WebhookMetrics,
    named_failures::named_failures,
    outbox::WebhookOutbox,
    outcome::{EndpointAnswer, Exchange, Verdict, failed, judge},
    request::WebhookRequest,
    retry::{RetryPolicy, RetryTiming},
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
    /// A delivery that must not be sent now is skipped, or handed over with its partition.
    pub(super) async fn attempt(&self, delivery: InFlight) {
        let delivery = match begun(delivery).await {
            Ok(delivery) => delivery,
            Err(delivery) => return self.outbox.hand_over(delivery).await,
        };
        // The endpoint as it is now: it may have changed while the delivery waited.
        let Some(recipient) = self.endpoints.get(delivery.endpoint) else {
            return self.outbox.skip(delivery, NO_SUCH_ENDPOINT);
        };
        match recipient.readiness() {
            Readiness::Ready => {}
            Readiness::Paused => return self.outbox.hold(delivery).await,
            Readiness::Gone(why) => return self.outbox.skip(delivery, why),
        }
        let packing = Some(delivery.packing.unwrap_or_default());
        let format = Some(delivery.format.unwrap_or(recipient.format));
        let delivery = InFlight { packing, format, ..delivery };
        let finished = tokio::select! {
            biased;
            finished = self.exchange(&recipient, &delivery) => finished,
            () = out_of_time(&delivery) => return self.outbox.hand_over(ended(delivery).await).await,
        };
        self.metrics.exchange.observe(finished.took.as_secs_f64());
        let retries = RetryPolicy { schedule: recipient.retry_schedule, timing: self.timing };
        let judgement = judge_events(&delivery, &finished.exchange, retries);
        let EventsJudgement { verdict, named_verdict, .. } = &judgement;
        self.metrics.count_exchange(&finished.exchange, verdict, named_verdict, delivery.attempt);
        if judgement.verdict == Verdict::Delivered && delivery.attempt == 1 {
            let now = Timestamp::now();
            delivery
                .messages
                .iter()
                .for_each(|message| self.metrics.latency.observe(now.since(message.at).as_secs_f64()));
        }
        if let Some(sign) = health_sign(&finished.exchange) {
            recipient.lane.learn(sign, Instant::now());
            let learned = recipient.learn(sign, Timestamp::now());
            self.tell_health(learned, &delivery).await;
        }
        self.conclude(delivery, finished, judgement).await;
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
        let prepared = recipient.route.as_ref().map_err(Clone::clone);
        let prepared = prepared.and_then(|route| Ok((route, WebhookRequest::new(delivery)?)));
        let exchange = match prepared {
            Ok((route, request)) => {
                let limits = ExchangeLimits::new(recipient.timeout, delivery.messages.len());
                self.client.exchange(&route.target, || request.build(route, started_at), limits).await
            }
            Err(reason) => Exchange::Failed(reason),
        };
        FinishedExchange { started_at, took: start.elapsed(), exchange }
    }

    async fn conclude(&self, delivery: InFlight, finished: FinishedExchange, judgement: EventsJudgement) {
        let EventsJudgement { verdict, named, named_verdict } = judgement;
        let (Some(outcome), Some(named_outcome)) = (verdict.outcome(), named_verdict.outcome()) else {
            // The endpoint was not asked, so that there is no attempt to be recorded.
            self.metrics.postponed.inc_by(delivery.messages.len() as u64);
            return self.follow(delivery, verdict).await;
        };
        let answer = match finished.exchange {
            Exchange::Answered(answer) => Some(answer),
            Exchange::Failed(_) | Exchange::Ours(_) => None,
        };
        let error = match &answer {
            Some(EndpointAnswer { status, flaw: Some(flaw), .. }) => {
                Some(format!("the endpoint answered {status}, but {flaw}"))
            }
            _ => verdict.reason().map(ToOwned::to_owned),
        };
        let duration_ms = u32::try_from(finished.took.as_millis()).unwrap_or(u32::MAX);
        let mut entry = delivery.log_entry(finished.started_at, outcome);
        for event in &mut entry.events {
            event.outcome = named.contains(&event.id).then_some(named_outcome);
        }
        let status = answer.as_ref().map(|answer| answer.status);
        let response = answer.and_then(|answer| excerpt(&answer.body));
        self.metrics.count_attempts(outcome, delivery.messages.len() - named.len());
        self.metrics.count_attempts(named_outcome, named.len());
        let entry = Attempt { duration_ms, status, response, error, ..entry };
        if verdict != Verdict::Delivered {
            self.outbox.log_attempt(&entry);
            return self.follow(delivery, verdict).await;
        }
        if let Some(failed) = delivery.only(&named) {
            self.follow(failed, named_verdict).await;
        }
        self.outbox.log_last_attempt(&entry, delivery.claims);
    }

    /// Does what a verdict says with a delivery that was not made.
    async fn follow(&self, delivery: InFlight, verdict: Verdict) {
        if delivery.is_lost() {
            debug!(endpoint = %delivery.endpoint, "delivery left to the partition's new owner, who makes it from its beginning");
            return;
        }
        let now = Timestamp::now();
        let attempt = delivery.attempt;
        match verdict {
            Verdict::Delivered => {}
            Verdict::Retry { after, why } => {
                let (next, due) = (attempt + 1, now.plus(after));
                debug!(endpoint = %delivery.endpoint, event = %delivery.messages.first.event_id, next, %due, why, "delivery failed: retry scheduled");
                self.outbox.delay(delivery, next, due).await;
            }
            Verdict::Postponed { after, why } => {
                let due = now.plus(after);
                debug!(endpoint = %delivery.endpoint, event = %delivery.messages.first.event_id, %due, why, "delivery postponed: its endpoint was not asked");
                self.outbox.delay(delivery, attempt, due).await;
            }
            Verdict::Dead { why } => self.outbox.dead_letter(delivery, &why).await,
        }
    }
}

/// Marks a delivery as begun. While a record of it is being handed over nothing begins: the
/// delivery is returned as an error once it must not begin any more.
async fn begun(mut delivery: InFlight) -> Result<InFlight, InFlight> {
    // Whoever hands partitions over first says so, and then asks what has begun.
    delivery.begin();
    if delivery.tenure() == Tenure::Holding {
        return Ok(delivery);
    }
    Err(ended(delivery).await)
}

/// Waits until a delivery that has just begun is to be given up, because a record of it is being
/// handed over.
async fn out_of_time(delivery: &InFlight) {
    let end = tokio::time::Instant::now() + GRACE;
    delivery.reaches(Tenure::Closing).await;
    tokio::select! {
        () = tokio::time::sleep_until(end) => {}
        () = delivery.reaches(Tenure::Ending) => {}
    }
}

/// Lets a delivery that is given up wait until it is known which of the others were made.
async fn ended(mut delivery: InFlight) -> InFlight {
    delivery.rest();
    delivery.reaches(Tenure::Ending).await;
    delivery.begin();
    delivery
}

/// The decisions about the events of one delivery.
struct EventsJudgement {
    /// The decision about the events that the answer does not name.
    verdict: Verdict,
    /// The events that the answer names as failed.
    named: HashSet<EventId>,
    /// The decision about these.
    named_verdict: Verdict,
}

/// Judges an attempt. An endpoint that takes a batch may name events of it as failed.
fn judge_events(delivery: &InFlight, exchange: &Exchange, retries: RetryPolicy) -> EventsJudgement {
    let verdict = judge(exchange, delivery.attempt, retries, rand::random());
    let named = match (exchange, delivery.packing) {
        (Exchange::Answered(answer), Some(Packing::Batch)) if verdict == Verdict::Delivered => {
            let mut named = named_failures(&answer.body);
            named.retain(|id| delivery.messages.iter().any(|message| message.event_id == *id));
            named
        }
        _ => HashSet::new(),
    };
    if named.is_empty() {
        return EventsJudgement { named_verdict: verdict.clone(), verdict, named };
    }
    let why = format!("the endpoint named {} of {} events as failed", named.len(), delivery.messages.len());
    let named_verdict = failed(why, None, delivery.attempt, retries, rand::random());
    EventsJudgement { verdict, named, named_verdict }
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
