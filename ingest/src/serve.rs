//! One core of the redirector: a thread with a runtime, a listener and a
//! recorder of its own. Cores share the table of links and the Kafka client.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bus::{Bus, Producer};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use ipnet::IpNet;
use schemas::{ClickClass, Timestamp};
use service::Shutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::spawn_local,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    Config,
    answer::{self, Answer},
    links::Links,
    metrics::Counts,
    recorder::{Recorded, Recorder, Seen},
    visit::{self, Asked, Counted},
};

/// A request's head may have this many bytes and headers (hyper answers more
/// with 431, and a longer target with 414).
const HEAD_BYTES: usize = 32 << 10;
const HEADERS: usize = 64;
/// How long accepting rests after it failed: mostly for want of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What every core is given.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) bus: Bus,
    pub(crate) producer: Producer,
    pub(crate) links: Links,
    /// Whether all links are there.
    pub(crate) complete: Arc<AtomicBool>,
    pub(crate) counts: Counts,
    pub(crate) connections: Arc<Semaphore>,
    /// Told when the listeners are to close.
    pub(crate) close: Shutdown,
}

/// A listener for each core on one address, among which the kernel shares out
/// connections.
pub(crate) fn listen(address: SocketAddr, cores: usize) -> io::Result<Vec<StdListener>> {
    if address.port() != 0 {
        // Listeners that share a port would share it with another process, too.
        drop(StdListener::bind(address)?);
    }
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
    shared: Shared,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (tell, done) = oneshot::channel();
    thread::Builder::new().name(format!("ingest-{index}")).spawn(move || {
        // Nobody may be waiting any more.
        let _ = tell.send(run(listener, shared));
    })?;
    Ok(done)
}

fn run(listener: StdListener, shared: Shared) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let (recorder, acked) =
            Recorder::new(&shared.bus, shared.producer.clone(), shared.config.ack_timeout(), shared.counts.clone());
        let clerk = Rc::clone(&recorder);
        let clerk = spawn_local(async move { clerk.run(acked).await });
        let core = Rc::new(Core { recorder, shared });
        core.accept(listener).await;
        clerk.abort();
        Ok(())
    })
}

struct Core {
    recorder: Rc<Recorder>,
    shared: Shared,
}

impl Core {
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let connections = GracefulShutdown::new();
        let close = self.shared.close.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.next(&listener) => accepted,
                () = close.wait() => break,
            };
            match accepted {
                Ok((stream, peer, permit)) => self.serve(stream, peer, permit, &connections),
                Err(error) => {
                    debug!(%error, "accepting failed");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
        // Closing a listener resets what waits in its queue: serve that first.
        while let Ok(Ok((stream, peer, permit))) = timeout(Duration::ZERO, self.next(&listener)).await {
            self.serve(stream, peer, permit, &connections);
        }
        drop(listener);
        let patience = Duration::from_millis(self.shared.config.drain_timeout_ms);
        if timeout(patience, connections.shutdown()).await.is_err() {
            warn!("connections were cut off: they did not finish in time");
        }
    }

    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.shared.connections).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, permit))
    }

    fn serve(
        self: &Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        connections: &GracefulShutdown,
    ) {
        // Fails only for a connection that is gone already.
        let _ = stream.set_nodelay(true);
        let core = Rc::clone(self);
        let service = service_fn(move |request: Request<Incoming>| {
            let core = Rc::clone(&core);
            async move { Ok::<_, Infallible>(core.answer(request, peer).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(self.shared.config.header_timeout_ms))
            .max_headers(HEADERS)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        let open = self.shared.counts.connections.clone();
        open.inc();
        spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            open.dec();
            drop(permit);
        });
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let (request, _) = request.into_parts();
        let counts = &self.shared.counts;
        let trusted: &[IpNet] = &self.shared.config.trusted_proxies;
        let visitor = match visit::read(&request, peer, trusted) {
            Asked::Link(visitor) => visitor,
            Asked::NoLink => return answer::not_found(),
            Asked::Method => return answer::method_not_allowed(),
        };
        let Some(row) = self.shared.links.find(visitor.host, &visitor.slug) else {
            if !self.shared.complete.load(Ordering::Relaxed) {
                return answer::unavailable();
            }
            counts.orphans.inc();
            return answer::not_found();
        };
        let class = match visitor.counted {
            Counted::As(class) => class,
            Counted::Head => {
                counts.heads.inc();
                return answer::redirect(&row);
            }
            Counted::Prefetch => {
                counts.prefetches.inc();
                return answer::redirect(&row);
            }
        };
        let seen = Seen { at: Timestamp::now(), class, rate_limited: false };
        match self.recorder.record(&visitor, seen, row.tail()).outcome().await {
            Recorded::Yes => {
                match class {
                    ClickClass::Click => counts.clicks.inc(),
                    _ => counts.scans.inc(),
                };
                answer::redirect(&row)
            }
            Recorded::Unknown => {
                counts.unrecorded.inc();
                answer::unavailable()
            }
        }
    }
}
