//! A visitor's connection: reads heads, answers them in their order, and writes each
//! response in one piece. Handles slow heads, slow readers and the end of the process.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use schemas::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{
    Config,
    edge::{serve::EdgeCore, slots::ConnectionSlot},
    http::answer::{RedirectResponse, ResponseContext},
    http::{self, HEAD_BYTES, Parsed, Persistence, Refusal},
};

/// The size of a new input buffer: most heads fit.
const INPUT_BYTES: usize = 2 << 10;
/// The size above which a buffer is replaced by a small one while the connection is idle.
const IDLE_BYTES: usize = 4 << 10;
/// How long unread bytes are read away at the end of a connection: closing on unread
/// bytes resets the connection, and the visitor might never see the response.
const LINGER: Duration = Duration::from_secs(1);
/// How many bytes are read away at the end of a connection.
const LINGER_BYTES: usize = 256 << 10;
/// How long a new connection may take to send its first request once the process
/// ends: the request may be on its way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Serves a connection until it ends.
///
/// # Errors
/// When the other side has gone, or takes no answer.
pub(crate) async fn serve(
    core: &EdgeCore,
    slot: &ConnectionSlot,
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    let input = Vec::with_capacity(INPUT_BYTES);
    let timer = ConnectionTimer::new(core.config());
    let connection = VisitorConnection { core, slot, stream, peer, input, output: Vec::new(), timer, answered: false };
    let mut drain = pin!(core.told_to_drain());
    // Polled once, it wakes this task when draining begins.
    poll_fn(|context| {
        let _ = drain.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
    connection.run().await
}

struct VisitorConnection<'c> {
    core: &'c EdgeCore,
    slot: &'c ConnectionSlot,
    stream: TcpStream,
    peer: SocketAddr,
    /// The bytes that were received and not answered yet.
    input: Vec<u8>,
    output: Vec<u8>,
    timer: ConnectionTimer,
    /// Whether one request has been answered.
    answered: bool,
}

/// The result of waiting for more of a head.
enum Waited {
    /// More bytes arrived.
    More,
    /// The visitor closed the connection, or the redirector did between two requests.
    End,
    TooSlow,
}

impl VisitorConnection<'_> {
    async fn run(mut self) -> io::Result<()> {
        // The offset of the next head.
        let mut begin = 0;
        // How many of its bytes have been searched.
        let mut seen = 0;
        loop {
            let bytes = &self.input[begin..];
            // A head ends with a line: without a new line there is nothing to parse.
            let parsed = if memchr::memchr(b'\n', &bytes[seen..]).is_some() || bytes.len() >= HEAD_BYTES {
                http::parse(bytes, |head| self.core.answer(&head, self.peer, &mut self.output))
            } else {
                Parsed::Partial
            };
            match parsed {
                Parsed::Partial => {
                    self.input.drain(..begin);
                    begin = 0;
                    seen = self.input.len();
                    if seen > 0 {
                        self.timer.begin_head();
                    }
                    match self.wait().await? {
                        Waited::More => {}
                        Waited::End => return Ok(()),
                        Waited::TooSlow if self.input.is_empty() => return Ok(()),
                        Waited::TooSlow => return self.refuse(Refusal::TooSlow).await,
                    }
                }
                Parsed::Whole(mut answered, len) => {
                    if let Some(click) = answered.click.take() {
                        self.core.confirm(click, answered.after, &mut self.output).await;
                    }
                    self.send().await?;
                    if answered.after == Persistence::Close {
                        return self.linger().await;
                    }
                    self.answered = true;
                    begin += len;
                    seen = 0;
                    if begin == self.input.len() {
                        self.input.clear();
                        begin = 0;
                        self.shrink();
                    }
                    self.timer.begin_idle();
                }
                Parsed::Refused(refusal) => return self.refuse(refusal).await,
            }
        }
    }

    /// Gives the memory of a long head or response back, since most connections are idle.
    fn shrink(&mut self) {
        if self.input.capacity() > IDLE_BYTES {
            self.input = Vec::with_capacity(INPUT_BYTES);
        }
        if self.output.capacity() > IDLE_BYTES {
            self.output = Vec::new();
        }
    }

    async fn wait(&mut self) -> io::Result<Waited> {
        let (core, slot) = (self.core, self.slot);
        let idle = self.input.is_empty();
        let answered = self.answered;
        let timer = &mut self.timer;
        if idle {
            slot.rests(timer.since);
        }
        let mut read = pin!(self.stream.read_buf(&mut self.input));
        let waited = poll_fn(|context| match read.as_mut().poll(context) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(Waited::End)),
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|_| Waited::More)),
            Poll::Pending if idle && answered && core.is_draining() => Poll::Ready(Ok(Waited::End)),
            Poll::Pending if idle && slot.poll_evicted(context) => Poll::Ready(Ok(Waited::End)),
            Poll::Pending => {
                if idle && core.is_draining() {
                    timer.shorten(LAST_CALL);
                }
                timer.poll(context).map(|()| Ok(Waited::TooSlow))
            }
        })
        .await;
        slot.works();
        waited
    }

    async fn refuse(mut self, refusal: Refusal) -> io::Result<()> {
        self.core.metrics().refused(refusal.reason());
        let sent =
            ResponseContext { after: Persistence::Close, bodiless: false, date: self.core.date(Timestamp::now()) };
        RedirectResponse::Refused(refusal).write(sent, &mut self.output);
        self.send().await?;
        self.linger().await
    }

    async fn send(&mut self) -> io::Result<()> {
        let written = match self.stream.try_write(&self.output) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < self.output.len() {
            timeout(self.timer.head, self.stream.write_all(&self.output[written..])).await??;
        }
        self.output.clear();
        Ok(())
    }

    async fn linger(mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let drop_the_rest = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.input.clear();
                match self.stream.read_buf(&mut self.input).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok(())
        };
        timeout(LINGER, drop_the_rest).await.unwrap_or(Ok(()))
    }
}

