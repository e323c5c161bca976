//! A consumer that one thread owns. Partitions are assigned and revoked inside its
//! poll, and only offsets that its owner reports as done are committed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol},
    error::KafkaError,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use schemas::{Topic, Topics};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    Bus, BusError, Partition, Record,
    client::{connect, log_ends, without_leader},
    client_errors,
    config::{CALL_TIMEOUT, FIRST_BROKER, HEARTBEAT, QUICK_HEARTBEAT},
    stopped::{ConsumerStops, StopReason},
};

/// How long a group's first offset may be missing: whoever makes a partition commits it
/// a moment later.
const FIRST_OFFSET: Duration = Duration::from_secs(2);
/// How often a stopped partition is looked at again, and how long each question may take.
const RECHECK_EVERY: Duration = Duration::from_secs(3);
const RECHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a member that leaves its group waits for its partitions to be revoked.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);
/// How long a member that leaves is polled on after its partitions were revoked. librdkafka
/// sends the request to leave once the fetches have ended, and does not say when.
const LEFT_WITHIN: Duration = Duration::from_millis(100);

/// Whether records of open and of aborted transactions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Committed records only.
    Committed,
    /// All records, as soon as they are appended.
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

/// How a member keeps its partitions while its process is away, where the configuration
/// names the instance. Without a name every member is dynamic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// A static member, which never leaves: its partitions wait until its process is
    /// started again, or its session has ended.
    Static,
    /// A static member that [leaves](Consumer::leave) when its process is told to stop: the
    /// other members have its partitions at once. After a kill, they wait.
    Handover,
    /// A dynamic member, whatever is configured.
    Dynamic,
}

impl Membership {
    /// How often the member asks whether its group rebalances.
    const fn heartbeat(self) -> Duration {
        match self {
            Self::Handover => QUICK_HEARTBEAT,
            Self::Static | Self::Dynamic => HEARTBEAT,
        }
    }
}

/// A newly assigned partition, and the offset where reading starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The assigned partition.
    pub partition: Partition,
    /// The next offset to read.
    pub offset: i64,
    /// The metadata committed with the offset; empty if there is none.
    pub metadata: String,
}

/// Partitions that are about to be assigned to another member.
pub struct Revoked<'a> {
    /// The revoked partitions.
    pub partitions: &'a [Partition],
    /// Whether another member may own them already, so that committing would fail.
    pub lost: bool,
    /// Returns the group's generation that owned the partitions, to commit a transaction.
    pub group: &'a dyn Fn() -> Result<GroupMetadata, BusError>,
}

/// The owner's reaction to a rebalance. Both functions run inside
/// [`Consumer::poll`], on the owner's thread.
pub trait Assignments: Send + Sync + 'static {
    /// Takes note of newly assigned partitions.
    fn assigned(&self, partitions: &[Assigned]);

    /// Takes note of partitions to be revoked. Returns the offsets to commit first.
    fn revoked(&self, revoked: &Revoked<'_>) -> Vec<Commit>;
}

/// An owner that keeps no state per partition.
impl Assignments for () {
    fn assigned(&self, _: &[Assigned]) {}

    fn revoked(&self, _: &Revoked<'_>) -> Vec<Commit> {
        Vec::new()
    }
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The partition.
    pub partition: Partition,
    /// The offset of the next record to read.
    pub offset: i64,
    /// The metadata to store with it.
    pub metadata: Option<String>,
}

/// A group's generation, which a transaction needs to commit offsets.
pub struct GroupMetadata(pub(crate) ConsumerGroupMetadata);

struct Context<A> {
    owner: Arc<A>,
    bus: Bus,
    topics: Arc<Topics>,
    group: String,
    read: Vec<Topic>,
    fatal: Mutex<Option<BusError>>,
    stops: ConsumerStops,
    /// Where reading started in each assigned partition.
    starts: Mutex<BTreeMap<Partition, i64>>,
    /// The number of partitions in the name of a static member, until its first
    /// assignment.
    named_after: Mutex<Option<u32>>,
    /// The topic that takes the results; see [`Consumer::writes_to`].
    output: OnceLock<Topic>,
    /// The number of revocations so far.
    revocations: AtomicU64,
}

