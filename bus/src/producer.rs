//! Producers: [`Producer`] reports acknowledgements to callbacks; the records and
//! offsets of a [`Transaction`] become visible together or not at all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext},
    types::RDKafkaErrorCode,
};
use schemas::{Topic, Topics};
use tracing::debug;

use crate::{
    Bus, BusError, Outgoing, Partition,
    client::connect,
    client_errors,
    config::{CALL_TIMEOUT, FIRST_BROKER},
    consumer::{GroupMetadata, to_list},
    polled_producer::PolledProducer,
    renewed_client::{Callback, RenewedClient},
};

/// The longest wait for the acknowledgements of a client that may have been replaced.
const HURRIED: Duration = Duration::from_millis(20);

/// The partition and offset of an acknowledged record, or why it was given up.
pub type Acked = Result<(i32, i64), BusError>;

/// An idempotent producer that waits for all replicas. Cheap to clone. A client that
/// has failed for good is replaced: its records fail with
/// [`ClientFailed`](BusError::ClientFailed), and Kafka may or may not have them.
#[derive(Clone)]
pub struct Producer {
    client: Arc<RenewedClient>,
    topics: Arc<Topics>,
}

impl Bus {
    /// Makes a producer that waits `linger` for more records before it sends a
    /// batch, and retries a record for `patience` (zero: forever) before it gives
    /// the record up.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn producer(&self, role: &str, linger: Duration, patience: Duration) -> Result<Producer, BusError> {
        // librdkafka's own limit.
        self.bounded_producer(role, linger, patience, 1 << 20)
    }

    /// Makes a [`producer`](Self::producer) whose queue holds at most `kbytes`
    /// kilobytes; a record that does not fit is refused.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn bounded_producer(
        &self,
        role: &str,
        linger: Duration,
        patience: Duration,
        kbytes: u32,
    ) -> Result<Producer, BusError> {
        let mut config = self.producer_config(role, linger);
        config
            .set("message.timeout.ms", patience.as_millis().to_string())
            .set("queue.buffering.max.kbytes", kbytes.to_string());
        let client = RenewedClient::new(config, self)?;
        Ok(Producer { client, topics: Arc::clone(self.topics()) })
    }

    /// Makes a producer for transactions under `id`. Before this returns, any other
    /// process that uses the id is fenced off and its open transaction aborted.
    ///
    /// # Errors
    /// When Kafka does not answer within 10 s, or a setting is refused.
    pub fn transaction(&self, id: &str, linger: Duration) -> Result<Transaction, BusError> {
        let id = self.topics().group(id);
        let inner = PolledProducer::new(&self.transactional_config(&id, linger), TransactionContext, self.alive())?;
        if let Err(error) = connect(inner.client(), &self.topics().name(Topic::Clicks), FIRST_BROKER) {
            debug!(id, %error, "no broker yet: beginning transactions all the same");
        }
        inner.init_transactions(CALL_TIMEOUT).map_err(BusError::new("begin to use a transactional id"))?;
        Ok(Transaction { inner, id, topics: Arc::clone(self.topics()) })
    }
}

fn base<'a, D: rdkafka::util::IntoOpaque>(
    name: &'a str,
    out: &Outgoing<'a>,
    opaque: D,
) -> BaseRecord<'a, [u8], [u8], D> {
    let mut record = BaseRecord::with_opaque_to(name, opaque);
    if let Some(partition) = out.partition {
        record = record.partition(partition);
    }
    if let Some(key) = out.key {
        record = record.key(key);
    }
    if let Some(value) = out.value {
        record = record.payload(value);
    }
    if let Some(headers) = out.owned_headers() {
        record = record.headers(headers);
    }
    record
}

impl Producer {
    /// Hands a record to the client. `on_ack` is called exactly once, from the
    /// client's thread, when the record is acknowledged or given up. Never blocks.
    ///
    /// # Errors
    /// When the record is refused at once (a full queue, a record too large);
    /// `on_ack` is then dropped uncalled.
    pub fn send(&self, out: &Outgoing<'_>, on_ack: impl FnOnce(Acked) + Send + Sync + 'static) -> Result<(), BusError> {
        let name = self.topics.name(out.topic);
        let record = base(&name, out, Box::new(Callback(Box::new(on_ack))));
        let client = self.client.current()?;
        client.send(record).map_err(|(error, _)| RenewedClient::refused(&client, error))
    }

    /// Produces a record and waits until it is acknowledged.
    ///
    /// # Errors
    /// When it was refused or given up.
    pub async fn produce(&self, out: &Outgoing<'_>) -> Acked {
        let (sender, acked) = tokio::sync::oneshot::channel();
        self.send(out, move |ack| drop(sender.send(ack)))?;
        acked.await.unwrap_or(Err(BusError::Gone { what: "produce" }))
    }

