//! Serving HTTP/1.1 to unknown clients: a bounded number of connections, a time limit
//! for a request's head, and a drain in which requests under way finish.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::Shutdown;

/// The pause after a failed accept, usually `EMFILE`.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// The longest head of a request that is read.
const HEAD_BYTES: usize = 64 << 10;

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The connections that are served at once; further ones wait to be accepted.
    pub connections: usize,
    /// The time in which a connection must send a request's head, the first as well as
    /// the next one on a connection that is kept alive.
    pub header_timeout: Duration,
    /// The time in which connections must finish after the signal to stop.
    pub drain: Duration,
}

/// Serves `routes` until `shutdown`, and then until the connections are done; each
/// request knows its peer (`ConnectInfo`). `open` says how many connections there are.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, open: Gauge, shutdown: Shutdown) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(HEAD_BYTES);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&connections).acquire_owned().await.ok()?;
            Some((listener.accept().await, permit))
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = shutdown.wait() => break,
            Some(accepted) = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        // An answer is one write, so waiting for more data would only delay it.
        let _ = stream.set_nodelay(true);
        let routes = TowerToHyperService::new(routes.clone());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            routes.call(request)
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        let open = open.clone();
        open.inc();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            open.dec();
            drop(permit);
        });
    }
    drop(listener);
    let left = graceful.count();
    if timeout(limits.drain, graceful.shutdown()).await.is_err() {
        warn!(of = left, "connections were cut off: they did not finish in time");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;

    const LIMITS: Limits =
        Limits { connections: 2, header_timeout: Duration::from_millis(200), drain: Duration::from_secs(10) };
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn serving(routes: Router) -> (SocketAddr, Shutdown, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        (address, shutdown.clone(), tokio::spawn(serve(listener, routes, LIMITS, Gauge::default(), shutdown)))
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
