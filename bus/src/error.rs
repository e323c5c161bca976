//! The errors of the bus, in words that say what to do.

use std::io;

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};

use crate::{Partition, client_errors};

/// An error of the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A call to Kafka failed.
    #[error("Kafka: cannot {what}: {source}{reason}")]
    Kafka {
        /// The attempted action, as an infinitive.
        what: &'static str,
        /// The client's error.
        source: KafkaError,
        /// Why the client does not reach Kafka, as a sentence, where it said so.
        reason: String,
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
    /// The topics of a static member have another number of partitions than its name.
    #[error(
        "the topics of group {group} have {now} partitions together, not {before}: this member joins again, so that all are \
         given to members"
    )]
    PartitionsChanged {
        /// The consumer group.
        group: String,
        /// The number in the member's name.
        before: u32,
        /// The number that Kafka says.
        now: u32,
    },
    /// A partition that was stopped can be read again, by a new consumer.
    #[error("group {group} can read {partition} again: this member joins again and reads it")]
    PartitionReadable {
        /// The consumer group.
        group: String,
        /// The partition.
        partition: Partition,
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
    #[error("topics are missing: {}. Create them with `{command}`", names.join(", "))]
    MissingTopics {
        /// Their full names.
        names: Vec<String>,
        /// The command that creates them.
        command: String,
    },
    /// The shared topics have fewer partitions than configured.
    #[error(
        "the shared topics have {found} partitions, and `kafka.partitions` is {configured}. Widen them with `{command}`, \
         which needs no stop, or set `kafka.partitions = {found}`"
    )]
    TooFewPartitions {
        /// The number that every shared topic has.
        found: u16,
        /// The configured number.
        configured: u16,
        /// The command that widens the topics.
        command: String,
    },
    /// A topic that must have one partition has several.
    #[error(
        "topic {topic} has {found} partitions and must have one: its order is the truth, and Kafka takes no partition away. \
         Stop all processes, copy its records into a topic of one partition, and give that its name"
    )]
    Divided {
        /// The topic's full name.
        topic: String,
        /// The number of its partitions.
        found: u16,
    },
    /// A topic has more partitions than it is to be widened to.
    #[error(
        "topic {topic} has {found} partitions already, and Kafka takes no partition away: widen all shared topics with \
         `{command}`"
    )]
    Narrower {
        /// The topic's full name.
        topic: String,
        /// The number of its partitions.
        found: u16,
        /// The command that widens the others to as many.
        command: String,
    },
    /// Kafka did not widen a topic.
    #[error("Kafka refuses to widen topic {topic}: {source}. Once it can, run the command again: it does what is left")]
    Widen {
        /// The topic's full name.
        topic: String,
        /// Kafka's error.
        source: KafkaError,
    },
    /// Topics have settings under which records are lost or stuck.
    #[error("{}. Set them right with `{command}`, or by your own tools", problems.join("; "))]
    TopicSettings {
        /// A sentence for each setting.
        problems: Vec<String>,
        /// The command that sets them.
        command: String,
    },
    /// Kafka did not change the settings of a topic.
    #[error("Kafka refuses to change the settings of topic {topic}: {source}")]
    AlterTopic {
        /// The topic's full name.
        topic: String,
        /// Kafka's error.
        source: KafkaError,
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
    pub(crate) fn new(what: &'static str) -> impl Fn(KafkaError) -> Self + Copy {
        move |source| {
            let source = match source {
                // The value may be a password.
                KafkaError::ClientConfig(outcome, description, key, _) => {
                    KafkaError::ClientConfig(outcome, description, key, "(left out)".to_owned())
                }
                other => other,
            };
            let reason = client_errors::explanation(&source);
            Self::Kafka { what, source, reason }
        }
    }

    /// Reports whether a record was refused for its size, so that Kafka never takes it.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Kafka { source, .. } if source.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge))
    }

    /// Whether Kafka has not ended the last transaction of an id in time.
    pub(crate) fn is_unfinished_transaction(&self) -> bool {
        use RDKafkaErrorCode::{ConcurrentTransactions, OperationTimedOut};
        let Self::Kafka { source, .. } = self else { return false };
        matches!(source.rdkafka_error_code(), Some(ConcurrentTransactions | OperationTimedOut))
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
            | Self::PartitionsChanged { .. }
            | Self::PartitionReadable { .. }
            | Self::Create { .. }
            | Self::Widen { .. }
            | Self::AlterTopic { .. }
            | Self::OffsetsPending { .. }
            | Self::OpenTransaction { .. } => true,
            Self::Fenced { .. }
            | Self::CooperativeRebalance { .. }
            | Self::MissingTopics { .. }
            | Self::TooFewPartitions { .. }
            | Self::Divided { .. }
            | Self::Narrower { .. }
            | Self::TopicSettings { .. } => false,
        }
    }
}
