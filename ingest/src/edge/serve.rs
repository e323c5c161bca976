//! One core of the redirector: a thread with a runtime, a listener and a recorder of
//! its own. Cores share the table of links and the Kafka client.

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
    Config, WhenFull,
    edge::{
        connection,
        networks::{NetworkConnections, NetworkLevel, NetworkPlace},
        slots::{ConnectionSlots, Eviction},
    },
    http::{
        Persistence, RequestHead,
        answer::{RedirectResponse, ResponseContext},
        date::DateHeader,
    },
    metrics::IngestMetrics,
    recording::{
        bundle::Recorded,
        core::{CoreHandle, CoreRecorder, PendingClick},
    },
    redirect::Redirects,
    visit,
};

/// The pause after a failed accept, usually `EMFILE`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The pause after which an idle connection is looked for again, when there was none.
const EVICTION_PAUSE: Duration = Duration::from_millis(50);

/// The state that all cores share.
#[derive(Clone)]
pub(crate) struct EdgeState {
    pub(crate) redirects: Arc<Redirects>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) networks: Arc<NetworkConnections>,
    /// Triggered when the listeners are to close.
    pub(crate) close: Shutdown,
}

/// Refuses an address that is listened on already: listeners that share a port would
/// share it with another process, too.
pub(crate) fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 { Ok(()) } else { StdListener::bind(address).map(drop) }
}

/// Opens a listener for each core on one address. The kernel spreads connections
/// over them.
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

/// Starts a core. The receiver resolves when the core has drained.
pub(crate) fn start(
    index: usize,
    listener: StdListener,
    handle: CoreHandle,
    state: EdgeState,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (ended, done) = oneshot::channel();
    thread::Builder::new().name(format!("ingest-{index}")).spawn(move || {
        // The receiver may be gone.
        let _ = ended.send(run(listener, handle, state));
    })?;
    Ok(done)
}

fn run(listener: StdListener, handle: CoreHandle, state: EdgeState) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let (recorder, messages) = handle.open();
        let flusher = Rc::clone(&recorder);
        let flusher = spawn_local(async move { flusher.flush_loop(messages).await });
        let core = Rc::new(EdgeCore {
            recorder,
            state,
            date: RefCell::default(),
            draining: Cell::new(false),
            drain: Notify::new(),
            slots: ConnectionSlots::default(),
            open: Cell::new(0),
            closed: Notify::new(),
        });
        core.accept(listener).await;
        core.recorder.leave();
        flusher.abort();
        Ok(())
    })
}

/// A core, which its connections share.
pub(crate) struct EdgeCore {
    recorder: Rc<CoreRecorder>,
    pub(crate) state: EdgeState,
    date: RefCell<DateHeader>,
    draining: Cell<bool>,
    drain: Notify,
    slots: ConnectionSlots,
    open: Cell<usize>,
    closed: Notify,
}

/// The steps that remain once a response is written.
pub(crate) struct Answered {
    /// The click that must be recorded before the response is sent.
    pub(crate) click: Option<AwaitedClick>,
    pub(crate) after: Persistence,
}

/// A click or scan whose response waits until it is recorded.
pub(crate) struct AwaitedClick {
    pending: PendingClick,
    class: ClickClass,
}

impl EdgeCore {
    async fn accept(self: &Rc<Self>, listener: TcpListener) {
        let close = self.state.close.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = close.wait() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = self.network_place(peer) else { continue };
                    tokio::select! {
                        permit = self.permit() => self.serve(stream, peer, place, permit),
                        () = close.wait() => {
                            self.serve(stream, peer, place, None);
                            break;
                        }
                    }
                }
                Err(error) => {
                    debug!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Closing a listener resets the connections in its queue: they are served first.
        while let Ok(Ok((stream, peer))) = timeout(Duration::ZERO, listener.accept()).await {
            if let Some(place) = self.network_place(peer) {
                self.serve(stream, peer, place, None);
            }
        }
        drop(listener);
        self.draining.set(true);
        self.drain.notify_waiters();
        let patience = Duration::from_millis(self.config().drain_timeout_ms);
        if timeout(patience, self.all_closed()).await.is_err() {
            warn!(drain_timeout_ms = self.config().drain_timeout_ms, "connections closed at the drain timeout");
        }
    }

    async fn all_closed(&self) {
        while self.open.get() > 0 {
            self.closed.notified().await;
        }
    }

