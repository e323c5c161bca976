//! Where a click is recorded. All cores write into one open bundle, which goes to
//! Kafka as one record: what a record costs is paid once for all clicks of a
//! moment, and one acknowledgement wakes everyone who waits.
//!
//! A bundle is sent when [`WINDOW`] has passed since the last one and Kafka has
//! acknowledged that, at the latest after [`LONGEST`], or when it holds [`FULL`]
//! bytes. Where no acknowledgement comes within the budget, `keeper.rs` puts it
//! on disk, and that counts as well. A disk that hangs is waited for no longer than
//! [`DISK`]: redirects go on without.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc as blocking,
    },
    time::{Duration, Instant},
};

use bus::{Acked, Bus, BusError, Outgoing, Producer};
use parking_lot::Mutex;
use schemas::{Topic, ids::SHARDS};
use tokio::sync::mpsc;
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    config::{Config, Durability},
    metrics::IngestMetrics,
    recording::core::Seat,
    recording::spooler::Order,
    recording::unacked::{Flight, Flights, Stand},
    renewed_producer::RenewedProducer,
};

/// How long a bundle collects at least, counted from the one before.
const WINDOW: Duration = Duration::from_millis(2);
/// How long it collects while Kafka does not answer.
const LONGEST: Duration = Duration::from_millis(4);
/// From how many bytes on a bundle is sent at once.
const FULL: usize = 128 << 10;
/// How many emptied buffers are kept for the next bundles.
const SPARE: usize = 4;
/// How long beyond the budget a redirect waits for the disk.
const DISK: Duration = Duration::from_secs(1);
/// What waits in the Kafka client's memory at most; more is on disk alone.
const QUEUE_KBYTES: u32 = 64 << 10;
/// What waits for the disk in memory at most; more is shed.
const DISK_BYTES: usize = 64 << 20;

/// What became of a click.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Kafka has acknowledged it, or it is on disk.
    Yes,
    /// Neither took it, and redirects do not wait for that.
    Shed,
    /// Kafka has not acknowledged it in time. It may still do.
    Unknown,
}

/// IngestMetrics the bundles of this process.
pub(crate) type Number = u64;

struct Open {
    number: Number,
    lines: Vec<u8>,
    clicks: u32,
    shard: u16,
    since: Instant,
    last_sent: Instant,
    /// Which desks wait for it, and which of them opened it.
    desks: u64,
    opener: usize,
    spare: Vec<Vec<u8>>,
}

/// A bundle that is closed: what Kafka and the spool get.
pub(crate) struct Bundle {
    pub(crate) number: Number,
    pub(crate) id: Uuid,
    pub(crate) partition: i32,
    pub(crate) clicks: u32,
    pub(crate) lines: Vec<u8>,
    since: Instant,
    desks: u64,
}

/// A line that is in the open bundle.
pub(crate) struct Added {
    /// Whether it is the first, so that somebody has to send the bundle in time.
    pub(crate) first: bool,
    /// Whether the bundle is to be sent at once.
    pub(crate) full: bool,
}

/// What a desk is told of a bundle.
pub(crate) type Told = (Number, Option<Recorded>);

/// The recorder of the process: what its desks share.
pub(crate) struct Recorder {
    client: Arc<RenewedProducer>,
    partitions: u16,
    durability: Durability,
    budget: Duration,
    counts: IngestMetrics,
    open: Mutex<Open>,
    flights: Mutex<Flights>,
    in_flight: AtomicUsize,
    /// Whether Kafka's acknowledgements come later than the budget allows.
    late: AtomicBool,
    /// Whether redirects have ceased to wait for the disk.
    hanging: AtomicBool,
    desks: Vec<mpsc::UnboundedSender<Told>>,
    /// None without a spool.
    keeper: Option<blocking::Sender<Order>>,
    /// How many bytes the keeper has been given and not taken yet.
    ordered: AtomicUsize,
}

