//! The HTTP client: one exchange with an endpoint, from connecting to the end of
//! the answer's body, within one time limit. Connections are kept and reused, and
//! redirects are not followed.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};

use super::{
    config::Config,
    guard::{Connector, Policy},
    outcome::{Exchange, retry_after},
};

/// The part of an answer's body that is read. A longer body costs the connection.
const READ_BYTES: usize = 16 * 1024;
/// The part of an answer's body that is kept for the log.
const KEPT_BYTES: usize = 1024;

/// Sends requests to endpoints.
pub(super) struct HttpClient {
    inner: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
}

impl HttpClient {
    /// # Errors
    /// When the TLS library lacks what it was built with.
    pub(super) fn new(config: &Config) -> Result<Self, rustls::Error> {
        let policy = Policy { allow_private: config.allow_private, allow_http: config.allow_http };
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
            // Plain HTTP is refused by the policy, with a reason.
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector::new(policy));
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_millis(config.keep_alive_ms))
            .pool_max_idle_per_host(config.max_in_flight)
            .http1_max_buf_size(64 * 1024)
            .build(connector);
        Ok(Self { inner })
    }

    /// Sends `request` and reads the answer, all within `timeout`.
    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>, timeout: Duration) -> Exchange {
        let exchange = async {
            let response = self.inner.request(request).await.map_err(|error| explain(&error))?;
            read(response).await
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(reason)) => Exchange::Failed(reason),
            Err(_) => Exchange::Failed(format!("no complete answer within {} ms", timeout.as_millis())),
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Exchange, String> {
    let status = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|value| retry_after(value, SystemTime::now()));
    let mut body = response.into_body();
    let mut kept = Vec::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the connection broke inside the answer: {}", root(&error)))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = KEPT_BYTES - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        seen += data.len();
        if seen > READ_BYTES {
            break;
        }
    }
    let excerpt = (!kept.is_empty()).then(|| String::from_utf8_lossy(&kept).into_owned());
    Ok(Exchange::Answered { status, retry_after, excerpt })
}

fn explain(error: &legacy::Error) -> String {
    if error.is_connect() {
        format!("cannot connect: {}", root(error))
    } else {
        format!("the connection broke before the answer: {}", root(error))
    }
}

/// Returns the first cause of an error, which says most to people.
fn root(error: &dyn Error) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}
