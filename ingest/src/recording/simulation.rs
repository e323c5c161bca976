//! A simulation: the rules of `unacked.rs` and `index.rs` against a Kafka and a disk
//! that fail in every known way, and processes that are killed at every step. At every
//! moment a recorded click is in Kafka's log or on disk, nobody waits longer than
//! promised, and in the end Kafka has each bundle, of which the enricher counts one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    bundle::{BundleCopy, BundleNumber, ClosedBundle, Handed, Recorded, ReplayAnswer, SpoolCommand},
    index::{Admission, LeftBundle, SpoolIndex, SpoolLimits},
    unacked::{DISK, Effect, Unacked, UnackedEvent, UnackedRules},
};
use crate::config::Durability;

const PARTITIONS: u16 = 2;
const BUDGET: Duration = Duration::from_millis(25);
/// The bytes of the largest bundle.
const LARGEST: usize = 300;
/// The share of each partition in the client.
const SHARE_BYTES: usize = 800;
const SHARE_BUNDLES: usize = 6;
const MEMORY_BYTES: usize = 2000;
const SPOOL_BYTES: u64 = 4000;
/// The share of each partition in the replay.
const REPLAY_BYTES: u64 = 600;
/// The commands that the spooler carries out in one commit.
const BATCH: usize = 4;

/// One step of a schedule.
#[derive(Clone, Debug)]
enum Happening {
    /// A bundle is closed.
    Close { partition: u16, bytes: usize },
    /// Time passes; what is due meanwhile is done.
    Pass { millis: u64 },
    /// Kafka appends the next records of a partition to its log.
    Append { partition: u16, records: usize },
    /// The client learns of records that are in the log; of some without their offset.
    Ack { partition: u16, records: usize, tells_offset: bool },
    /// Kafka refuses the next record of a partition for good.
    Reject { partition: u16 },
    /// The client takes records of a partition, or none.
    Client { partition: u16, takes: bool },
    /// The client fails for good and is replaced.
    LoseClient,
    /// A request of a client that is gone arrives at last.
    Straggler { at: usize },
    /// The disk becomes like that.
    Disk(Disk),
    /// The spooler takes the next commands.
    Take,
    /// The spooler's commit ends, if the disk lets it.
    Commit,
    /// The spooler produces bundles from disk.
    Replay,
    /// The process is told to end, and another one starts.
    End,
    /// The process is killed, and another one starts.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Works,
    Refuses,
    Hangs,
}

/// A bundle in the file of the spool.
#[derive(Clone, Copy, Debug)]
struct OnDisk {
    id: Uuid,
    partition: u16,
    after: Option<i64>,
    bytes: u64,
}

/// The place that hears of a record's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Memory(BundleNumber),
    Spool(u64),
}

/// A record in a Kafka client.
#[derive(Clone, Copy, Debug)]
struct Sent {
    id: Uuid,
    partition: u16,
    bytes: usize,
    copy: BundleCopy,
    origin: Origin,
    /// Its offset, once it is in the log.
    offset: Option<i64>,
}

/// A bundle that the spooler is putting on disk.
struct Put {
    key: u64,
    bundle: Arc<ClosedBundle>,
    after: Option<i64>,
}

/// A redirector.
struct SimulatedProcess {
    unacked: Unacked,
    index: SpoolIndex,
    commands: VecDeque<SpoolCommand>,
    puts: Vec<Put>,
    erased: Vec<u64>,
    bundles: HashMap<BundleNumber, Uuid>,
    /// The bundles whose visitors wait, and since when.
    waiting: BTreeMap<BundleNumber, Instant>,
    client: Vec<VecDeque<Sent>>,
    late: Vec<bool>,
}

