//! The place where clicks are recorded. All cores write into one open bundle, which
//! goes to Kafka as one record: the cost of a record is paid once for all clicks of a
//! moment, and one acknowledgement wakes all who wait.
//!
//! A bundle is closed when [`WINDOW`] has passed since the last one and Kafka has
//! acknowledged that, at the latest after [`LONGEST`], or when it holds [`FULL`] bytes.
//! `unacked.rs` decides what becomes of it then; the recorder carries that out.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
        mpsc as blocking,
    },
    thread,
    time::{Duration, Instant},
};

use bus::{Acked, Bus, BusError, Outgoing, Producer};
use parking_lot::Mutex;
use schemas::{
    Topic,
    click::{AFTER_HEADER, AGAIN_HEADER, BUNDLE_COUNT_HEADER, BUNDLE_HEADER},
    ids::SHARDS,
};
use service::Part;
use tokio::sync::mpsc;
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    config::{Config, Durability},
    metrics::IngestMetrics,
    recording::{
        bundle::{BundleCopy, BundleNumber, ClosedBundle, CoreMessage, Recorded, SpoolCommand, core_bit},
        unacked::{DISK, Effect, Unacked, UnackedEvent, UnackedRules},
    },
};

/// How long a bundle collects at least, counted from the one before.
const WINDOW: Duration = Duration::from_millis(2);
/// How long a bundle collects while Kafka does not answer.
const LONGEST: Duration = Duration::from_millis(4);
/// How many bytes of bundles the Kafka client has, all partitions together.
const CLIENT_BYTES: usize = 64 << 20;
/// How many bundles the Kafka client has, all partitions together.
const CLIENT_BUNDLES: usize = 65_536;
/// How many bytes of bundles may be in memory alone, beyond the client, the disk and the
/// bundle that is open: then visits are not recorded any more.
const MEMORY_BYTES: usize = 64 << 20;
/// The size in bytes from which a bundle is sent at once.
const FULL: usize = 128 << 10;
/// How many emptied buffers are kept for the next bundles.
const SPARE: usize = 4;
/// The interval at which the end of the process looks whether Kafka has everything.
const DRAIN_POLL: Duration = Duration::from_millis(2);

/// The bundle that is open, and the shard of its visits' ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenBundle {
    pub(crate) number: BundleNumber,
    pub(crate) shard: u16,
}

struct Open {
    bundle: OpenBundle,
    lines: Vec<u8>,
    clicks: u32,
    since: Instant,
    last_sent: Instant,
    /// The cores that wait for the bundle, as [`core_bit`] has them.
    cores: u64,
    /// The core that wrote the first line.
    opener: usize,
    spare: Vec<Vec<u8>>,
}

/// The place of a line in the open bundle.
pub(crate) enum Added {
    /// The bundle's first line: the core has to close the bundle in time.
    First,
    Another,
    /// The line after which the bundle is to be closed at once.
    Full,
}

/// The recorder of the process, which all cores share.
pub(crate) struct Recorder {
    producer: Producer,
    durability: Durability,
    budget: Duration,
    metrics: IngestMetrics,
    open: Mutex<Open>,
    unacked: Mutex<Unacked>,
    /// How many bundles Kafka has not acknowledged.
    in_flight: AtomicUsize,
    /// Whether neither Kafka, nor the disk, nor memory takes another click.
    full: AtomicBool,
    readiness: Part,
    bus: Bus,
    /// How many partitions of `clicks.raw` bundles go to.
    partitions: AtomicU16,
    /// Whether each partition is late; of as many as there can ever be.
    late: Vec<AtomicBool>,
    cores: Vec<mpsc::UnboundedSender<CoreMessage>>,
    /// None without a spool.
    spooler: Option<blocking::Sender<SpoolCommand>>,
}

/// A recorder, and each core's receiver of its messages.
pub(crate) type NewRecorder = (Arc<Recorder>, Vec<mpsc::UnboundedReceiver<CoreMessage>>);

