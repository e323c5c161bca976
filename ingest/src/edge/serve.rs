//! One core of the redirector: a thread with a runtime, a listener and a
//! recorder of its own. Cores share the table of links and the Kafka client.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use schemas::{ClickClass, Timestamp};
use service::Shutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified, oneshot},
    task::spawn_local,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    Config,
    edge::connection,
    http::answer::{RedirectResponse, ResponseContext},
    http::date::DateHeader,
    http::{Persistence, RequestHead},
    metrics::IngestMetrics,
    recording::core::{Desk, Pending, Seat},
    recording::recorder::Recorded,
    redirect::Redirects,
    visit::Visitor,
};

/// How long accepting rests after it failed: mostly for want of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What every core is given.
#[derive(Clone)]
pub(crate) struct EdgeState {
    pub(crate) redirects: Arc<Redirects>,
    pub(crate) connections: Arc<Semaphore>,
    /// Told when the listeners are to close.
    pub(crate) close: Shutdown,
}

/// Refuses an address that somebody listens on: listeners that share a port would
/// share it with another process, too.
pub(crate) fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 { Ok(()) } else { StdListener::bind(address).map(drop) }
}

/// A listener for each core on one address, among which the kernel shares out
/// connections.
pub(crate) fn listen(address: SocketAddr, cores: usize) -> io::Result<Vec<StdListener>> {
    let mut listeners: Vec<StdListener> = Vec::with_capacity(cores);
    for _ in 0..cores {
        let address = listeners.first().map_or(Ok(address), StdListener::local_addr)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// Starts a core; the receiver hears when it has drained.
pub(crate) fn start(
    index: usize,
    listener: StdListener,
    seat: Seat,
    shared: EdgeState,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (tell, done) = oneshot::channel();
    thread::Builder::new().name(format!("ingest-{index}")).spawn(move || {
        // Nobody may be waiting any more.
        let _ = tell.send(run(listener, seat, shared));
    })?;
    Ok(done)
}

fn run(listener: StdListener, seat: Seat, shared: EdgeState) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let (desk, told) = seat.open();
        let clerk = Rc::clone(&desk);
        let clerk = spawn_local(async move { clerk.run(told).await });
        let core = Rc::new(EdgeCore {
            desk,
            shared,
            date: RefCell::default(),
            draining: Cell::new(false),
            drain: Notify::new(),
            open: Cell::new(0),
            closed: Notify::new(),
        });
        core.accept(listener).await;
        core.desk.leave();
        clerk.abort();
        Ok(())
    })
}

/// What the connections of a core share.
pub(crate) struct EdgeCore {
    desk: Rc<Desk>,
    pub(crate) shared: EdgeState,
    date: RefCell<DateHeader>,
    draining: Cell<bool>,
    drain: Notify,
    open: Cell<usize>,
    closed: Notify,
}

/// What is left to be done once an answer is written.
pub(crate) struct Answered {
    /// What must be acknowledged before the answer is sent.
    pub(crate) recording: Option<Recording>,
    pub(crate) after: Persistence,
}

/// A click that is on its way to Kafka.
pub(crate) struct Recording {
    pending: Pending,
    class: ClickClass,
}

impl EdgeCore {
    async fn accept(self: &Rc<Self>, listener: TcpListener) {
        let close = self.shared.close.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.next(&listener) => accepted,
                () = close.wait() => break,
            };
            match accepted {
                Ok((stream, peer, permit)) => self.serve(stream, peer, permit),
                Err(error) => {
                    debug!(%error, "accepting failed");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
        // Closing a listener resets what waits in its queue: serve that first.
        while let Ok(Ok((stream, peer, permit))) = timeout(Duration::ZERO, self.next(&listener)).await {
            self.serve(stream, peer, permit);
        }
        drop(listener);
        self.draining.set(true);
        self.drain.notify_waiters();
        let patience = Duration::from_millis(self.config().drain_timeout_ms);
        if timeout(patience, self.all_closed()).await.is_err() {
            warn!("connections were cut off: they did not finish in time");
        }
    }

    async fn all_closed(&self) {
        while self.open.get() > 0 {
            self.closed.notified().await;
        }
    }

    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.shared.connections).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, permit))
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        // Fails only for a connection that is gone already.
        let _ = stream.set_nodelay(true);
        self.open.set(self.open.get() + 1);
        self.counts().connections.inc();
        let core = Rc::clone(self);
        spawn_local(async move {
            if let Err(error) = connection::serve(&core, stream, peer).await {
                debug!(%error, "a connection ended early");
            }
            core.counts().connections.dec();
            core.open.set(core.open.get() - 1);
            core.closed.notify_one();
            drop(permit);
        });
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.redirects.config
    }

    pub(crate) fn counts(&self) -> &IngestMetrics {
        &self.shared.redirects.counts
    }

    /// Whether connections end as soon as they have nothing to do.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Ends when that begins.
    pub(crate) fn told_to_drain(&self) -> Notified<'_> {
        self.drain.notified()
    }

    /// The time for an answer.
    pub(crate) fn date(&self, at: Timestamp) -> [u8; 29] {
        self.date.borrow_mut().at(at)
    }

    /// Decides on a request and writes its answer to `out`.
    pub(crate) fn answer(&self, head: &RequestHead<'_>, peer: SocketAddr, out: &mut Vec<u8>) -> Answered {
        let at = Timestamp::now();
        let after = if self.is_draining() { Persistence::Close } else { head.after };
        let sent = ResponseContext { after, bodiless: head.method == "HEAD", date: self.date(at) };
        let note = |visitor: &Visitor<'_>, seen, tail: &[u8]| {
            let pending = self.desk.record(visitor, seen, tail);
            (pending.id, pending)
        };
        let waiting = self.shared.redirects.answer(head, peer, (at, sent), note, out);
        Answered { recording: waiting.map(|(class, pending)| Recording { pending, class }), after }
    }

    /// Waits until a click is recorded; where it is not, `out` says so instead.
    pub(crate) async fn settle(&self, recording: Recording, after: Persistence, out: &mut Vec<u8>) {
        let counts = self.counts();
        match (recording.pending.outcome().await, recording.class) {
            (Recorded::Yes | Recorded::Shed, ClickClass::Click) => drop(counts.clicks.inc()),
            (Recorded::Yes | Recorded::Shed, _) => drop(counts.scans.inc()),
            (Recorded::Unknown, _) => {
                counts.unrecorded.inc();
                out.clear();
                let sent = ResponseContext { after, bodiless: false, date: self.date(Timestamp::now()) };
                RedirectResponse::Unavailable.write(sent, out);
            }
        }
    }
}
