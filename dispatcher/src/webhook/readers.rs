//! The consumers' threads: each polls, hands records over, commits finished offsets,
//! and never waits for anything else. After a transient error a thread rejoins its
//! group with a new consumer.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bus::{Bus, BusError, Consumer, Isolation, Membership, PollWork, Record};
use schemas::ConsumerGroup;
use service::{Health, Part, Shutdown};
use tokio::{
    runtime::Handle,
    sync::{mpsc as async_mpsc, oneshot},
    task::JoinSet,
};
use tracing::{info, warn};

use super::{
    claims::OffsetClaims, deliver::Deliverer, error::Error, handover::PartitionOwner, lane::OwnedPartitions,
    sampling::OwnedDelays,
};
use crate::rejoin::rejoining;

/// The longest wait of a poll, and so the delay until a stop is noticed.
pub(super) const POLL: Duration = Duration::from_millis(250);
/// The time between two commits of offsets.
const COMMIT_EVERY: Duration = Duration::from_millis(500);

/// The handling of a consumer's records. Neither function may block.
pub(super) trait RecordHandler {
    /// Handles a record.
    fn handle(&mut self, record: &Record<'_>, consumer: &Consumer<PartitionOwner>);

    /// Does what is due before a poll. Returns how long the poll may wait.
    fn before_poll(&mut self, consumer: &Consumer<PartitionOwner>) -> Duration;
}

/// The consumers' threads.
pub(super) struct Readers {
    bus: Bus,
    health: Health,
    deliverer: Arc<Deliverer>,
    delays: OwnedDelays,
    stop: Shutdown,
    /// A channel of which each thread holds a sender while it reads.
    reading: (async_mpsc::Sender<()>, async_mpsc::Receiver<()>),
    /// The senders whose end each thread waits for before it hands its partitions over.
    drained: Vec<mpsc::Sender<()>>,
    ends: JoinSet<Result<(), Error>>,
}

/// A group's subscription.
#[derive(Clone, Copy)]
pub(super) struct GroupSubscription {
    pub group: ConsumerGroup,
    pub isolation: Isolation,
}

impl Readers {
    pub(super) fn new(bus: Bus, health: Health, deliverer: Arc<Deliverer>, delays: OwnedDelays) -> Self {
        Self {
            bus,
            health,
            deliverer,
            delays,
            stop: Shutdown::new(),
            reading: async_mpsc::channel(1),
            drained: Vec::new(),
            ends: JoinSet::new(),
        }
    }

    /// Reads a topic as a member of a group, on a thread of the group's name. Each
    /// consumer gets a handler of its own.
    ///
    /// # Errors
    /// When a setting is refused, or the thread cannot be started.
    pub(super) fn start<H: RecordHandler>(
        &mut self,
        subscription: GroupSubscription,
        handler: impl Fn(Arc<OffsetClaims>) -> H + Send + 'static,
    ) -> Result<(), Error> {
        let reader = TopicReader {
            bus: self.bus.clone(),
            subscription,
            part: self.health.part(subscription.group.name()),
            deliverer: Arc::clone(&self.deliverer),
            delays: self.delays.clone(),
            stop: self.stop.clone(),
        };
        // The first consumer is made here, so that a refused setting ends the start.
        let mut first = Some(reader.join()?);
        reader.part.ready();
        let (drained, until_drained) = mpsc::channel();
        let (end_sender, end) = oneshot::channel();
        let runtime = Handle::current();
        let mut reading = Some(self.reading.0.clone());
        thread::Builder::new().name(subscription.group.name().to_owned()).spawn(move || {
            let ended = rejoining(subscription.group.name(), &reader.part, &reader.stop, &runtime, || {
                let membership = match first.take() {
                    Some(membership) => membership,
                    None => reader.join()?,
                };
                reader.read(&membership, &handler)?;
                drop(reading.take());
                // An error means that the other side has hung up. Heartbeats go on
                // meanwhile.
                let _ = until_drained.recv();
                let owner = &membership.owner.0;
                owner.hand_over(&owner.claims.partitions());
                let committed = membership.consumer.commit(&owner.claims.advanced());
                membership.consumer.leave();
                committed
            });
            drop(end_sender.send(ended));
        })?;
        self.drained.push(drained);
        self.ends.spawn(async { Ok(end.await.map_err(|_| Error::Panic)??) });
        Ok(())
    }

