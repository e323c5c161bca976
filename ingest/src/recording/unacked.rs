//! The rules for bundles that Kafka has not acknowledged: events in, effects out.
//! Nothing here reads a clock, takes a lock or does I/O; the recorder carries the
//! effects out, and `simulation.rs` plays Kafka and the disk.
//!
//! A bundle that is closed goes to the Kafka client. Where no acknowledgement comes
//! within the budget, it goes to disk as well, and those who wait are told once it is
//! there; if the disk takes longer than [`DISK`] beyond the budget, they wait no
//! longer. A bundle leaves memory when Kafka or the disk has it, and not before.
//!
//! Each partition is on its own: it is late while its oldest bundle in the client is
//! overdue, and takes a share of the client's memory and no more.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::Durability,
    recording::bundle::{BundleCopy, BundleNumber, ClosedBundle, Handed, Recorded},
};

/// How long beyond the budget a redirect waits for the disk.
pub(crate) const DISK: Duration = Duration::from_secs(1);
/// The pause before a disk that refuses, or a client that has failed, is tried again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The settings of the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnackedRules {
    pub(crate) durability: Durability,
    pub(crate) budget: Duration,
    pub(crate) partitions: u16,
    /// The bytes of bundles in the Kafka client; each partition has a share.
    pub(crate) client_bytes: usize,
    /// The bundles in the Kafka client; each partition has a share.
    pub(crate) client_bundles: usize,
    /// How many bytes of bundles may be in memory alone.
    pub(crate) memory_bytes: usize,
}

/// A thing that happened.
#[derive(Debug)]
pub(crate) enum UnackedEvent {
    /// A bundle was closed.
    Closed(Arc<ClosedBundle>),
    /// The Kafka client did not take the bundle.
    NotTaken(BundleNumber),
    /// Kafka has acknowledged the bundle at `offset`, which it does not tell for a record
    /// that the client had to send twice.
    Acked { bundle: BundleNumber, offset: Option<i64> },
    /// The Kafka client has given the bundle up: Kafka may have it or not.
    GivenUp(BundleNumber),
    /// The bundle is on disk.
    Stored(BundleNumber),
    /// The spool is full, or the disk refuses.
    NotStored(BundleNumber),
    /// `clicks.raw` has more partitions.
    Widened { partitions: u16 },
    /// The time of [`Unacked::next_timeout`] has come.
    TimedOut,
    /// The process ends: all that Kafka does not have must go to disk.
    Closing,
}

/// A thing to do. Effects on the spool must be carried out in their order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Hand the bundle to the Kafka client.
    Produce { bundle: Arc<ClosedBundle>, copy: BundleCopy },
    /// Put the bundle on disk; `after` is the last offset that its partition had
    /// acknowledged before Kafka can have got it.
    Spool { bundle: Arc<ClosedBundle>, after: Option<i64> },
    /// Erase the bundle from disk.
    Erase(BundleNumber),
    /// Produce the bundle from disk.
    Replay { bundle: BundleNumber, handed: Handed },
    /// Tell the cores that wait.
    Settle { bundle: BundleNumber, cores: u64, recorded: Recorded },
    /// Clicks went on without Kafka and the disk.
    Shed { clicks: u32 },
    /// Kafka has acknowledged a bundle; its buffer is free.
    Acknowledged { bundle: Option<Arc<ClosedBundle>>, after: Duration },
    /// A partition has become late, or answers in time again.
    Late { partition: u16, late: bool },
    /// The disk has begun to hang, or answers in time again.
    Hanging(bool),
    /// No partition answers and the disk refuses, or no longer so.
    Blocked(bool),
}

/// Whether a bundle is in the Kafka client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    Lacks,
    Has,
}

/// Whether a bundle is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskState {
    /// The disk was not asked to take it.
    NotAsked,
    /// The spooler has the command.
    Ordered,
    Stored,
    /// The disk did not take the bundle when it was asked last.
    Refused,
}