/// The time limits of a connection: for a request to begin, and from its first byte on for
/// its head. The timer is set once in that time, not for each head: when it fires, it checks
/// whether the limit is really reached.
struct ConnectionTimer {
    idle: Duration,
    head: Duration,
    /// The time since which the connection is in its phase.
    since: Instant,
    phase: ConnectionPhase,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer will wake the task.
    set: bool,
}

/// The part of a request that a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionPhase {
    Idle,
    Head,
}

impl ConnectionTimer {
    fn new(config: &Config) -> Self {
        Self {
            idle: Duration::from_millis(config.keep_alive_ms),
            head: Duration::from_millis(config.header_timeout_ms),
            since: Instant::now(),
            phase: ConnectionPhase::Idle,
            timer: None,
            set: false,
        }
    }

    fn begin_idle(&mut self) {
        self.since = Instant::now();
        self.phase = ConnectionPhase::Idle;
    }

    /// Begins the time of a head, unless it has begun.
    fn begin_head(&mut self) {
        if self.phase == ConnectionPhase::Idle {
            self.since = Instant::now();
            self.phase = ConnectionPhase::Head;
        }
    }

    /// Lowers the limit of an idle connection to `patience`, from now on.
    fn shorten(&mut self, patience: Duration) {
        if patience < self.idle {
            self.idle = patience;
            self.since = Instant::now();
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let patience = match self.phase {
            ConnectionPhase::Idle => self.idle,
            ConnectionPhase::Head => self.head,
        };
        let due = self.since + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < timer.deadline() {
            timer.as_mut().reset(due);
            self.set = false;
        }
        loop {
            if self.set && !timer.is_elapsed() {
                return Poll::Pending;
            }
            self.set = timer.as_mut().poll(context).is_pending();
            if self.set {
                return Poll::Pending;
            }
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}