impl<A: Assignments> ClientContext for Context<A> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn log(&self, level: RDKafkaLogLevel, kind: &str, message: &str) {
        client_errors::log(level, kind, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Kafka client");
    }
}

impl<A: Assignments> ConsumerContext for Context<A> {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        // Under the cooperative protocol `assign` would replace partitions that
        // are to be kept. `group_config` selects `range`, but the configuration's
        // `properties` may select another strategy.
        let outcome = if matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            Err(BusError::CooperativeRebalance { group: self.group.clone() })
        } else if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, list)
        } else {
            self.revoke(consumer, list);
            consumer.unassign().map_err(BusError::new("give partitions back"))
        };
        if let Err(error) = outcome {
            // Without an assignment nothing is read. The poll that runs this
            // callback returns the error to the owner.
            let _ = consumer.assign(&TopicPartitionList::new());
            *self.fatal.lock() = Some(error);
        }
    }
}

impl<A: Assignments> Context<A> {
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> Result<(), BusError> {
        self.check_name(consumer)?;
        let partitions = from_list(&self.topics, list);
        let assigned = self.start_offsets(consumer, &partitions)?;
        *self.starts.lock() = assigned.iter().map(|assigned| (assigned.partition, assigned.offset)).collect();
        self.owner.assigned(&assigned);
        let list = to_list(&self.topics, assigned.iter().map(|a| (a.partition, a.offset, None)));
        info!(group = self.group, partitions = %names(&partitions), "partitions assigned");
        consumer.assign(&list).map_err(BusError::new("take partitions"))?;
        // A partition that was revoked while paused would be paused again.
        consumer.resume(&list).map_err(BusError::new("resume"))
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions = from_list(&self.topics, list);
        let lost = consumer.assignment_lost();
        self.stops.clear();
        let group = || {
            if lost {
                return Err(BusError::PartitionsLost { group: self.group.clone() });
            }
            let metadata = consumer.group_metadata().map(GroupMetadata);
            metadata.ok_or_else(|| BusError::NotJoined { group: self.group.clone() })
        };
        let commits = self.owner.revoked(&Revoked { partitions: &partitions, lost, group: &group });
        self.revocations.fetch_add(1, Ordering::Relaxed);
        info!(group = self.group, partitions = %names(&partitions), lost, "partitions revoked");
        if !lost && !commits.is_empty() {
            let list = commit_list(&self.topics, &commits);
            if let Err(error) = consumer.commit(&list, CommitMode::Sync) {
                warn!(group = self.group, %error, "offsets of revoked partitions not committed: their records are processed again");
            }
        }
    }
}

/// The offset that a group has committed in a partition, if any.
struct CommittedOffset {
    partition: Partition,
    offset: Option<i64>,
    metadata: String,
}

impl<A: Assignments> Context<A> {
    /// Kafka gives a static member that rejoins within its session the partitions that
    /// it had, also when its topics were widened meanwhile: the new ones would never be
    /// read. So its name has the number of partitions, and a member that has joined
    /// under an old number joins again under the new one.
    fn check_name(&self, consumer: &BaseConsumer<Self>) -> Result<(), BusError> {
        let Some(named) = self.named_after.lock().take() else { return Ok(()) };
        let now = self.bus.ask_total_partitions(consumer.client(), &self.read)?;
        if named == now {
            return Ok(());
        }
        Err(BusError::PartitionsChanged { group: self.group.clone(), before: named, now })
    }

