//! Admission: a delivery that was read is given to its endpoint's lane, and where
//! the lane has no room, to a delay topic. Workers attempt what a lane lets
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

use super::{
    attempt::Attempts,
    claims::{OffsetClaim, Tenure},
    config::Config,
    delivery::{InFlight, SourceRecord},
    endpoints::{Endpoints, Readiness, Recipient},
    error::Error,
    exchange::InUse,
    lane::{Departure, Offer},
    metrics::WebhookMetrics,
    outbox::WebhookOutbox,
    retry::jittered,
    worker::work,
};

/// Records that may be on their way to Kafka at once, without an exchange before them,
/// until the consumers pause.
const MAX_WRITES: usize = 10_000;

/// Delivers what the consumers read.
pub(super) struct Deliverer {
    pub config: Config,
    pub endpoints: Arc<Endpoints>,
    pub outbox: Arc<WebhookOutbox>,
    pub metrics: WebhookMetrics,
    attempts: Attempts,
    runtime: Handle,
    /// The tasks that are running.
    tasks: Arc<AtomicUsize>,
    /// The tasks that write a record without an exchange before it: spilled and
    /// dead-lettered deliveries.
    writes: Arc<AtomicUsize>,
    /// Triggered when nothing more is read: batches are not waited for any longer.
    end: Shutdown,
}

impl Deliverer {
    /// # Errors
    /// When endpoints cannot be reached as the configuration says.
    pub(super) fn new(
        config: Config,
        endpoints: Arc<Endpoints>,
        outbox: Arc<WebhookOutbox>,
        metrics: WebhookMetrics,
    ) -> Result<Self, Error> {
        Ok(Self {
            attempts: Attempts::new(&config, Arc::clone(&endpoints), Arc::clone(&outbox), metrics.clone())?,
            config,
            endpoints,
            outbox,
            metrics,
            runtime: Handle::current(),
            tasks: Arc::default(),
            writes: Arc::default(),
            end: Shutdown::new(),
        })
    }

    /// Takes a delivery to an endpoint that is known: it is offered to the lane, or held or
    /// skipped as the endpoint's state says. Never waits.
    pub(super) fn accept(self: &Arc<Self>, recipient: &Recipient, delivery: InFlight) {
        match recipient.readiness() {
            Readiness::Ready => self.offer(recipient, InFlight { held_since: None, ..delivery }),
            Readiness::Paused => {
                let outbox = Arc::clone(&self.outbox);
                let mut delivery = delivery;
                delivery.begin();
                self.spawn_write(async move { outbox.hold(delivery).await });
            }
            Readiness::Gone(why) => self.outbox.skip(delivery, why),
        }
    }

    /// Gives a delivery to its endpoint's lane, or where the lane is full, to the
    /// delay topics. Never waits.
    fn offer(self: &Arc<Self>, recipient: &Recipient, delivery: InFlight) {
        match recipient.lane.offer(delivery, Instant::now()) {
            Offer::Start(next) => {
                let this = Arc::clone(self);
                let lane = Arc::clone(&recipient.lane);
                self.spawn(async move {
                    let spill = |departure, retry_after| this.spill_departure(departure, retry_after);
                    work(&lane, next, &this.end, |departure| this.deliver(departure), spill).await;
                });
            }
            Offer::Queued => {}
            Offer::Full { item, retry_after } => self.spill(item, retry_after),
        }
    }

    fn spill_departure(&self, departure: Departure<InFlight>, retry_after: Duration) {
        if let Some(delivery) = delivery_of(departure) {
            self.spill(delivery, retry_after);
        }
    }

    fn spill(&self, delivery: InFlight, retry_after: Duration) {
        self.metrics.spilled.inc_by(delivery.messages.len() as u64);
        self.spawn_delay(delivery, Timestamp::now().plus(jittered(retry_after, rand::random())));
    }

    /// Writes a delivery to a delay topic, its attempts as they are. Never waits.
    pub(super) fn spawn_delay(&self, mut delivery: InFlight, due: Timestamp) {
        delivery.begin();
        let outbox = Arc::clone(&self.outbox);
        self.spawn_write(async move {
            let attempt = delivery.attempt;
            outbox.delay(delivery, attempt, due).await;
        });
    }

    /// Writes a record that cannot be read to `dead`. Never waits.
    pub(super) fn spawn_dead_letter(
        &self,
        payload: &[u8],
        reason: String,
        source: SourceRecord,
        mut claim: OffsetClaim,
    ) {
        claim.begin();
        let outbox = Arc::clone(&self.outbox);
        let payload = String::from_utf8_lossy(payload).into_owned();
        self.spawn_write(async move { outbox.dead_letter_record(&payload, reason, source, claim).await });
    }

    /// Reports whether Kafka takes records more slowly than they come, or lanes are full
    /// whose endpoints are not slow, so that the consumers must pause.
    pub(super) fn is_backlogged(&self) -> bool {
        self.waits_for_kafka() || self.endpoints.pool.pauses_reading(Instant::now())
    }

    /// Reports whether Kafka takes records more slowly than they come.
    pub(super) fn waits_for_kafka(&self) -> bool {
        self.writes.load(Ordering::Relaxed) > MAX_WRITES
    }

    /// Returns the exchanges and connections that are in use.
    pub(super) fn in_use(&self) -> InUse {
        self.attempts.in_use()
    }

    /// Waits until no task runs, at most `patience`. Batches go at once.
    pub(super) async fn drain(&self, patience: Duration) {
        let start = Instant::now();
        self.end.trigger();
        while self.tasks.load(Ordering::Acquire) > 0 && start.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes the deliveries that wait in lanes and whose partitions are being handed over, and
    /// hands them over, too. Never waits.
    pub(super) fn withdraw(&self) {
        let mut withdrawn = Vec::new();
        self.endpoints.for_each(|recipient| {
            withdrawn.extend(recipient.lane.withdraw(|delivery| delivery.tenure() >= Tenure::Ending));
        });
        for mut delivery in withdrawn {
            delivery.begin();
            let outbox = Arc::clone(&self.outbox);
            self.spawn(async move { outbox.hand_over(delivery).await });
        }
    }

    async fn deliver(&self, departure: Departure<InFlight>) {
        if let Some(delivery) = delivery_of(departure) {
            self.attempts.attempt(delivery).await;
        }
    }

    fn spawn_write(&self, write: impl Future<Output = ()> + Send + 'static) {
        let counted = CountedTask::begin(&self.writes);
        self.spawn(async move {
            write.await;
            drop(counted);
        });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let counted = CountedTask::begin(&self.tasks);
        self.runtime.spawn(async move {
            work.await;
            drop(counted);
        });
    }
}

/// Returns the delivery that departs; none where a batch is other members' by now.
fn delivery_of(departure: Departure<InFlight>) -> Option<InFlight> {
    match departure {
        Departure::Single(delivery) => Some(delivery),
        Departure::Batch(deliveries) => InFlight::batch(deliveries),
    }
}

/// A running task, counted until it ends in whatever way.
struct CountedTask(Arc<AtomicUsize>);

impl CountedTask {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for CountedTask {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
