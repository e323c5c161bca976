//! Where a click is recorded. Each core collects its clicks into bundles and
//! hands a bundle to Kafka as one record: what a record costs is paid once for
//! all clicks of a moment, and one acknowledgement wakes everyone who waits.
//!
//! A bundle is sent at once when nobody else waits for an acknowledgement, when
//! it has been open for [`WINDOW`], or when it holds [`FULL`] bytes; but no two
//! within one [`WINDOW`] unless they are full, so that a busy core does not pay
//! for many small ones.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use bus::{Acked, Bus, BusError, Outgoing, Producer};
use schemas::{ClickClass, ClickId, Timestamp, Topic, click::Visit, ids::SHARDS};
use tokio::{
    sync::{Notify, mpsc},
    task::yield_now,
    time::{Instant, sleep_until},
};
use tracing::warn;
use uuid::Uuid;

use crate::{metrics::Counts, visit::Visitor};

/// How long a bundle collects while another is on its way.
const WINDOW: Duration = Duration::from_millis(1);
/// From how many bytes on a bundle is sent at once.
const FULL: usize = 64 << 10;

/// What became of a click.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Kafka has acknowledged it.
    Yes,
    /// It has not, in time. It may still do.
    Unknown,
}

/// What the redirector makes of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at: Timestamp,
    pub(crate) class: ClickClass,
    /// Whether the address asks for more than a person would.
    pub(crate) rate_limited: bool,
}

/// A visit that was written down.
pub(crate) struct Pending {
    /// What was minted for it.
    #[expect(dead_code, reason = "links that append the click's id will tell it to the destination")]
    pub(crate) id: ClickId,
    ticket: Rc<Ticket>,
}

impl Pending {
    /// Waits until it is known what became of it.
    pub(crate) async fn outcome(&self) -> Recorded {
        loop {
            let settled = self.ticket.settled.notified();
            if let Some(outcome) = self.ticket.outcome.get() {
                return outcome;
            }
            settled.await;
        }
    }
}

/// What the clicks of a bundle share: whoever waits for it holds one.
#[derive(Default)]
struct Ticket {
    outcome: Cell<Option<Recorded>>,
    settled: Notify,
}

struct Open {
    lines: Vec<u8>,
    clicks: u32,
    shard: u16,
    since: Instant,
    ticket: Rc<Ticket>,
}

impl Open {
    fn new() -> Self {
        // Any shard is as good as another: load spreads, and a bundle still
        // goes to one partition.
        let shard = rand::random_range(0..SHARDS);
        Self { lines: Vec::new(), clicks: 0, shard, since: Instant::now(), ticket: Rc::default() }
    }
}

struct InFlight {
    since: Instant,
    ticket: Rc<Ticket>,
}

/// An acknowledgement on its way from the Kafka client's thread to the core.
type Ack = (u64, Acked);

/// The recorder of one core.
pub(crate) struct Recorder {
    producer: Producer,
    partitions: u16,
    ack_timeout: Duration,
    counts: Counts,
    open: RefCell<Open>,
    /// Bundles that wait for their acknowledgement, oldest first.
    in_flight: RefCell<BTreeMap<u64, InFlight>>,
    sent: Cell<u64>,
    last_sent: Cell<Instant>,
    failing: Cell<bool>,
    opened: Notify,
    acks: mpsc::UnboundedSender<Ack>,
}

impl Recorder {
    /// The recorder of the thread that this is called on, and the acknowledgements
    /// that [`Recorder::run`] takes.
    pub(crate) fn new(
        bus: &Bus,
        producer: Producer,
        ack_timeout: Duration,
        counts: Counts,
    ) -> (Rc<Self>, mpsc::UnboundedReceiver<Ack>) {
        let (acks, acked) = mpsc::unbounded_channel();
        let recorder = Self {
            producer,
            partitions: bus.partitions(Topic::ClicksRaw),
            ack_timeout,
            counts,
            open: RefCell::new(Open::new()),
            in_flight: RefCell::default(),
            sent: Cell::new(0),
            last_sent: Cell::new(Instant::now()),
            failing: Cell::new(false),
            opened: Notify::new(),
            acks,
        };
        (Rc::new(recorder), acked)
    }