    /// Returns where reading starts in each partition: at the committed offset. A
    /// partition without an offset is stopped: any start could lose or double records.
    fn start_offsets(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[Partition],
    ) -> Result<Vec<Assigned>, BusError> {
        self.stops.clear();
        let partitions = &self.with_output(consumer, partitions)?[..];
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + FIRST_OFFSET;
        let committed = loop {
            let committed = self.committed(consumer, partitions)?;
            if committed.iter().all(|committed| committed.offset.is_some()) || Instant::now() >= deadline {
                break committed;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let mut assigned = Vec::with_capacity(partitions.len());
        for CommittedOffset { partition, offset, metadata } in committed {
            match offset {
                Some(offset) => assigned.push(Assigned { partition, offset, metadata }),
                None => self.stops.stop(partition, self.no_offset(consumer, partition)?),
            }
        }
        Ok(assigned)
    }

    /// Returns the partitions whose results can be written, and stops the others. One
    /// transaction has the results of all, and ends only once every partition that it
    /// wrote to has a leader.
    fn with_output(&self, consumer: &BaseConsumer<Self>, partitions: &[Partition]) -> Result<Vec<Partition>, BusError> {
        let Some(output) = self.output.get() else { return Ok(partitions.to_vec()) };
        let topic = self.topics.name(*output);
        let away = without_leader(consumer.client(), &topic, CALL_TIMEOUT)?;
        let (stopped, read): (Vec<_>, Vec<_>) =
            partitions.iter().copied().partition(|partition| away.contains(&partition.index));
        for partition in stopped {
            let (group, topic) = (self.group.clone(), topic.clone());
            self.stops.stop(partition, StopReason::OutputAway { group, topic, partition: partition.index });
        }
        Ok(read)
    }

    fn committed(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[Partition],
    ) -> Result<Vec<CommittedOffset>, BusError> {
        let list = to_list(&self.topics, partitions.iter().map(|partition| (*partition, 0, None)));
        let committed = consumer.committed_offsets(list, CALL_TIMEOUT).map_err(|error| {
            // While offsets are pending, librdkafka retries until the timeout, and
            // reports no more than the timeout.
            let timed_out = error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut);
            if timed_out && is_reachable(consumer, &self.topics, partitions[0]) {
                return BusError::OffsetsPending { group: self.group.clone() };
            }
            BusError::new("fetch committed offsets")(error)
        })?;
        let mut offsets = Vec::with_capacity(partitions.len());
        for element in committed.elements() {
            element.error().map_err(BusError::new("fetch a committed offset"))?;
            let Some(topic) = self.topics.parse(element.topic()) else { continue };
            let partition = Partition { topic, index: element.partition() };
            let offset = if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None };
            offsets.push(CommittedOffset { partition, offset, metadata: element.metadata().to_owned() });
        }
        Ok(offsets)
    }

    fn no_offset(&self, consumer: &BaseConsumer<Self>, partition: Partition) -> Result<StopReason, BusError> {
        let topic = self.topics.name(partition.topic);
        let (start, _) = log_ends(consumer, &topic, partition.index)?;
        Ok(StopReason::NoOffset {
            group: self.group.clone(),
            topic,
            partition: partition.index,
            start,
            migrate: self.bus.command("migrate"),
            earliest: self.set_earliest(partition),
        })
    }

    /// Returns the command that lets the group go on in the topic of `partition`.
    fn set_earliest(&self, partition: Partition) -> String {
        let (group, topic) = (&self.group, partition.topic.suffix());
        self.bus.command(&format!("offsets set --group {group} --topic {topic} --to earliest"))
    }
}

fn is_reachable<A: Assignments>(consumer: &BaseConsumer<Context<A>>, topics: &Topics, partition: Partition) -> bool {
    consumer.fetch_watermarks(&topics.name(partition.topic), partition.index, FIRST_BROKER).is_ok()
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
        // Fails only for a negative offset.
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
    membership: Membership,
    /// Whether the member is static.
    is_named: bool,
    joined: AtomicBool,
    /// When librdkafka is made to look whether a heartbeat is due.
    heartbeat_at: Mutex<Instant>,
    /// When stopped partitions are looked at again.
    recheck_at: Mutex<Instant>,
    query_config: ClientConfig,
    query_client: OnceLock<BaseConsumer>,
}

