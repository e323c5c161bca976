//! Serving HTTP/1.1 to unknown clients: a bounded number of connections, of which the one
//! that is idle for longest makes room for another, time limits for a request to begin and
//! for its head, and a drain in which requests under way finish.

mod activity;
mod unread;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use self::activity::{Activities, Activity, ActivityStream, Due};
use crate::Shutdown;

/// The pause after a failed accept, usually `EMFILE`.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// The pause after which a connection to close is looked for again, when there was none.
const EVICTION_PAUSE: Duration = Duration::from_millis(50);
/// The longest head of a request that is read.
const HEAD_BYTES: usize = 64 << 10;

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The connections that are served at once. For one more, the connection is closed
    /// that is idle for longest, or the slowest one to send a head.
    pub connections: usize,
    /// The time in which a connection must send a request's head, from its first byte on.
    pub header_timeout: Duration,
    /// The time that a connection may wait for a request to begin.
    pub keep_alive: Duration,
    /// The time in which connections must finish after the signal to stop.
    pub drain: Duration,
}

/// The parts of a server that its connections share.
struct PortServer {
    routes: Router,
    limits: Limits,
    open: Gauge,
    permits: Arc<Semaphore>,
    activities: Activities,
    shutdown: Shutdown,
}

/// Serves `routes` until `shutdown`, and then until the connections are done; each
/// request knows its peer (`ConnectInfo`). `open` says how many connections there are.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, open: Gauge, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let activities = Activities::default();
    let server = Arc::new(PortServer { routes, limits, open, permits, activities, shutdown: shutdown.clone() });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.wait() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let permit = tokio::select! {
            permit = server.permit() => permit,
            () = shutdown.wait() => None,
        };
        connections.spawn(Arc::clone(&server).serve_connection(stream, peer, permit));
    }
    drop(listener);
    let left = connections.len();
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain, drained).await.is_err() {
        warn!(of = left, "connections were cut off: they did not finish in time");
    }
}