/// A bundle that Kafka has not acknowledged.
#[derive(Debug)]
struct UnackedBundle {
    /// None once the disk has the bundle.
    lines: Option<Arc<ClosedBundle>>,
    partition: u16,
    bytes: usize,
    clicks: u32,
    since: Instant,
    cores: u64,
    after: Option<i64>,
    client: ClientState,
    handed: Handed,
    disk: DiskState,
    /// Whether those who wait have been told.
    settled: bool,
}

impl UnackedBundle {
    /// Whether the client may still be handed the bundle from memory.
    fn waits_for_client(&self) -> bool {
        self.client == ClientState::Lacks && self.lines.is_some()
    }
}

#[derive(Debug, Default)]
struct UnackedPartition {
    /// The bundles in the client, oldest first, and some that no longer are.
    in_client: VecDeque<BundleNumber>,
    client_bytes: usize,
    client_bundles: usize,
    /// The bundles in memory that wait for room in the client, and some that no longer do.
    held: VecDeque<BundleNumber>,
    /// Whether the client has refused a bundle a moment ago, and is offered none.
    paused: bool,
    late: bool,
    acked: Option<i64>,
    /// The last offset that Kafka had acknowledged to a former process.
    formerly_acked: Option<i64>,
}

impl UnackedPartition {
    /// Returns the last acknowledged offset. One of a former process counts until Kafka
    /// has acknowledged to this one: the topic may have been made again since.
    fn last_acked(&self) -> Option<i64> {
        self.acked.or(self.formerly_acked)
    }
}

/// The bundles that Kafka has not acknowledged.
#[derive(Debug)]
pub(crate) struct Unacked {
    rules: UnackedRules,
    bundles: BTreeMap<BundleNumber, UnackedBundle>,
    partitions: Vec<UnackedPartition>,
    /// The bundles that wait for the acknowledgement alone, oldest first, and some that
    /// no longer do: in an outage of hours the others are not searched for them.
    waiting: VecDeque<BundleNumber>,
    /// The same of bundles that wait for the disk. Some of them have waited for the
    /// acknowledgement before, and some have not: the oldest is not the first that came.
    spooling: BTreeSet<BundleNumber>,
    /// The same of bundles that the disk has refused.
    refused: VecDeque<BundleNumber>,
    memory_bytes: usize,
    hanging: bool,
    /// When a disk that refuses is asked again; none while it takes bundles.
    disk_retry: Option<Instant>,
    /// When the client is offered bundles of a partition again, earliest first.
    client_retries: VecDeque<(Instant, u16)>,
    blocked: bool,
}

impl Unacked {
    pub(crate) fn new(rules: UnackedRules) -> Self {
        Self {
            rules,
            bundles: BTreeMap::new(),
            partitions: (0..rules.partitions).map(|_| UnackedPartition::default()).collect(),
            waiting: VecDeque::new(),
            spooling: BTreeSet::new(),
            refused: VecDeque::new(),
            memory_bytes: 0,
            hanging: false,
            disk_retry: None,
            client_retries: VecDeque::new(),
            blocked: false,
        }
    }

    /// Takes note of offsets that Kafka had acknowledged to a former process.
    pub(crate) fn know_acknowledged(&mut self, offsets: &BTreeMap<u16, i64>) {
        for (partition, offset) in offsets {
            if let Some(state) = self.partitions.get_mut(usize::from(*partition)) {
                state.formerly_acked = Some(*offset);
            }
        }
    }

    /// Returns the last acknowledged offset of each partition where one is known.
    pub(crate) fn acknowledged(&self) -> BTreeMap<u16, i64> {
        (0..).zip(&self.partitions).filter_map(|(partition, state)| Some((partition, state.last_acked()?))).collect()
    }

