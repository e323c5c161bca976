//! A producer that is made anew when it can never succeed again, as after a broker
//! has lost records that it had acknowledged.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bus::{BusError, Producer};
use parking_lot::RwLock;
use tracing::error;

type Make = dyn Fn() -> Result<Producer, BusError> + Send + Sync;

/// The producer of a part of the process, whichever it is now.
pub(crate) struct RenewedProducer {
    make: Box<Make>,
    current: RwLock<Producer>,
    renewing: AtomicBool,
}

impl RenewedProducer {
    /// The first one that `make` makes.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn new(make: impl Fn() -> Result<Producer, BusError> + Send + Sync + 'static) -> Result<Self, BusError> {
        Ok(Self { current: RwLock::new(make()?), make: Box::new(make), renewing: AtomicBool::new(false) })
    }

    pub(crate) fn current(&self) -> Producer {
        self.current.read().clone()
    }

    /// Takes notice of an error: where no call can succeed after it, another
    /// producer is made. What the old one had is given up, and told so.
    pub(crate) fn failed(self: &Arc<Self>, error: &BusError) {
        if error.is_transient() || self.renewing.swap(true, Ordering::Relaxed) {
            return;
        }
        error!(%error, "a Kafka client can do nothing more and is made anew");
        let client = Arc::clone(self);
        // Not on the old one's own thread, which may run this.
        std::thread::spawn(move || {
            match (client.make)() {
                Ok(producer) => *client.current.write() = producer,
                Err(error) => error!(%error, "it could not be made"),
            }
            client.renewing.store(false, Ordering::Relaxed);
        });
    }
}
