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
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc as blocking,
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bus::{Acked, Bus, BusError, Outgoing, Producer};
use parking_lot::Mutex;
use schemas::{ClickId, Topic, ids::SHARDS};
use tokio::{
    sync::{Notify, mpsc},
    task::yield_now,
    time::sleep_until,
};
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    client::Client,
    config::{Config, Durability},
    keeper::Order,
    metrics::Counts,
    visit::{Seen, Visitor},
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

/// Counts the bundles of this process.
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

/// Where a bundle that Kafka has not acknowledged stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It waits for the acknowledgement alone.
    Waiting,
    /// The keeper has it, to put it on disk; those who wait are not told yet.
    Spooling,
    /// Those who wait have been told.
    Settled,
}

struct Flight {
    bundle: Arc<Bundle>,
    stand: Stand,
}

/// What waits for Kafka's acknowledgement.
#[derive(Default)]
struct Flights {
    /// Oldest first.
    all: BTreeMap<Number, Flight>,
    /// Those that stand [`Stand::Waiting`], oldest first, and some that no longer
    /// do: in an outage of hours nobody looks through all the others for them.
    waiting: VecDeque<Number>,
    /// The same of those that stand [`Stand::Spooling`].
    spooling: VecDeque<Number>,
}

impl Flights {
    fn insert(&mut self, bundle: Arc<Bundle>, stand: Stand) {
        match stand {
            Stand::Waiting => self.waiting.push_back(bundle.number),
            Stand::Spooling => self.spooling.push_back(bundle.number),
            Stand::Settled => {}
        }
        self.all.insert(bundle.number, Flight { bundle, stand });
    }

    /// The oldest that waits for the acknowledgement alone.
    fn first_waiting(&mut self) -> Option<&mut Flight> {
        first(&mut self.all, &mut self.waiting, Stand::Waiting)
    }

    /// The oldest that waits for the disk as well.
    fn first_spooling(&mut self) -> Option<&mut Flight> {
        first(&mut self.all, &mut self.spooling, Stand::Spooling)
    }
}

/// The first of `queue` that stands so; those before it are dropped there.
fn first<'f>(
    all: &'f mut BTreeMap<Number, Flight>,
    queue: &mut VecDeque<Number>,
    stand: Stand,
) -> Option<&'f mut Flight> {
    let stands = |number: &Number| all.get(number).is_some_and(|flight| flight.stand == stand);
    while queue.pop_front_if(|number| !stands(number)).is_some() {}
    all.get_mut(queue.front()?)
}

/// What a desk is told of a bundle.
pub(crate) type Told = (Number, Option<Recorded>);

/// The recorder of the process: what its desks share.
pub(crate) struct Recorder {
    client: Arc<Client>,
    partitions: u16,
    durability: Durability,
    budget: Duration,
    counts: Counts,
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

/// What a core needs to open its desk.
pub(crate) struct Seat {
    index: usize,
    recorder: Arc<Recorder>,
    told: mpsc::UnboundedReceiver<Told>,
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
        counts: Counts,
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
            client: Arc::new(Client::new(move || producer(&kafka, durability))?),
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

    /// When the open bundle is to be sent, if there is one.
    fn due(&self) -> Option<Instant> {
        let open = self.open.lock();
        let waiting = self.in_flight.load(Ordering::Relaxed) > 0;
        let due = if waiting { open.since + LONGEST } else { open.last_sent + WINDOW };
        (open.clicks > 0).then_some(due)
    }

    /// Until when the oldest bundle may wait for its acknowledgement, or the disk.
    fn patience(&self) -> Option<Instant> {
        let mut flights = self.flights.lock();
        let kafka = flights.first_waiting().map(|flight| flight.bundle.since + self.budget);
        let disk = flights.first_spooling().map(|flight| flight.bundle.since + self.budget + DISK);
        [kafka, disk].into_iter().flatten().min()
    }

