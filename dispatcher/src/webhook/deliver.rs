//! Admission: a delivery that was read is given to its endpoint's lane, and where
//! the lane has no room, to the delay topic. Workers attempt what a lane lets
//! begin. Nothing here waits on a consumer's thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use schemas::Timestamp;
use service::Shutdown;
use tokio::runtime::Handle;
use tracing::warn;

use super::{
    attempt::Attempts,
    claims::OffsetClaim,
    config::Config,
    delivery::{InFlight, SourceRecord},
    endpoints::{Endpoints, Recipient},
    lane::{Lane, Next, Offer},
    metrics::WebhookMetrics,
    outbox::WebhookOutbox,
    outcome::jittered,
};

/// Deliveries that may be on their way to the delay topic at once before the
/// consumers pause.
const MAX_SPILLING: usize = 10_000;

/// Delivers what the consumers read.
pub(super) struct Deliverer {
    pub config: Config,
    pub endpoints: Arc<Endpoints>,
    pub outbox: Arc<WebhookOutbox>,
    attempts: Attempts,
    metrics: WebhookMetrics,
    runtime: Handle,
    /// The tasks that are running.
    tasks: AtomicUsize,
    /// The deliveries on their way to the delay topic without an attempt.
    spilling: AtomicUsize,
    /// Triggered when what still waits in lanes is left to the next process.
    closing: Shutdown,
}

impl Deliverer {
    /// # Errors
    /// When the TLS library lacks what it was built with.
    pub(super) fn new(
        config: Config,
        endpoints: Arc<Endpoints>,
        outbox: Arc<WebhookOutbox>,
        metrics: WebhookMetrics,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            attempts: Attempts::new(&config, Arc::clone(&endpoints), Arc::clone(&outbox), metrics.clone())?,
            config,
            endpoints,
            outbox,
            metrics,
            runtime: Handle::current(),
            tasks: AtomicUsize::new(0),
            spilling: AtomicUsize::new(0),
            closing: Shutdown::new(),
        })
    }

    /// Gives a delivery to its endpoint's lane, or where the lane is full, to the
    /// delay topic. Never waits.
    pub(super) fn offer(self: &Arc<Self>, recipient: &Recipient, delivery: InFlight) {
        match recipient.lane.offer(delivery, Instant::now()) {
            Offer::Start(next) => {
                let this = Arc::clone(self);
                let lane = Arc::clone(&recipient.lane);
                self.spawn(async move { this.work(&lane, next).await });
            }
            Offer::Queued => {}
            Offer::Full { item, retry_after } => {
                self.metrics.spilled.inc();
                self.spawn_delay(item, Timestamp::now().plus(jittered(retry_after, rand::random())));
            }
        }
    }

    /// Writes a delivery to the delay topic, its attempts as they are. Never waits.
    pub(super) fn spawn_delay(self: &Arc<Self>, delivery: InFlight, due: Timestamp) {
        let this = Arc::clone(self);
        self.spilling.fetch_add(1, Ordering::Relaxed);
        self.spawn(async move {
            let attempt = delivery.attempt;
            this.outbox.delay(delivery, attempt, due).await;
            this.spilling.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Writes a record that cannot be read to `dead`. Never waits.
    pub(super) fn spawn_dead_letter(
        self: &Arc<Self>,
        payload: &[u8],
        reason: String,
        source: SourceRecord,
        claim: OffsetClaim,
    ) {
        let this = Arc::clone(self);
        let payload = String::from_utf8_lossy(payload).into_owned();
        self.spawn(async move { this.outbox.dead_letter_record(&payload, reason, source, claim).await });
    }

    /// Records that a delivery is not made. Never waits.
    pub(super) fn spawn_skip(self: &Arc<Self>, delivery: InFlight, why: &'static str) {
        let this = Arc::clone(self);
        self.spawn(async move { this.outbox.skip(delivery, why).await });
    }

    /// Reports whether Kafka takes spilled deliveries more slowly than they come.
    pub(super) fn is_backlogged(&self) -> bool {
        self.spilling.load(Ordering::Relaxed) > MAX_SPILLING
    }

    /// Waits until no task runs, at most `grace`. After half of it, deliveries that
    /// still wait in lanes go to the delay topic.
    pub(super) async fn drain(&self, grace: Duration) {
        let start = Instant::now();
        while self.tasks.load(Ordering::Acquire) > 0 && start.elapsed() < grace {
            if start.elapsed() > grace / 2 {
                self.closing.trigger();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left = self.tasks.load(Ordering::Acquire);
        if left > 0 {
            warn!(left, "drain timed out: unfinished deliveries are made again after the restart");
        }
    }

    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let task = RunningTask::begin(Arc::clone(self));
        self.runtime.spawn(async move {
            work.await;
            drop(task);
        });
    }

    /// Works on one in-flight slot of a lane until the lane has nothing more for it.
    async fn work(&self, lane: &Lane<InFlight>, mut next: Next<InFlight>) {
        loop {
            match next {
                Next::Begin(delivery) if self.closing.is_triggered() => {
                    let attempt = delivery.attempt;
                    self.outbox.delay(delivery, attempt, Timestamp::now()).await;
                }
                Next::Begin(delivery) => self.attempts.attempt(delivery).await,
                Next::At(start) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(start.into()) => {}
                        () = self.closing.wait() => {}
                    }
                }
                Next::Idle => return,
            }
            let now = Instant::now();
            next = if self.closing.is_triggered() { lane.evict(now) } else { lane.next(now) };
        }
    }
}

/// A running task, counted until it ends in whatever way.
struct RunningTask(Arc<Deliverer>);

impl RunningTask {
    fn begin(deliverer: Arc<Deliverer>) -> Self {
        deliverer.tasks.fetch_add(1, Ordering::AcqRel);
        Self(deliverer)
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::AcqRel);
    }
}
