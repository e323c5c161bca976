//! A consumer that one thread owns: it polls, is told of partitions that come
//! and go inside its poll, and commits only what its owner says is done.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol},
    error::KafkaError,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use schemas::{Topic, Topics};
use tracing::{debug, info, warn};

use crate::{Bus, BusError, Partition, Record, config::CALL_TIMEOUT};

/// How long a broker is waited for before a group is joined all the same.
const MEETING: Duration = Duration::from_secs(2);

/// Whether records of transactions that are still open, or were aborted, are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Only what is committed.
    Committed,
    /// Everything, as soon as it is there.
    Uncommitted,
}

impl Isolation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// Whether a configured instance name makes the consumer a static member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It does: a restart within the session gets the same partitions back.
    Static,
    /// It does not, whatever is configured.
    Dynamic,
}

/// A partition that has become ours, and where reading starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Which.
    pub partition: Partition,
    /// The next offset to read.
    pub offset: i64,
    /// What was committed along with the offset; empty if nothing.
    pub metadata: String,
}

/// Partitions that are about to be someone else's.
#[derive(Debug)]
pub struct Revoked<'a> {
    /// Which.
    pub partitions: &'a [Partition],
    /// Whether they are gone already, so that committing would fail.
    pub lost: bool,
}

/// What the owner of a consumer does when partitions come and go. Both run
/// inside [`Consumer::poll`], on the owner's thread.
pub trait Assignments: Send + Sync + 'static {
    /// These are now ours.
    fn assigned(&self, partitions: &[Assigned]);

    /// These are about to go; gives back what to commit before they do.
    fn revoked(&self, revoked: &Revoked<'_>) -> Vec<Commit>;
}

/// For an owner that keeps nothing per partition.
impl Assignments for () {
    fn assigned(&self, _: &[Assigned]) {}

    fn revoked(&self, _: &Revoked<'_>) -> Vec<Commit> {
        Vec::new()
    }
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Of which partition.
    pub partition: Partition,
    /// The offset of the next record to read.
    pub offset: i64,
    /// What to remember along with it.
    pub metadata: Option<String>,
}

/// A group's generation, as a transaction needs it to commit offsets.
pub struct GroupMetadata(pub(crate) ConsumerGroupMetadata);

struct Context<A> {
    owner: Arc<A>,
    topics: Arc<Topics>,
    group: String,
    fatal: Mutex<Option<BusError>>,
}

impl<A: Assignments> ClientContext for Context<A> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(group = self.group, %error, reason, "Kafka client");
    }
}

impl<A: Assignments> ConsumerContext for Context<A> {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let outcome = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, list)
        } else {
            self.revoke(consumer, list);
            consumer.unassign().map_err(BusError::new("give partitions back"))
        };
        if let Err(error) = outcome {
            // Nothing is assigned, so nothing is read; the owner hears of it
            // from this very poll.
            let _ = consumer.assign(&TopicPartitionList::new());
            *self.fatal.lock() = Some(error);
        }
        debug_assert!(!matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative));
    }
}

impl<A: Assignments> Context<A> {
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> Result<(), BusError> {
        let partitions = from_list(&self.topics, list);
        let assigned = starts(consumer, &self.topics, &self.group, &partitions)?;
        self.owner.assigned(&assigned);
        let list = to_list(&self.topics, assigned.iter().map(|a| (a.partition, a.offset, None)));
        info!(group = self.group, partitions = %names(&partitions), "partitions assigned");
        consumer.assign(&list).map_err(BusError::new("take partitions"))?;
        // A partition that went while it was paused would come back paused.
        consumer.resume(&list).map_err(BusError::new("resume"))
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions = from_list(&self.topics, list);
        let lost = consumer.assignment_lost();
        let commits = self.owner.revoked(&Revoked { partitions: &partitions, lost });
        info!(group = self.group, partitions = %names(&partitions), lost, "partitions revoked");
        if !lost && !commits.is_empty() {
            let list = commit_list(&self.topics, &commits);
            if let Err(error) = consumer.commit(&list, CommitMode::Sync) {
                warn!(group = self.group, %error, "offsets of revoked partitions not committed: their work is repeated");
            }
        }
    }
}

