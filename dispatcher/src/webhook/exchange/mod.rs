//! One exchange with an endpoint, from the connection to the answer, within one time limit.
//! A status line is an answer: whatever follows it is read for the log, and cannot turn a
//! 2xx into a failure. A failure is the endpoint's or ours (`fault.rs`), and ours costs the
//! delivery no attempt. Connections are kept (`pool.rs`) or made (`dial.rs`), by names that
//! are resolved here (`names.rs`). Redirects are not followed.

#[cfg(test)]
mod broken_connections;
mod connection;
mod dial;
mod fault;
#[cfg(test)]
mod forbidden_targets;
#[cfg(test)]
mod http2_answers;
#[cfg(test)]
mod name_server;
mod names;
mod pool;
mod proxy;
mod status_line;
mod target;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

pub(super) use self::target::RequestTarget;
use self::{
    connection::EndpointConnection, dial::Dialer, fault::ExchangeFault, names::NameResolver, pool::ConnectionPool,
    status_line::Progress, target::EndpointOrigin,
};
use super::{
    config::Config,
    error::Error,
    guard::Policy,
    metrics::NameMetrics,
    outcome::{EndpointAnswer, Exchange, retry_after},
};

/// The part of an answer's body that is read, and what each further event of a batch adds to
/// it, since the answer may name the events. A longer body costs the connection.
const READ_BYTES: usize = 16 * 1024;
const READ_BYTES_PER_EVENT: usize = 64;
/// The time between two looks for connections that were kept for long enough.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Sends requests to endpoints.
pub(super) struct HttpClient {
    dialer: Dialer,
    pool: Arc<ConnectionPool>,
    /// The exchanges that the process may still begin.
    exchanges: Semaphore,
    limits: InUse,
}

/// The exchanges and connections of all endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InUse {
    pub(super) exchanges: usize,
    pub(super) connections: usize,
}

/// The limits of an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExchangeLimits {
    timeout: Duration,
    /// The part of the answer's body that is read.
    read_bytes: usize,
}

impl ExchangeLimits {
    /// Returns the limits of an exchange of so many events, at least one.
    pub(super) const fn new(timeout: Duration, events: usize) -> Self {
        Self { timeout, read_bytes: READ_BYTES + READ_BYTES_PER_EVENT * (events - 1) }
    }
}

/// The limits of an answer.
#[derive(Clone, Copy, Debug)]
struct AnswerLimits {
    deadline: Instant,
    read_bytes: usize,
}

/// The end of an exchange over one connection.
enum Ended {
    Answered(EndpointAnswer),
    /// The connection broke before an answer, or the answer is not HTTP.
    Broken {
        reason: String,
        begun: AnswerBegun,
    },
    TimedOut,
}

/// Whether a part of the answer to a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerBegun {
    /// None, or bytes that an earlier answer left.
    No,
    Yes,
}

/// The status by which a server says that no request came in time (RFC 9110, 15.5.9).
const REQUEST_TIMEOUT: u16 = 408;

impl HttpClient {
    /// # Errors
    /// When the file of authorities cannot be used, or the TLS library lacks what it was
    /// built with.
    pub(super) fn new(config: &Config, names: NameMetrics) -> Result<Self, Error> {
        let keep_alive = Duration::from_millis(config.keep_alive_ms);
        let pool = Arc::new(ConnectionPool::new(keep_alive, config.max_in_flight));
        sweep(Arc::downgrade(&pool));
        let dialer = Dialer {
            policy: Policy::new(config),
            names: NameResolver::of_machine(names),
            tls: TlsConnector::from(Arc::new(tls::client_config(config.ca_file.as_deref())?)),
            proxy: config.proxy.as_ref().map(|proxy| EndpointOrigin {
                tls: false,
                host: proxy.host().to_owned(),
                port: proxy.port(),
            }),
            sockets: Arc::new(Semaphore::new(config.max_connections)),
        };
        let limits = InUse { exchanges: config.max_exchanges, connections: config.max_connections };
        Ok(Self { dialer, pool, exchanges: Semaphore::new(limits.exchanges), limits })
    }

    /// Returns the exchanges and connections that are in use.
    pub(super) fn in_use(&self) -> InUse {
        InUse {
            exchanges: self.limits.exchanges - self.exchanges.available_permits(),
            connections: self.limits.connections - self.dialer.sockets.available_permits(),
        }
    }