fn producer(bus: &Bus, durability: Durability) -> Result<Producer, BusError> {
    let patience = match durability {
        // A click that was answered with 503 may still be counted, but not hours later.
        Durability::Acked => Duration::from_secs(10),
        // Never given up: what became of a bundle is always told.
        Durability::Spooled | Durability::Async => Duration::ZERO,
    };
    bus.bounded_producer("ingest", Duration::ZERO, patience, QUEUE_KBYTES)
}

impl Recorder {
    /// The recorder, and a seat for each of so many cores.
    ///
    /// # Errors
    /// When the Kafka client cannot be made.
    pub(crate) fn new(
        bus: &Bus,
        config: &Config,
        counts: IngestMetrics,
        keeper: Option<blocking::Sender<Order>>,
        cores: usize,
    ) -> Result<(Arc<Self>, Vec<Seat>), BusError> {
        let (desks, told): (Vec<_>, Vec<_>) = (0..cores).map(|_| mpsc::unbounded_channel()).unzip();
        let now = Instant::now();
        let open = Open {
            number: 0,
            lines: Vec::new(),
            clicks: 0,
            shard: rand::random_range(0..SHARDS),
            since: now,
            last_sent: now,
            desks: 0,
            opener: 0,
            spare: Vec::new(),
        };
        let (kafka, durability) = (bus.clone(), config.durability);
        let recorder = Arc::new(Self {
            client: Arc::new(RenewedProducer::new(move || producer(&kafka, durability))?),
            partitions: bus.partitions(Topic::ClicksRaw),
            durability,
            budget: config.budget(),
            counts,
            open: Mutex::new(open),
            flights: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            late: AtomicBool::new(false),
            hanging: AtomicBool::new(false),
            desks,
            keeper,
            ordered: AtomicUsize::new(0),
        });
        let seats = told
            .into_iter()
            .enumerate()
            .map(|(index, told)| Seat { index, recorder: Arc::clone(&recorder), told })
            .collect();
        Ok((recorder, seats))
    }

    /// Appends a visit's line to the open bundle, if that is the one with `number`;
    /// if not, gives back which one is open, and its shard.
    pub(crate) fn add(&self, desk: usize, number: Number, line: &[u8]) -> Result<Added, (Number, u16)> {
        let mut open = self.open.lock();
        if open.number != number {
            return Err((open.number, open.shard));
        }
        open.lines.extend_from_slice(line);
        open.clicks += 1;
        open.desks |= desk_bit(desk);
        let added = Added { first: open.clicks == 1, full: open.lines.len() >= FULL };
        if added.first {
            open.since = Instant::now();
            open.opener = desk;
        }
        Ok(added)
    }