impl Bus {
    /// Makes a member of `group` that reads the topics `read` and reports rebalances
    /// to `owner`. It joins the group when it is first polled.
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
        let partitions = self.total_partitions(read);
        let instance = self.config().instance.as_ref().filter(|_| membership != Membership::Dynamic);
        let member = instance.map(|instance| format!("{instance}.p{partitions}"));
        let context = Context {
            owner,
            bus: self.clone(),
            topics: Arc::clone(&topics),
            group: group.to_owned(),
            read: read.to_vec(),
            fatal: Mutex::new(None),
            stops: self.stopped.of_consumer(group),
            starts: Mutex::default(),
            named_after: Mutex::new(member.as_ref().map(|_| partitions)),
            revocations: AtomicU64::new(0),
            output: OnceLock::new(),
        };
        let inner: BaseConsumer<Context<A>> = self
            .group_config(group, member.as_deref())
            .set("heartbeat.interval.ms", membership.heartbeat().as_millis().to_string())
            .set("isolation.level", isolation.as_str())
            .create_with_context(context)
            .map_err(BusError::new("make a consumer"))?;
        let mut query_config = self.admin_config();
        // Lag then counts what an open transaction hides, too: it would be 0 while a
        // transaction that never ends holds every reader up.
        query_config.set("isolation.level", "read_uncommitted");
        Ok(Consumer {
            inner,
            topics,
            group: group.to_owned(),
            membership,
            is_named: member.is_some(),
            joined: AtomicBool::new(false),
            heartbeat_at: Mutex::new(Instant::now()),
            recheck_at: Mutex::new(Instant::now()),
            query_config,
            query_client: OnceLock::new(),
        })
    }
}

impl Bus {
    /// Returns the partitions that consumers of this handle and its clones do not read,
    /// each under its group and name, with the reason and the command to run.
    #[must_use]
    pub fn stopped_partitions(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.stopped.subscribe()
    }
}

impl<A: Assignments> Consumer<A> {
    /// Says that the results of a partition go to the partition of the same index in
    /// `topic`: while that has no leader, the partition is not read, and the others are.
    /// To be called before the first poll.
    pub fn writes_to(&self, topic: Topic) {
        let _ = self.inner.context().output.set(topic);
    }

    /// Joins the group, after waiting for the first broker: librdkafka otherwise
    /// retries only after a second.
    fn join(&self) -> Result<(), BusError> {
        let read = &self.inner.context().read;
        let names: Vec<String> = read.iter().map(|topic| self.topics.name(*topic)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let first = names.first().copied().unwrap_or_default();
        if let Err(error) = connect(self.inner.client(), first, FIRST_BROKER) {
            debug!(group = self.group, %error, "no broker yet: joining the group all the same");
        }
        self.inner.subscribe(&names).map_err(BusError::new("subscribe"))
    }

    /// Returns the next record, or `None` within `timeout`, often earlier. Must be called at least
    /// every 5 minutes, paused or not, or the partitions go to another member.
    ///
    /// # Errors
    /// When reading on could lose records, or the client has failed for good. While
    /// brokers are unavailable the client retries.
    pub fn poll(&self, timeout: Duration) -> Result<Option<Record<'_>>, BusError> {
        if !self.joined.swap(true, Ordering::Relaxed) {
            self.join()?;
        }
        self.recheck_stopped()?;
        let polled = self.inner.poll(self.look_at_heartbeat(timeout));
        if let Some(error) = self.inner.context().fatal.lock().take() {
            return Err(error);
        }
        match polled {
            None => Ok(None),
            Some(Ok(message)) => {
                let topic = self.topics.parse(rdkafka::Message::topic(&message));
                Ok(topic.map(|topic| Record { message, topic }))
            }
            Some(Err(error)) => self.check(error).map(|()| None),
        }
    }

    /// Lets librdkafka look whether a quick heartbeat is due: its thread does so when it
    /// has something to do, which may take a second. Returns how much of `timeout` a poll
    /// may wait until it is to look again.
    fn look_at_heartbeat(&self, timeout: Duration) -> Duration {
        if self.membership != Membership::Handover {
            return timeout;
        }
        let mut at = self.heartbeat_at.lock();
        let now = Instant::now();
        if *at <= now {
            *at = now + QUICK_HEARTBEAT;
            // A question that the thread answers without a request.
            let _ = self.inner.rebalance_protocol();
        }
        timeout.min(QUICK_HEARTBEAT)
    }

