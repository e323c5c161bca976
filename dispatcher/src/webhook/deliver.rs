//! Delivering: an offer goes to its endpoint's lane, out of the lane into an
//! exchange, and from what came of it to the record that says so. Only then is
//! its claim settled. Nothing that is offered is waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bus::BusError;
use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use schemas::{
    Attempt, AttemptId, Delivery, EndpointId, EndpointStatus, EventId, EventName, Outcome, Timestamp, WorkspaceId,
};
use tokio::runtime::Handle;
use tracing::{debug, error, warn};

use super::{
    claims::Claim,
    client::Client,
    config::Config,
    endpoints::{Endpoints, Route, Target},
    lane::{Lane, Limits, Offered},
    metrics::Numbers,
    outbox::{Outbox, Place},
    outcome::{Exchange, Verdict, jittered, judge},
    sign::{ATTEMPT, EVENT, ID, SIGNATURE, SIMPLE_SIGNATURE, TIMESTAMP},
};

/// What is sent: the same for every endpoint that gets it, and for every retry.
pub(super) struct Message {
    pub workspace: WorkspaceId,
    pub event_id: EventId,
    pub event: EventName,
    /// When it happened.
    pub at: Timestamp,
    pub body: Bytes,
    pub traceparent: Option<String>,
    /// The record that it was read from.
    pub place: Place,
}

/// A delivery on its way, with its claim on an offset.
pub(super) struct Pending {
    pub message: Arc<Message>,
    pub endpoint: EndpointId,
    /// Which attempt comes next, from 1.
    pub attempt: u32,
    pub claim: Claim,
}

impl Pending {
    fn delivery(&self, attempt: u32, due: Timestamp) -> Delivery {
        let message = &self.message;
        Delivery {
            v: 1,
            endpoint: self.endpoint,
            workspace: message.workspace.clone(),
            event_id: message.event_id,
            event: message.event,
            attempt,
            due,
            // It was text when it was read.
            body: String::from_utf8_lossy(&message.body).into_owned(),
            traceparent: message.traceparent.clone(),
        }
    }
}

/// Delivers what the consumers read.
pub(super) struct Deliverer {
    pub config: Config,
    pub endpoints: Arc<Endpoints>,
    pub outbox: Outbox,
    pub numbers: Numbers,
    client: Client,
    runtime: Handle,
    /// Deliveries that wait in lanes.
    queued: AtomicUsize,
    /// Tasks that are under way.
    tasks: AtomicUsize,
    /// Deliveries on their way to the delay topic, unasked.
    spilling: AtomicUsize,
    /// Whether what still waits in lanes is left to the next process.
    closing: AtomicBool,
}

/// How many deliveries may be on their way to the delay topic at once before the
/// consumers rest.
const MAX_SPILLING: usize = 10_000;