impl SimulatedProcess {
    fn start(durability: Durability, disk: &BTreeMap<u64, OnDisk>) -> Self {
        let rules = UnackedRules {
            durability,
            budget: BUDGET,
            partitions: PARTITIONS,
            client_bytes: SHARE_BYTES * usize::from(PARTITIONS),
            client_bundles: SHARE_BUNDLES * usize::from(PARTITIONS),
            memory_bytes: MEMORY_BYTES,
        };
        let left: Vec<LeftBundle> = disk
            .iter()
            .map(|(key, on_disk)| LeftBundle {
                key: *key,
                bytes: on_disk.bytes,
                partition: Some(i32::from(on_disk.partition)),
            })
            .collect();
        Self {
            unacked: Unacked::new(rules),
            index: SpoolIndex::new(SpoolLimits { max_bytes: SPOOL_BYTES, replay_bytes: REPLAY_BYTES }, &left),
            commands: VecDeque::new(),
            puts: Vec::new(),
            erased: Vec::new(),
            bundles: HashMap::new(),
            waiting: BTreeMap::new(),
            client: vec![VecDeque::new(); usize::from(PARTITIONS)],
            late: vec![false; usize::from(PARTITIONS)],
        }
    }
}

struct World {
    now: Instant,
    durability: Durability,
    process: SimulatedProcess,
    log: Vec<Vec<(Uuid, BundleCopy)>>,
    disk: BTreeMap<u64, OnDisk>,
    disk_is: Disk,
    /// Whether the disk has just refused a bundle.
    disk_refuses: bool,
    /// How often it has.
    refusals: u64,
    client_takes: Vec<bool>,
    /// The requests of clients that are gone, which may still arrive.
    stragglers: Vec<Sent>,
    /// How many bundles were closed, of all processes.
    closed: u128,
    /// The bundles whose visitors were told that they are recorded.
    recorded: HashSet<Uuid>,
    /// The bundles that a client was handed, or that a process found on disk.
    handed: HashSet<Uuid>,
    /// The partitions that always answer, whose client always takes.
    healthy: Vec<u16>,
}

impl World {
    fn new(durability: Durability) -> Self {
        let disk = BTreeMap::new();
        Self {
            now: Instant::now(),
            durability,
            process: SimulatedProcess::start(durability, &disk),
            log: vec![Vec::new(); usize::from(PARTITIONS)],
            disk,
            disk_is: Disk::Works,
            disk_refuses: false,
            refusals: 0,
            client_takes: vec![true; usize::from(PARTITIONS)],
            stragglers: Vec::new(),
            closed: 0,
            recorded: HashSet::new(),
            handed: HashSet::new(),
            healthy: Vec::new(),
        }
    }

    /// The time that a visitor may wait; without an end where no visitor waits.
    fn longest_wait(&self) -> Duration {
        match self.durability {
            Durability::Acked => BUDGET,
            Durability::Spooled => BUDGET + DISK,
            Durability::Async => Duration::from_secs(1 << 32),
        }
    }

    fn step(&mut self, step: &Happening) {
        match *step {
            Happening::Close { partition, bytes } => self.close(partition, bytes),
            Happening::Pass { millis } => self.pass(Duration::from_millis(millis)),
            Happening::Append { partition, records } => {
                for _ in 0..records {
                    self.append(partition);
                }
            }
            Happening::Ack { partition, records, tells_offset } => {
                for _ in 0..records {
                    self.ack(partition, tells_offset);
                }
            }
            Happening::Reject { partition } => self.reject(partition),
            Happening::Client { partition, takes } => self.client_takes[usize::from(partition)] = takes,
            Happening::LoseClient => self.lose_client(),
            Happening::Straggler { at } => {
                if !self.stragglers.is_empty() {
                    let straggler = self.stragglers.remove(at % self.stragglers.len());
                    self.log[usize::from(straggler.partition)].push((straggler.id, straggler.copy));
                }
            }
            Happening::Disk(disk) => self.disk_is = disk,
            Happening::Take => self.take(),
            Happening::Commit => self.commit(),
            Happening::Replay => self.replay(),
            Happening::End => self.end(),
            Happening::Kill => self.kill(),
        }
        for healthy in self.healthy.clone() {
            while !self.process.client[usize::from(healthy)].is_empty() {
                self.append(healthy);
                self.ack(healthy, true);
            }
        }
    }

