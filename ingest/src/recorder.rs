//! Where a click is recorded. All cores write into one open bundle, which goes to
//! Kafka as one record: what a record costs is paid once for all clicks of a
//! moment, and one acknowledgement wakes everyone who waits.
//!
//! A bundle is sent when [`WINDOW`] has passed since the last one and Kafka has
//! acknowledged that, at the latest after [`LONGEST`], or when it holds [`FULL`]
//! bytes. Where no acknowledgement comes within the budget, `keeper.rs` puts it
//! on disk, and that counts as well.

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
use parking_lot::{Mutex, RwLock};
use schemas::{ClickId, Topic, ids::SHARDS};
use tokio::{
    sync::{Notify, mpsc},
    task::yield_now,
    time::sleep_until,
};
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
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
/// What waits in the Kafka client's memory at most; more is on disk alone.
const QUEUE_KBYTES: u32 = 64 << 10;

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
}

impl Flights {
    fn insert(&mut self, bundle: Arc<Bundle>, stand: Stand) {
        if stand == Stand::Waiting {
            self.waiting.push_back(bundle.number);
        }
        self.all.insert(bundle.number, Flight { bundle, stand });
    }

    /// The oldest that waits for the acknowledgement alone.
    fn first_waiting(&mut self) -> Option<&mut Flight> {
        let Self { all, waiting } = self;
        let waits = |number: &Number| all.get(number).is_some_and(|flight| flight.stand == Stand::Waiting);
        while waiting.pop_front_if(|number| !waits(number)).is_some() {}
        all.get_mut(waiting.front()?)
    }
}

/// What a desk is told of a bundle.
pub(crate) type Told = (Number, Option<Recorded>);

/// The recorder of the process: what its desks share.
pub(crate) struct Recorder {
    bus: Bus,
    producer: RwLock<Producer>,
    partitions: u16,
    durability: Durability,
    budget: Duration,
    counts: Counts,
    open: Mutex<Open>,
    flights: Mutex<Flights>,
    in_flight: AtomicUsize,
    /// Whether Kafka's acknowledgements come later than the budget allows.
    late: AtomicBool,
    renewing: AtomicBool,
    desks: Vec<mpsc::UnboundedSender<Told>>,
    /// None without a spool.
    keeper: Option<blocking::Sender<Order>>,
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
        let recorder = Arc::new(Self {
            bus: bus.clone(),
            producer: RwLock::new(producer(bus, config.durability)?),
            partitions: bus.partitions(Topic::ClicksRaw),
            durability: config.durability,
            budget: config.budget(),
            counts,
            open: Mutex::new(open),
            flights: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            late: AtomicBool::new(false),
            renewing: AtomicBool::new(false),
            desks,
            keeper,
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

    /// Until when the oldest bundle may wait for its acknowledgement.
    fn patience(&self) -> Option<Instant> {
        let mut flights = self.flights.lock();
        let oldest = flights.first_waiting()?;
        Some(oldest.bundle.since + self.budget)
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
        if at_once {
            self.order(Order::Put { bundle: Arc::clone(&bundle), queued: true });
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
        self.producer.read().send(&record, acked)
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
                Stand::Waiting => self.order(Order::Put { bundle, queued: false }),
                Stand::Spooling | Stand::Settled => self.order(Order::Alone(number)),
            },
            Some(_) => {
                self.counts.shed_clicks.inc_by(u64::from(bundle.clicks));
                self.tell(&bundle, Some(Recorded::Unknown));
            }
        }
        if let Some(error) = failure {
            self.failed(&error);
        }
        self.poke();
    }

    /// The keeper's answer: whether a bundle is on disk.
    pub(crate) fn kept(&self, bundle: &Bundle, stored: bool) {
        if let Some(flight) = self.flights.lock().all.get_mut(&bundle.number) {
            flight.stand = Stand::Settled;
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
            if self.keeper.is_some() {
                flight.stand = Stand::Spooling;
                self.order(Order::Put { bundle: Arc::clone(&flight.bundle), queued: true });
            } else {
                flight.stand = Stand::Settled;
                self.tell(&flight.bundle, Some(Recorded::Unknown));
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

    /// A client that can never succeed again is replaced; what it had is on disk.
    pub(crate) fn failed(self: &Arc<Self>, error: &BusError) {
        if error.is_transient() || matches!(error, BusError::QueueFull) || self.renewing.swap(true, Ordering::Relaxed) {
            return;
        }
        error!(%error, "the Kafka client of the redirector is made anew");
        let recorder = Arc::clone(self);
        // Not on the client's own thread, which runs this.
        std::thread::spawn(move || {
            match producer(&recorder.bus, recorder.durability) {
                Ok(producer) => *recorder.producer.write() = producer,
                Err(error) => error!(%error, "it could not be made"),
            }
            recorder.renewing.store(false, Ordering::Relaxed);
        });
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

    /// Hands on what is left and waits until Kafka has it, or the disk; gives back
    /// how many bundles Kafka has not acknowledged.
    pub(crate) fn close(self: &Arc<Self>, patience: Duration) -> usize {
        self.send();
        if self.keeper.is_none() || !self.is_late() {
            let _ = self.producer.read().drain(patience);
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
