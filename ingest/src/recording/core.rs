//! Where a core hands in its visits, and where they wait: the recorder's end on
//! each core. It writes lines without the recorder's lock, sends bundles when their
//! time has come, and tells a core's visits what became of theirs.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Instant,
};

use schemas::ClickId;
use tokio::{
    sync::{Notify, mpsc},
    task::yield_now,
    time::sleep_until,
};

use crate::{
    recording::recorder::{Added, Number, Recorded, Recorder, Told},
    visit::{Classified, Visitor},
};

/// What a core needs to open its desk.
pub(crate) struct Seat {
    pub(crate) index: usize,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
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
    pub(crate) fn record(&self, visitor: &Visitor<'_>, seen: Classified, tail: &[u8]) -> Pending {
        let random = rand::random();
        let mut line = self.line.borrow_mut();
        loop {
            // Written without the lock; once more where another bundle was opened
            // since, for its visits have its shard.
            let (number, shard) = self.open.get();
            let visit = visitor.as_seen(seen, ClickId::new(seen.at, shard, random));
            line.clear();
            visit.write_line(tail, &mut line);
            let Added { first, full } = match self.recorder.add(self.index, number, &line) {
                Ok(added) => added,
                Err(open) => {
                    self.open.set(open);
                    continue;
                }
            };
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
        if !self.recorder.is_waited_for() {
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
                recorder.lose_patience();
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