impl Deliverer {
    pub(super) fn new(
        config: Config,
        endpoints: Arc<Endpoints>,
        outbox: Outbox,
        numbers: Numbers,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            client: Client::new(&config)?,
            config,
            endpoints,
            outbox,
            numbers,
            runtime: Handle::current(),
            queued: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            spilling: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        })
    }

    /// Takes a delivery to `target`: into its lane, or where there is no room, to
    /// the delay topic. Never waits.
    pub(super) fn offer(self: &Arc<Self>, target: &Target, pending: Pending) {
        let free = self.config.max_queued.saturating_sub(self.queued.load(Ordering::Relaxed));
        let limits = Limits {
            in_flight: self.config.max_in_flight,
            queue: self.config.lane_queue,
            // However quick, one leaves room for others.
            most: if free == 0 { 0 } else { (free / 2).max(self.config.lane_queue) },
        };
        match target.lane.offer(pending, limits, self.config.retry_delay(), Instant::now()) {
            Offered::Begin(pending) => {
                let (this, lane) = (Arc::clone(self), Arc::clone(&target.lane));
                self.spawn(async move { this.work(&lane, pending).await });
            }
            Offered::Waits => {
                self.queued.fetch_add(1, Ordering::Relaxed);
            }
            Offered::Full(pending, after) => {
                self.numbers.spilled.inc();
                self.postpone(pending, Timestamp::now().plus(jittered(after, rand::random())));
            }
        }
    }

    /// Puts a delivery on the delay topic with its attempts as they are. Never waits.
    pub(super) fn postpone(self: &Arc<Self>, pending: Pending, due: Timestamp) {
        let this = Arc::clone(self);
        self.spilling.fetch_add(1, Ordering::Relaxed);
        self.spawn(async move {
            this.put_off(pending, due).await;
            this.spilling.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Gives up a record that cannot be read. Never waits.
    pub(super) fn bury_record(self: &Arc<Self>, payload: &[u8], reason: String, place: Place, claim: Claim) {
        warn!(partition = %place.partition, offset = place.offset, reason, "a record cannot be read: it goes to `dead`");
        self.numbers.dead.inc();
        let (this, payload) = (Arc::clone(self), String::from_utf8_lossy(payload).into_owned());
        self.spawn(async move {
            let buried = this.outbox.bury_record(&payload, reason, place).await;
            settle(claim, buried, "a record that cannot be read");
        });
    }

    /// Records that a delivery is not made. Never waits.
    pub(super) fn skip(self: &Arc<Self>, pending: Pending, why: &'static str) {
        let this = Arc::clone(self);
        self.spawn(async move { this.record_skipped(pending, why).await });
    }

    /// Whether Kafka takes deliveries that are put off more slowly than they come.
    pub(super) fn is_swamped(&self) -> bool {
        self.spilling.load(Ordering::Relaxed) > MAX_SPILLING
    }

    /// Waits until nothing is under way, at most `grace`; what still waits in
    /// lanes after half of it goes to the delay topic.
    pub(super) async fn drain(&self, grace: Duration) {
        let start = Instant::now();
        while self.tasks.load(Ordering::Acquire) > 0 && start.elapsed() < grace {
            if start.elapsed() > grace / 2 {
                self.closing.store(true, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left = self.tasks.load(Ordering::Acquire);
        if left > 0 {
            warn!(left, "deliveries were still under way at the end of the grace period: they are made again");
        }
    }

    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let task = Task::begin(Arc::clone(self));
        self.runtime.spawn(async move {
            work.await;
            drop(task);
        });
    }

    async fn work(&self, lane: &Lane<Pending>, first: Pending) {
        let mut next = Some(first);
        while let Some(pending) = next {
            if self.closing.load(Ordering::Relaxed) {
                self.put_off(pending, Timestamp::now()).await;
            } else {
                self.attempt(pending).await;
            }
            next = lane.next(Instant::now());
            if next.is_some() {
                self.queued.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    async fn attempt(&self, pending: Pending) {
        if !pending.claim.holds() {
            debug!(endpoint = %pending.endpoint, "a delivery's partition is another member's now: it is made there");
            return;
        }
        // The endpoint as it is now: it may have changed while this waited.
        let Some(target) = self.endpoints.get(pending.endpoint) else {
            return self.record_skipped(pending, GONE).await;
        };
        if let Some(why) = unwanted(target.status) {
            return self.record_skipped(pending, why).await;
        }
        let (at, start) = (Timestamp::now(), Instant::now());
        let exchange = match &target.route {
            Ok(route) => match request(route, &pending, at) {
                Ok(request) => self.client.exchange(request, target.timeout).await,
                Err(error) => Exchange::Failed(format!("no request can be made: {error}")),
            },
            Err(reason) => Exchange::Failed(reason.clone()),
        };
        let took = start.elapsed();
        self.numbers.exchange.observe(took.as_secs_f64());
        let verdict = judge(&exchange, pending.attempt, &self.config, rand::random());
        if verdict == Verdict::Delivered && pending.attempt == 1 {
            self.numbers.latency.observe(Timestamp::now().since(pending.message.at).as_secs_f64());
        }
        self.conclude(pending, at, took, exchange, verdict).await;
    }

    async fn conclude(&self, pending: Pending, at: Timestamp, took: Duration, exchange: Exchange, verdict: Verdict) {
        let (outcome, error) = match &verdict {
            Verdict::Delivered => (Outcome::Delivered, None),
            Verdict::Retry { why, .. } => (Outcome::Retrying, Some(why.clone())),
            Verdict::Dead { why } => (Outcome::Dead, Some(why.clone())),
        };
        let (status, response) = match exchange {
            Exchange::Answered { status, excerpt, .. } => (Some(status), excerpt),
            Exchange::Failed(_) => (None, None),
        };
        let duration_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let attempt = Attempt { duration_ms, status, response, error, ..blank(&pending, at, outcome) };
        self.numbers.attempt(outcome);
        self.outbox.note(&attempt, &self.numbers.unrecorded).await;
        match verdict {
            Verdict::Delivered => pending.claim.settle(),
            Verdict::Retry { after, why } => {
                debug!(endpoint = %pending.endpoint, attempt = pending.attempt, why, "a delivery failed and is tried again");
                let delivery = pending.delivery(pending.attempt + 1, Timestamp::now().plus(after));
                self.put(pending, delivery).await;
            }
            Verdict::Dead { why } => self.bury(pending, why).await,
        }
    }

    async fn put_off(&self, pending: Pending, due: Timestamp) {
        let delivery = pending.delivery(pending.attempt, due);
        self.put(pending, delivery).await;
    }

    async fn put(&self, pending: Pending, delivery: Delivery) {
        match self.outbox.delay(&delivery).await {
            Ok(()) => pending.claim.settle(),
            // Kafka never takes it, as when it is too large.
            Err(error) => self.bury(pending, format!("Kafka does not keep it for a retry: {error}")).await,
        }
    }

    async fn bury(&self, pending: Pending, why: String) {
        warn!(endpoint = %pending.endpoint, event = %pending.message.event_id, why, "a delivery is given up: it goes to `dead`");
        self.numbers.dead.inc();
        let delivery = pending.delivery(pending.attempt, Timestamp::now());
        let buried = self.outbox.bury(delivery, why, pending.message.place).await;
        settle(pending.claim, buried, "a delivery that was given up");
    }

    async fn record_skipped(&self, pending: Pending, why: &'static str) {
        self.numbers.attempt(Outcome::Skipped);
        let skipped = Attempt { error: Some(why.to_owned()), ..blank(&pending, Timestamp::now(), Outcome::Skipped) };
        let recorded = self.outbox.record(&skipped).await;
        settle(pending.claim, recorded, "a delivery that was skipped");
    }
}

/// A task that is under way, counted until it ends in whatever way.
struct Task(Arc<Deliverer>);

impl Task {
    fn begin(deliverer: Arc<Deliverer>) -> Self {
        deliverer.tasks.fetch_add(1, Ordering::AcqRel);
        Self(deliverer)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a delivery to an endpoint that is not, or is no more, is skipped.
pub(super) const GONE: &str = "there is no such endpoint";

/// Why an endpoint in this state gets nothing, if it does not.
pub(super) const fn unwanted(status: EndpointStatus) -> Option<&'static str> {
    match status {
        EndpointStatus::Active => None,
        EndpointStatus::Paused => Some("the endpoint is paused"),
        EndpointStatus::Disabled => Some("the endpoint is disabled"),
    }
}

fn settle(claim: Claim, recorded: Result<(), BusError>, what: &'static str) {
    match recorded {
        Ok(()) => claim.settle(),
        // Unsettled, it holds its offset back, and is read again after a restart.
        Err(error) => error!(%error, what, "Kafka does not take the record: its offset is not committed"),
    }
}

fn blank(pending: &Pending, at: Timestamp, outcome: Outcome) -> Attempt {
    Attempt {
        v: 1,
        id: AttemptId::mint(),
        endpoint: pending.endpoint,
        workspace: pending.message.workspace.clone(),
        event_id: pending.message.event_id,
        event: pending.message.event,
        attempt: pending.attempt,
        at,
        duration_ms: 0,
        outcome,
        status: None,
        error: None,
        response: None,
    }
}

/// The request of an attempt at `at`: the body's exact bytes, signed.
fn request(route: &Route, pending: &Pending, at: Timestamp) -> Result<Request<Full<Bytes>>, http::Error> {
    let message = &pending.message;
    let id = message.event_id.to_string();
    let mut request = Request::builder().method(Method::POST).uri(route.uri.clone());
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
        set(ATTEMPT, pending.attempt.to_string())?;
        headers.insert(EVENT, HeaderValue::from_static(message.event.as_str()));
        // Someone else's text: what is no header is left out.
        if let Some(trace) = message.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert("traceparent", trace);
        }
    }
    request.body(Full::new(message.body.clone()))
}