    /// Gives the partitions to the other members at once, where there are others. A
    /// static member that only ends keeps them until it is started again, or its session
    /// ends. The owner must have committed its offsets, and must not poll afterwards.
    pub fn leave(&self) {
        // A dynamic member leaves when it is dropped.
        let is_static = self.is_named && self.joined.load(Ordering::Relaxed);
        if self.membership != Membership::Handover || !is_static || self.owns_all() {
            return;
        }
        let context = self.inner.context();
        let revocations = context.revocations.load(Ordering::Relaxed);
        self.inner.unsubscribe();
        let begun = Instant::now();
        let mut revoked_at = None;
        while revoked_at.map_or_else(|| begun.elapsed() < REVOKED_WITHIN, |at: Instant| at.elapsed() < LEFT_WITHIN) {
            drop(self.inner.poll(Duration::from_millis(10)));
            if revoked_at.is_none() && context.revocations.load(Ordering::Relaxed) != revocations {
                revoked_at = Some(Instant::now());
            }
        }
        debug!(group = self.group, left = revoked_at.is_some(), "left the group");
    }

    /// Whether the member owns every partition. Its group would be empty without it: the
    /// brokers keep the first member of an empty group waiting (3 s by default) for others.
    fn owns_all(&self) -> bool {
        let context = self.inner.context();
        let total = context.bus.total_partitions(&context.read) as usize;
        self.assignment().is_ok_and(|assigned| assigned.len() >= total)
    }