    /// How many bundles Kafka has not acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.bundles.len()
    }

    /// How many bundles the queues remember that wait for nothing any more.
    #[cfg(test)]
    pub(crate) fn remembered(&mut self) -> usize {
        let partitions = 0..self.rules.partitions;
        partitions.for_each(|partition| self.hand_over(partition, &mut Vec::new()));
        let queues = self.partitions.iter().flat_map(|state| [&state.held, &state.in_client]);
        let queued: usize = queues.chain([&self.waiting, &self.refused]).map(VecDeque::len).sum();
        queued + self.spooling.len()
    }

    /// How many bytes neither Kafka nor the disk has.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Whether memory takes no more bundles either.
    pub(crate) fn is_full(&self) -> bool {
        self.rules.durability != Durability::Acked && self.memory_bytes >= self.rules.memory_bytes
    }

    /// Whether bundles that are in memory alone may still reach Kafka or the disk soon.
    pub(crate) fn is_worth_waiting_for(&self) -> bool {
        self.memory_bytes > 0 && (!self.spools() || self.disk_retry.is_some() || self.any_in_time())
    }

    fn any_in_time(&self) -> bool {
        let in_time = |bundle: &UnackedBundle| !self.partition(bundle.partition).late;
        self.bundles.values().any(|bundle| bundle.disk != DiskState::Stored && in_time(bundle))
    }

    const fn spools(&self) -> bool {
        matches!(self.rules.durability, Durability::Spooled)
    }

    fn partition(&self, partition: u16) -> &UnackedPartition {
        &self.partitions[usize::from(partition)]
    }

    /// The time at which [`UnackedEvent::TimedOut`] is due.
    pub(crate) fn next_timeout(&mut self) -> Option<Instant> {
        let ack = self.first_waiting().map(|(_, since)| since + self.rules.budget);
        let disk = self.first_spooling().map(|(_, since)| since + self.rules.budget + DISK);
        let disk_retry = if self.first_refused().is_some() { self.disk_retry } else { None };
        let client_retry = self.client_retries.front().map(|(due, _)| *due);
        [ack, disk, disk_retry, client_retry].into_iter().flatten().min()
    }

    /// Applies an event at `now`; `effects` gets the consequences.
    pub(crate) fn handle(&mut self, event: UnackedEvent, now: Instant, effects: &mut Vec<Effect>) {
        match event {
            UnackedEvent::Closed(bundle) => self.closed(bundle, effects),
            UnackedEvent::NotTaken(number) => self.without_client(number, Handed::Never, now, effects),
            UnackedEvent::GivenUp(number) => self.without_client(number, Handed::Once, now, effects),
            UnackedEvent::Acked { bundle, offset } => self.acked(bundle, offset, now, effects),
            UnackedEvent::Stored(number) => self.stored(number, now, effects),
            UnackedEvent::NotStored(number) => self.not_stored(number, now, effects),
            UnackedEvent::TimedOut => self.timed_out(now, effects),
            UnackedEvent::Widened { partitions } => self.widen(partitions),
            UnackedEvent::Closing => self.closing(effects),
        }
        let blocked = self.spools() && self.disk_retry.is_some() && self.partitions.iter().all(|state| state.late);
        if blocked != self.blocked {
            self.blocked = blocked;
            effects.push(Effect::Blocked(blocked));
        }
    }

    /// Makes room for the bundles of new partitions. Those in the client may have more
    /// than their new share until they are acknowledged.
    fn widen(&mut self, partitions: u16) {
        self.rules.partitions = self.rules.partitions.max(partitions);
        self.partitions.resize_with(usize::from(self.rules.partitions), UnackedPartition::default);
    }

    fn closed(&mut self, bundle: Arc<ClosedBundle>, effects: &mut Vec<Effect>) {
        let number = bundle.number;
        let partition = u16::try_from(bundle.partition).unwrap_or_default();
        let state = &mut self.partitions[usize::from(partition)];
        state.held.push_back(number);
        let late = state.late;
        self.memory_bytes += bundle.lines.len();
        let entry = UnackedBundle {
            partition,
            bytes: bundle.lines.len(),
            clicks: bundle.clicks,
            since: bundle.since,
            cores: bundle.cores,
            after: state.last_acked(),
            client: ClientState::Lacks,
            handed: Handed::Never,
            disk: DiskState::NotAsked,
            settled: false,
            lines: Some(bundle),
        };
        self.bundles.insert(number, entry);
        // While a partition is late, its acknowledgement is not waited for first.
        if self.spools() && late {
            self.spool(number, effects);
        }
        self.hand_over(partition, effects);
        if self.bundles.get(&number).is_some_and(|entry| entry.client == ClientState::Has) {
            if self.bundles.get(&number).is_some_and(|entry| entry.disk == DiskState::NotAsked) {
                self.waiting.push_back(number);
            }
        } else {
            self.lacks_client(number, effects);
        }
    }

    /// Hands the client as many held bundles of a partition as it has room for.
    fn hand_over(&mut self, partition: u16, effects: &mut Vec<Effect>) {
        let UnackedRules { partitions, client_bytes, client_bundles, .. } = self.rules;
        let shares = usize::from(partitions.max(1));
        let state = &mut self.partitions[usize::from(partition)];
        // Most bundles of a long outage are on disk by now: they are not remembered here.
        let bundles = &self.bundles;
        let waits = |number: &BundleNumber| bundles.get(number).is_some_and(UnackedBundle::waits_for_client);
        while state.held.pop_front_if(|number| !waits(number)).is_some() {}
        if state.paused {
            return;
        }
        while state.client_bytes < client_bytes / shares && state.client_bundles < client_bundles / shares {
            let Some(number) = state.held.pop_front() else { return };
            let Some(entry) = self.bundles.get_mut(&number) else { continue };
            let (ClientState::Lacks, Some(bundle)) = (entry.client, &entry.lines) else { continue };
            entry.client = ClientState::Has;
            state.client_bytes += entry.bytes;
            state.client_bundles += 1;
            state.in_client.push_back(number);
            let copy = match entry.handed {
                Handed::Never => BundleCopy::First,
                Handed::Once => BundleCopy::Again { after: entry.after },
            };
            effects.push(Effect::Produce { bundle: Arc::clone(bundle), copy });
        }
    }

    /// The client does not have the bundle, or no longer.
    fn without_client(&mut self, number: BundleNumber, handed: Handed, now: Instant, effects: &mut Vec<Effect>) {
        let Some(entry) = self.bundles.get_mut(&number).filter(|entry| entry.client == ClientState::Has) else {
            return;
        };
        let partition = entry.partition;
        let bytes = entry.bytes;
        entry.client = ClientState::Lacks;
        if handed == Handed::Once {
            entry.handed = handed;
        }
        self.leave_client(partition, bytes);
        let state = &mut self.partitions[usize::from(partition)];
        state.held.push_back(number);
        if !state.paused {
            state.paused = true;
            self.client_retries.push_back((now + RETRY_AFTER, partition));
        }
        self.lacks_client(number, effects);
        self.look_for_lateness(partition, None, effects);
    }

    fn leave_client(&mut self, partition: u16, bytes: usize) {
        let state = &mut self.partitions[usize::from(partition)];
        state.client_bytes -= bytes;
        state.client_bundles -= 1;
    }

    /// Decides on a bundle that is not in the client: the disk is asked, or those who
    /// wait are told that it may not be recorded.
    fn lacks_client(&mut self, number: BundleNumber, effects: &mut Vec<Effect>) {
        let Some(entry) = self.bundles.get_mut(&number) else { return };
        match (self.rules.durability, entry.disk) {
            (Durability::Spooled, DiskState::NotAsked) => self.spool(number, effects),
            (Durability::Spooled, DiskState::Stored) => self.replay(number, effects),
            (Durability::Spooled, DiskState::Ordered | DiskState::Refused) | (Durability::Async, _) => {}
            (Durability::Acked, _) => {
                settle(number, entry, Recorded::Unknown, effects);
                effects.push(Effect::Shed { clicks: entry.clicks });
                self.forget(number);
            }
        }
    }

    fn acked(&mut self, number: BundleNumber, offset: Option<i64>, now: Instant, effects: &mut Vec<Effect>) {
        let Some(mut entry) = self.forget(number) else { return };
        if matches!(entry.disk, DiskState::Ordered | DiskState::Stored) {
            effects.push(Effect::Erase(number));
        }
        settle(number, &mut entry, Recorded::Yes, effects);
        let after = now.saturating_duration_since(entry.since);
        effects.push(Effect::Acknowledged { bundle: entry.lines.take(), after });
        if entry.client == ClientState::Has {
            self.leave_client(entry.partition, entry.bytes);
        }
        let state = &mut self.partitions[usize::from(entry.partition)];
        state.acked = state.acked.max(offset);
        self.look_for_lateness(entry.partition, Some(now), effects);
        self.hand_over(entry.partition, effects);
    }

    /// Ends a partition's lateness where its oldest bundle in the client is not overdue
    /// at `now`, or none is in the client.
    fn look_for_lateness(&mut self, partition: u16, now: Option<Instant>, effects: &mut Vec<Effect>) {
        let state = &mut self.partitions[usize::from(partition)];
        let bundles = &self.bundles;
        let has = |number: &BundleNumber| bundles.get(number).is_some_and(|entry| entry.client == ClientState::Has);
        while state.in_client.pop_front_if(|number| !has(number)).is_some() {}
        let oldest = state.in_client.front().and_then(|number| bundles.get(number));
        let overdue = oldest.is_some_and(|oldest| {
            now.is_none_or(|now| now.saturating_duration_since(oldest.since) > self.rules.budget)
        });
        if state.late && !overdue {
            state.late = false;
            effects.push(Effect::Late { partition, late: false });
        }
    }

    fn stored(&mut self, number: BundleNumber, now: Instant, effects: &mut Vec<Effect>) {
        self.is_on_disk(number, now, effects);
        if self.disk_retry.take().is_some() {
            while let Some(number) = self.take_refused() {
                self.spool(number, effects);
            }
        }
    }

    fn is_on_disk(&mut self, number: BundleNumber, now: Instant, effects: &mut Vec<Effect>) {
        let Some(entry) = self.bundles.get_mut(&number) else { return };
        if entry.disk != DiskState::Stored {
            self.memory_bytes -= entry.bytes;
        }
        entry.disk = DiskState::Stored;
        entry.lines = None;
        let waited = !entry.settled;
        let in_time = now.saturating_duration_since(entry.since) < self.rules.budget + DISK;
        settle(number, entry, Recorded::Yes, effects);
        if entry.client == ClientState::Lacks {
            self.replay(number, effects);
        }
        self.answered(waited && in_time, effects);
    }

    fn not_stored(&mut self, number: BundleNumber, now: Instant, effects: &mut Vec<Effect>) {
        self.disk_retry = Some(now + RETRY_AFTER);
        let Some(entry) = self.bundles.get_mut(&number) else { return };
        entry.disk = DiskState::Refused;
        self.refused.push_back(number);
        let waited = !entry.settled;
        let in_time = now.saturating_duration_since(entry.since) < self.rules.budget + DISK;
        shed(number, entry, effects);
        self.answered(waited && in_time, effects);
    }

    /// The disk has answered about a bundle that somebody waited for.
    fn answered(&mut self, in_time: bool, effects: &mut Vec<Effect>) {
        if in_time && self.hanging {
            self.hanging = false;
            effects.push(Effect::Hanging(false));
        }
    }

    fn timed_out(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some((number, since)) = self.first_waiting() {
            if since + self.rules.budget > now {
                break;
            }
            self.overdue(number, effects);
        }
        while let Some((number, since)) = self.first_spooling() {
            if since + self.rules.budget + DISK > now {
                break;
            }
            if let Some(entry) = self.bundles.get_mut(&number) {
                shed(number, entry, effects);
            }
            if !self.hanging {
                self.hanging = true;
                effects.push(Effect::Hanging(true));
            }
        }
        if self.disk_retry.is_some_and(|retry| retry <= now)
            && let Some(number) = self.take_refused()
        {
            self.disk_retry = Some(now + RETRY_AFTER);
            self.spool(number, effects);
        }
        while let Some((_, partition)) = self.client_retries.pop_front_if(|(due, _)| *due <= now) {
            self.partitions[usize::from(partition)].paused = false;
            self.hand_over(partition, effects);
        }
    }

    /// Kafka has not acknowledged the bundle within the budget.
    fn overdue(&mut self, number: BundleNumber, effects: &mut Vec<Effect>) {
        let Some(entry) = self.bundles.get_mut(&number) else { return };
        let partition = entry.partition;
        match self.rules.durability {
            Durability::Spooled => self.spool(number, effects),
            Durability::Acked | Durability::Async => {
                settle(number, entry, Recorded::Unknown, effects);
            }
        }
        let state = &mut self.partitions[usize::from(partition)];
        if !state.late {
            state.late = true;
            effects.push(Effect::Late { partition, late: true });
        }
    }

    fn closing(&mut self, effects: &mut Vec<Effect>) {
        if !self.spools() {
            return;
        }
        let asked = |entry: &UnackedBundle| matches!(entry.disk, DiskState::Ordered | DiskState::Stored);
        let numbers: Vec<BundleNumber> =
            self.bundles.iter().filter(|(_, entry)| !asked(entry)).map(|(number, _)| *number).collect();
        for number in numbers {
            self.spool(number, effects);
        }
    }

    /// Asks the disk to take a bundle.
    fn spool(&mut self, number: BundleNumber, effects: &mut Vec<Effect>) {
        let Some(entry) = self.bundles.get_mut(&number) else { return };
        let Some(bundle) = &entry.lines else { return };
        entry.disk = DiskState::Ordered;
        if !entry.settled {
            self.spooling.insert(number);
        }
        effects.push(Effect::Spool { bundle: Arc::clone(bundle), after: entry.after });
    }

    /// Leaves a bundle that the disk has to the spooler.
    fn replay(&mut self, number: BundleNumber, effects: &mut Vec<Effect>) {
        let Some(entry) = self.forget(number) else { return };
        effects.push(Effect::Replay { bundle: number, handed: entry.handed });
    }

    fn forget(&mut self, number: BundleNumber) -> Option<UnackedBundle> {
        let entry = self.bundles.remove(&number)?;
        if entry.disk != DiskState::Stored {
            self.memory_bytes -= entry.bytes;
        }
        Some(entry)
    }

    fn first_waiting(&mut self) -> Option<(BundleNumber, Instant)> {
        first(&self.bundles, &mut self.waiting, |entry| entry.disk == DiskState::NotAsked && !entry.settled)
    }

    fn first_spooling(&mut self) -> Option<(BundleNumber, Instant)> {
        while let Some(number) = self.spooling.first() {
            match self.bundles.get(number) {
                Some(entry) if entry.disk == DiskState::Ordered && !entry.settled => {
                    return Some((*number, entry.since));
                }
                _ => drop(self.spooling.pop_first()),
            }
        }
        None
    }

    fn first_refused(&mut self) -> Option<BundleNumber> {
        first(&self.bundles, &mut self.refused, |entry| entry.disk == DiskState::Refused).map(|(number, _)| number)
    }

    fn take_refused(&mut self) -> Option<BundleNumber> {
        let number = self.first_refused();
        self.refused.pop_front();
        number
    }
}