    /// Closes a bundle, as long as visits are recorded.
    fn close(&mut self, partition: u16, bytes: usize) {
        if self.process.unacked.is_full() {
            return;
        }
        let number = self.process.bundles.len() as BundleNumber;
        self.closed += 1;
        let id = Uuid::from_u128(self.closed);
        self.process.bundles.insert(number, id);
        self.process.waiting.insert(number, self.now);
        let bundle = ClosedBundle {
            number,
            id,
            partition: i32::from(partition),
            clicks: 1,
            lines: vec![b'x'; bytes],
            since: self.now,
            cores: 1,
        };
        self.handle(UnackedEvent::Closed(Arc::new(bundle)));
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.process.unacked.next_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.handle(UnackedEvent::TimedOut);
            let next = self.process.unacked.next_timeout();
            assert!(next.is_none_or(|next| next > self.now), "what was due is done");
        }
        self.now = end;
    }

    /// Applies an event and carries the effects out, as the recorder does.
    fn handle(&mut self, event: UnackedEvent) {
        let mut effects = Vec::new();
        self.process.unacked.handle(event, self.now, &mut effects);
        effects.retain(|effect| !self.command_spooler(effect));
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// Queues the command of an effect on the spool; says whether it was one.
    fn command_spooler(&mut self, effect: &Effect) -> bool {
        let command = match effect {
            Effect::Spool { bundle, after } => {
                assert_eq!(self.durability, Durability::Spooled);
                assert!(!self.is_healthy(bundle.partition), "a partition that answers needs no disk");
                SpoolCommand::Put { bundle: Arc::downgrade(bundle), after: *after }
            }
            Effect::Erase(number) => SpoolCommand::Erase(*number),
            Effect::Replay { bundle, handed } => SpoolCommand::Replay { bundle: *bundle, handed: *handed },
            _ => return false,
        };
        self.process.commands.push_back(command);
        true
    }

    fn is_healthy(&self, partition: i32) -> bool {
        self.healthy.iter().any(|healthy| i32::from(*healthy) == partition)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Produce { bundle, copy } => {
                let partition = u16::try_from(bundle.partition).unwrap();
                let origin = Origin::Memory(bundle.number);
                let sent = Sent { id: bundle.id, partition, bytes: bundle.lines.len(), copy, origin, offset: None };
                if !self.produce(sent) {
                    self.handle(UnackedEvent::NotTaken(bundle.number));
                }
            }
            Effect::Settle { bundle, recorded, .. } => {
                let since = self.process.waiting.remove(&bundle).expect("visitors are told once");
                assert!(self.now <= since + self.longest_wait(), "nobody waits longer");
                match recorded {
                    Recorded::Yes => drop(self.recorded.insert(self.process.bundles[&bundle])),
                    Recorded::Shed => {
                        assert!(self.disk_refuses || self.now == since + BUDGET + DISK, "the disk may still take it");
                    }
                    Recorded::Unknown => {
                        assert_ne!(self.durability, Durability::Spooled, "a spooled click is never unknown");
                    }
                }
            }
            Effect::Late { partition, late } => {
                assert!(!self.is_healthy(i32::from(partition)), "a partition that answers is not late");
                self.process.late[usize::from(partition)] = late;
            }
            // The rest is for people, and for the spooler.
            _ => {}
        }
    }

    /// Hands a record to the client; says whether it takes the record.
    fn produce(&mut self, sent: Sent) -> bool {
        if !self.client_takes[usize::from(sent.partition)] {
            return false;
        }
        let first = self.handed.insert(sent.id);
        assert_eq!(first, sent.copy == BundleCopy::First, "{sent:?} is the first copy, or says that it may be none");
        self.process.client[usize::from(sent.partition)].push_back(sent);
        true
    }

    fn append(&mut self, partition: u16) {
        let log = &mut self.log[usize::from(partition)];
        let client = &mut self.process.client[usize::from(partition)];
        if let Some(sent) = client.iter_mut().find(|sent| sent.offset.is_none()) {
            sent.offset = Some(log.len() as i64);
            log.push((sent.id, sent.copy));
        }
    }

    fn ack(&mut self, partition: u16, tells_offset: bool) {
        let client = &mut self.process.client[usize::from(partition)];
        if let Some(sent) = client.pop_front_if(|sent| sent.offset.is_some()) {
            let offset = sent.offset.filter(|_| tells_offset);
            match sent.origin {
                Origin::Memory(bundle) => self.handle(UnackedEvent::Acked { bundle, offset }),
                Origin::Spool(key) => self.replayed(key, ReplayAnswer::Acked),
            }
        }
    }

    fn given_up(&mut self, sent: Sent, answer: ReplayAnswer) {
        match sent.origin {
            Origin::Memory(bundle) => self.handle(UnackedEvent::GivenUp(bundle)),
            Origin::Spool(key) => self.replayed(key, answer),
        }
    }

    fn replayed(&mut self, key: u64, answer: ReplayAnswer) {
        self.process.commands.push_back(SpoolCommand::Replayed { key, answer });
    }

    fn reject(&mut self, partition: u16) {
        let client = &mut self.process.client[usize::from(partition)];
        if !self.healthy.contains(&partition)
            && let Some(at) = client.iter().position(|sent| sent.offset.is_none())
            && let Some(sent) = client.remove(at)
        {
            self.given_up(sent, ReplayAnswer::TooLarge { error: String::new() });
        }
    }

    fn lose_client(&mut self) {
        let given_up: Vec<Sent> = self.process.client.iter_mut().flat_map(std::mem::take).collect();
        self.stragglers.extend(given_up.iter().filter(|sent| sent.offset.is_none()));
        for sent in given_up {
            self.given_up(sent, ReplayAnswer::GivenUp { error: String::new() });
        }
    }

    /// Takes the next commands, as the spooler does before a commit.
    fn take(&mut self) {
        if !self.process.puts.is_empty() {
            return;
        }
        for _ in 0..BATCH {
            let Some(command) = self.process.commands.pop_front() else { return };
            match command {
                SpoolCommand::Put { bundle, after } => {
                    let Some(bundle) = bundle.upgrade() else { continue };
                    let index = &mut self.process.index;
                    match index.admit(bundle.number, bundle.partition, bundle.lines.len() as u64) {
                        Admission::Key(key) => self.process.puts.push(Put { key, bundle, after }),
                        Admission::Full => self.refuse(bundle.number),
                    }
                }
                SpoolCommand::Erase(number) => self.process.erased.extend(self.process.index.erase(number)),
                SpoolCommand::Replay { bundle, handed } => self.process.index.replay(bundle, handed),
                SpoolCommand::Replayed { key, answer: ReplayAnswer::Acked } => {
                    self.process.index.replayed(key);
                    self.process.erased.push(key);
                }
                SpoolCommand::Replayed { key, answer: ReplayAnswer::GivenUp { .. } } => {
                    self.process.index.not_replayed(key, Handed::Once, self.now);
                }
                SpoolCommand::Replayed { key, answer: ReplayAnswer::TooLarge { .. } } => {
                    self.process.index.refused(key, Handed::Once, self.now);
                }
                SpoolCommand::Stop => {}
            }
        }
    }

    /// The spool is full, or the disk does not take a bundle.
    fn refuse(&mut self, number: BundleNumber) {
        self.disk_refuses = true;
        self.refusals += 1;
        self.handle(UnackedEvent::NotStored(number));
        self.disk_refuses = false;
    }

    fn commit(&mut self) {
        match self.disk_is {
            Disk::Hangs => {}
            Disk::Refuses => {
                for put in std::mem::take(&mut self.process.puts) {
                    self.process.index.withdraw(put.bundle.number);
                    self.refuse(put.bundle.number);
                }
            }
            Disk::Works => {
                let puts = std::mem::take(&mut self.process.puts);
                for Put { key, bundle, after } in &puts {
                    let partition = u16::try_from(bundle.partition).unwrap();
                    let bytes = bundle.lines.len() as u64;
                    self.disk.insert(*key, OnDisk { id: bundle.id, partition, after: *after, bytes });
                }
                for key in self.process.erased.drain(..) {
                    self.disk.remove(&key);
                }
                for put in puts {
                    self.handle(UnackedEvent::Stored(put.bundle.number));
                }
            }
        }
    }

    fn replay(&mut self) {
        if !self.process.puts.is_empty() || self.disk_is == Disk::Hangs {
            return;
        }
        let late = self.process.late.clone();
        let is_late = |partition: i32| late[usize::try_from(partition).unwrap()];
        while let Some((key, handed)) = self.process.index.next_replay(self.now, is_late) {
            if self.disk_is == Disk::Refuses {
                self.process.index.not_replayed(key, Handed::Never, self.now);
                return;
            }
            let OnDisk { id, partition, after, bytes } = self.disk[&key];
            assert!(!late[usize::from(partition)], "a partition that is late gets no replay");
            let copy = match handed {
                Handed::Never => BundleCopy::First,
                Handed::Once => BundleCopy::Again { after },
            };
            let bytes = usize::try_from(bytes).unwrap();
            let sent = Sent { id, partition, bytes, copy, origin: Origin::Spool(key), offset: None };
            if !self.produce(sent) {
                self.process.index.not_replayed(key, Handed::Never, self.now);
            }
        }
    }

    fn end(&mut self) {
        let refusals = self.refusals;
        self.handle(UnackedEvent::Closing);
        while !self.process.commands.is_empty() || !self.process.puts.is_empty() {
            self.take();
            self.commit();
            if self.disk_is == Disk::Hangs {
                break;
            }
        }
        if self.durability == Durability::Spooled && self.disk_is != Disk::Hangs && self.refusals == refusals {
            assert_eq!(self.process.unacked.memory_bytes(), 0, "all that Kafka does not have is on disk");
        }
        self.kill();
    }

    fn kill(&mut self) {
        let sent = self.process.client.iter().flatten();
        self.stragglers.extend(sent.filter(|sent| sent.offset.is_none()));
        self.process = SimulatedProcess::start(self.durability, &self.disk);
        self.handed.extend(self.disk.values().map(|on_disk| on_disk.id));
    }

    /// Checks what holds at every moment.
    fn check(&mut self) {
        let logged: HashSet<Uuid> = self.log.iter().flatten().map(|(id, _)| *id).collect();
        let on_disk: HashSet<Uuid> = self.disk.values().map(|on_disk| on_disk.id).collect();
        for id in &self.recorded {
            assert!(logged.contains(id) || on_disk.contains(id), "a recorded bundle is gone");
        }
        for since in self.process.waiting.values() {
            assert!(self.now <= *since + self.longest_wait(), "nobody waits longer");
        }
        for client in &self.process.client {
            let is_own = |sent: &&Sent| matches!(sent.origin, Origin::Memory(_));
            let (own, replays): (Vec<&Sent>, Vec<&Sent>) = client.iter().partition(is_own);
            let bytes = |sent: &[&Sent]| sent.iter().map(|sent| sent.bytes).sum::<usize>();
            assert!(bytes(&own) < SHARE_BYTES + LARGEST, "a partition's bytes in the client");
            assert!(own.len() <= SHARE_BUNDLES, "a partition's bundles in the client");
            assert!(bytes(&replays) as u64 <= REPLAY_BYTES, "a partition's bytes in the replay");
        }
        let memory = self.process.unacked.memory_bytes();
        assert!(memory < MEMORY_BYTES + LARGEST, "{memory} bytes in memory");
        assert!(self.process.index.bytes() <= SPOOL_BYTES);
        self.check_copies();
    }

    /// Checks that there is one first copy of each bundle at most, behind the offset
    /// after which another one has it searched for.
    fn check_copies(&self) {
        let mut firsts = HashMap::new();
        for log in &self.log {
            for (offset, (id, copy)) in log.iter().enumerate() {
                if *copy == BundleCopy::First {
                    assert_eq!(firsts.insert(*id, Some(offset as i64)), None, "two first copies in the log");
                }
            }
        }
        let under_way = self.process.client.iter().flatten().chain(&self.stragglers);
        for sent in under_way.clone().filter(|sent| sent.copy == BundleCopy::First && sent.offset.is_none()) {
            assert_eq!(firsts.insert(sent.id, None), None, "two first copies, one of which is under way");
        }
        let logged = self.log.iter().flatten().map(|(id, copy)| (*id, *copy));
        for (id, copy) in logged.chain(under_way.map(|sent| (sent.id, sent.copy))) {
            if let (BundleCopy::Again { after: Some(after) }, Some(Some(first))) = (copy, firsts.get(&id)) {
                assert!(after < *first, "the first copy at {first} is not behind {after}");
            }
        }
    }

    /// Checks that the healthy partition's bundles leave the disk, whatever the others do.
    fn replay_of_the_healthy(&mut self) {
        self.disk_is = Disk::Works;
        for _ in 0..50 {
            for step in [Happening::Take, Happening::Commit, Happening::Replay, Happening::Pass { millis: 200 }] {
                self.step(&step);
                self.check();
            }
        }
        let healthy = |on_disk: &&OnDisk| self.healthy.contains(&on_disk.partition);
        assert_eq!(self.disk.values().filter(healthy).count(), 0, "bundles of a partition that answers");
    }

    /// Lets everything answer until nothing is left to do.
    fn come_to_rest(&mut self) {
        self.disk_is = Disk::Works;
        self.client_takes.fill(true);
        for _ in 0..200 {
            for partition in 0..PARTITIONS {
                while !self.process.client[usize::from(partition)].is_empty() {
                    self.append(partition);
                    self.ack(partition, true);
                }
            }
            while !self.process.commands.is_empty() {
                self.take();
                self.commit();
            }
            self.commit();
            self.replay();
            self.pass(Duration::from_secs(1));
            self.check();
            let idle = self.process.commands.is_empty() && self.process.client.iter().all(VecDeque::is_empty);
            if idle && self.process.unacked.len() == 0 && self.process.index.len() == 0 {
                break;
            }
        }
        assert_eq!(self.process.unacked.len(), 0, "bundles are left in memory");
        assert_eq!(self.process.unacked.memory_bytes(), 0);
        assert_eq!(self.process.unacked.remembered(), 0);
        assert!(self.process.waiting.is_empty());
        self.commit();
        assert!(self.disk.is_empty() && self.process.index.bytes() == 0, "bundles are left on disk");
        assert!(!self.process.late.contains(&true));
        let logged: HashSet<Uuid> = self.log.iter().flatten().map(|(id, _)| *id).collect();
        for id in self.process.bundles.values() {
            let refuses = self.durability == Durability::Acked;
            assert!(refuses || logged.contains(id), "a process that lives loses nothing");
        }
        self.healthy = (0..PARTITIONS).collect();
        for partition in 0..PARTITIONS {
            self.step(&Happening::Close { partition, bytes: 1 });
            assert_eq!(self.process.unacked.len(), 0, "a new bundle needs no disk");
        }
        for straggler in std::mem::take(&mut self.stragglers) {
            self.log[usize::from(straggler.partition)].push((straggler.id, straggler.copy));
        }
        self.check_copies();
        self.count();
    }

    /// Counts the copies of each bundle as the enricher does: exactly one is accepted.
    fn count(&self) {
        for log in &self.log {
            let (mut accepted, mut replayed) = (BTreeSet::new(), HashSet::new());
            for (offset, (id, copy)) in log.iter().enumerate() {
                let accepts = match copy {
                    BundleCopy::First => !replayed.contains(id),
                    BundleCopy::Again { after } => {
                        let begin = after.map_or(0, |after| usize::try_from(after + 1).unwrap());
                        let found = log[begin.min(offset)..offset].iter().any(|(other, _)| other == id);
                        !found && replayed.insert(*id)
                    }
                };
                if accepts {
                    assert!(accepted.insert(*id), "{id} is counted twice");
                }
            }
            assert!(log.iter().all(|(id, _)| accepted.contains(id)));
        }
    }
}

