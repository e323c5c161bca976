//! The present activity of each connection of a server, and the choice of the one that makes
//! room for another.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::Instant,
};

/// The part of a request that a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RequestPhase {
    /// No request has begun.
    Idle,
    /// A part of a request's head has arrived.
    Head,
    /// A request is being answered.
    Answer,
}

/// The way in which a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// At once: there is nothing to finish.
    Close,
    /// Behind the answer that may be on its way.
    Finish,
}

/// The present state of a connection.
pub(super) struct Activity {
    state: Mutex<(RequestPhase, Instant)>,
    evicted: Notify,
}

impl Activity {
    /// Notes that a request is being answered.
    pub(super) fn works(&self) {
        *self.state.lock() = (RequestPhase::Answer, Instant::now());
    }

    /// Notes that the answer is made, and the next request has not begun.
    pub(super) fn rests(&self) {
        *self.state.lock() = (RequestPhase::Idle, Instant::now());
    }

    fn reads(&self) {
        let mut state = self.state.lock();
        if state.0 == RequestPhase::Idle {
            *state = (RequestPhase::Head, Instant::now());
        }
    }

    /// Resolves when the connection is to make room for another.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Returns how the connection is closed now.
    pub(super) fn due_now(&self) -> Due {
        match self.state.lock().0 {
            RequestPhase::Head => Due::Close,
            RequestPhase::Idle | RequestPhase::Answer => Due::Finish,
        }
    }

    /// Returns how the connection is closed, if its time is over.
    pub(super) fn due(&self, keep_alive: Duration, header_timeout: Duration) -> Option<Due> {
        let (phase, since) = *self.state.lock();
        let (limit, due) = match phase {
            RequestPhase::Idle => (keep_alive, Due::Finish),
            RequestPhase::Head => (header_timeout, Due::Close),
            RequestPhase::Answer => return None,
        };
        (since.elapsed() >= limit).then_some(due)
    }
}

/// The connections of a server.
#[derive(Default)]
pub(super) struct Activities(Mutex<Vec<Arc<Activity>>>);

impl Activities {
    pub(super) fn add(&self) -> Arc<Activity> {
        let state = Mutex::new((RequestPhase::Idle, Instant::now()));
        let activity = Arc::new(Activity { state, evicted: Notify::new() });
        self.0.lock().push(Arc::clone(&activity));
        activity
    }

    pub(super) fn remove(&self, activity: &Arc<Activity>) {
        self.0.lock().retain(|other| !Arc::ptr_eq(other, activity));
    }

    /// Closes the connection that is idle for longest or, if none is idle, the one that
    /// takes longest to send its head.
    pub(super) fn evict(&self) {
        let activities = self.0.lock();
        let waiting = activities.iter().filter(|activity| activity.state.lock().0 != RequestPhase::Answer);
        if let Some(activity) = waiting.min_by_key(|activity| *activity.state.lock()) {
            activity.evicted.notify_one();
        }
    }
}

/// A connection's stream, which notes when a head begins to arrive.
pub(super) struct ActivityStream {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl ActivityStream {
    pub(super) const fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl AsyncRead for ActivityStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.reads();
        }
        read
    }
}

impl AsyncWrite for ActivityStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
