//! The forwarding of requests: a standby forwards to the leader, and every instance forwards conversions to the intake, so
//! that callers need one address and read their own writes. Bodies stream both ways.

use std::{
    error::Error as _,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, uri::PathAndQuery},
    response::Response,
};
use bus::{Bus, BusError, Change, Table};
use http::uri::{Authority, Scheme};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use schemas::{Topic, leader};
use service::problem::Problem;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use crate::{
    config,
    leading::leadership::Leadership,
    metrics::{ControlMetrics, ForwardedLabels},
};

/// The header of a request that was forwarded already. A request is forwarded once: two instances that take each other for
/// the leader must not pass it to and fro.
const HOPS: HeaderName = HeaderName::from_static("x-clickhook-hops");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The most requests that are being forwarded at once to the leader, and to the intake.
const MAX_FORWARDED: usize = 1024;
/// The longest time of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time without progress: no byte of the body is taken, and no answer comes. A leader that waits for Kafka
/// answers within 10 s.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);
/// The time for which an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The headers that belong to a connection (RFC 9110, section 7.6.1), and those that are set again for the next.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Tells whether the intake of conversions serves a request. The list of conversions comes from ClickHouse, and so not
/// from the intake.
pub(crate) fn is_intake(method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    (path == "/v1/conversions" && !reads) || path.starts_with("/v1/postback/")
}

/// Returns the problem of a request that arrives while no leader is known.
pub(crate) fn no_leader() -> Problem {
    Problem::unavailable("No leader is known (yet): try again in a moment")
}

/// Follows the topic that names the leader.
///
/// # Errors
/// When the Kafka client or its thread cannot be created.
pub(crate) fn follow_leader(bus: &Bus, leadership: Arc<Leadership>) -> Result<Table, BusError> {
    // Records before the end of the topic are out of date.
    let mut known = None;
    let mut caught_up = false;
    bus.table("control", Topic::Leader, None, move |change| {
        match change {
            Change::Put { value, .. } => {
                known = serde_json::from_slice::<leader::Leader>(value)
                    .ok()
                    .and_then(|leader| config::address(&leader.address));
                if known.is_none() {
                    warn!("the record of the leader cannot be read: is a newer version running beside this one?");
                }
            }
            Change::Delete { .. } => known = None,
            Change::Coming { .. } => {}
            Change::CaughtUp => caught_up = true,
        }
        if caught_up {
            leadership.set_known_leader(known.clone());
        }
    })
}

/// A forwarder of requests to the leader and to the intake.
pub(crate) struct Forwarder {
    client: legacy::Client<HttpConnector, WatchedBody>,
    /// The permits of requests to the leader, and to the intake: one that is slow takes none from the other.
    to_leader: Arc<Semaphore>,
    to_intake: Arc<Semaphore>,
    intake: Option<Authority>,
    metrics: ControlMetrics,
}

impl Forwarder {
    pub(crate) fn new(intake: Option<Authority>, metrics: ControlMetrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        // A machine that is gone sends nothing: the kernel detects it.
        connector.set_keepalive(Some(Duration::from_secs(10)));
        connector.set_tcp_user_timeout(Some(PROGRESS_TIMEOUT));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        let permits = || Arc::new(Semaphore::new(MAX_FORWARDED));
        Self { client, to_leader: permits(), to_intake: permits(), intake, metrics }
    }

    /// Forwards a request to the intake.
    pub(crate) async fn to_intake(&self, request: Request) -> Result<Response, Problem> {
        let Some(intake) = &self.intake else {
            let detail = "Conversions are not taken here: `control.intake_url` is not set";
            return Err(Problem::unavailable(detail));
        };
        self.send(request, intake, "intake", &self.to_intake).await
    }

    /// Forwards a request to the leader.
    pub(crate) async fn to_leader(&self, request: Request, leader: &Authority) -> Result<Response, Problem> {
        self.send(request, leader, "leader", &self.to_leader).await
    }