    /// Whether redirects wait for what becomes of their clicks.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.durability != Durability::Async
    }

    /// When the open bundle is to be sent, if there is one.
    pub(crate) fn due(&self) -> Option<Instant> {
        let open = self.open.lock();
        let waiting = self.in_flight.load(Ordering::Relaxed) > 0;
        let due = if waiting { open.since + LONGEST } else { open.last_sent + WINDOW };
        (open.clicks > 0).then_some(due)
    }

    /// Until when the oldest bundle may wait for its acknowledgement, or the disk.
    pub(crate) fn patience(&self) -> Option<Instant> {
        let mut flights = self.flights.lock();
        let kafka = flights.first_waiting().map(|flight| flight.bundle.since + self.budget);
        let disk = flights.first_spooling().map(|flight| flight.bundle.since + self.budget + DISK);
        [kafka, disk].into_iter().flatten().min()
    }

    /// Closes the open bundle and hands it on.
    pub(crate) fn send(self: &Arc<Self>) {
        let now = Instant::now();
        let bundle = {
            let mut open = self.open.lock();
            if open.clicks == 0 {
                return;
            }
            let buffer = open.spare.pop().unwrap_or_default();
            let bundle = Bundle {
                number: open.number,
                id: Uuid::now_v7(),
                partition: i32::from(open.shard % self.partitions),
                clicks: open.clicks,
                lines: std::mem::replace(&mut open.lines, buffer),
                since: now,
                desks: open.desks,
            };
            open.number += 1;
            open.clicks = 0;
            open.desks = 0;
            open.last_sent = now;
            // Any shard is as good as another: load spreads, and a bundle still
            // goes to one partition.
            open.shard = rand::random_range(0..SHARDS);
            bundle
        };
        self.counts.bundles.inc();
        self.counts.bundle_clicks.observe(f64::from(bundle.clicks));
        let bundle = Arc::new(bundle);
        // While Kafka is late, nobody waits for it first.
        let at_once = self.keeper.is_some() && self.late.load(Ordering::Relaxed);
        let stand = if at_once { Stand::Spooling } else { Stand::Waiting };
        self.flights.lock().insert(Arc::clone(&bundle), stand);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if at_once && !self.spool(Arc::clone(&bundle), true) {
            self.kept(&bundle, false);
        }
        let (recorder, number) = (Arc::clone(self), bundle.number);
        let taken = self.produce(bundle.id, bundle.partition, bundle.clicks, &bundle.lines, move |acked| {
            recorder.acked(number, acked);
        });
        if let Err(error) = taken {
            self.acked(bundle.number, Err(error));
        }
    }

    /// Hands a bundle to the Kafka client.
    ///
    /// # Errors
    /// When it is refused at once.
    pub(crate) fn produce(
        &self,
        id: Uuid,
        partition: i32,
        clicks: u32,
        lines: &[u8],
        acked: impl FnOnce(Acked) + Send + Sync + 'static,
    ) -> Result<(), BusError> {
        let (mut text, count) = (Uuid::encode_buffer(), clicks.to_string());
        let record = Outgoing {
            topic: Topic::ClicksRaw,
            partition: Some(partition),
            key: None,
            value: Some(lines),
            headers: &[("count", count.as_bytes()), ("bundle", id.hyphenated().encode_lower(&mut text).as_bytes())],
        };
        self.client.current().send(&record, acked)
    }

    /// Kafka's answer; called from its client's thread.
    fn acked(self: &Arc<Self>, number: Number, acked: Acked) {
        let failure = acked.err();
        let Some(flight) = self.flights.lock().all.remove(&number) else { return };
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (bundle, stand) = (flight.bundle, flight.stand);
        match &failure {
            None => {
                self.counts.ack_seconds.observe(bundle.since.elapsed().as_secs_f64());
                if stand != Stand::Waiting {
                    self.order(Order::Erase(number));
                }
                if stand != Stand::Settled {
                    self.tell(&bundle, Some(Recorded::Yes));
                }
                self.in_time();
                self.recycle(bundle);
            }
            // The client gave it up: the disk alone has it, and who waits is told
            // once that is so.
            Some(_) if self.keeper.is_some() => match stand {
                Stand::Waiting => {
                    if !self.spool(Arc::clone(&bundle), false) {
                        self.kept(&bundle, false);
                    }
                }
                Stand::Spooling | Stand::Settled => self.order(Order::Alone(number)),
            },
            Some(_) => {
                self.counts.shed_clicks.inc_by(u64::from(bundle.clicks));
                self.tell(&bundle, Some(Recorded::Unknown));
            }
        }
        if let Some(error) = failure {
            self.client.failed(&error);
            self.idle();
        }
        self.poke();
    }

    /// The keeper's answer: whether a bundle is on disk.
    pub(crate) fn kept(&self, bundle: &Bundle, stored: bool) {
        let mut flights = self.flights.lock();
        let flight = flights.all.get_mut(&bundle.number);
        let before = flight.map(|flight| std::mem::replace(&mut flight.stand, Stand::Settled));
        drop(flights);
        if before == Some(Stand::Settled) {
            // Nobody has waited for it any longer.
            return;
        }
        if !stored {
            self.counts.shed_clicks.inc_by(u64::from(bundle.clicks));
        }
        if bundle.since.elapsed() < self.budget + DISK && self.hanging.swap(false, Ordering::Relaxed) {
            warn!("the disk answers in time again");
        }
        // Whoever Kafka's answer has told before does not listen any more.
        self.tell(bundle, Some(if stored { Recorded::Yes } else { Recorded::Shed }));
    }

    /// What waits too long, for Kafka or for the disk, waits no longer.
    pub(crate) fn lose_patience(&self) {
        self.overdue(self.budget);
        self.undisked();
    }

    /// Bundles that wait for longer than the budget are put on disk.
    fn overdue(&self, budget: Duration) {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        while let Some(flight) = flights.first_waiting() {
            if flight.bundle.since + budget > now {
                break;
            }
            if self.keeper.is_none() {
                flight.stand = Stand::Settled;
                self.tell(&flight.bundle, Some(Recorded::Unknown));
            } else if self.spool(Arc::clone(&flight.bundle), true) {
                flights.spool_first();
            } else {
                self.shed(flight);
            }
        }
        drop(flights);
        if budget > Duration::ZERO && !self.late.swap(true, Ordering::Relaxed) {
            self.counts.late.set(1);
            match self.durability {
                Durability::Spooled => warn!(?budget, "Kafka acknowledges late: clicks go to the spool"),
                Durability::Acked => warn!(?budget, "Kafka acknowledges late: redirects are answered with 503"),
                Durability::Async => warn!(?budget, "Kafka acknowledges late: clicks are in memory alone"),
            }
        }
    }

    /// Redirects whose clicks the disk takes too long for go on.
    fn undisked(&self) {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        let mut any = false;
        while let Some(flight) = flights.first_spooling() {
            if flight.bundle.since + self.budget + DISK > now {
                break;
            }
            any = true;
            self.shed(flight);
        }
        drop(flights);
        if any && !self.hanging.swap(true, Ordering::Relaxed) {
            error!(
                waited = ?self.budget + DISK,
                "the spool's disk hangs: redirects go on without it; these clicks are lost if this process ends before \
                 the disk or Kafka has them"
            );
        }
    }

    /// Where nothing is under way, nothing is late: or what the disk has would wait
    /// for a click that Kafka acknowledges.
    fn idle(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.in_time();
        }
    }

    /// An acknowledgement came: Kafka is late no more when nothing else is overdue.
    fn in_time(&self) {
        if !self.late.load(Ordering::Relaxed) {
            return;
        }
        let oldest = self.flights.lock().all.first_key_value().map(|(_, flight)| flight.bundle.since);
        let still = oldest.is_some_and(|since| since.elapsed() > self.budget);
        if !still && self.late.swap(false, Ordering::Relaxed) {
            self.counts.late.set(0);
            warn!("Kafka acknowledges in time again");
        }
    }

    /// Whether Kafka's acknowledgements come late.
    pub(crate) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Takes notice of what the client has refused.
    pub(crate) fn failed(&self, error: &BusError) {
        self.client.failed(error);
    }

    fn shed(&self, flight: &mut Flight) {
        flight.stand = Stand::Settled;
        self.counts.shed_clicks.inc_by(u64::from(flight.bundle.clicks));
        self.tell(&flight.bundle, Some(Recorded::Shed));
    }

    /// Lets the keeper put a bundle on disk; says whether there is room for it to
    /// wait.
    fn spool(&self, bundle: Arc<Bundle>, queued: bool) -> bool {
        let bytes = bundle.lines.len();
        if self.ordered.fetch_add(bytes, Ordering::Relaxed) + bytes > DISK_BYTES {
            self.ordered.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.order(Order::Put { bundle, queued });
        true
    }

    /// The keeper has taken what it was given.
    pub(crate) fn taken(&self, bundle: &Bundle) {
        self.ordered.fetch_sub(bundle.lines.len(), Ordering::Relaxed);
    }

    fn order(&self, order: Order) {
        if let Some(keeper) = &self.keeper {
            // It ends after everyone who could give an order.
            let _ = keeper.send(order);
        }
    }

    fn tell(&self, bundle: &Bundle, recorded: Option<Recorded>) {
        for (index, desk) in self.desks.iter().enumerate() {
            if bundle.desks & desk_bit(index) != 0 {
                // A desk that has closed has nobody who waits.
                let _ = desk.send((bundle.number, recorded));
            }
        }
    }

    /// Lets the desk that opened the open bundle look again when it is due.
    fn poke(&self) {
        let open = self.open.lock();
        if open.clicks > 0
            && let Some(desk) = self.desks.get(open.opener)
        {
            let _ = desk.send((open.number, None));
        }
    }

    fn recycle(&self, bundle: Arc<Bundle>) {
        let Ok(mut bundle) = Arc::try_unwrap(bundle) else { return };
        bundle.lines.clear();
        let mut open = self.open.lock();
        if open.spare.len() < SPARE && bundle.lines.capacity() <= 2 * FULL {
            open.spare.push(bundle.lines);
        }
    }

    /// A core has nobody left who waits: what its desk has opened is sent, and the
    /// others look after what it has looked after.
    pub(crate) fn leave(self: &Arc<Self>) {
        self.send();
        for desk in &self.desks {
            // One that has closed has nothing to look after.
            let _ = desk.send((Number::MAX, None));
        }
    }

    /// Hands on what is left and waits until Kafka has it, or the disk; gives back
    /// how many bundles Kafka has not acknowledged.
    pub(crate) fn close(self: &Arc<Self>, patience: Duration) -> usize {
        self.send();
        if self.keeper.is_none() || !self.is_late() {
            let _ = self.client.current().drain(patience);
        }
        // The rest is put on disk before the keeper ends.
        self.overdue(Duration::ZERO);
        self.order(Order::Stop);
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// Beyond 64 cores, some hear of what does not concern them.
const fn desk_bit(index: usize) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bus::BusConfig;
    use schemas::{ClickClass, Timestamp};
    use service::Metrics;
    use tokio::{runtime, task::spawn_local, time::timeout};

    use super::*;
    use crate::visit::{Classified, CountsAs, RequestedPath, Visitor};

    const VISITOR: Visitor<'static> = Visitor {
        host: None,
        place: RequestedPath::Root,
        counted: CountsAs::Click(ClickClass::Click),
        ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        claims: None,
        user_agent: None,
        referer: None,
        query: None,
        traceparent: None,
    };

    #[test]
    fn a_redirect_goes_on_where_neither_kafka_nor_the_disk_answers() {
        // Nobody listens there, and nobody takes what is ordered.
        let bus = Bus::new(BusConfig { brokers: "127.0.0.1:1".to_owned(), ..BusConfig::default() });
        let (keeper, _orders) = blocking::channel();
        let counts = IngestMetrics::new(&Metrics::default());
        let (recorder, mut seats) = Recorder::new(&bus, &Config::default(), counts.clone(), Some(keeper), 1).unwrap();
        let (desk, told) = seats.remove(0).open();
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let clerk = Rc::clone(&desk);
            spawn_local(async move { clerk.run(told).await });
            let seen = Classified { at: Timestamp::now(), class: ClickClass::Click, rate_limited: false };
            for clicks in 1..=2 {
                let pending = desk.record(&VISITOR, seen, b"}");
                let outcome = timeout(Duration::from_secs(30), pending.outcome()).await;
                assert_eq!(outcome, Ok(Recorded::Shed));
                assert_eq!(counts.shed_clicks.get(), clicks);
            }
            assert!(recorder.is_late());
            // The disk answers after all: that is no second loss.
            let bundle = Arc::clone(&recorder.flights.lock().all[&0].bundle);
            recorder.kept(&bundle, false);
            assert_eq!(counts.shed_clicks.get(), 2);
        });
    }
}
