//! A Kafka producer that is replaced when it can never succeed again, as after a broker
//! has lost records that it had acknowledged.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bus::{BusError, Producer};
use parking_lot::RwLock;
use tracing::error;

type Make = dyn Fn() -> Result<Producer, BusError> + Send + Sync;

/// A producer that is replaced after a fatal error.
pub(crate) struct RenewedProducer {
    make: Box<Make>,
    current: RwLock<Producer>,
    renewing: AtomicBool,
}

impl RenewedProducer {
    /// Makes the first producer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(make: impl Fn() -> Result<Producer, BusError> + Send + Sync + 'static) -> Result<Self, BusError> {
        Ok(Self { current: RwLock::new(make()?), make: Box::new(make), renewing: AtomicBool::new(false) })
    }

    /// Returns the producer to use now.
    pub(crate) fn current(&self) -> Producer {
        self.current.read().clone()
    }

    /// Replaces the producer if no call can succeed after `error`. The old one reports
    /// the records that it had as given up.
    pub(crate) fn failed(self: &Arc<Self>, error: &BusError) {
        if error.is_transient() || self.renewing.swap(true, Ordering::Relaxed) {
            return;
        }
        error!(%error, "producer failed for good: it is replaced");
        let client = Arc::clone(self);
        // Not on the old producer's own thread, which may run this.
        std::thread::spawn(move || {
            match (client.make)() {
                Ok(producer) => *client.current.write() = producer,
                Err(error) => error!(%error, "Kafka producer could not be replaced: retried at its next error"),
            }
            client.renewing.store(false, Ordering::Relaxed);
        });
    }
}
