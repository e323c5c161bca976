//! Asking Kafka how many partitions the topics have, once or time after time.

use std::{
    collections::BTreeMap,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rdkafka::{ClientContext, admin::AdminClient, client::Client, metadata::Metadata};
use schemas::{Topic, Topics, topics::Spread};
use tracing::debug;

use crate::{Bus, BusError, client::QuietContext, config::CALL_TIMEOUT};

/// Returns the number of partitions of each topic that exists.
pub(crate) fn counts_in(metadata: &Metadata, topics: &Topics) -> BTreeMap<Topic, u16> {
    let found = metadata.topics().iter().filter(|found| !found.partitions().is_empty());
    found
        .filter_map(|found| {
            Some((topics.parse(found.name())?, u16::try_from(found.partitions().len()).unwrap_or(u16::MAX)))
        })
        .collect()
}

impl Bus {
    /// Returns the number of partitions of `topic` that producers may choose from: of a
    /// shared topic the number that every shared topic has, as far as Kafka was asked.
    #[must_use]
    pub fn partitions(&self, topic: Topic) -> u16 {
        match topic.spread() {
            Spread::One => 1,
            Spread::Shared => self.counts.shared().unwrap_or(self.config().partitions),
        }
    }

    /// Returns the number of partitions of the topics together, as far as Kafka was asked.
    pub(crate) fn total_partitions(&self, topics: &[Topic]) -> u32 {
        let count = |topic: &Topic| self.counts.of(*topic).unwrap_or_else(|| self.partitions(*topic));
        topics.iter().map(|topic| u32::from(count(topic))).sum()
    }

    /// Asks Kafka for the partitions of the topics together, with the connections of
    /// `client`.
    pub(crate) fn ask_total_partitions<C: ClientContext>(
        &self,
        client: &Client<C>,
        topics: &[Topic],
    ) -> Result<u32, BusError> {
        for topic in topics {
            let metadata = client
                .fetch_metadata(Some(&self.topics().name(*topic)), CALL_TIMEOUT)
                .map_err(BusError::new("ask for a topic's partitions"))?;
            self.counts.set(counts_in(&metadata, self.topics()));
        }
        Ok(self.total_partitions(topics))
    }

    /// Asks Kafka for the numbers of partitions. Blocks.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn refresh_partitions(&self) -> Result<(), BusError> {
        self.read_counts(&self.admin()?)
    }

    /// Asks Kafka for the numbers of partitions every [`PartitionFollower::EVERY`], on a
    /// thread of its own, until the returned follower is dropped.
    ///
    /// # Errors
    /// When a setting is refused, or the thread cannot be started.
    pub fn follow_partitions(&self) -> Result<PartitionFollower, BusError> {
        let client = self.admin()?;
        let bus = self.clone();
        let (stop, stopped) = mpsc::channel();
        let follow = move || {
            while stopped.recv_timeout(PartitionFollower::EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = bus.read_counts(&client) {
                    debug!(%error, "the numbers of partitions were not read: retrying");
                }
            }
        };
        thread::Builder::new()
            .name("partitions".to_owned())
            .spawn(follow)
            .map_err(|source| BusError::Thread { what: "follow the numbers of partitions", source })?;
        Ok(PartitionFollower { _stop: stop })
    }

    fn read_counts(&self, client: &AdminClient<QuietContext>) -> Result<(), BusError> {
        let metadata = client
            .inner()
            .fetch_metadata(None, CALL_TIMEOUT)
            .map_err(BusError::new("ask for the partitions of the topics"))?;
        self.counts.set(counts_in(&metadata, self.topics()));
        Ok(())
    }
}

/// The thread that keeps the numbers of partitions of a [`Bus`] and its clones up to date.
pub struct PartitionFollower {
    /// Dropping it ends the thread.
    _stop: mpsc::Sender<()>,
}

impl PartitionFollower {
    /// How often Kafka is asked.
    pub const EVERY: Duration = Duration::from_secs(5);
    /// The longest time until all running processes read and use new partitions.
    pub const USED_WITHIN: Duration = Duration::from_secs(20);
}
