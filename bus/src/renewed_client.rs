//! A producer's client that is replaced once it has failed for good. An idempotent
//! client does so when a broker has lost records that it had acknowledged; from
//! then on it refuses every record.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::RwLock;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::DeliveryResult,
    producer::{Producer as _, ProducerContext},
    types::RDKafkaErrorCode,
};
use tracing::{debug, error, info, warn};

use crate::{Acked, Bus, BusError, client_errors, polled_producer::PolledProducer};

/// The work of producers, as errors name it.
pub(crate) const PRODUCE: &str = "produce";
/// The pause after a client could not be made.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

/// A caller's callback. It runs on the client's thread and must not block.
pub(crate) struct Callback(pub(crate) Box<dyn FnOnce(Acked) + Send + Sync>);

/// The context of one client.
pub(crate) struct AckContext {
    /// Whether this client has failed for good: its records are being given up.
    failed: AtomicBool,
    renewed: Weak<RenewedClient>,
}

impl AckContext {
    fn fail(&self, reason: &str) {
        if !self.failed.swap(true, Ordering::Relaxed)
            && let Some(renewed) = self.renewed.upgrade()
        {
            renewed.renew(reason);
        }
    }
}

impl ClientContext for AckContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn log(&self, level: RDKafkaLogLevel, kind: &str, message: &str) {
        client_errors::log(level, kind, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Kafka client");
        if is_fatal(&error) {
            self.fail(reason);
        }
    }
}

impl ProducerContext for AckContext {
    type DeliveryOpaque = Box<Callback>;

    fn delivery(&self, result: &DeliveryResult<'_>, callback: Box<Callback>) {
        callback.0(match result {
            Ok(message) => {
                use rdkafka::Message as _;
                Ok((message.partition(), message.offset()))
            }
            Err((error, _)) => {
                if is_fatal(error) {
                    self.fail(&error.to_string());
                }
                if self.failed.load(Ordering::Relaxed) {
                    Err(BusError::ClientFailed { what: PRODUCE, detail: error.to_string() })
                } else {
                    Err(BusError::new(PRODUCE)(error.clone()))
                }
            }
        });
    }
}

fn is_fatal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
}

/// The client of a [`Producer`](crate::Producer), whichever it is now.
pub(crate) struct RenewedClient {
    config: ClientConfig,
    bus: Bus,
    /// `None` only until the first client is made.
    current: RwLock<Option<Arc<PolledProducer<AckContext>>>>,
}

impl RenewedClient {
    pub(crate) fn new(config: ClientConfig, bus: &Bus) -> Result<Arc<Self>, BusError> {
        let renewed = Arc::new(Self { config, bus: bus.clone(), current: RwLock::new(None) });
        let first = renewed.make()?;
        *renewed.current.write() = Some(first);
        Ok(renewed)
    }

    fn make(self: &Arc<Self>) -> Result<Arc<PolledProducer<AckContext>>, BusError> {
        let context = AckContext { failed: AtomicBool::new(false), renewed: Arc::downgrade(self) };
        Ok(Arc::new(PolledProducer::new(&self.config, context, self.bus.alive())?))
    }

    pub(crate) fn current(&self) -> Result<Arc<PolledProducer<AckContext>>, BusError> {
        self.current.read().clone().ok_or(BusError::Gone { what: PRODUCE })
    }

    /// Returns the error of a record that `client` refused at once.
    pub(crate) fn refused(client: &PolledProducer<AckContext>, error: KafkaError) -> BusError {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => BusError::QueueFull,
            Some(RDKafkaErrorCode::Fatal) => {
                let detail = client.client().fatal_error().map_or_else(|| error.to_string(), |(_, reason)| reason);
                client.context().fail(&detail);
                BusError::ClientFailed { what: PRODUCE, detail }
            }
            _ => BusError::new(PRODUCE)(error),
        }
    }

    /// Replaces the client, on a thread of its own: the failed client's thread may
    /// be the caller's.
    fn renew(self: &Arc<Self>, reason: &str) {
        warn!(reason, "Kafka client failed for good: it is replaced");
        let renewed = Arc::downgrade(self);
        let replace = move || {
            while let Some(renewed) = renewed.upgrade() {
                match renewed.make() {
                    Ok(client) => {
                        // Dropped, the failed client gives up its records.
                        let failed = renewed.current.write().replace(client);
                        drop(failed);
                        info!("Kafka client replaced");
                        return;
                    }
                    Err(error) => error!(%error, "Kafka client cannot be replaced: retrying"),
                }
                drop(renewed);
                thread::sleep(RENEW_PAUSE);
            }
        };
        if let Err(error) = thread::Builder::new().name("producer-renewal".to_owned()).spawn(replace) {
            error!(%error, "Kafka client cannot be replaced: restart this process");
        }
    }
}