impl PortServer {
    /// Waits until one more connection may be served, which another one makes room for.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        loop {
            self.activities.evict();
            if let Ok(permit) = timeout(EVICTION_PAUSE, Arc::clone(&self.permits).acquire_owned()).await {
                // The semaphore is never closed.
                return permit.ok();
            }
        }
    }

    async fn serve_connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        self.open.inc();
        let activity = self.activities.add();
        if let Err(error) = self.drive(stream, peer, &activity).await {
            debug!(%error, "a connection ended early");
        }
        self.activities.remove(&activity);
        self.open.dec();
        drop(permit);
    }

    /// Serves a connection until it ends, or is to make room, or the process ends.
    async fn drive(&self, stream: TcpStream, peer: SocketAddr, activity: &Arc<Activity>) -> hyper::Result<()> {
        // An answer is one write, so waiting for more data would only delay it.
        let _ = stream.set_nodelay(true);
        let routes = TowerToHyperService::new(self.routes.clone());
        let busy = Arc::clone(activity);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            busy.works();
            request.extensions_mut().insert(ConnectInfo(peer));
            let (request, body) = unread::lend(request);
            let (answer, idle) = (routes.call(request), Arc::clone(&busy));
            async move {
                let mut answer = answer.await;
                if let Ok(answer) = &mut answer {
                    body.settle_connection(answer).await;
                }
                idle.rests();
                answer
            }
        });
        let mut http = http1::Builder::new();
        http.max_buf_size(HEAD_BYTES);
        let stream = TokioIo::new(ActivityStream::new(stream, Arc::clone(activity)));
        let mut connection = pin!(http.serve_connection(stream, service));
        let limits = self.limits;
        let tick = limits.header_timeout.min(limits.keep_alive) / 2;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = self.shutdown.wait() => break,
                () = activity.evicted() => match activity.due_now() {
                    Due::Close => return Ok(()),
                    Due::Finish => break,
                },
                () = sleep(tick) => match activity.due(limits.keep_alive, limits.header_timeout) {
                    None => {}
                    Some(Due::Close) => return Ok(()),
                    Some(Due::Finish) => break,
                },
            }
        }
        // An idle connection ends at once, another one behind its answer.
        connection.as_mut().graceful_shutdown();
        connection.await
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;

    const LIMITS: Limits = Limits {
        connections: 2,
        header_timeout: Duration::from_secs(60),
        keep_alive: Duration::from_secs(60),
        drain: Duration::from_secs(10),
    };
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn serving(routes: Router) -> (SocketAddr, Shutdown, JoinHandle<()>) {
        serving_with(routes, LIMITS).await
    }

    async fn serving_with(routes: Router, limits: Limits) -> (SocketAddr, Shutdown, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        (address, shutdown.clone(), tokio::spawn(serve(listener, routes, limits, Gauge::default(), shutdown)))
    }

    #[tokio::test]
    async fn who_is_slow_makes_room_for_the_next() {
        let (address, ..) = serving(Router::new().route("/", get(|| async { "ok" }))).await;
        let mut slow = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        for stream in &mut slow {
            stream.write_all(b"GET / HT").await.unwrap();
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(REQUEST).await.unwrap();
        let mut answer = vec![0; 15];
        third.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn the_connection_that_is_idle_for_longest_makes_room_and_no_other() {
        let (begun, going_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (begin, go_on) = (Arc::clone(&begun), Arc::clone(&going_on));
        let slow = async move || {
            begin.add_permits(1);
            let _ = go_on.acquire().await;
            "done"
        };
        let routes = Router::new().route("/", get(|| async { "ok" })).route("/slow", get(slow));
        let (address, ..) = serving(routes).await;
        let mut busy = TcpStream::connect(address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let _ = begun.acquire().await.unwrap();
        let mut before: Option<TcpStream> = None;
        // Each one takes the place of the one before, which is idle.
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(REQUEST).await.unwrap();
            let mut answer = vec![0; 15];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, b"HTTP/1.1 200 OK");
            if let Some(mut before) = before.replace(stream) {
                let mut rest = Vec::new();
                before.read_to_end(&mut rest).await.unwrap();
            }
        }
        going_on.add_permits(1);
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done"), "{answer}");
    }

    #[tokio::test]
    async fn a_connection_goes_on_after_a_body_that_nobody_reads_or_the_answer_says_that_it_ends() {
        let (address, ..) = serving(Router::new().route("/", post(|| async { "ok" }))).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n").await.unwrap();
            sleep(Duration::from_millis(20)).await;
            stream.write_all(b"body").await.unwrap();
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
            assert!(answer.ends_with("ok") && !answer.contains("connection: close"), "{answer}");
        }
        for head in ["Content-Length: 100000", "Content-Length: 4\r\nExpect: 100-continue"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let answer = answer.to_lowercase();
            assert!(answer.starts_with("http/1.1 200 ok") && answer.contains("connection: close"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_head_has_its_time_and_an_idle_connection_another() {
        let ms = Duration::from_millis;
        let routes = || Router::new().route("/", get(|| async { "ok" }));
        for (header_timeout, keep_alive, sent) in
            [(ms(100), ms(600_000), &b"GET / HT"[..]), (ms(600_000), ms(100), REQUEST), (ms(600_000), ms(100), b"")]
        {
            let (address, ..) = serving_with(routes(), Limits { header_timeout, keep_alive, ..LIMITS }).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.starts_with("HTTP/1.1 200 OK"), sent == REQUEST, "{answer}");
        }
    }

    #[tokio::test]
    async fn what_is_under_way_is_finished() {
        let (begun, going_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (begin, go_on) = (Arc::clone(&begun), Arc::clone(&going_on));
        let answer = async move || {
            begin.add_permits(1);
            let _ = go_on.acquire().await;
            "done"
        };
        let (address, shutdown, served) = serving(Router::new().route("/", get(answer))).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let _ = begun.acquire().await.unwrap();
        shutdown.trigger();
        // The listener is closed by the time that a connection is refused.
        while TcpStream::connect(address).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
        going_on.add_permits(1);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done"), "{answer}");
        served.await.unwrap();
    }
}