/// Where reading starts in each partition: at the committed offset, or at 0 of
/// a log that still begins there. Anything else could lose records unseen.
fn starts<A: Assignments>(
    consumer: &BaseConsumer<Context<A>>,
    topics: &Topics,
    group: &str,
    partitions: &[Partition],
) -> Result<Vec<Assigned>, BusError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let list = to_list(topics, partitions.iter().map(|partition| (*partition, 0, None)));
    let committed = consumer.committed_offsets(list, CALL_TIMEOUT).map_err(|error| {
        // librdkafka asks again while offsets are pending, and says only that time is up.
        let timed_out = error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut);
        if timed_out && answers(consumer, topics, partitions[0]) {
            return BusError::OffsetsPending { group: group.to_owned() };
        }
        BusError::new("fetch committed offsets")(error)
    })?;
    let mut starts = Vec::with_capacity(partitions.len());
    for element in committed.elements() {
        element.error().map_err(BusError::new("fetch a committed offset"))?;
        let Some(topic) = topics.parse(element.topic()) else { continue };
        let partition = Partition { topic, index: element.partition() };
        let offset = if let Offset::Offset(offset) = element.offset() {
            offset
        } else {
            let (start, _) = consumer
                .fetch_watermarks(element.topic(), element.partition(), CALL_TIMEOUT)
                .map_err(BusError::new("fetch where a log begins"))?;
            if start != 0 {
                return Err(BusError::NoOffset {
                    group: group.to_owned(),
                    topic: element.topic().to_owned(),
                    partition: element.partition(),
                    start,
                });
            }
            0
        };
        starts.push(Assigned { partition, offset, metadata: element.metadata().to_owned() });
    }
    Ok(starts)
}

fn answers<A: Assignments>(consumer: &BaseConsumer<Context<A>>, topics: &Topics, partition: Partition) -> bool {
    consumer.fetch_watermarks(&topics.name(partition.topic), partition.index, MEETING).is_ok()
}

fn names(partitions: &[Partition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(crate) fn from_list(topics: &Topics, list: &TopicPartitionList) -> Vec<Partition> {
    list.elements()
        .iter()
        .filter_map(|element| Some(Partition { topic: topics.parse(element.topic())?, index: element.partition() }))
        .collect()
}

pub(crate) fn to_list<'a>(
    topics: &Topics,
    offsets: impl Iterator<Item = (Partition, i64, Option<&'a str>)>,
) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset, metadata) in offsets {
        let mut element = list.add_partition(&topics.name(partition.topic), partition.index);
        // Fails only for an offset that no log has.
        let _ = element.set_offset(Offset::Offset(offset.max(0)));
        if let Some(metadata) = metadata {
            element.set_metadata(metadata);
        }
    }
    list
}

fn commit_list(topics: &Topics, commits: &[Commit]) -> TopicPartitionList {
    to_list(topics, commits.iter().map(|commit| (commit.partition, commit.offset, commit.metadata.as_deref())))
}

/// A member of a consumer group.
pub struct Consumer<A: Assignments = ()> {
    inner: BaseConsumer<Context<A>>,
    topics: Arc<Topics>,
    group: String,
    read: Vec<Topic>,
    joined: AtomicBool,
    asking: ClientConfig,
    scout: OnceLock<BaseConsumer>,
}

impl Bus {
    /// A member of `group` that reads `read` and tells `owner` of partitions
    /// that come and go. It joins the group when it is first polled.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn consumer<A: Assignments>(
        &self,
        group: &str,
        read: &[Topic],
        isolation: Isolation,
        membership: Membership,
        owner: Arc<A>,
    ) -> Result<Consumer<A>, BusError> {
        let topics = Arc::clone(self.topics());
        let context = Context { owner, topics: Arc::clone(&topics), group: group.to_owned(), fatal: Mutex::new(None) };
        let inner: BaseConsumer<Context<A>> = self
            .group_config(group, membership == Membership::Static)
            .set("isolation.level", isolation.as_str())
            .create_with_context(context)
            .map_err(BusError::new("make a consumer"))?;
        Ok(Consumer {
            inner,
            topics,
            group: group.to_owned(),
            read: read.to_vec(),
            joined: AtomicBool::new(false),
            asking: self.admin_config(),
            scout: OnceLock::new(),
        })
    }
}

impl<A: Assignments> Consumer<A> {
    /// Joins the group. The client is let meet a broker first: asked before it
    /// knows one, it would look again only after a second.
    fn join(&self) -> Result<(), BusError> {
        let names: Vec<String> = self.read.iter().map(|topic| self.topics.name(*topic)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if let Err(error) = self.inner.fetch_metadata(names.first().copied(), MEETING) {
            debug!(group = self.group, %error, "Kafka is waited for");
        }
        self.inner.subscribe(&names).map_err(BusError::new("subscribe"))
    }

    /// The next record, or none within `timeout`. Must be called at least every
    /// 5 minutes, paused or not, or the partitions go to another member.
    ///
    /// # Errors
    /// When reading on could lose records, or the client is beyond repair.
    /// Brokers that are away are waited for.
    pub fn poll(&self, timeout: Duration) -> Result<Option<Record<'_>>, BusError> {
        if !self.joined.swap(true, Ordering::Relaxed) {
            self.join()?;
        }
        let polled = self.inner.poll(timeout);
        if let Some(error) = self.inner.context().fatal.lock().take() {
            return Err(error);
        }
        match polled {
            None => Ok(None),
            Some(Ok(message)) => {
                let topic = self.topics.parse(rdkafka::Message::topic(&message));
                Ok(topic.map(|topic| Record { message, topic }))
            }
            Some(Err(error)) => self.judge(error).map(|()| None),
        }
    }