fn producer(bus: &Bus, durability: Durability) -> Result<Producer, BusError> {
    let patience = match durability {
        // A click that was answered with 503 may still be counted, but not hours later.
        Durability::Acked => Duration::from_secs(10),
        // Never given up: Kafka's answer about a bundle always comes.
        Durability::Spooled | Durability::Async => Duration::ZERO,
    };
    // The shares of the partitions are what limits: replays and overhead come on top.
    let kbytes = u32::try_from(CLIENT_BYTES * 2 / 1024).unwrap_or(u32::MAX);
    bus.bounded_producer("ingest", Duration::ZERO, patience, kbytes)
}

impl Recorder {
    /// Makes the recorder.
    ///
    /// # Errors
    /// When the Kafka client cannot be made.
    pub(crate) fn new(
        bus: &Bus,
        config: &Config,
        metrics: IngestMetrics,
        spooler: Option<blocking::Sender<SpoolCommand>>,
        readiness: Part,
        cores: usize,
    ) -> Result<NewRecorder, BusError> {
        readiness.ready();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..cores).map(|_| mpsc::unbounded_channel()).unzip();
        let partitions = bus.partitions(Topic::ClicksRaw);
        let now = Instant::now();
        let open = Open {
            bundle: OpenBundle { number: 0, shard: rand::random_range(0..SHARDS) },
            lines: Vec::new(),
            clicks: 0,
            since: now,
            last_sent: now,
            cores: 0,
            opener: 0,
            spare: Vec::new(),
        };
        let rules = UnackedRules {
            durability: config.durability,
            budget: config.budget(),
            partitions,
            client_bytes: CLIENT_BYTES,
            client_bundles: CLIENT_BUNDLES,
            memory_bytes: MEMORY_BYTES,
        };
        let recorder = Self {
            producer: producer(bus, config.durability)?,
            durability: config.durability,
            budget: config.budget(),
            metrics,
            open: Mutex::new(open),
            unacked: Mutex::new(Unacked::new(rules)),
            in_flight: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            readiness,
            bus: bus.clone(),
            partitions: AtomicU16::new(partitions),
            late: (0..SHARDS).map(|_| AtomicBool::new(false)).collect(),
            cores: senders,
            spooler,
        };
        Ok((Arc::new(recorder), receivers))
    }

    /// The bundle that is open.
    pub(crate) fn open_bundle(&self) -> OpenBundle {
        self.open.lock().bundle
    }

    /// Appends a visit's line to the open bundle.
    ///
    /// # Errors
    /// With the bundle that is open, when that is not `number`.
    pub(crate) fn add(&self, core: usize, number: BundleNumber, line: &[u8]) -> Result<Added, OpenBundle> {
        let mut open = self.open.lock();
        if open.bundle.number != number {
            return Err(open.bundle);
        }
        open.lines.extend_from_slice(line);
        open.clicks += 1;
        open.cores |= core_bit(core);
        let first = open.clicks == 1;
        if first {
            open.since = Instant::now();
            open.opener = core;
        }
        Ok(match first {
            _ if open.lines.len() >= FULL => Added::Full,
            true => Added::First,
            false => Added::Another,
        })
    }

    /// Whether neither Kafka, nor the disk, nor memory takes another click. A click that
    /// was added before is kept all the same.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn show_full(&self, full: bool) {
        if full {
            error!(
                bytes = MEMORY_BYTES,
                "memory full: neither Kafka, nor the disk, nor memory takes clicks; ingest.when_full decides on redirects"
            );
        } else {
            warn!("clicks are recorded again");
        }
    }

    /// Whether redirects wait until their clicks are recorded.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.durability != Durability::Async
    }

    /// The time at which the open bundle is to be closed, if it has a line.
    pub(crate) fn due(&self) -> Option<Instant> {
        let open = self.open.lock();
        let waiting = self.in_flight.load(Ordering::Relaxed) > 0;
        let due = if waiting { open.since + LONGEST } else { open.last_sent + WINDOW };
        (open.clicks > 0).then_some(due)
    }

    /// The time at which [`Recorder::time_out`] is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.unacked.lock().next_timeout()
    }

    /// Acts on the bundles that have waited too long for Kafka or the disk.
    pub(crate) fn time_out(self: &Arc<Self>) {
        self.handle(UnackedEvent::TimedOut);
    }

    /// Closes the open bundle and hands it on.
    pub(crate) fn close_bundle(self: &Arc<Self>) {
        let now = Instant::now();
        self.follow_partitions();
        let shard = self.draw_shard();
        let bundle = {
            let mut open = self.open.lock();
            if open.clicks == 0 {
                return;
            }
            let buffer = open.spare.pop().unwrap_or_default();
            let partition = open.bundle.shard % self.partitions();
            let bundle = ClosedBundle {
                number: open.bundle.number,
                id: Uuid::now_v7(),
                partition: i32::from(partition),
                clicks: open.clicks,
                lines: std::mem::replace(&mut open.lines, buffer),
                since: now,
                cores: open.cores,
            };
            open.bundle = OpenBundle { number: open.bundle.number + 1, shard };
            open.clicks = 0;
            open.cores = 0;
            open.last_sent = now;
            bundle
        };
        self.metrics.bundles.inc();
        self.metrics.bundle_clicks.observe(f64::from(bundle.clicks));
        self.handle(UnackedEvent::Closed(Arc::new(bundle)));
    }

    /// Uses the new partitions of `clicks.raw` once all shared topics have them.
    fn follow_partitions(self: &Arc<Self>) {
        let partitions = self.bus.partitions(Topic::ClicksRaw);
        if partitions > self.partitions() {
            self.handle(UnackedEvent::Widened { partitions });
            self.partitions.store(partitions, Ordering::Release);
        }
    }

    /// Takes note of offsets that Kafka had acknowledged to a former process.
    pub(crate) fn know_acknowledged(&self, offsets: &BTreeMap<u16, i64>) {
        self.unacked.lock().know_acknowledged(offsets);
    }

    /// Returns the last offset of each partition that Kafka has acknowledged to this
    /// process or a former one, where it is known.
    pub(crate) fn acknowledged(&self) -> BTreeMap<u16, i64> {
        self.unacked.lock().acknowledged()
    }

    /// Returns the number of partitions of `clicks.raw`.
    pub(crate) fn partitions(&self) -> u16 {
        self.partitions.load(Ordering::Acquire)
    }

    /// Draws the shard of the next bundle: load spreads over the partitions that answer
    /// in time, and a bundle still goes to one of them.
    fn draw_shard(&self) -> u16 {
        let late = self.late.iter().take(usize::from(self.partitions()));
        let late: Vec<bool> = late.map(|late| late.load(Ordering::Relaxed)).collect();
        draw_shard(&late, rand::random(), rand::random())
    }

    /// Applies an event to the rules and carries out the effects.
    fn handle(self: &Arc<Self>, event: UnackedEvent) {
        let mut effects = Vec::new();
        {
            let mut unacked = self.unacked.lock();
            unacked.handle(event, Instant::now(), &mut effects);
            self.in_flight.store(unacked.len(), Ordering::Relaxed);
            self.metrics.memory_bytes.set(i64::try_from(unacked.memory_bytes()).unwrap_or(i64::MAX));
            let full = unacked.is_full();
            if self.full.swap(full, Ordering::Relaxed) != full {
                self.show_full(full);
            }
            // Under the lock, so that the spooler gets its commands in their order.
            effects.retain(|effect| !self.command_spooler(effect));
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// Sends the command of an effect on the spool; says whether it was one.
    fn command_spooler(&self, effect: &Effect) -> bool {
        let command = match effect {
            Effect::Spool { bundle, after } => SpoolCommand::Put { bundle: Arc::downgrade(bundle), after: *after },
            Effect::Erase(number) => SpoolCommand::Erase(*number),
            Effect::Replay { bundle, handed } => SpoolCommand::Replay { bundle: *bundle, handed: *handed },
            _ => return false,
        };
        self.command(command);
        true
    }

    fn command(&self, command: SpoolCommand) {
        if let Some(spooler) = &self.spooler {
            // The spooler ends after all who could send a command.
            let _ = spooler.send(command);
        }
    }

    fn carry_out(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Produce { bundle, copy } => self.produce_first(&bundle, copy),
            Effect::Settle { bundle, cores, recorded } => self.settle_on_cores(bundle, cores, recorded),
            Effect::Shed { clicks } => drop(self.metrics.shed_clicks.inc_by(u64::from(clicks))),
            Effect::Acknowledged { bundle, after } => {
                self.metrics.ack_seconds.observe(after.as_secs_f64());
                if let Some(bundle) = bundle {
                    self.recycle(bundle);
                }
                self.check_timers();
            }
            Effect::Late { partition, late } => self.show_late(partition, late),
            Effect::Hanging(true) => error!(
                waited = ?self.budget + DISK,
                "spool disk hangs: redirects continue with their clicks in memory alone until the disk or Kafka has them"
            ),
            Effect::Hanging(false) => warn!("spool disk answers in time again"),
            Effect::Blocked(true) => {
                self.readiness
                    .not_ready("no partition of clicks.raw acknowledges in time, and the spool takes no clicks");
            }
            Effect::Blocked(false) => self.readiness.ready(),
            Effect::Spool { .. } | Effect::Erase(_) | Effect::Replay { .. } => {}
        }
    }

    fn produce_first(self: &Arc<Self>, bundle: &ClosedBundle, copy: BundleCopy) {
        let recorder = Arc::clone(self);
        let number = bundle.number;
        let ClosedBundle { id, partition, clicks, lines, .. } = bundle;
        let taken = self.produce(*id, *partition, *clicks, lines, copy, move |acked| recorder.acked(number, &acked));
        if taken.is_err() {
            self.handle(UnackedEvent::NotTaken(number));
            self.check_timers_everywhere();
        }
    }

    /// Hands a bundle to the Kafka client.
    ///
    /// # Errors
    /// When the client refuses it at once.
    pub(crate) fn produce(
        &self,
        id: Uuid,
        partition: i32,
        clicks: u32,
        lines: &[u8],
        copy: BundleCopy,
        acked: impl FnOnce(Acked) + Send + Sync + 'static,
    ) -> Result<(), BusError> {
        let mut text = Uuid::encode_buffer();
        let id = id.hyphenated().encode_lower(&mut text);
        let count = clicks.to_string();
        let mut headers = vec![(BUNDLE_COUNT_HEADER, count.as_bytes()), (BUNDLE_HEADER, id.as_bytes())];
        let after = match copy {
            BundleCopy::First | BundleCopy::Again { after: None } => None,
            BundleCopy::Again { after: Some(after) } => Some(after.to_string()),
        };
        if copy != BundleCopy::First {
            headers.push((AGAIN_HEADER, b"1"));
        }
        if let Some(after) = &after {
            headers.push((AFTER_HEADER, after.as_bytes()));
        }
        let record = Outgoing {
            topic: Topic::ClicksRaw,
            partition: Some(partition),
            key: None,
            value: Some(lines),
            headers: &headers,
        };
        self.producer.send(&record, acked)
    }

    /// Takes Kafka's answer; called from its client's thread.
    fn acked(self: &Arc<Self>, bundle: BundleNumber, acked: &Acked) {
        match acked {
            Ok((_, offset)) => {
                // The client says so with a negative number.
                let offset = Some(*offset).filter(|offset| *offset >= 0);
                self.handle(UnackedEvent::Acked { bundle, offset });
            }
            Err(_) => {
                self.handle(UnackedEvent::GivenUp(bundle));
                self.check_timers_everywhere();
            }
        }
    }

    /// Takes the spooler's answer: a bundle is on disk.
    pub(crate) fn stored(self: &Arc<Self>, bundle: BundleNumber) {
        self.handle(UnackedEvent::Stored(bundle));
    }

    /// Takes the spooler's answer: a bundle is not on disk.
    pub(crate) fn not_stored(self: &Arc<Self>, bundle: BundleNumber) {
        self.handle(UnackedEvent::NotStored(bundle));
        self.check_timers_everywhere();
    }

    fn show_late(&self, partition: u16, late: bool) {
        let any = |recorder: &Self| recorder.late.iter().any(|late| late.load(Ordering::Relaxed));
        let before = any(self);
        if let Some(flag) = self.late.get(usize::from(partition)) {
            flag.store(late, Ordering::Relaxed);
        }
        let after = any(self);
        self.metrics.late.set(i64::from(after));
        if before == after {
            return;
        }
        let budget = self.budget;
        match self.durability {
            _ if !after => warn!("Kafka acknowledges in time again"),
            Durability::Spooled => warn!(?budget, partition, "Kafka acknowledges late: clicks go to the spool"),
            Durability::Acked => warn!(?budget, partition, "Kafka acknowledges late: redirects are answered with 503"),
            Durability::Async => warn!(?budget, partition, "Kafka acknowledges late: clicks are in memory alone"),
        }
    }

    /// Whether a partition's acknowledgements come late.
    pub(crate) fn is_late(&self, partition: i32) -> bool {
        let late = usize::try_from(partition).ok().and_then(|partition| self.late.get(partition));
        late.is_some_and(|late| late.load(Ordering::Relaxed))
    }

    fn settle_on_cores(&self, bundle: BundleNumber, cores: u64, recorded: Recorded) {
        for (index, core) in self.cores.iter().enumerate() {
            if cores & core_bit(index) != 0 {
                // A core that has ended has no visit that waits.
                let _ = core.send(CoreMessage::Settled { bundle, recorded });
            }
        }
    }

    /// Lets the core that opened the open bundle look again when that is due.
    fn check_timers(&self) {
        let open = self.open.lock();
        if open.clicks > 0
            && let Some(core) = self.cores.get(open.opener)
        {
            let _ = core.send(CoreMessage::CheckTimers);
        }
    }

    fn recycle(&self, bundle: Arc<ClosedBundle>) {
        let Ok(bundle) = Arc::try_unwrap(bundle) else { return };
        let mut lines = bundle.lines;
        lines.clear();
        let mut open = self.open.lock();
        if open.spare.len() < SPARE && lines.capacity() <= 2 * FULL {
            open.spare.push(lines);
        }
    }

    /// Closes the open bundle and wakes the other cores, which take over the timers of
    /// one that has drained.
    pub(crate) fn leave(self: &Arc<Self>) {
        self.close_bundle();
        self.check_timers_everywhere();
    }

    fn check_timers_everywhere(&self) {
        for core in &self.cores {
            // A core that has ended has no timers.
            let _ = core.send(CoreMessage::CheckTimers);
        }
    }

    /// Hands on the open bundle and waits until Kafka has all bundles, or the disk, and
    /// for up to `drain_spool` until Kafka has those on the disk, too; returns how many
    /// Kafka has not acknowledged. Blocks.
    pub(crate) fn close(self: &Arc<Self>, patience: Duration, drain_spool: Duration) -> usize {
        self.close_bundle();
        let now = Instant::now();
        let (deadline, spool_deadline) = (now + patience, now + drain_spool);
        let waits_for_memory = || Instant::now() < deadline && self.unacked.lock().is_worth_waiting_for();
        let waits_for_spool = || Instant::now() < spool_deadline && self.metrics.spool_has_replays();
        while waits_for_memory() || waits_for_spool() {
            // The cores, which do this otherwise, have ended.
            if self.next_timeout().is_some_and(|due| due <= Instant::now()) {
                self.time_out();
            }
            thread::sleep(DRAIN_POLL);
        }
        // The rest is put on disk before the spooler ends.
        self.handle(UnackedEvent::Closing);
        self.command(SpoolCommand::Stop);
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// Draws a shard of a partition that is not late, if there is one, by two random numbers.
fn draw_shard(late: &[bool], partition: u32, shard: u32) -> u16 {
    // A partition beyond the last shard has none.
    let partitions = u32::try_from(late.len()).unwrap_or(u32::MAX).clamp(1, u32::from(SHARDS));
    let in_time: Vec<u32> =
        (0..partitions).zip(late).filter(|(_, late)| !**late).map(|(partition, _)| partition).collect();
    let partition = match in_time.len() {
        0 => partition % partitions,
        count => in_time[partition as usize % count],
    };
    // The shards of a partition are those that leave it as the remainder.
    let shards = (u32::from(SHARDS) - partition).div_ceil(partitions);
    u16::try_from(partition + partitions * (shard % shards)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bus::BusConfig;
    use schemas::{ClickClass, Timestamp};
    use service::Metrics;
    use tokio::{runtime, task::spawn_local, time::timeout};

    use super::*;
    use crate::{
        recording::core::CoreHandle,
        visit::{CountsAs, VisitRecord, Visitor, limits::RateKey, path::RequestedPath},
    };

    const VISITOR: Visitor<'static> = Visitor {
        host: None,
        path: RequestedPath::Root,
        counts_as: CountsAs::Click(ClickClass::Click),
        ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        rate_key: RateKey::Unattributed,
        raw_path: "/sale",
        user_agent: None,
        referer: None,
        query: None,
        hints: schemas::hints::Hints { brand: None, platform: None, mobile: None, fetch: None },
        traceparent: None,
    };

    #[test]
    fn a_redirect_goes_on_where_neither_kafka_nor_the_disk_answers() {
        // No broker listens at that address, and no spooler takes the commands.
        let bus = Bus::new(BusConfig { brokers: "127.0.0.1:1".to_owned(), ..BusConfig::default() });
        let (spooler, _commands) = blocking::channel();
        let metrics = IngestMetrics::new(&Metrics::default());
        let readiness = service::Health::default().part("clicks");
        let (recorder, messages) =
            Recorder::new(&bus, &Config::default(), metrics.clone(), Some(spooler), readiness, 1).unwrap();
        let handle = CoreHandle::all(&recorder, messages).remove(0);
        let (core, messages) = handle.open();
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let flusher = Rc::clone(&core);
            spawn_local(async move { flusher.flush_loop(messages).await });
            let visit = VisitRecord {
                visitor: &VISITOR,
                at: Timestamp::now(),
                class: ClickClass::Click,
                rate_limited: false,
                tail: b"}".into(),
            };
            for clicks in 1..=2 {
                let pending = core.record(&visit);
                let outcome = timeout(Duration::from_secs(30), pending.recorded()).await;
                assert_eq!(outcome, Ok(Recorded::Shed));
                assert_eq!(metrics.shed_clicks.get(), clicks);
            }
            assert!(recorder.late.iter().any(|late| late.load(Ordering::Relaxed)));
            // An answer of the disk that comes after all is no second loss.
            recorder.not_stored(0);
            assert_eq!(metrics.shed_clicks.get(), 2);
        });
    }

    #[test]
    fn bundles_are_spread_over_the_partitions_that_answer() {
        for (late, expected) in [
            (&[false, false, false][..], &[0, 1, 2][..]),
            (&[true, false, false], &[1, 2]),
            (&[true, true, true], &[0, 1, 2]),
            (&[true, true, false], &[2]),
        ] {
            let mut drawn: Vec<usize> = (0..300)
                .map(|random| draw_shard(late, random, random * 7919))
                .inspect(|shard| assert!(*shard < SHARDS))
                .map(|shard| usize::from(shard) % late.len())
                .collect();
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn, expected, "{late:?}");
        }
    }
}
