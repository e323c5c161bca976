//! A connection to an endpoint: HTTP/1.1, or HTTP/2 where the endpoint chose it in the TLS
//! handshake (ALPN).

use bytes::Bytes;
use http::{Request, Response, header::HOST};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
};
use tracing::debug;

use super::{
    status_line::{AnswerWatch, Progress, WatchedStream},
    target::RequestTarget,
};

/// The largest head of an answer.
const HEAD_BYTES: usize = 64 * 1024;
/// The number of header lines in an answer's head.
const HEADER_LINES: usize = 256;

/// The two directions of a connection's bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// A stream with an endpoint at its other end, on which no byte of HTTP was sent.
pub(super) struct DialedStream {
    pub(super) stream: Box<dyn Stream>,
    /// Whether the endpoint chose HTTP/2.
    pub(super) http2: bool,
    /// The connection's part of the sockets that the process may have.
    pub(super) permit: OwnedSemaphorePermit,
}

/// A connection that takes requests. Dropping it closes the connection, also in the middle
/// of an exchange.
pub(super) struct EndpointConnection {
    sender: Sender,
    /// Whether the connection has carried a request before this one.
    used: bool,
    /// Whether the last request was handed to the connection. Before that, nothing that
    /// comes over it is an answer to the request.
    sent: bool,
}

enum Sender {
    Http1 { sender: http1::SendRequest<Full<Bytes>>, watch: AnswerWatch },
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl EndpointConnection {
    /// Begins to speak HTTP. The connection's own work is done by a task that ends with it.
    pub(super) async fn new(dialed: DialedStream) -> Result<Self, hyper::Error> {
        let DialedStream { stream, http2, permit } = dialed;
        if http2 {
            let handshake = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(64 * 1024)
                .handshake(TokioIo::new(stream));
            let (sender, connection) = handshake.await?;
            drive(connection, permit);
            return Ok(Self { sender: Sender::Http2(sender), used: false, sent: false });
        }
        let watch = AnswerWatch::default();
        let watched = WatchedStream::new(stream, watch.clone());
        // The more of an untidy head is read, the more of the answer is logged.
        let handshake = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADER_LINES)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .handshake(TokioIo::new(watched));
        let (sender, connection) = handshake.await?;
        drive(connection, permit);
        Ok(Self { sender: Sender::Http1 { sender, watch }, used: false, sent: false })
    }

    /// Tells whether the connection takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1 { sender, .. } => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Tells whether the connection carries several requests at a time.
    pub(super) const fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Tells whether the connection has carried a request before the last one.
    pub(super) const fn was_kept(&self) -> bool {
        self.used
    }

    /// Returns a second handle of a connection that several requests can share.
    pub(super) fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1 { .. } => None,
            Sender::Http2(sender) => Some(Self { sender: Sender::Http2(sender.clone()), used: true, sent: false }),
        }
    }

    /// Returns how much of an answer to the last request has come. Of HTTP/2, which has no
    /// status line, nothing is known before the head.
    pub(super) fn progress(&self) -> Progress {
        match &self.sender {
            Sender::Http1 { watch, .. } if self.sent => watch.progress(),
            Sender::Http1 { .. } | Sender::Http2(_) => Progress::Silent,
        }
    }

    /// Notes that the next request is not the first.
    pub(super) fn mark_used(&mut self) {
        self.used = true;
    }

    /// Sends a request to `target`, and returns when the answer's head has come.
    pub(super) async fn send(
        &mut self,
        target: &RequestTarget,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.sent = false;
        match &mut self.sender {
            Sender::Http1 { sender, watch } => {
                request.uri_mut().clone_from(&target.path);
                request.headers_mut().insert(HOST, target.host.clone());
                sender.ready().await?;
                watch.restart();
                self.sent = true;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                request.uri_mut().clone_from(&target.absolute);
                sender.ready().await?;
                self.sent = true;
                sender.send_request(request).await
            }
        }
    }
}

fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static, permit: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        // The exchange is told of the same error.
        if let Err(error) = connection.await {
            debug!(%error, "connection to an endpoint ended");
        }
        drop(permit);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Semaphore,
    };

    use super::*;

    fn post() -> Request<Full<Bytes>> {
        Request::post("/").body(Full::new(Bytes::from_static(b"{}"))).unwrap()
    }

    /// The status of the answer before must not be taken for that of a request which was
    /// never sent.
    #[tokio::test]
    async fn a_request_on_a_connection_that_is_closed_has_no_answer() {
        let (stream, mut receiver) = tokio::io::duplex(64 * 1024);
        let sockets = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&sockets).acquire_owned().await.unwrap();
        let dialed = DialedStream { stream: Box::new(stream), http2: false, permit };
        let mut connection = EndpointConnection::new(dialed).await.unwrap();
        let target = RequestTarget::parse("http://acme.com/").unwrap();
        let answering = async {
            receiver.read_u8().await.unwrap();
            receiver.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        };
        let (answered, ()) = tokio::join!(connection.send(&target, post()), answering);
        answered.unwrap().into_body().collect().await.unwrap();
        assert_eq!(connection.progress(), Progress::Status(200));
        drop(receiver);
        // The permit is free again when the connection's task has ended.
        let _freed = sockets.acquire().await.unwrap();
        connection.send(&target, post()).await.unwrap_err();
        assert_eq!(connection.progress(), Progress::Silent);
    }
}