fn run(world: &mut World, steps: &[Happening]) {
    for step in steps {
        world.step(step);
        world.check();
    }
}

fn step(partitions: std::ops::Range<u16>) -> impl Strategy<Value = Happening> {
    let partition = partitions;
    let records = 1_usize..8;
    prop_oneof![
        12 => (0..PARTITIONS, 1..=LARGEST).prop_map(|(partition, bytes)| Happening::Close { partition, bytes }),
        5 => prop_oneof![1_u64..40, 40_u64..1500].prop_map(|millis| Happening::Pass { millis }),
        4 => (partition.clone(), records.clone())
            .prop_map(|(partition, records)| Happening::Append { partition, records }),
        4 => (partition.clone(), records, any::<bool>())
            .prop_map(|(partition, records, tells_offset)| Happening::Ack { partition, records, tells_offset }),
        1 => partition.clone().prop_map(|partition| Happening::Reject { partition }),
        2 => (partition, any::<bool>()).prop_map(|(partition, takes)| Happening::Client { partition, takes }),
        3 => prop_oneof![2 => Just(Disk::Works), 1 => Just(Disk::Refuses), 1 => Just(Disk::Hangs)]
            .prop_map(Happening::Disk),
        8 => Just(Happening::Take),
        8 => Just(Happening::Commit),
        4 => Just(Happening::Replay),
        1 => Just(Happening::End),
        1 => Just(Happening::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_fails_a_recorded_click_is_there_and_counted_once(
        steps in prop::collection::vec(prop_oneof![
            20 => step(0..PARTITIONS),
            1 => Just(Happening::LoseClient),
            1 => any::<usize>().prop_map(|at| Happening::Straggler { at }),
        ], 0..150),
    ) {
        let mut world = World::new(Durability::Spooled);
        run(&mut world, &steps);
        world.come_to_rest();
    }

    #[test]
    fn a_partition_that_fails_holds_back_only_its_own(
        before in prop::collection::vec(step(0..PARTITIONS), 0..50),
        after in prop::collection::vec(step(0..1), 0..100),
    ) {
        let mut world = World::new(Durability::Spooled);
        run(&mut world, &before);
        world.step(&Happening::Kill);
        world.healthy.push(1);
        world.client_takes[1] = true;
        run(&mut world, &after);
        world.replay_of_the_healthy();
        world.come_to_rest();
    }

    #[test]
    fn without_a_disk_a_click_is_acknowledged_in_time_or_not_recorded(
        durability in prop::sample::select(vec![Durability::Acked, Durability::Async]),
        steps in prop::collection::vec(prop_oneof![20 => step(0..PARTITIONS), 1 => Just(Happening::LoseClient)], 0..150),
    ) {
        let mut world = World::new(durability);
        run(&mut world, &steps);
        world.come_to_rest();
    }
}
