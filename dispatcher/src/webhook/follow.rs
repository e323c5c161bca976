//! The consumers' threads: each polls, hands over, commits what is done, and
//! never waits for anything else.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bus::{Bus, BusError, Consumer, Isolation, Membership, PollWork, Record};
use prometheus_client::metrics::gauge::Gauge;
use schemas::Topic;
use service::Shutdown;
use tokio::{
    sync::{mpsc as async_mpsc, oneshot},
    task::JoinSet,
};
use tracing::warn;

use super::{claims::OffsetClaims, error::Error};

/// How long a poll waits at most: how soon a stop is noticed.
pub(super) const POLL: Duration = Duration::from_millis(250);
/// How often offsets are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);

/// What is done with the records of a consumer. Neither call may block.
pub(super) trait Intake: Send + 'static {
    /// A record was read.
    fn take(&mut self, record: &Record<'_>, consumer: &Consumer<OffsetClaims>);

    /// Does what is due, and says how long nothing else will be.
    fn tick(&mut self, consumer: &Consumer<OffsetClaims>) -> Duration;
}

/// The consumers that are being followed.
pub(super) struct Readers {
    bus: Bus,
    outstanding: Gauge,
    stop: Shutdown,
    /// Each thread holds a sender while it reads.
    reading: (async_mpsc::Sender<()>, async_mpsc::Receiver<()>),
    /// Each thread waits for its receiver to hang up before it commits and ends.
    drained: Vec<mpsc::Sender<()>>,
    ends: JoinSet<Result<(), Error>>,
}

impl Readers {
    pub(super) fn new(bus: Bus, outstanding: Gauge) -> Self {
        Self {
            bus,
            outstanding,
            stop: Shutdown::new(),
            reading: async_mpsc::channel(1),
            drained: Vec::new(),
            ends: JoinSet::new(),
        }
    }

    /// Follows `topic` as a member of `group`, on a thread of that name.
    pub(super) fn start<I: Intake>(
        &mut self,
        group: &'static str,
        topic: Topic,
        isolation: Isolation,
        intake: impl FnOnce(Arc<OffsetClaims>) -> I,
    ) -> Result<(), Error> {
        let claims = Arc::new(OffsetClaims::default());
        let consumer = self.bus.consumer(group, &[topic], isolation, Membership::Static, Arc::clone(&claims))?;
        let intake = intake(Arc::clone(&claims));
        let (drained, wait) = mpsc::channel();
        let (tell, told) = oneshot::channel();
        let (stop, reading) = (self.stop.clone(), self.reading.0.clone());
        let mut follower =
            Follower { intake, claims, committed: Instant::now(), outstanding: self.outstanding.clone(), counted: 0 };
        thread::Builder::new().name(group.to_owned()).spawn(move || {
            let followed = consumer.run(&mut follower, || stop.is_triggered());
            drop(reading);
            let ended = followed.and_then(|()| {
                // Heartbeats go on meanwhile. An error is the other side's hanging up.
                let _ = wait.recv();
                consumer.commit(&follower.claims.advanced())
            });
            drop(tell.send(ended));
        })?;
        self.drained.push(drained);
        self.ends.spawn(async { Ok(told.await.map_err(|_| Error::Panic)??) });
        Ok(())
    }

    /// Waits until a thread ends although nobody told it to.
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

    /// Lets the threads commit what is done, and waits until they have ended.
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
        // However we end, no thread reads on behind our back.
        self.stop.trigger();
    }
}

/// The work of a consumer's thread: an intake, and the commits of finished claims.
struct Follower<I> {
    intake: I,
    claims: Arc<OffsetClaims>,
    /// When offsets were committed last.
    committed: Instant,
    /// The number of open claims, over all consumers.
    outstanding: Gauge,
    /// This consumer's share of the gauge.
    counted: i64,
}

impl<I: Intake> PollWork<OffsetClaims> for Follower<I> {
    type Error = BusError;

    fn before_poll(&mut self, consumer: &Consumer<OffsetClaims>) -> Result<Duration, BusError> {
        if self.committed.elapsed() >= COMMIT_EVERY {
            self.committed = Instant::now();
            self.commit(consumer);
        }
        Ok(self.intake.tick(consumer).min(POLL))
    }

    fn record(&mut self, record: &Record<'_>, consumer: &Consumer<OffsetClaims>) -> Result<(), BusError> {
        self.intake.take(record, consumer);
        Ok(())
    }
}

impl<I> Follower<I> {
    fn commit(&mut self, consumer: &Consumer<OffsetClaims>) {
        if let Err(error) = consumer.commit_later(&self.claims.advanced()) {
            warn!(%error, "offsets not committed: their records may be delivered again after a restart");
        }
        let outstanding = i64::try_from(self.claims.outstanding()).unwrap_or(i64::MAX);
        self.outstanding.inc_by(outstanding - self.counted);
        self.counted = outstanding;
    }
}