    /// Sends what `request` makes to `target`, and reads the answer, all within `limits`.
    /// The request is made a second time where a kept connection was dead.
    pub(super) async fn exchange(
        &self,
        target: &RequestTarget,
        request: impl Fn() -> Result<Request<Full<Bytes>>, http::Error>,
        limits: ExchangeLimits,
    ) -> Exchange {
        let deadline = Instant::now() + limits.timeout;
        let Ok(Ok(_exchange)) = timeout_at(deadline, self.exchanges.acquire()).await else {
            return Exchange::Ours("too many exchanges at once (`webhook.max_exchanges`)".to_owned());
        };
        let mut kept = self.pool.take(&target.origin);
        loop {
            let request = match request() {
                Ok(request) => request,
                Err(error) => return Exchange::Failed(format!("no request can be made: {error}")),
            };
            let connection = match kept.take() {
                Some(connection) => connection,
                None => match self.connect(target, deadline).await {
                    Ok(connection) => connection,
                    Err(ExchangeFault::Endpoint(reason)) => return Exchange::Failed(reason),
                    Err(ExchangeFault::Ours(reason)) => return Exchange::Ours(reason),
                },
            };
            let was_kept = connection.was_kept();
            match self.send(connection, target, request, AnswerLimits { deadline, read_bytes: limits.read_bytes }).await
            {
                // A server that closes an idle connection crosses with the request. Some say so
                // before. The request is idempotent by its id, and goes over a new connection
                // at once.
                Ended::Broken { begun: AnswerBegun::No, .. }
                | Ended::Answered(EndpointAnswer { status: REQUEST_TIMEOUT, .. })
                    if was_kept => {}
                Ended::Answered(answer) => return Exchange::Answered(answer),
                Ended::Broken { reason, .. } => return Exchange::Failed(reason),
                Ended::TimedOut => {
                    return Exchange::Failed(format!("no answer within {} ms", limits.timeout.as_millis()));
                }
            }
        }
    }

    async fn connect(&self, target: &RequestTarget, deadline: Instant) -> Result<EndpointConnection, ExchangeFault> {
        let dialed = self.dialer.dial(&target.origin, deadline, || self.pool.clear()).await?;
        let broken =
            |error| ExchangeFault::Endpoint(format!("the connection broke at its beginning: {}", root(&error)));
        EndpointConnection::new(dialed).await.map_err(broken)
    }

    async fn send(
        &self,
        mut connection: EndpointConnection,
        target: &RequestTarget,
        request: Request<Full<Bytes>>,
        limits: AnswerLimits,
    ) -> Ended {
        let flaw = match timeout_at(limits.deadline, connection.send(target, request)).await {
            Ok(Ok(response)) => return Ended::Answered(self.read(connection, target, response, limits).await),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        match (connection.progress(), flaw) {
            (Progress::Status(status), Some(error)) => {
                Ended::Answered(EndpointAnswer::flawed(status, format!("its head could not be read: {}", root(&error))))
            }
            (Progress::Status(status), None) => {
                Ended::Answered(EndpointAnswer::flawed(status, "its head did not end in time".to_owned()))
            }
            (progress, Some(error)) => {
                let cause = root(&error);
                let silent = format!("connected, but the connection broke before an answer: {cause}");
                let untidy = format!("the answer does not begin with a status line of HTTP/1: {cause}");
                match progress {
                    Progress::Silent => Ended::Broken { reason: silent, begun: AnswerBegun::No },
                    Progress::Other => Ended::Broken { reason: untidy, begun: AnswerBegun::No },
                    Progress::Begun | Progress::Status(_) => Ended::Broken { reason: untidy, begun: AnswerBegun::Yes },
                }
            }
            (_, None) => {
                // A shared connection that has gone silent must not take further requests.
                if connection.is_shared() {
                    self.pool.forget(&target.origin);
                }
                Ended::TimedOut
            }
        }
    }

    /// Reads the body for the log, and keeps the connection if nothing is left on it.
    async fn read(
        &self,
        mut connection: EndpointConnection,
        target: &RequestTarget,
        response: Response<Incoming>,
        limits: AnswerLimits,
    ) -> EndpointAnswer {
        let status = response.status().as_u16();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|value| retry_after(value, SystemTime::now()));
        let mut incoming = response.into_body();
        let mut body = BytesMut::new();
        let flaw = loop {
            let frame = match timeout_at(limits.deadline, incoming.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    connection.mark_used();
                    self.pool.put(&target.origin, connection);
                    break None;
                }
                Ok(Some(Err(error))) => break Some(format!("its body broke off: {}", root(&error))),
                Err(_) => break Some("its body did not end in time".to_owned()),
            };
            let Some(data) = frame.data_ref() else { continue };
            let room = limits.read_bytes - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                break None;
            }
        };
        EndpointAnswer { status, retry_after, body: body.freeze(), flaw }
    }
}

/// Closes connections that were kept for long enough, until the pool is gone.
fn sweep(pool: Weak<ConnectionPool>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let Some(pool) = pool.upgrade() else { return };
            pool.sweep();
        }
    });
}

/// Returns the first cause of an error, which says most to people.
fn root(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}
