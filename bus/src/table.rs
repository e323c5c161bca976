//! A table: a one-partition topic whose records, in order, are the truth. It is
//! read from its beginning, committed records only, and then followed.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use schemas::Topic;
use tokio::sync::watch;
use tracing::{debug, error};

use crate::{Bus, BusError};

/// What a record says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The key now has this value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Everything that was there when the table was opened has been told.
    CaughtUp,
}

/// How long a call waits before it is looked whether the table was dropped. Each
/// that waits in vain spins for its last millisecond.
const POLL: Duration = Duration::from_secs(1);

struct Quiet;

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Quiet {}

type Apply = Box<dyn FnMut(Change<'_>) + Send>;

/// A table that is being followed until it is dropped.
pub struct Table {
    /// Empty once the table is dropped: nothing is told from then on, although
    /// the thread may take a moment to end.
    apply: Arc<Mutex<Option<Apply>>>,
    ready: watch::Receiver<bool>,
}

impl Bus {
    /// Follows `topic` on a thread of its own and tells `apply` of every change.
    ///
    /// # Errors
    /// When the client or the thread cannot be made.
    pub fn table(
        &self,
        role: &str,
        topic: Topic,
        apply: impl FnMut(Change<'_>) + Send + 'static,
    ) -> Result<Table, BusError> {
        let consumer: BaseConsumer<Quiet> =
            self.table_config(role).create_with_context(Quiet).map_err(BusError::new("make a table's consumer"))?;
        let name = self.topics().name(topic);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&name, 0, Offset::Beginning).map_err(BusError::new("start a table"))?;
        let apply: Arc<Mutex<Option<Apply>>> = Arc::new(Mutex::new(Some(Box::new(apply))));
        let told = Arc::clone(&apply);
        let (tell, ready) = watch::channel(false);
        thread::Builder::new()
            .name(topic.suffix().to_owned())
            .spawn(move || {
                // A partition that is assigned before the client knows its leader
                // waits for a look-around that comes once a second.
                while consumer.fetch_metadata(Some(&name), POLL).is_err() && told.lock().is_some() {}
                if let Err(error) = consumer.assign(&list) {
                    error!(topic = name, %error, "a table cannot be read");
                    return;
                }
                loop {
                    let polled = consumer.poll(POLL);
                    let mut told = told.lock();
                    let Some(apply) = told.as_mut() else { return };
                    match polled {
                        Some(Ok(message)) => {
                            let Some(key) = message.key() else { continue };
                            apply(match message.payload() {
                                Some(value) => Change::Put { key, value },
                                None => Change::Delete { key },
                            });
                        }
                        Some(Err(KafkaError::PartitionEOF(_))) if !*tell.borrow() => {
                            apply(Change::CaughtUp);
                            let _ = tell.send(true);
                        }
                        None | Some(Err(KafkaError::PartitionEOF(_))) => {}
                        Some(Err(error)) => match error.rdkafka_error_code() {
                            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                                // The part that was read last has been compacted
                                // or deleted away: what is left says the same.
                                error!(topic = name, %error, "table reads from its beginning again");
                                let _ = consumer.seek(&name, 0, Offset::Beginning, Duration::from_secs(10));
                            }
                            _ => debug!(topic = name, %error, "Kafka is waited for"),
                        },
                    }
                }
            })
            .map_err(|error| BusError::Kafka {
                what: "start a table's thread",
                source: KafkaError::ClientCreation(error.to_string()),
            })?;
        Ok(Table { apply, ready })
    }
}

impl Table {
    /// Waits until everything that was there when the table was opened has been
    /// applied.
    pub async fn caught_up(&self) {
        // An error would mean that the thread is gone, which only a drop does.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Whether that is so.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        *self.ready.borrow()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        *self.apply.lock() = None;
    }
}