    /// Finds a place among the connections of the peer's network. Where the network has too
    /// many, one of them that is idle is closed; without one, the new connection is refused.
    fn network_place(&self, peer: SocketAddr) -> Option<NetworkPlace> {
        let (place, level) = self.state.networks.add(peer.ip());
        match level {
            NetworkLevel::Within => Some(place),
            NetworkLevel::Above if self.slots.evict_of(peer.ip()) == Eviction::Evicted => {
                self.metrics().evicted_connections.inc();
                Some(place)
            }
            NetworkLevel::Above => {
                self.metrics().refused_connections.inc();
                None
            }
        }
    }

    /// Waits until one more connection may be served. Where there are as many as may be,
    /// the one that is idle for longest is closed.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = || Arc::clone(&self.state.connections);
        if let Ok(permit) = permit().try_acquire_owned() {
            return Some(permit);
        }
        loop {
            if self.slots.evict() == Eviction::Evicted {
                self.metrics().evicted_connections.inc();
            }
            if let Ok(permit) = timeout(EVICTION_PAUSE, permit().acquire_owned()).await {
                // The semaphore is never closed.
                return permit.ok();
            }
        }
    }

    fn serve(
        self: &Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        place: NetworkPlace,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        // Fails only for a connection that is gone already.
        let _ = stream.set_nodelay(true);
        self.open.set(self.open.get() + 1);
        self.metrics().connections.inc();
        let core = Rc::clone(self);
        let slot = self.slots.add(peer.ip());
        spawn_local(async move {
            if let Err(error) = connection::serve(&core, &slot, stream, peer).await {
                debug!(%error, "connection ended early");
            }
            core.slots.remove(&slot);
            core.metrics().connections.dec();
            core.open.set(core.open.get() - 1);
            core.closed.notify_one();
            drop((place, permit));
        });
    }

    pub(crate) fn config(&self) -> &Config {
        &self.state.redirects.config
    }

    pub(crate) fn metrics(&self) -> &IngestMetrics {
        &self.state.redirects.metrics
    }

    /// Whether connections are to end as soon as they are idle.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Resolves when draining begins.
    pub(crate) fn told_to_drain(&self) -> Notified<'_> {
        self.drain.notified()
    }

    /// Returns the `Date` of a response.
    pub(crate) fn date(&self, at: Timestamp) -> [u8; 29] {
        self.date.borrow_mut().at(at)
    }

    /// Decides on a request, records its visit, and writes the response to `out`.
    pub(crate) fn answer(&self, head: &RequestHead<'_>, peer: SocketAddr, out: &mut Vec<u8>) -> Answered {
        let at = Timestamp::now();
        let after = if self.is_draining() { Persistence::Close } else { head.after };
        let context = ResponseContext { after, bodiless: head.method == "HEAD", date: self.date(at) };
        let redirects = &self.state.redirects;
        let tables = redirects.view();
        let request = visit::read(head, peer, &redirects.config);
        let decision = redirects.decide(&request, &tables, at);
        if let Some(visit) = decision.visit()
            && self.recorder.is_full()
        {
            match (visit.class.counts(), redirects.config.when_full) {
                (true, WhenFull::Refuse) => {
                    self.metrics().refused_clicks.inc();
                    RedirectResponse::Unavailable.write(context, out);
                }
                (true, WhenFull::Redirect) => {
                    self.metrics().lost_clicks.inc();
                    decision.write(None, context, out);
                }
                // A visit that is no click was never promised to be recorded.
                (false, _) => decision.write(None, context, out),
            }
            return Answered { click: None, after };
        }
        let recorded = decision.visit().map(|visit| (visit.class, self.recorder.record(visit)));
        decision.write(recorded.as_ref().map(|(_, pending)| pending.id), context, out);
        let awaited = recorded.filter(|(class, _)| class.counts());
        Answered { click: awaited.map(|(class, pending)| AwaitedClick { pending, class }), after }
    }

    /// Waits until a click is recorded; replaces the response in `out` where it is not.
    pub(crate) async fn confirm(&self, click: AwaitedClick, after: Persistence, out: &mut Vec<u8>) {
        let metrics = self.metrics();
        match (click.pending.recorded().await, click.class) {
            (Recorded::Yes | Recorded::Shed, ClickClass::Click) => drop(metrics.clicks.inc()),
            (Recorded::Yes | Recorded::Shed, _) => drop(metrics.scans.inc()),
            (Recorded::Unknown, _) => {
                metrics.unrecorded.inc();
                out.clear();
                let context = ResponseContext { after, bodiless: false, date: self.date(Timestamp::now()) };
                RedirectResponse::Unavailable.write(context, out);
            }
        }
    }
}
