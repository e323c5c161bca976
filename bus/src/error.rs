//! The errors of the bus, in words that say what to do.

use std::io;

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};

use crate::Partition;

/// An error of the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A call to Kafka failed.
    #[error("Kafka: cannot {what}: {source}")]
    Kafka {
        /// The attempted action, as an infinitive.
        what: &'static str,
        /// The client's error.
        source: KafkaError,
    },
    /// The system could not start a thread.
    #[error("cannot start a thread to {what}: {source}")]
    Thread {
        /// The thread's task, as an infinitive.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The thread at the other end of a channel has ended.
    #[error("cannot {what}: the thread that does it has ended")]
    Gone {
        /// The thread's task, as an infinitive.
        what: &'static str,
    },
    /// A consumer has no generation, because it has not joined its group yet.
    #[error("group {group} has no generation here: the consumer has not joined it yet")]
    NotJoined {
        /// The consumer group.
        group: String,
    },
    /// The group has taken a consumer's partitions away.
    #[error("group {group} has given this member's partitions to another: nothing is committed for them")]
    PartitionsLost {
        /// The consumer group.
        group: String,
    },
    /// A client has failed for good, as after a broker lost acknowledged records. It
    /// is replaced; whether Kafka has the record is unknown.
    #[error(
        "the Kafka client failed for good while it tried to {what} ({detail}): it is replaced, and Kafka may or may not have the record"
    )]
    ClientFailed {
        /// The attempted action, as an infinitive.
        what: &'static str,
        /// The client's error.
        detail: String,
    },
    /// Kafka sent neither a record nor an error for a long time.
    #[error("Kafka has sent nothing of {partition} for {seconds} s")]
    Silent {
        /// The partition that is read.
        partition: Partition,
        /// How long nothing came, in seconds.
        seconds: u64,
    },
    /// Kafka did not answer in time whether something was done.
    #[error("Kafka has not answered for {seconds} s whether it could {what}")]
    Unanswered {
        /// The attempted action, as an infinitive.
        what: &'static str,
        /// How long no answer came, in seconds.
        seconds: u64,
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
        /// The client's error.
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
    /// A topic could not be created.
    #[error("Kafka refuses to create topic {topic}: {source}")]
    Create {
        /// Its full name.
        topic: String,
        /// Kafka's error.
        source: KafkaError,
    },
    /// Topics are missing.
    #[error("topics are missing: {}. Create them with `clickhook migrate`", names.join(", "))]
    MissingTopics {
        /// Their full names.
        names: Vec<String>,
    },
    /// A topic exists with another number of partitions than configured.
    #[error(
        "topic {topic} has {found} partitions, but `kafka.partitions` is {configured}: the number is never changed in place. \
         Set `kafka.partitions = {found}`, or use another `kafka.prefix`"
    )]
    Partitions {
        /// The topic's full name.
        topic: String,
        /// The number of its partitions.
        found: usize,
        /// The configured number.
        configured: usize,
    },
    /// Kafka withholds a group's committed offsets.
    #[error(
        "Kafka answers, but withholds the offsets of group {group}: a transaction that has offsets of the group is neither \
         committed nor aborted. Nothing is lost meanwhile, and Kafka ends it within seconds; if this is said for minutes, a \
         marker is missing, as after KAFKA-20734 in Kafka 4.3.0 to 4.4.0: find it with `kafka-transactions.sh find-hanging` \
         and end it with `kafka-transactions.sh abort`"
    )]
    OffsetsPending {
        /// The consumer group.
        group: String,
    },
    /// A group uses cooperative rebalancing, which no consumer here supports.
    #[error(
        "group {group} rebalances cooperatively, which this program does not support: remove \
         `partition.assignment.strategy` from `kafka.properties`"
    )]
    CooperativeRebalance {
        /// The consumer group.
        group: String,
    },
    /// A transaction stays open.
    #[error("a transaction in topic {topic} has been open for longer than Kafka lets one: is its coordinator away?")]
    OpenTransaction {
        /// The topic's full name.
        topic: String,
    },
}

impl BusError {
    pub(crate) fn new(what: &'static str) -> impl FnOnce(KafkaError) -> Self {
        move |source| {
            let source = match source {
                // The value may be a password.
                KafkaError::ClientConfig(outcome, description, key, _) => {
                    KafkaError::ClientConfig(outcome, description, key, "(left out)".to_owned())
                }
                other => other,
            };
            Self::Kafka { what, source }
        }
    }

    /// Reports whether a record was refused for its size, so that Kafka never takes it.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Kafka { source, .. } if source.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge))
    }

    /// Whether the same call may succeed later without anyone's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Kafka { source, .. } => source.rdkafka_error_code() != Some(RDKafkaErrorCode::Fatal),
            Self::Thread { .. }
            | Self::Gone { .. }
            | Self::NotJoined { .. }
            | Self::PartitionsLost { .. }
            | Self::ClientFailed { .. }
            | Self::Silent { .. }
            | Self::Unanswered { .. }
            | Self::QueueFull
            | Self::Create { .. }
            | Self::OffsetsPending { .. }
            | Self::OpenTransaction { .. } => true,
            Self::NoOffset { .. }
            | Self::OffsetGone { .. }
            | Self::Fenced { .. }
            | Self::CooperativeRebalance { .. }
            | Self::MissingTopics { .. }
            | Self::Partitions { .. } => false,
        }
    }
}
