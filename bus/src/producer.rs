//! Producers: one whose acknowledgements are callbacks, and one whose records
//! and offsets become visible together or not at all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext},
    types::RDKafkaErrorCode,
};
use schemas::{Topic, Topics};

use crate::{
    Bus, BusError, Outgoing, Partition,
    config::CALL_TIMEOUT,
    consumer::{GroupMetadata, to_list},
    polled_producer::Polled,
};

/// Where Kafka put a record, or why it did not.
pub type Acked = Result<(i32, i64), BusError>;

/// Runs on the client's own thread when Kafka has answered: hand over, do not work.
struct Callback(Box<dyn FnOnce(Acked) + Send + Sync>);

#[derive(Clone)]
struct AckContext;

impl ClientContext for AckContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;
}

impl ProducerContext for AckContext {
    type DeliveryOpaque = Box<Callback>;

    fn delivery(&self, result: &DeliveryResult<'_>, callback: Box<Callback>) {
        callback.0(match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(BusError::Kafka { what: "produce", source: error.clone() }),
        });
    }
}

/// A producer that is idempotent and waits for all replicas. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Polled<AckContext>>,
    topics: Arc<Topics>,
}

impl Bus {
    /// A producer that waits `linger` for more records before it sends a batch
    /// and keeps trying for `patience` (zero: for ever) before it gives one up.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn producer(&self, role: &str, linger: Duration, patience: Duration) -> Result<Producer, BusError> {
        // librdkafka's own limit.
        self.bounded_producer(role, linger, patience, 1 << 20)
    }

    /// The same with a queue that takes so many kilobytes; more is refused.
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
        let inner = Arc::new(Polled::new(&config, AckContext, self.alive())?);
        Ok(Producer { inner, topics: Arc::clone(self.topics()) })
    }

    /// A producer for transactions under `id`. Any other process that uses the
    /// id is fenced off, and what it left open is aborted, before this returns.
    ///
    /// # Errors
    /// When Kafka does not answer within 10 s, or a setting is refused.
    pub fn transaction(&self, id: &str, linger: Duration) -> Result<Transaction, BusError> {
        let id = self.topics().group(id);
        let inner = Polled::new(&self.transactional_config(&id, linger), TransactionContext, self.alive())?;
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

fn refused(error: KafkaError) -> BusError {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
        BusError::QueueFull
    } else {
        BusError::Kafka { what: "produce", source: error }
    }
}

impl Producer {
    /// Hands a record to the client; `on_ack` is called exactly once, from the
    /// client's thread, when Kafka has it or it was given up. Never blocks.
    ///
    /// # Errors
    /// When the record is refused at once (a full queue, too large a record);
    /// `on_ack` is then dropped uncalled.
    pub fn send(&self, out: &Outgoing<'_>, on_ack: impl FnOnce(Acked) + Send + Sync + 'static) -> Result<(), BusError> {
        let name = self.topics.name(out.topic);
        let record = base(&name, out, Box::new(Callback(Box::new(on_ack))));
        self.inner.send(record).map_err(|(error, _)| refused(error))
    }

    /// Produces a record and waits until Kafka has it.
    ///
    /// # Errors
    /// When it was refused or given up.
    pub async fn produce(&self, out: &Outgoing<'_>) -> Acked {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.send(out, move |acked| drop(tell.send(acked)))?;
        told.await.unwrap_or(Err(BusError::Kafka { what: "produce", source: KafkaError::Canceled }))
    }

    /// Waits until every record is acknowledged or given up, at most `patience`;
    /// gives back how many are left.
    #[must_use]
    pub fn drain(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        loop {
            let left = usize::try_from(self.inner.in_flight_count()).unwrap_or_default();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many records wait for their acknowledgement.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.inner.in_flight_count()).unwrap_or_default()
    }
}

struct TransactionContext;

impl ClientContext for TransactionContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;
}

impl ProducerContext for TransactionContext {
    type DeliveryOpaque = ();

    // A record that fails fails its transaction: nothing to tell here.
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// A producer of transactions. After any error it is useless: drop it, make a
/// new one, and read again from the committed offsets.
pub struct Transaction {
    inner: Polled<TransactionContext>,
    id: String,
    topics: Arc<Topics>,
}

impl Transaction {
    /// Opens a transaction.
    ///
    /// # Errors
    /// When one is open already, or this producer was fenced off.
    pub fn begin(&self) -> Result<(), BusError> {
        self.inner.begin_transaction().map_err(|error| self.failed("begin a transaction", error))
    }

    /// Adds a record to the open transaction; waits where the queue is full.
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

    /// Commits the records, and with them `offsets` for the members of `group`.
    ///
    /// # Errors
    /// When the outcome is anything but a known commit.
    pub fn commit(&self, offsets: &[(Partition, i64)], group: Option<&GroupMetadata>) -> Result<(), BusError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        if let Some(group) = group {
            let list = to_list(&self.topics, offsets.iter().map(|(partition, offset)| (*partition, *offset, None)));
            self.inner
                .send_offsets_to_transaction(&list, &group.0, CALL_TIMEOUT)
                .map_err(|error| self.failed("add offsets to a transaction", error))?;
        }
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

    /// Takes back what the open transaction produced.
    ///
    /// # Errors
    /// When Kafka does not confirm it.
    pub fn abort(&self) -> Result<(), BusError> {
        self.inner.abort_transaction(CALL_TIMEOUT).map_err(|error| self.failed("abort a transaction", error))
    }

    fn failed(&self, what: &'static str, source: KafkaError) -> BusError {
        let fenced =
            [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
        match source.rdkafka_error_code() {
            Some(code) if fenced.contains(&code) => BusError::Fenced { id: self.id.clone() },
            _ => BusError::Kafka { what, source },
        }
    }
}

impl Bus {
    /// The partition of `topic` that a click id belongs to.
    #[must_use]
    pub fn partition_of(&self, topic: Topic, click: schemas::ClickId) -> i32 {
        click.partition(self.partitions(topic))
    }
}
