//! A client producer whose events are served on a thread of its own. rdkafka's
//! own such thread wakes ten times a second and spins for the last millisecond
//! of each, 0.75 % of a core for each producer that has nothing to do.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    error::KafkaError,
    producer::{BaseProducer, Producer as _, ProducerContext, PurgeConfig},
};

use crate::{BusError, config::Alive};

/// How long the thread waits for an event; one that comes wakes it at once. Not
/// whole milliseconds: what is left below one would be spun away.
const WAIT: Duration = Duration::from_micros(1_000_050);

/// A producer with its thread. Dropped, what it has not sent is given up at once,
/// and the client is gone within [`WAIT`].
pub(crate) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    pub(crate) fn new(config: &ClientConfig, context: C, alive: Alive) -> Result<Self, BusError> {
        let what = "make a producer";
        let producer: BaseProducer<C> = config.create_with_context(context).map_err(BusError::new(what))?;
        let (producer, stop) = (Arc::new(producer), Arc::<AtomicBool>::default());
        let (polled, stopped) = (Arc::clone(&producer), Arc::clone(&stop));
        let serve = move || {
            while !stopped.load(Ordering::Relaxed) {
                polled.poll(WAIT);
            }
            drop(polled);
            drop(alive);
        };
        thread::Builder::new()
            .name("producer".to_owned())
            .spawn(serve)
            .map_err(|error| BusError::Kafka { what, source: KafkaError::ClientCreation(error.to_string()) })?;
        Ok(Self { producer, stop })
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        self.stop.store(true, Ordering::Relaxed);
    }
}
