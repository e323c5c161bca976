//! What can go wrong with Kafka, in words that say what to do about it.

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};

/// An error of the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A call to Kafka failed.
    #[error("Kafka: cannot {what}: {source}")]
    Kafka {
        /// What was tried, as an infinitive.
        what: &'static str,
        /// What the client said.
        source: KafkaError,
    },
    /// A group has no committed offset in a partition whose beginning is gone.
    #[error(
        "group {group} has no committed offset in {topic}[{partition}], whose log begins at {start}, not 0: starting there \
         could lose records. Choose with `clickhook offsets set --group {group} --topic {topic} --to earliest|latest`"
    )]
    NoOffset {
        /// The consumer group.
        group: String,
        /// The topic's full name.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that the log still has.
        start: i64,
    },
    /// The committed offset is no longer in the log.
    #[error(
        "group {group}: an offset that it should read next is no longer in the log ({detail}): records were deleted before \
         they were read. Choose with `clickhook offsets set --group {group} --topic {topic} --to earliest|latest`"
    )]
    OffsetGone {
        /// The consumer group.
        group: String,
        /// The topic's full name; of a group with several, all of them.
        topic: String,
        /// What librdkafka said.
        detail: String,
    },
    /// The producer's queue is full: Kafka takes records more slowly than they come.
    #[error("the producer's queue is full: Kafka takes records more slowly than they come")]
    QueueFull,
    /// Another producer with the same transactional id took over.
    #[error(
        "another process took over the transactional id {id}, or its transaction was open for longer than Kafka lets one: \
         this one stops writing"
    )]
    Fenced {
        /// The transactional id.
        id: String,
    },
    /// A topic could not be made.
    #[error("Kafka refuses to create topic {topic}: {source}")]
    Create {
        /// Its full name.
        topic: String,
        /// What Kafka said.
        source: KafkaError,
    },
    /// Topics are missing.
    #[error("topics are missing: {}. Create them with `clickhook migrate`", names.join(", "))]
    MissingTopics {
        /// Their full names.
        names: Vec<String>,
    },
    /// A topic stands with another number of partitions than configured.
    #[error(
        "topic {topic} has {found} partitions, but `kafka.partitions` is {configured}: the number is never changed in place. \
         Set `kafka.partitions = {found}`, or use another `kafka.prefix`"
    )]
    Partitions {
        /// The topic's full name.
        topic: String,
        /// How many it has.
        found: usize,
        /// How many are configured.
        configured: usize,
    },
    /// Kafka keeps a group's committed offsets back.
    #[error(
        "Kafka answers, but keeps back where group {group} reads on: a transaction that has offsets of the group is neither \
         committed nor aborted. Nothing is lost meanwhile, and Kafka ends it within seconds; if this is said for minutes, a \
         marker is missing, as after KAFKA-20734 in Kafka 4.3.0 to 4.4.0: find it with `kafka-transactions.sh find-hanging` \
         and end it with `kafka-transactions.sh abort`"
    )]
    OffsetsPending {
        /// The consumer group.
        group: String,
    },
    /// A transaction stays open.
    #[error("a transaction in topic {topic} has been open for longer than Kafka lets one: is its coordinator away?")]
    Unsettled {
        /// The topic's full name.
        topic: String,
    },
}

impl BusError {
    pub(crate) fn new(what: &'static str) -> impl FnOnce(KafkaError) -> Self {
        move |source| {
            let source = match source {
                // It may be a password.
                KafkaError::ClientConfig(outcome, description, key, _) => {
                    KafkaError::ClientConfig(outcome, description, key, "(left out)".to_owned())
                }
                other => other,
            };
            Self::Kafka { what, source }
        }
    }

    /// Whether the same call may succeed later with nobody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Kafka { source, .. } => source.rdkafka_error_code() != Some(RDKafkaErrorCode::Fatal),
            Self::QueueFull | Self::Create { .. } | Self::OffsetsPending { .. } | Self::Unsettled { .. } => true,
            Self::NoOffset { .. }
            | Self::OffsetGone { .. }
            | Self::Fenced { .. }
            | Self::MissingTopics { .. }
            | Self::Partitions { .. } => false,
        }
    }
}