/// Returns the first bundle of `queue` that is still in the queue's state, and when it
/// was closed; removes the stale ones before it.
fn first(
    bundles: &BTreeMap<BundleNumber, UnackedBundle>,
    queue: &mut VecDeque<BundleNumber>,
    is_in_state: impl Fn(&UnackedBundle) -> bool,
) -> Option<(BundleNumber, Instant)> {
    while queue.pop_front_if(|number| !bundles.get(number).is_some_and(&is_in_state)).is_some() {}
    let number = *queue.front()?;
    Some((number, bundles.get(&number)?.since))
}

/// Tells those who wait for a bundle, once.
fn settle(number: BundleNumber, entry: &mut UnackedBundle, recorded: Recorded, effects: &mut Vec<Effect>) {
    if !entry.settled {
        entry.settled = true;
        effects.push(Effect::Settle { bundle: number, cores: entry.cores, recorded });
    }
}

/// Lets those who wait for a bundle go on without Kafka and the disk.
fn shed(number: BundleNumber, entry: &mut UnackedBundle, effects: &mut Vec<Effect>) {
    if !entry.settled {
        effects.push(Effect::Shed { clicks: entry.clicks });
        settle(number, entry, Recorded::Shed, effects);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const BUDGET: Duration = Duration::from_millis(25);

    fn rules() -> UnackedRules {
        UnackedRules {
            durability: Durability::Spooled,
            budget: BUDGET,
            partitions: 2,
            client_bytes: 1 << 20,
            client_bundles: 1 << 10,
            memory_bytes: 1000,
        }
    }

    fn bundle(number: BundleNumber, partition: i32, since: Instant) -> UnackedEvent {
        let (id, lines) = (Uuid::from_u128(u128::from(number)), vec![b'x'; 400]);
        UnackedEvent::Closed(Arc::new(ClosedBundle { number, id, partition, clicks: 1, lines, since, cores: 1 }))
    }

    fn apply(unacked: &mut Unacked, event: UnackedEvent, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        unacked.handle(event, now, &mut effects);
        effects
    }

    #[test]
    fn a_bundle_that_neither_client_nor_disk_takes_stays_in_memory_until_one_does() {
        let now = Instant::now();
        let mut unacked = Unacked::new(rules());
        for number in 0..3 {
            apply(&mut unacked, bundle(number, 0, now), now);
            apply(&mut unacked, UnackedEvent::NotTaken(number), now);
            let effects = apply(&mut unacked, UnackedEvent::NotStored(number), now);
            assert!(effects.iter().any(|effect| matches!(effect, Effect::Settle { recorded: Recorded::Shed, .. })));
        }
        assert_eq!(unacked.memory_bytes(), 1200);
        assert!(unacked.is_full());
        // One bundle that the disk takes lets the others be tried again.
        let effects = apply(&mut unacked, UnackedEvent::Stored(0), now);
        assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Spool { .. })).count(), 2);
        assert!(!unacked.is_full());
        // The client is tried again as well, and what Kafka has is forgotten.
        let later = now + RETRY_AFTER;
        let effects = apply(&mut unacked, UnackedEvent::TimedOut, later);
        assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Produce { .. })).count(), 2);
        for number in 1..3 {
            apply(&mut unacked, UnackedEvent::Acked { bundle: number, offset: Some(5) }, later);
        }
        assert_eq!(unacked.len(), 0);
        assert_eq!(unacked.memory_bytes(), 0);
    }

    #[test]
    fn a_disk_that_hangs_while_the_client_is_full_keeps_nobody_waiting_longer() {
        let begun = Instant::now();
        let mut unacked = Unacked::new(UnackedRules { client_bundles: 2, memory_bytes: 4000, ..rules() });
        // The client has its share of the partition, and the disk never answers.
        for number in 0..4 {
            apply(&mut unacked, bundle(number, 0, begun), begun);
        }
        let mut told = Vec::new();
        while let Some(due) = unacked.next_timeout() {
            for effect in apply(&mut unacked, UnackedEvent::TimedOut, due) {
                if let Effect::Settle { bundle, recorded, .. } = effect {
                    told.push((bundle, recorded, due - begun));
                }
            }
        }
        told.sort_by_key(|(bundle, ..)| *bundle);
        let longest = BUDGET + DISK;
        assert_eq!(told, [0, 1, 2, 3].map(|number| (number, Recorded::Shed, longest)));
    }

    #[test]
    fn bundles_on_disk_are_not_remembered_however_long_kafka_is_away() {
        let now = Instant::now();
        let mut unacked = Unacked::new(UnackedRules { client_bundles: 2, ..rules() });
        for number in 0..1000 {
            apply(&mut unacked, bundle(number, 0, now), now);
            apply(&mut unacked, UnackedEvent::TimedOut, now + BUDGET);
            apply(&mut unacked, UnackedEvent::Stored(number), now + BUDGET);
        }
        assert_eq!(unacked.len(), 1, "the bundle in the client");
        assert_eq!(unacked.memory_bytes(), 0);
        assert!(unacked.partitions[0].held.len() < 3);
    }

    #[test]
    fn offsets_that_a_former_process_knew_count_until_kafka_acknowledges() {
        let now = Instant::now();
        let mut unacked = Unacked::new(rules());
        unacked.know_acknowledged(&BTreeMap::from([(0, 900), (1, 70), (u16::MAX, 1)]));
        let after = |unacked: &mut Unacked, number, partition| {
            apply(unacked, bundle(number, partition, now), now);
            let effects = apply(unacked, UnackedEvent::TimedOut, now + BUDGET);
            effects.into_iter().find_map(|effect| match effect {
                Effect::Spool { after, .. } => Some(after),
                _ => None,
            })
        };
        assert_eq!(after(&mut unacked, 0, 0), Some(Some(900)));
        // The topic was made again.
        apply(&mut unacked, UnackedEvent::Acked { bundle: 0, offset: Some(3) }, now);
        assert_eq!(after(&mut unacked, 1, 0), Some(Some(3)));
        assert_eq!(unacked.acknowledged(), BTreeMap::from([(0, 3), (1, 70)]));
    }

    #[test]
    fn bundles_of_new_partitions_are_produced_once_there_are_more() {
        let now = Instant::now();
        let mut unacked = Unacked::new(rules());
        apply(&mut unacked, UnackedEvent::Widened { partitions: 4 }, now);
        let effects = apply(&mut unacked, bundle(0, 3, now), now);
        assert!(matches!(effects.as_slice(), [Effect::Produce { copy: BundleCopy::First, .. }]), "{effects:?}");
        // An older number that arrives later changes nothing.
        apply(&mut unacked, UnackedEvent::Widened { partitions: 3 }, now);
        apply(&mut unacked, UnackedEvent::Acked { bundle: 0, offset: Some(0) }, now);
        assert_eq!(unacked.len(), 0);
    }

    #[test]
    fn a_partition_is_late_on_its_own() {
        let now = Instant::now();
        let mut unacked = Unacked::new(rules());
        apply(&mut unacked, bundle(0, 0, now), now);
        apply(&mut unacked, bundle(1, 1, now), now);
        apply(&mut unacked, UnackedEvent::Acked { bundle: 1, offset: Some(9) }, now);
        let effects = apply(&mut unacked, UnackedEvent::TimedOut, now + BUDGET);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Late { partition: 0, late: true })));
        let effects = apply(&mut unacked, bundle(2, 1, now + BUDGET), now + BUDGET);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Spool { .. })), "{effects:?}");
        let effects = apply(&mut unacked, bundle(3, 0, now + BUDGET), now + BUDGET);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Spool { after: None, .. })), "{effects:?}");
    }
}