    /// Closes the open bundle and hands it on.
    fn send(self: &Arc<Self>) {
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
                flight.stand = Stand::Spooling;
                let number = flight.bundle.number;
                flights.spooling.push_back(number);
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

/// What the visits of a core wait for: one bundle's acknowledgement.
#[derive(Default)]
struct Ticket {
    outcome: Cell<Option<Recorded>>,
    waiting: RefCell<Vec<Waker>>,
}

/// A visit that was written down.
pub(crate) struct Pending {
    /// What was minted for it.
    pub(crate) id: ClickId,
    ticket: Rc<Ticket>,
}

impl Pending {
    /// Waits until it is known what became of it.
    pub(crate) async fn outcome(&self) -> Recorded {
        std::future::poll_fn(|context| match self.ticket.outcome.get() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.ticket.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// Where a core hands in its visits.
pub(crate) struct Desk {
    index: usize,
    recorder: Arc<Recorder>,
    /// A line that is being written.
    line: RefCell<Vec<u8>>,
    /// The bundle that was open last, and its shard.
    open: Cell<(Number, u16)>,
    tickets: RefCell<VecDeque<(Number, Rc<Ticket>)>>,
    opened: Notify,
}

impl Seat {
    /// The desk of the core that this is called on, and what [`Desk::run`] takes.
    pub(crate) fn open(self) -> (Rc<Desk>, mpsc::UnboundedReceiver<Told>) {
        let desk = Desk {
            index: self.index,
            recorder: self.recorder,
            line: RefCell::default(),
            open: Cell::new((Number::MAX, 0)),
            tickets: RefCell::default(),
            opened: Notify::new(),
        };
        (Rc::new(desk), self.told)
    }
}

impl Desk {
    /// Writes a visit down. It is on its way from now on, whether or not anyone
    /// waits for it. `tail` is the end of its line: what is known of the link.
    pub(crate) fn record(&self, visitor: &Visitor<'_>, seen: Seen, tail: &[u8]) -> Pending {
        let random = rand::random();
        let mut line = self.line.borrow_mut();
        loop {
            // Written without the lock; once more where another bundle was opened
            // since, for its visits have its shard.
            let (number, shard) = self.open.get();
            let visit = visitor.as_seen(seen, ClickId::new(seen.at, shard, random));
            line.clear();
            visit.write_line(tail, &mut line);
            let mut open = self.recorder.open.lock();
            if open.number != number {
                self.open.set((open.number, open.shard));
                continue;
            }
            open.lines.extend_from_slice(&line);
            open.clicks += 1;
            open.desks |= desk_bit(self.index);
            let (first, full) = (open.clicks == 1, open.lines.len() >= FULL);
            if first {
                open.since = Instant::now();
                open.opener = self.index;
            }
            drop(open);
            let pending = Pending { id: visit.id, ticket: self.ticket(number) };
            if full {
                self.recorder.send();
            } else if first {
                self.opened.notify_one();
            }
            return pending;
        }
    }

    /// The core's connections have ended.
    pub(crate) fn leave(&self) {
        self.recorder.leave();
    }

    fn ticket(&self, number: Number) -> Rc<Ticket> {
        if self.recorder.durability == Durability::Async {
            let told = Ticket::default();
            told.outcome.set(Some(Recorded::Yes));
            return Rc::new(told);
        }
        let mut tickets = self.tickets.borrow_mut();
        match tickets.back() {
            Some((last, ticket)) if *last == number => Rc::clone(ticket),
            _ => {
                let ticket = Rc::<Ticket>::default();
                tickets.push_back((number, Rc::clone(&ticket)));
                ticket
            }
        }
    }

    /// Sends bundles when their time has come and tells those who wait what
    /// became of them. Runs beside the connections until it is dropped.
    pub(crate) async fn run(&self, mut told: mpsc::UnboundedReceiver<Told>) {
        let recorder = &self.recorder;
        loop {
            let due = recorder.due();
            if due.is_some_and(|due| due <= Instant::now()) {
                // Requests that are here already come along.
                yield_now().await;
                if recorder.due().is_some_and(|due| due <= Instant::now()) {
                    recorder.send();
                }
                continue;
            }
            let patience = recorder.patience();
            if patience.is_some_and(|patience| patience <= Instant::now()) {
                recorder.overdue(recorder.budget);
                recorder.undisked();
                continue;
            }
            let next = [due, patience].into_iter().flatten().min();
            let mut timer = pin!(async { sleep_until(next.unwrap_or_else(Instant::now).into()).await });
            tokio::select! {
                told_now = told.recv() => {
                    // Never ends: the recorder has the other end.
                    let Some(mut message) = told_now else { return };
                    loop {
                        self.settle(message);
                        match told.try_recv() {
                            Ok(next) => message = next,
                            Err(_) => break,
                        }
                    }
                }
                () = self.opened.notified() => {}
                () = &mut timer, if next.is_some() => {}
            }
        }
    }

    fn settle(&self, (number, recorded): Told) {
        let Some(recorded) = recorded else { return };
        let ticket = {
            let mut tickets = self.tickets.borrow_mut();
            let Some(at) = tickets.iter().position(|(waiting, _)| *waiting == number) else { return };
            tickets.remove(at)
        };
        let Some((_, ticket)) = ticket else { return };
        ticket.outcome.set(Some(recorded));
        for waker in ticket.waiting.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use bus::BusConfig;
    use schemas::{ClickClass, Timestamp};
    use service::Metrics;
    use tokio::{runtime, task::spawn_local, time::timeout};

    use super::*;
    use crate::visit::{Counted, Place};

    const VISITOR: Visitor<'static> = Visitor {
        host: None,
        place: Place::Root,
        counted: Counted::As(ClickClass::Click),
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
        let counts = Counts::new(&Metrics::default());
        let (recorder, mut seats) = Recorder::new(&bus, &Config::default(), counts.clone(), Some(keeper), 1).unwrap();
        let (desk, told) = seats.remove(0).open();
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let clerk = Rc::clone(&desk);
            spawn_local(async move { clerk.run(told).await });
            let seen = Seen { at: Timestamp::now(), class: ClickClass::Click, rate_limited: false };
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
