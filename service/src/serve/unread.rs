//! The bodies of requests that were answered before they were read, as a refusal is. The rest of
//! a short one is read, so that the connection can be used again. Before another one the answer
//! says that the connection ends: a client that sends its next request on it would get no answer.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::response::Response;
use hyper::{
    Request,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{CONNECTION, EXPECT, HeaderValue},
};
use tokio::{sync::oneshot, time::timeout};

/// The most that is read of a body for nothing, and the time that it has to come.
const READ_BYTES: usize = 64 << 10;
const READ_WITHIN: Duration = Duration::from_secs(1);

/// The body of a request, which is given back when it is dropped.
pub(super) struct BorrowedBody {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

/// The way back of a body.
pub(super) struct ReturnedBody {
    returned: oneshot::Receiver<Incoming>,
    /// Whether the sender waits to be asked for the body.
    waits: bool,
}

/// Lends the body of a request.
pub(super) fn lend(request: Request<Incoming>) -> (Request<BorrowedBody>, ReturnedBody) {
    let (back, returned) = oneshot::channel();
    let waits = request.headers().contains_key(EXPECT);
    let lent = request.map(|body| BorrowedBody { body: Some(body), back: Some(back) });
    (lent, ReturnedBody { returned, waits })
}

impl ReturnedBody {
    /// Reads the rest of the body, or lets the answer say that the connection ends.
    pub(super) async fn settle_connection(mut self, answer: &mut Response) {
        // A body that is not back is still read, and the answer goes with it.
        let Ok(mut body) = self.returned.try_recv() else { return };
        let is_read =
            body.is_end_stream() || (!self.waits && matches!(timeout(READ_WITHIN, rest(&mut body)).await, Ok(true)));
        if !is_read {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Reads the rest of a short body, and tells whether that was all.
async fn rest(body: &mut Incoming) -> bool {
    let mut left = READ_BYTES;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        let Ok(frame) = frame else { return false };
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return false };
        left = rest;
    }
    true
}

impl Body for BorrowedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for BorrowedBody {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // The connection may have ended.
            drop(back.send(body));
        }
    }
}
