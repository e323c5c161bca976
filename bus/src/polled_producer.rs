//! A librdkafka producer with a thread that serves its events. The thread that
//! rdkafka offers wakes ten times a second and busy-waits the last millisecond of
//! each poll: 0.75 % of a core for every idle producer.

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
    ClientConfig, bindings as ffi,
    producer::{BaseProducer, Producer as _, ProducerContext, PurgeConfig},
};

use crate::{BusError, config::Alive};

/// How long the thread waits for an event; an event wakes it at once. The extra
/// 50 µs spare the busy-waiting of a last fraction of a millisecond.
const WAIT: Duration = Duration::from_micros(1_000_050);

/// A producer with its thread. When it is dropped, unsent records are given up at
/// once, and the client is gone within [`WAIT`].
pub(crate) struct PolledProducer<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> PolledProducer<C> {
    pub(crate) fn new(config: &ClientConfig, context: C, alive: Alive) -> Result<Self, BusError> {
        let producer: BaseProducer<C> =
            config.create_with_context(context).map_err(BusError::new("make a producer"))?;
        let producer = Arc::new(producer);
        let stop = Arc::<AtomicBool>::default();
        let polled = Arc::clone(&producer);
        let stopped = Arc::clone(&stop);
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
            .map_err(|source| BusError::Thread { what: "serve a producer", source })?;
        Ok(Self { producer, stop })
    }

    /// Sends what waits to be sent with more, and waits until everything is acknowledged or
    /// given up, at most `patience`. Blocks.
    #[allow(unsafe_code, reason = "rdkafka's own flush ends before librdkafka's threads see that it has begun")]
    pub(crate) fn hurry(&self, patience: Duration) {
        let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the producer owns the pointer, and outlives the call.
        unsafe { ffi::rd_kafka_flush(self.producer.client().native_ptr(), millis) };
    }
}

impl<C: ProducerContext + 'static> Deref for PolledProducer<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for PolledProducer<C> {
    fn drop(&mut self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        self.stop.store(true, Ordering::Relaxed);
    }
}