    /// Waits until a thread ends with an error.
    pub(super) async fn failed(&mut self) -> Error {
        loop {
            match self.ends.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Ok(Ok(()))) => {}
                Some(Err(_)) | None => return Error::Panic,
            }
        }
    }

    /// Tells the threads to read no more, and waits until they do not.
    pub(super) async fn stop(&mut self) {
        self.stop.trigger();
        let (_, mut reading) = std::mem::replace(&mut self.reading, async_mpsc::channel(1));
        while reading.recv().await.is_some() {}
    }

    /// Lets the threads hand their partitions over, and waits until they have ended.
    ///
    /// # Errors
    /// When a thread ended with an error.
    pub(super) async fn leave(mut self) -> Result<(), Error> {
        self.drained.clear();
        let mut ended = Ok(());
        while let Some(joined) = self.ends.join_next().await {
            ended = ended.and(joined.unwrap_or(Err(Error::Panic)));
        }
        ended
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // However the half ends, no thread reads on without it.
        self.stop.trigger();
    }
}

/// The state of a consumer's thread that outlives each consumer.
struct TopicReader {
    bus: Bus,
    subscription: GroupSubscription,
    part: Part,
    deliverer: Arc<Deliverer>,
    delays: OwnedDelays,
    stop: Shutdown,
}

/// A consumer, and the claims on the offsets that it has read. The consumer is dropped
/// first, because its end commits the finished offsets.
struct GroupMembership {
    consumer: Consumer<PartitionOwner>,
    owner: OwnerUntilEnd,
}

/// An owner whose claims end with the consumer: deliveries that have not begun are left to the
/// partitions' next owner.
struct OwnerUntilEnd(Arc<PartitionOwner>);

impl Drop for OwnerUntilEnd {
    fn drop(&mut self) {
        self.0.claims.release(&self.0.claims.partitions());
    }
}

impl TopicReader {
    fn join(&self) -> Result<GroupMembership, BusError> {
        let GroupSubscription { group, isolation } = self.subscription;
        let owner = Arc::new(PartitionOwner { claims: Arc::default(), deliverer: Arc::clone(&self.deliverer) });
        let consumer =
            self.bus.consumer(group.name(), group.topics(), isolation, Membership::Handover, Arc::clone(&owner))?;
        Ok(GroupMembership { consumer, owner: OwnerUntilEnd(owner) })
    }

    /// Reads until told to stop.
    fn read<H: RecordHandler>(
        &self,
        membership: &GroupMembership,
        handler: &impl Fn(Arc<OffsetClaims>) -> H,
    ) -> Result<(), BusError> {
        let claims = &membership.owner.0.claims;
        let mut work = ReadingWork {
            reader: self,
            handler: handler(Arc::clone(claims)),
            claims: Arc::clone(claims),
            committed: Instant::now(),
            counted: 0,
            joined: false,
        };
        membership.consumer.run(&mut work, || self.stop.is_triggered())
    }
}

/// The work of one consumer: its handler, and the commits of finished claims.
struct ReadingWork<'a, H> {
    reader: &'a TopicReader,
    handler: H,
    claims: Arc<OffsetClaims>,
    /// The time of the last commit.
    committed: Instant,
    /// This consumer's share of the gauge.
    counted: i64,
    /// Whether the group has been joined.
    joined: bool,
}

impl<H: RecordHandler> PollWork<PartitionOwner> for ReadingWork<'_, H> {
    type Error = BusError;

    fn before_poll(&mut self, consumer: &Consumer<PartitionOwner>) -> Result<Duration, BusError> {
        if !self.joined && self.claims.assignments() > 0 {
            self.joined = true;
            self.reader.part.ready();
            info!(group = self.reader.subscription.group.name(), "consumer joined its group");
        }
        if self.committed.elapsed() >= COMMIT_EVERY {
            self.committed = Instant::now();
            self.commit(consumer);
        }
        Ok(self.handler.before_poll(consumer).min(POLL))
    }

    fn record(&mut self, record: &Record<'_>, consumer: &Consumer<PartitionOwner>) -> Result<(), BusError> {
        self.handler.handle(record, consumer);
        Ok(())
    }
}

impl<H> ReadingWork<'_, H> {
    fn commit(&mut self, consumer: &Consumer<PartitionOwner>) {
        if let Err(error) = consumer.commit_later(&self.claims.advanced()) {
            warn!(%error, "offsets not committed: their records may be delivered again after a restart");
        }
        let outstanding = i64::try_from(self.claims.outstanding()).unwrap_or(i64::MAX);
        self.reader.deliverer.metrics.outstanding.inc_by(outstanding - self.counted);
        self.counted = outstanding;
        let TopicReader { bus, subscription: GroupSubscription { group, .. }, deliverer, .. } = self.reader;
        let total = group.topics().iter().map(|topic| usize::from(bus.partitions(*topic))).sum();
        deliverer.endpoints.pool.share.set(*group, OwnedPartitions { owned: self.claims.owned(), total });
        if *group == ConsumerGroup::WebhookDelay {
            self.reader.delays.set(self.claims.next_offsets().into_iter());
        }
    }
}

impl<H> Drop for ReadingWork<'_, H> {
    fn drop(&mut self) {
        self.reader.deliverer.metrics.outstanding.dec_by(self.counted);
    }
}