    /// Waits until every record is acknowledged or given up, at most `patience`.
    /// Meanwhile no record waits for others. Returns the number of records left.
    #[must_use]
    pub fn drain(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        loop {
            let left = self.in_flight();
            let rest = deadline.saturating_duration_since(Instant::now());
            let Ok(client) = self.client.current() else { return left };
            if left == 0 || rest.is_zero() {
                return left;
            }
            client.hurry(rest.min(HURRIED));
        }
    }

    /// Returns the number of records that wait for their acknowledgement.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let count = self.client.current().map(|client| client.in_flight_count());
        count.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
    }
}

struct TransactionContext;

impl ClientContext for TransactionContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn log(&self, level: RDKafkaLogLevel, kind: &str, message: &str) {
        client_errors::log(level, kind, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Kafka client");
    }
}

impl ProducerContext for TransactionContext {
    type DeliveryOpaque = ();

    // A record that fails makes its transaction fail, so there is nothing to report.
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// A producer of transactions. After any error it must be dropped: make a new one
/// and read again from the committed offsets.
pub struct Transaction {
    inner: PolledProducer<TransactionContext>,
    id: String,
    topics: Arc<Topics>,
}

impl Transaction {
    /// Opens a transaction.
    ///
    /// # Errors
    /// When a transaction is open already, or this producer was fenced off.
    pub fn begin(&self) -> Result<(), BusError> {
        self.inner.begin_transaction().map_err(|error| self.failed("begin a transaction", error))
    }

    /// Adds a record to the open transaction; waits while the queue is full.
    ///
    /// # Errors
    /// When the record is refused.
    pub fn send(&self, out: &Outgoing<'_>) -> Result<(), BusError> {
        let name = self.topics.name(out.topic);
        loop {
            match self.inner.send(base(&name, out, ())) {
                Ok(()) => return Ok(()),
                Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(self.failed("produce in a transaction", error)),
            }
        }
    }

    /// Commits the records together with `offsets` of `group`.
    ///
    /// # Errors
    /// When the outcome is anything but a known commit.
    pub fn commit(&self, offsets: &[(Partition, i64)], group: Option<&GroupMetadata>) -> Result<(), BusError> {
        if let Some(group) = group {
            self.add_offsets(offsets, group)?;
        }
        self.commit_records()
    }

    /// Adds `offsets` of `group` to the open transaction.
    ///
    /// # Errors
    /// When Kafka does not confirm it.
    pub(crate) fn add_offsets(&self, offsets: &[(Partition, i64)], group: &GroupMetadata) -> Result<(), BusError> {
        let list = to_list(&self.topics, offsets.iter().map(|(partition, offset)| (*partition, *offset, None)));
        self.inner
            .send_offsets_to_transaction(&list, &group.0, CALL_TIMEOUT)
            .map_err(|error| self.failed("add offsets to a transaction", error))
    }

    /// Commits the records, with the offsets that were added before.
    ///
    /// # Errors
    /// When the outcome is anything but a known commit.
    pub(crate) fn commit_records(&self) -> Result<(), BusError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        // librdkafka's flush advances in steps of 100 ms: wait here instead.
        while self.inner.in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        loop {
            match self.inner.commit_transaction(CALL_TIMEOUT) {
                Ok(()) => return Ok(()),
                // librdkafka asks for the same call again, and remembers its state.
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
                Err(error) => return Err(self.failed("commit a transaction", error)),
            }
        }
    }

    /// Aborts the open transaction.
    ///
    /// # Errors
    /// When Kafka does not confirm it.
    pub fn abort(&self) -> Result<(), BusError> {
        self.inner.abort_transaction(CALL_TIMEOUT).map_err(|error| self.failed("abort a transaction", error))
    }

    fn failed(&self, what: &'static str, source: KafkaError) -> BusError {
        let fenced =
            [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
        // After a fatal error every call returns `Fatal`; the client knows the cause.
        let fatal = self.inner.client().fatal_error();
        let code = fatal.as_ref().map(|(code, _)| *code).or_else(|| source.rdkafka_error_code());
        match (code, fatal) {
            (Some(code), _) if fenced.contains(&code) => BusError::Fenced { id: self.id.clone() },
            (_, Some((code, reason))) => BusError::ClientFailed { what, detail: format!("{code:?}: {reason}") },
            _ => BusError::new(what)(source),
        }
    }
}

impl Bus {
    /// Returns the partition of `topic` that a click id belongs to.
    #[must_use]
    pub fn partition_of(&self, topic: Topic, click: schemas::ClickId) -> i32 {
        self.partition_of_shard(topic, click.shard())
    }

    /// Returns the partition of `topic` that a shard belongs to.
    #[must_use]
    pub fn partition_of_shard(&self, topic: Topic, shard: u16) -> i32 {
        i32::from(shard % self.partitions(topic))
    }
}
