//! Handing a request on to whoever serves it: a standby to the leader, and every
//! instance to the intake of conversions, so that callers need one address and
//! read nothing older than what they last wrote. Bodies stream both ways.

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
    http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, uri::PathAndQuery},
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
    leadership::Leadership,
    metrics::{Counts, Forwarded},
};

/// Says that a request was handed on already. It is handed on once: two
/// instances that take each other for the leader must not pass it to and fro.
const HOPS: HeaderName = HeaderName::from_static("x-clickhook-hops");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many requests may be under way to others.
const UNDER_WAY: usize = 1024;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an exchange may be silent: no byte of the body taken, no answer. A
/// leader that waits for Kafka answers within 10 s.
const SILENCE: Duration = Duration::from_secs(20);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Headers that belong to a connection (RFC 9110, section 7.6.1), and those that
/// are made anew for the next.
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

/// Whether the intake of conversions serves a path.
pub(crate) fn is_intake(path: &str) -> bool {
    path == "/v1/conversions" || path.starts_with("/v1/postback/")
}

pub(crate) fn no_leader() -> Problem {
    Problem::unavailable("No instance is known to lead (yet): try again in a moment")
}

/// Follows who leads.
///
/// # Errors
/// When the client or its thread cannot be made.
pub(crate) fn follow(bus: &Bus, leadership: Arc<Leadership>) -> Result<Table, BusError> {
    // What is read before the end was true once.
    let (mut known, mut caught_up) = (None, false);
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
            leadership.learn(known.clone());
        }
    })
}

/// Hands requests on.
pub(crate) struct Forwarder {
    client: legacy::Client<HttpConnector, Watched>,
    under_way: Arc<Semaphore>,
    intake: Option<Authority>,
    counts: Counts,
}

impl Forwarder {
    pub(crate) fn new(intake: Option<Authority>, counts: Counts) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        // A machine that is gone says nothing: the system finds out.
        connector.set_keepalive(Some(Duration::from_secs(10)));
        connector.set_tcp_user_timeout(Some(SILENCE));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { client, under_way: Arc::new(Semaphore::new(UNDER_WAY)), intake, counts }
    }

    pub(crate) async fn to_intake(&self, request: Request) -> Result<Response, Problem> {
        let Some(intake) = &self.intake else {
            let detail = "Conversions are not taken here: `control.intake_url` is not set";
            return Err(Problem::unavailable(detail));
        };
        self.send(request, intake, "intake").await
    }

    pub(crate) async fn send(
        &self,
        mut request: Request,
        to: &Authority,
        name: &'static str,
    ) -> Result<Response, Problem> {
        if request.headers().contains_key(HOPS) {
            return Err(no_leader());
        }
        let Ok(permit) = Arc::clone(&self.under_way).try_acquire_owned() else {
            return Err(Problem::unavailable("Too many requests are being handed on: try again in a moment"));
        };
        prepare(&mut request, to)?;
        let sent = self.exchange(request).await;
        let outcome = if sent.is_ok() { "answered" } else { "failed" };
        self.counts.forwarded.get_or_create(&Forwarded { to: name, outcome }).inc();
        let response = sent.map_err(|failed| {
            debug!(to = name, error = %failed, "a request was not answered by whom it was handed on to");
            failed.explain(name)
        })?;
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers);
        // It is under way until its answer has been passed on.
        let body = body.map_frame(move |frame| {
            let _ = &permit;
            frame
        });
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// One exchange, given up once it has been silent for too long.
    async fn exchange(&self, request: Request) -> Result<http::Response<hyper::body::Incoming>, Failed> {
        let moved = Arc::new(Mutex::new(Instant::now()));
        let watched = request.map(|body| Watched { body, moved: Arc::clone(&moved) });
        let mut sending = std::pin::pin!(self.client.request(watched));
        loop {
            let until = *moved.lock() + SILENCE;
            tokio::select! {
                sent = &mut sending => return sent.map_err(|error| Failed::new(&error)),
                () = sleep_until(until) => {
                    if *moved.lock() + SILENCE <= Instant::now() {
                        return Err(Failed::Silent);
                    }
                }
            }
        }
    }
}

/// Why a request was not answered. It never holds the address that was asked
/// for, which may have a secret in it.
#[derive(Debug, thiserror::Error)]
enum Failed {
    /// Nothing has happened.
    #[error("cannot connect: {0}")]
    Unreached(String),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("nothing moved for {SILENCE:?}")]
    Silent,
}

impl Failed {
    fn new(error: &legacy::Error) -> Self {
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_connect() { Self::Unreached(why) } else { Self::Broken(why) }
    }

    fn explain(&self, to: &str) -> Problem {
        let what = match self {
            Self::Unreached(_) => {
                return Problem::unavailable(format!("The {to} cannot be reached: try again in a moment"));
            }
            Self::Broken(_) => "closed the connection",
            Self::Silent => "does not answer",
        };
        Problem::unavailable(format!(
            "What was asked for may or may not have been done: the {to} {what}. Read the state again before you repeat it"
        ))
    }
}

/// Makes a request that came here one that goes `to` there.
fn prepare(request: &mut Request, to: &Authority) -> Result<(), Problem> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(to.clone());
    uri.path_and_query = Some(path);
    *request.uri_mut() =
        Uri::from_parts(uri).map_err(|error| Problem::unavailable(format!("It cannot be handed on: {error}")))?;
    *request.version_mut() = Version::HTTP_11;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let headers = request.headers_mut();
    strip(headers);
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

/// Drops what belongs to the connection, and what `Connection` says does.
fn strip(headers: &mut HeaderMap) {
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

/// A body that notes when it last moved.
struct Watched {
    body: Body,
    moved: Arc<Mutex<Instant>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            *self.moved.lock() = Instant::now();
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
    fn a_request_is_handed_on_without_what_belongs_to_its_connection() {
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
        prepare(&mut request, &Authority::from_static("leader:8081")).unwrap();
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
