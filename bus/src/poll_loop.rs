//! The loop of a thread that owns a consumer.

use std::time::Duration;

use crate::{Assignments, BusError, Consumer, Record};

/// The work of a thread that owns a consumer, called by [`Consumer::run`]. Neither
/// function may block for long, because heartbeats and rebalances need the poll.
pub trait PollWork<A: Assignments> {
    /// Why the work cannot go on.
    type Error: From<BusError>;

    /// Does what is due before a poll. Returns how long the poll may wait.
    ///
    /// # Errors
    /// When the work cannot go on, which ends the loop.
    fn before_poll(&mut self, consumer: &Consumer<A>) -> Result<Duration, Self::Error>;

    /// Takes a record. A poll that ran a rebalance returns no record, so the
    /// partition was assigned, at the latest, before the last `before_poll`.
    ///
    /// # Errors
    /// When the work cannot go on, which ends the loop.
    fn record(&mut self, record: &Record<'_>, consumer: &Consumer<A>) -> Result<(), Self::Error>;
}

impl<A: Assignments> Consumer<A> {
    /// Polls and hands over records until `stopped` returns true.
    ///
    /// # Errors
    /// When reading on could lose records, or the work cannot go on.
    pub fn run<W: PollWork<A>>(&self, work: &mut W, stopped: impl Fn() -> bool) -> Result<(), W::Error> {
        while !stopped() {
            let wait = work.before_poll(self)?;
            if let Some(record) = self.poll(wait)? {
                work.record(&record, self)?;
            }
        }
        Ok(())
    }
}