    /// Writes a visit down. It is on its way from now on, whether or not anyone
    /// waits for it. `tail` is the end of its line: what is known of the link.
    pub(crate) fn record(&self, visitor: &Visitor<'_>, seen: Seen, tail: &[u8]) -> Pending {
        let mut open = self.open.borrow_mut();
        if open.clicks == 0 {
            open.since = Instant::now();
            self.opened.notify_one();
        }
        let visit = Visit {
            id: ClickId::new(seen.at, open.shard, rand::random()),
            class: seen.class,
            rate_limited: seen.rate_limited,
            ip: visitor.ip,
            user_agent: visitor.user_agent.as_deref(),
            referer: visitor.referer.as_deref(),
            query: visitor.query.as_deref(),
            traceparent: visitor.traceparent,
        };
        visit.write_line(tail, &mut open.lines);
        open.clicks += 1;
        let pending = Pending { id: visit.id, ticket: Rc::clone(&open.ticket) };
        let full = open.lines.len() >= FULL;
        drop(open);
        if full {
            self.send();
        }
        pending
    }

    /// Sends bundles when their time has come and tells those who wait what
    /// became of them. Runs beside the connections until it is dropped.
    pub(crate) async fn run(&self, mut acked: mpsc::UnboundedReceiver<Ack>) {
        loop {
            let due = self.due();
            if due.is_some_and(|due| due <= Instant::now()) {
                // Requests that are here already come along.
                yield_now().await;
                self.send();
                continue;
            }
            let oldest = self.in_flight.borrow().values().next().map(|bundle| bundle.since + self.ack_timeout);
            let next = [oldest, due].into_iter().flatten().min();
            tokio::select! {
                ack = acked.recv() => {
                    // Never ends: a sender lives in self.
                    let Some((number, ack)) = ack else { return };
                    self.settle(number, &ack);
                    while let Ok((number, ack)) = acked.try_recv() {
                        self.settle(number, &ack);
                    }
                }
                () = self.opened.notified() => {}
                () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {
                    self.give_up_late();
                }
            }
        }
    }

    /// When the open bundle is to be sent, if there is one.
    fn due(&self) -> Option<Instant> {
        let open = self.open.borrow();
        let waiting = !self.in_flight.borrow().is_empty();
        let since = if waiting { open.since } else { self.last_sent.get() };
        (open.clicks > 0).then_some(since + WINDOW)
    }

    /// Hands the open bundle to Kafka as one record.
    fn send(&self) {
        let bundle = self.open.replace(Open::new());
        if bundle.clicks == 0 {
            return;
        }
        let number = self.sent.get();
        self.sent.set(number + 1);
        self.last_sent.set(Instant::now());
        self.counts.bundles.inc();
        self.counts.bundle_clicks.observe(f64::from(bundle.clicks));
        self.in_flight.borrow_mut().insert(number, InFlight { since: Instant::now(), ticket: bundle.ticket });
        let id = Uuid::now_v7().to_string();
        let count = bundle.clicks.to_string();
        let record = Outgoing {
            topic: Topic::ClicksRaw,
            partition: Some(i32::from(bundle.shard % self.partitions)),
            key: None,
            value: Some(&bundle.lines),
            headers: &[("count", count.as_bytes()), ("bundle", id.as_bytes())],
        };
        let acks = self.acks.clone();
        // The receiver is gone only when nobody waits any more.
        let sent = self.producer.send(&record, move |ack| drop(acks.send((number, ack))));
        if let Err(error) = sent {
            self.settle(number, &Err(error));
        }
    }

    fn settle(&self, number: u64, ack: &Acked) {
        // One that was given up has told its waiters already.
        let Some(bundle) = self.in_flight.borrow_mut().remove(&number) else { return };
        self.counts.ack_seconds.observe(bundle.since.elapsed().as_secs_f64());
        bundle.settle(if ack.is_ok() { Recorded::Yes } else { Recorded::Unknown });
        self.tell_if_news(ack.as_ref().err());
    }

    fn give_up_late(&self) {
        let now = Instant::now();
        while let Some(bundle) = self.in_flight.borrow_mut().first_entry() {
            if bundle.get().since + self.ack_timeout > now {
                return;
            }
            bundle.remove().settle(Recorded::Unknown);
            if !self.failing.replace(true) {
                warn!(after = ?self.ack_timeout, "Kafka does not acknowledge clicks: redirects are answered with 503");
            }
        }
    }

    /// An outage is logged where it begins and where it ends.
    fn tell_if_news(&self, error: Option<&BusError>) {
        match (error, self.failing.replace(error.is_some())) {
            (Some(error), false) => warn!(%error, "clicks are not recorded: redirects are answered with 503"),
            (None, true) => warn!("Kafka acknowledges clicks again"),
            _ => {}
        }
    }
}

impl InFlight {
    fn settle(&self, outcome: Recorded) {
        self.ticket.outcome.set(Some(outcome));
        self.ticket.settled.notify_waiters();
    }
}