    fn check(&self, error: KafkaError) -> Result<(), BusError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => self.stop_gone(error),
            Some(
                RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::PollExceeded,
            ) => Err(BusError::new("read")(error)),
            _ => {
                debug!(group = self.group, %error, "read failed: retrying");
                Ok(())
            }
        }
    }

    /// Stops the partitions whose next offset the log does not hold. librdkafka does not
    /// say which partition an error is about.
    fn stop_gone(&self, error: KafkaError) -> Result<(), BusError> {
        let context = self.inner.context();
        let positions = self.inner.position().map_err(BusError::new("read the positions"))?;
        let stopped = context.stops.partitions();
        let mut found = !stopped.is_empty();
        for (partition, start) in context.starts.lock().iter() {
            if stopped.contains_key(partition) {
                continue;
            }
            let topic = self.topics.name(partition.topic);
            let position = positions.find_partition(&topic, partition.index).map(|element| element.offset());
            let offset = if let Some(Offset::Offset(offset)) = position { offset } else { *start };
            let (start, end) = log_ends(self.query_client()?, &topic, partition.index)?;
            if (start..=end).contains(&offset) {
                continue;
            }
            found = true;
            let group = self.group.clone();
            let earliest = context.set_earliest(*partition);
            let reason =
                StopReason::OffsetGone { group, topic, partition: partition.index, offset, start, end, earliest };
            context.stops.stop(*partition, reason);
        }
        if found { Ok(()) } else { Err(BusError::new("read")(error)) }
    }

    /// Looks whether a stopped partition can be read again: whether the group now has an
    /// offset that the log holds, or the results can be written. A new consumer reads it.
    fn recheck_stopped(&self) -> Result<(), BusError> {
        let stopped = self.inner.context().stops.partitions();
        if stopped.is_empty() || *self.recheck_at.lock() > Instant::now() {
            return Ok(());
        }
        *self.recheck_at.lock() = Instant::now() + RECHECK_EVERY;
        let (of_output, of_offset): (Vec<_>, Vec<_>) =
            stopped.into_iter().partition(|(_, reason)| matches!(reason, StopReason::OutputAway { .. }));
        self.recheck_output(&of_output)?;
        let list = to_list(&self.topics, of_offset.iter().map(|(partition, _)| (*partition, 0, None)));
        if of_offset.is_empty() {
            return Ok(());
        }
        let Ok(committed) = self.inner.committed_offsets(list, RECHECK_TIMEOUT) else { return Ok(()) };
        for (partition, _) in of_offset {
            let topic = self.topics.name(partition.topic);
            let offset = committed.find_partition(&topic, partition.index).map(|element| element.offset());
            let Some(Offset::Offset(offset)) = offset else { continue };
            let ends = self.query_client()?.fetch_watermarks(&topic, partition.index, RECHECK_TIMEOUT);
            if ends.is_ok_and(|(start, end)| (start..=end).contains(&offset)) {
                return Err(BusError::PartitionReadable { group: self.group.clone(), partition });
            }
        }
        Ok(())
    }

    fn recheck_output(&self, stopped: &[(Partition, StopReason)]) -> Result<(), BusError> {
        let Some(output) = self.inner.context().output.get().filter(|_| !stopped.is_empty()) else { return Ok(()) };
        let away = without_leader(self.query_client()?.client(), &self.topics.name(*output), RECHECK_TIMEOUT);
        // Kafka that does not answer now is asked again.
        let Ok(away) = away else { return Ok(()) };
        match stopped.iter().find(|(partition, _)| !away.contains(&partition.index)) {
            Some((partition, _)) => {
                Err(BusError::PartitionReadable { group: self.group.clone(), partition: *partition })
            }
            None => Ok(()),
        }
    }

    /// Commits offsets and waits until Kafka confirms them.
    ///
    /// # Errors
    /// When Kafka did not confirm them: another member may own the partitions.
    pub fn commit(&self, commits: &[Commit]) -> Result<(), BusError> {
        if commits.is_empty() {
            return Ok(());
        }
        let list = commit_list(&self.topics, commits);
        self.inner.commit(&list, CommitMode::Sync).map_err(BusError::new("commit offsets"))
    }

    /// Commits offsets in the background. After a failure, the next commit includes
    /// them, or their records are processed again.
    ///
    /// # Errors
    /// When the client refuses the commit at once.
    pub fn commit_later(&self, commits: &[Commit]) -> Result<(), BusError> {
        if commits.is_empty() {
            return Ok(());
        }
        let list = commit_list(&self.topics, commits);
        self.inner.commit(&list, CommitMode::Async).map_err(BusError::new("commit offsets"))
    }

    /// Stops fetching from partitions. Prefetched records are dropped and read again.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn pause(&self, partitions: &[Partition]) -> Result<(), BusError> {
        let list = to_list(&self.topics, partitions.iter().map(|partition| (*partition, 0, None)));
        self.inner.pause(&list).map_err(BusError::new("pause"))
    }

    /// Resumes fetching from paused partitions.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn resume(&self, partitions: &[Partition]) -> Result<(), BusError> {
        let list = to_list(&self.topics, partitions.iter().map(|partition| (*partition, 0, None)));
        self.inner.resume(&list).map_err(BusError::new("resume"))
    }

    /// Returns the assigned partitions.
    ///
    /// # Errors
    /// When the client has failed for good.
    pub fn assignment(&self) -> Result<Vec<Partition>, BusError> {
        let list = self.inner.assignment().map_err(BusError::new("read the assignment"))?;
        Ok(from_list(&self.topics, &list))
    }

    /// Whether the group has taken the partitions away without this member's consent,
    /// as after a stall. The next poll revokes them.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.inner.assignment_lost()
    }

    /// Returns the group's generation, for
    /// [`TransactionPair::try_commit`](crate::TransactionPair::try_commit).
    ///
    /// # Errors
    /// When the consumer has not joined its group, or its partitions were taken away.
    pub fn group_metadata(&self) -> Result<GroupMetadata, BusError> {
        // Kafka accepts a transaction's offsets from a member that it no longer
        // knows, if the client has reset its generation.
        if self.is_lost() {
            return Err(BusError::PartitionsLost { group: self.group.clone() });
        }
        let not_joined = || BusError::NotJoined { group: self.group.clone() };
        if self.assignment()?.is_empty() {
            return Err(not_joined());
        }
        self.inner.group_metadata().map(GroupMetadata).ok_or_else(not_joined)
    }

    /// Returns the number of records of a partition from `offset` to its end.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn behind(&self, partition: Partition, offset: i64) -> Result<i64, BusError> {
        let name = self.topics.name(partition.topic);
        let (_, end) = self
            .query_client()?
            .fetch_watermarks(&name, partition.index, CALL_TIMEOUT)
            .map_err(BusError::new("fetch where a log ends"))?;
        Ok((end - offset).max(0))
    }

    /// Returns a client with connections of its own: a broker answers the requests
    /// of a connection in order, and a fetch may wait half a second for records.
    fn query_client(&self) -> Result<&BaseConsumer, BusError> {
        if let Some(client) = self.query_client.get() {
            return Ok(client);
        }
        let client = self.query_config.create().map_err(BusError::new("make a client"))?;
        Ok(self.query_client.get_or_init(|| client))
    }
}
