//! The recorder's end on each core. It writes lines without the recorder's lock,
//! closes bundles when they are due, and tells the visits of its core what became of
//! their clicks.

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
    recording::{
        bundle::{BundleNumber, CoreMessage, Recorded},
        recorder::{Added, OpenBundle, Recorder},
    },
    visit::VisitRecord,
};

/// The parts of which a core makes its [`CoreRecorder`].
pub(crate) struct CoreHandle {
    index: usize,
    recorder: Arc<Recorder>,
    messages: mpsc::UnboundedReceiver<CoreMessage>,
}

/// The state of one bundle that visits of a core wait for.
#[derive(Default)]
struct BundleReceipt {
    recorded: Cell<Option<Recorded>>,
    waiting: RefCell<Vec<Waker>>,
}

impl BundleReceipt {
    fn complete(&self, recorded: Recorded) {
        self.recorded.set(Some(recorded));
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

/// A visit whose line is in a bundle.
pub(crate) struct PendingClick {
    /// The id minted for the visit.
    pub(crate) id: ClickId,
    receipt: Rc<BundleReceipt>,
}

impl PendingClick {
    /// Waits until it is known whether the visit was recorded.
    pub(crate) async fn recorded(&self) -> Recorded {
        std::future::poll_fn(|context| match self.receipt.recorded.get() {
            Some(recorded) => Poll::Ready(recorded),
            None => {
                self.receipt.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// The recorder of one core's visits.
pub(crate) struct CoreRecorder {
    index: usize,
    recorder: Arc<Recorder>,
    /// The buffer in which a line is written.
    line: RefCell<Vec<u8>>,
    /// The bundle that was open when this core last looked; none before the first line.
    open: Cell<Option<OpenBundle>>,
    receipts: RefCell<VecDeque<(BundleNumber, Rc<BundleReceipt>)>>,
    opened: Notify,
}

impl CoreHandle {
    /// Makes the handle of each core, by its receiver of the recorder's messages.
    pub(crate) fn all(recorder: &Arc<Recorder>, receivers: Vec<mpsc::UnboundedReceiver<CoreMessage>>) -> Vec<Self> {
        let handles = receivers.into_iter().enumerate();
        handles.map(|(index, messages)| Self { index, recorder: Arc::clone(recorder), messages }).collect()
    }

    /// Makes the recorder of the core that this is called on; its
    /// [`CoreRecorder::flush_loop`] takes the messages.
    pub(crate) fn open(self) -> (Rc<CoreRecorder>, mpsc::UnboundedReceiver<CoreMessage>) {
        let recorder = CoreRecorder {
            index: self.index,
            recorder: self.recorder,
            line: RefCell::default(),
            open: Cell::new(None),
            receipts: RefCell::default(),
            opened: Notify::new(),
        };
        (Rc::new(recorder), self.messages)
    }
}

impl CoreRecorder {
    /// Records a visit. Its line is on the way to Kafka from now on, whether or not
    /// the visit waits for it.
    pub(crate) fn record(&self, visit: &VisitRecord<'_>) -> PendingClick {
        let random = rand::random();
        let mut line = self.line.borrow_mut();
        loop {
            let open = self.open.get().unwrap_or_else(|| self.recorder.open_bundle());
            // Written without the lock, and again where another bundle was opened in
            // the meantime, because a visit's id names the shard of its bundle.
            let id = ClickId::new(visit.at, open.shard, random);
            line.clear();
            visit.write_line(id, &mut line);
            match self.recorder.add(self.index, open.number, &line) {
                Ok(added) => {
                    self.open.set(Some(open));
                    let pending = PendingClick { id, receipt: self.receipt(open.number) };
                    match added {
                        Added::Full => self.recorder.close_bundle(),
                        Added::First => self.opened.notify_one(),
                        Added::Another => {}
                    }
                    return pending;
                }
                Err(other) => self.open.set(Some(other)),
            }
        }
    }

    /// Whether clicks cannot be recorded at present.
    pub(crate) fn is_full(&self) -> bool {
        self.recorder.is_full()
    }

    /// Sends the open bundle and gives the other cores this one's timers: the core's
    /// connections have ended.
    pub(crate) fn leave(&self) {
        self.recorder.leave();
    }

    fn receipt(&self, number: BundleNumber) -> Rc<BundleReceipt> {
        if !self.recorder.is_waited_for() {
            let receipt = BundleReceipt::default();
            receipt.complete(Recorded::Yes);
            return Rc::new(receipt);
        }
        let mut receipts = self.receipts.borrow_mut();
        match receipts.back() {
            Some((last, receipt)) if *last == number => Rc::clone(receipt),
            _ => {
                let receipt = Rc::<BundleReceipt>::default();
                receipts.push_back((number, Rc::clone(&receipt)));
                receipt
            }
        }
    }

    /// Closes bundles when they are due and wakes the visits whose bundle is recorded.
    /// Runs beside the connections until it is dropped.
    pub(crate) async fn flush_loop(&self, mut messages: mpsc::UnboundedReceiver<CoreMessage>) {
        let recorder = &self.recorder;
        loop {
            let due = recorder.due();
            if due.is_some_and(|due| due <= Instant::now()) {
                // Requests that have arrived already come along.
                yield_now().await;
                if recorder.due().is_some_and(|due| due <= Instant::now()) {
                    recorder.close_bundle();
                }
                continue;
            }
            let timeout = recorder.next_timeout();
            if timeout.is_some_and(|timeout| timeout <= Instant::now()) {
                recorder.time_out();
                continue;
            }
            let next = [due, timeout].into_iter().flatten().min();
            let mut timer = pin!(async { sleep_until(next.unwrap_or_else(Instant::now).into()).await });
            tokio::select! {
                received = messages.recv() => {
                    // Never ends: the recorder has the other end.
                    let Some(mut message) = received else { return };
                    loop {
                        self.receive(message);
                        match messages.try_recv() {
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

    fn receive(&self, message: CoreMessage) {
        let (bundle, recorded) = match message {
            CoreMessage::Settled { bundle, recorded } => (bundle, recorded),
            // The loop looks at the timers after each message.
            CoreMessage::CheckTimers => return,
        };
        let receipt = {
            let mut receipts = self.receipts.borrow_mut();
            let Some(at) = receipts.iter().position(|(number, _)| *number == bundle) else { return };
            receipts.remove(at)
        };
        if let Some((_, receipt)) = receipt {
            receipt.complete(recorded);
        }
    }
}