    fn judge(&self, error: KafkaError) -> Result<(), BusError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let names: Vec<String> = self.read.iter().map(|topic| self.topics.name(*topic)).collect();
                let (group, topic) = (self.group.clone(), names.join("|"));
                Err(BusError::OffsetGone { group, topic, detail: error.to_string() })
            }
            Some(
                RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::PollExceeded,
            ) => Err(BusError::Kafka { what: "read", source: error }),
            _ => {
                debug!(group = self.group, %error, "Kafka is waited for");
                Ok(())
            }
        }
    }

    /// Commits offsets and waits until Kafka has them.
    ///
    /// # Errors
    /// When Kafka did not confirm it: the partitions may be another member's.
    pub fn commit(&self, commits: &[Commit]) -> Result<(), BusError> {
        if commits.is_empty() {
            return Ok(());
        }
        let list = commit_list(&self.topics, commits);
        self.inner.commit(&list, CommitMode::Sync).map_err(BusError::new("commit offsets"))
    }

    /// Commits offsets in the background. One that fails is made good by the
    /// next, or by work that is repeated.
    ///
    /// # Errors
    /// When the client refuses it at once.
    pub fn commit_later(&self, commits: &[Commit]) -> Result<(), BusError> {
        if commits.is_empty() {
            return Ok(());
        }
        let list = commit_list(&self.topics, commits);
        self.inner.commit(&list, CommitMode::Async).map_err(BusError::new("commit offsets"))
    }

    /// Stops fetching from partitions. What was prefetched is dropped and read again.
    ///
    /// # Errors
    /// When one is not ours.
    pub fn pause(&self, partitions: &[Partition]) -> Result<(), BusError> {
        let list = to_list(&self.topics, partitions.iter().map(|partition| (*partition, 0, None)));
        self.inner.pause(&list).map_err(BusError::new("pause"))
    }

    /// Fetches again from partitions that were paused.
    ///
    /// # Errors
    /// When one is not ours.
    pub fn resume(&self, partitions: &[Partition]) -> Result<(), BusError> {
        let list = to_list(&self.topics, partitions.iter().map(|partition| (*partition, 0, None)));
        self.inner.resume(&list).map_err(BusError::new("resume"))
    }

    /// The partitions that are ours.
    ///
    /// # Errors
    /// When the client is beyond repair.
    pub fn assignment(&self) -> Result<Vec<Partition>, BusError> {
        let list = self.inner.assignment().map_err(BusError::new("read the assignment"))?;
        Ok(from_list(&self.topics, &list))
    }

    /// Whether the group has given our partitions away before we gave them back,
    /// as after a stall: what the next poll will tell.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.inner.assignment_lost()
    }

    /// The group's generation, for [`Turns::turn`](crate::Turns::turn).
    ///
    /// # Errors
    /// When the consumer has not joined its group.
    pub fn group_metadata(&self) -> Result<GroupMetadata, BusError> {
        self.inner
            .group_metadata()
            .map(GroupMetadata)
            .ok_or(BusError::Kafka { what: "read the group's generation", source: KafkaError::Canceled })
    }

    /// How many records of a partition lie between `offset` and its end.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn behind(&self, partition: Partition, offset: i64) -> Result<i64, BusError> {
        let name = self.topics.name(partition.topic);
        let (_, end) = self
            .scout()?
            .fetch_watermarks(&name, partition.index, CALL_TIMEOUT)
            .map_err(BusError::new("fetch where a log ends"))?;
        Ok((end - offset).max(0))
    }

    /// A client of its own for questions: a broker answers what comes over one
    /// connection in order, and over ours a fetch waits half a second for records.
    fn scout(&self) -> Result<&BaseConsumer, BusError> {
        if let Some(scout) = self.scout.get() {
            return Ok(scout);
        }
        let scout = self.asking.create().map_err(BusError::new("make a client"))?;
        Ok(self.scout.get_or_init(|| scout))
    }
}
