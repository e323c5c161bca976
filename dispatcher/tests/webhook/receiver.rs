//! A receiver that keeps the requests it got, and answers as a test demands.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Status(u16),
    /// A status, and how many seconds to wait.
    RetryAfter(u16, u64),
    /// A redirect to `/elsewhere`.
    Redirect,
    /// 200, with the second event of the batch named as failed.
    SecondFailed,
    /// No answer, ever.
    Hang,
}

#[derive(Default)]
struct ReceiverState {
    received: Vec<Received>,
    /// Replies to come; the last one stays.
    replies: VecDeque<Reply>,
}

#[derive(Clone)]
pub(crate) struct Receiver {
    inner: Arc<Mutex<ReceiverState>>,
    pub(crate) url: String,
}

impl Receiver {
    /// Starts a receiver that answers with `replies` in turn, the last one for ever.
    pub(crate) async fn start(replies: &[Reply]) -> Self {
        let inner =
            Arc::new(Mutex::new(ReceiverState { received: Vec::new(), replies: replies.iter().copied().collect() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().fallback(receive).layer(DefaultBodyLimit::disable()).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, url }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.inner.lock().received.clone()
    }

    /// Waits until `count` requests have come.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Received> {
        testbed::eventually(&format!("{count} requests"), async || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }
}

async fn receive(
    State(inner): State<Arc<Mutex<ReceiverState>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let reply = {
        let mut inner = inner.lock();
        inner.received.push(Received { path: uri.path().to_owned(), headers, body: body.clone(), at: Instant::now() });
        if inner.replies.len() > 1 { inner.replies.pop_front() } else { inner.replies.front().copied() }
    };
    match reply.unwrap_or(Reply::Status(200)) {
        Reply::Status(status) => (StatusCode::from_u16(status).unwrap(), "answered").into_response(),
        Reply::RetryAfter(status, seconds) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", seconds.to_string())]).into_response()
        }
        Reply::Redirect => (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response(),
        Reply::SecondFailed => {
            let events: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
            serde_json::json!({"failed": [events[1]["id"], "evt_unknown"]}).to_string().into_response()
        }
        Reply::Hang => std::future::pending().await,
    }
}