    /// Forwards a request to the process at `to`, which problems and metrics call `name`.
    async fn send(
        &self,
        mut request: Request,
        to: &Authority,
        name: &'static str,
        permits: &Arc<Semaphore>,
    ) -> Result<Response, Problem> {
        if request.headers().contains_key(HOPS) {
            return Err(no_leader());
        }
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            return Err(Problem::unavailable("Too many requests are being forwarded: try again in a moment"));
        };
        rewrite_request(&mut request, to)?;
        let sent = self.exchange(request).await;
        let outcome = if sent.is_ok() { "answered" } else { "failed" };
        self.metrics.forwarded.get_or_create(&ForwardedLabels { to: name, outcome }).inc();
        let response = sent.map_err(|failed| {
            debug!(to = name, error = %failed, "forwarding a request failed");
            failed.problem(name)
        })?;
        let (mut parts, body) = response.into_parts();
        remove_hop_headers(&mut parts.headers);
        // The permit is held until the answer has been passed on.
        let body = body.map_frame(move |frame| {
            let _ = &permit;
            frame
        });
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// Makes the exchange, and gives it up if it makes no progress for too long.
    async fn exchange(&self, request: Request) -> Result<http::Response<hyper::body::Incoming>, ForwardError> {
        let progressed_at = Arc::new(Mutex::new(Instant::now()));
        let watched = request.map(|body| WatchedBody { body, progressed_at: Arc::clone(&progressed_at) });
        let mut sending = std::pin::pin!(self.client.request(watched));
        loop {
            let until = *progressed_at.lock() + PROGRESS_TIMEOUT;
            tokio::select! {
                sent = &mut sending => return sent.map_err(|error| ForwardError::new(&error)),
                () = sleep_until(until) => {
                    if *progressed_at.lock() + PROGRESS_TIMEOUT <= Instant::now() {
                        return Err(ForwardError::NoProgress);
                    }
                }
            }
        }
    }
}

/// The reason why forwarding failed. It never holds the URL of the request, which may have a secret in it.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    /// The request was not sent.
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no progress for {PROGRESS_TIMEOUT:?}")]
    NoProgress,
}

impl ForwardError {
    fn new(error: &legacy::Error) -> Self {
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_connect() { Self::Connect(why) } else { Self::Broken(why) }
    }

    fn problem(&self, to: &str) -> Problem {
        let what = match self {
            Self::Connect(_) => {
                return Problem::unavailable(format!("The {to} cannot be reached: try again in a moment"));
            }
            Self::Broken(_) => "closed the connection",
            Self::NoProgress => "does not answer",
        };
        Problem::unavailable(format!(
            "What was asked for may or may not have been done: the {to} {what}. Read the state again before you repeat it"
        ))
    }
}

/// Rewrites a request that arrived here into the request that goes to the process at `to`.
fn rewrite_request(request: &mut Request, to: &Authority) -> Result<(), Problem> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(to.clone());
    uri.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(uri)
        .map_err(|error| Problem::unavailable(format!("The request cannot be forwarded: {error}")))?;
    *request.version_mut() = Version::HTTP_11;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let headers = request.headers_mut();
    remove_hop_headers(headers);
    headers.remove(header::HOST);
    headers.insert(HOPS, HeaderValue::from_static("1"));
    if let Some(peer) = peer {
        let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let all: Vec<String> = before.map(str::to_owned).chain([peer.to_canonical().to_string()]).collect();
        if let Ok(all) = HeaderValue::from_str(&all.join(", ")) {
            headers.insert(FORWARDED_FOR, all);
        }
    }
    Ok(())
}

/// Removes the headers that belong to the connection, among them those that `Connection` names.
fn remove_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// A body that notes the moment of its last progress.
struct WatchedBody {
    body: Body,
    progressed_at: Arc<Mutex<Instant>>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            *self.progressed_at.lock() = Instant::now();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_forwarded_without_the_headers_of_its_connection() {
        let mut request = Request::builder()
            .uri("/v1/links?limit=1")
            .version(Version::HTTP_10)
            .header("host", "api.example")
            .header("connection", "close, X-Secret-Hop")
            .header("x-secret-hop", "1")
            .header("transfer-encoding", "chunked")
            .header("te", "trailers")
            .header("authorization", "Bearer k")
            .header("x-forwarded-for", "192.0.2.1")
            .body(Body::empty())
            .unwrap();
        let peer: SocketAddr = "[::ffff:198.51.100.7]:1234".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        rewrite_request(&mut request, &Authority::from_static("leader:8081")).unwrap();
        assert_eq!(request.uri(), "http://leader:8081/v1/links?limit=1");
        assert_eq!(request.version(), Version::HTTP_11);
        let mut headers: Vec<(&str, &str)> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        headers.sort_unstable();
        assert_eq!(
            headers,
            [("authorization", "Bearer k"), ("x-clickhook-hops", "1"), ("x-forwarded-for", "192.0.2.1, 198.51.100.7"),]
        );
    }
}
