//! The status line of an HTTP/1 answer, read as its bytes pass on their way to hyper. A
//! receiver that has sent a 2xx status line has done its work, and sending the event again
//! would make a second copy of that work. hyper tells the status only together with a whole
//! head that it can parse, so this reader keeps the status for the answers whose head is
//! cut, late or untidy (docs/adr/0015-a-status-line-is-the-answer.md).

use std::{
    io::{ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The length of `HTTP/1.1 200` and the byte that ends its status.
const STATUS_BYTES: usize = 13;
/// The beginning of every status line.
const PROTOCOL: &[u8] = b"HTTP/1.";

/// The part of an answer that has passed since the request was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// No byte of an answer.
    #[default]
    Silent,
    /// Bytes, but no final status yet.
    Begun,
    /// Bytes that are no answer, such as a body that an earlier answer did not announce.
    Other,
    /// The final status.
    Status(u16),
}

/// A reader of one answer's status.
#[derive(Debug, Default)]
struct StatusReader {
    progress: Progress,
    line: [u8; STATUS_BYTES],
    /// The bytes of `line` that are there.
    filled: usize,
    part: AnswerPart,
}

/// The part of the answer that the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum AnswerPart {
    /// Empty lines before a status line, which are ignored (RFC 9112, 2.2), or the line.
    #[default]
    StatusLine,
    /// The rest of an interim answer's head, up to an empty line.
    InterimHead { line_is_empty: bool },
    /// Anything after the final status, or bytes that are no answer.
    Rest,
}

impl StatusReader {
    fn read(&mut self, bytes: &[u8]) {
        if self.progress == Progress::Silent && !bytes.is_empty() {
            self.progress = Progress::Begun;
        }
        for byte in bytes {
            match self.part {
                AnswerPart::StatusLine => self.read_line(*byte),
                AnswerPart::InterimHead { line_is_empty } => self.part = after_interim(*byte, line_is_empty),
                AnswerPart::Rest => return,
            }
        }
    }

    fn read_line(&mut self, byte: u8) {
        if self.filled == 0 && matches!(byte, b'\r' | b'\n') {
            return;
        }
        if PROTOCOL.get(self.filled).is_some_and(|expected| *expected != byte) {
            return self.is_no_answer();
        }
        self.line[self.filled] = byte;
        self.filled += 1;
        if self.filled < STATUS_BYTES {
            return;
        }
        self.filled = 0;
        match status(&self.line) {
            // 101 ends the exchange: nothing was asked for that it could switch to.
            Some(100 | 102..=199) => self.part = AnswerPart::InterimHead { line_is_empty: byte == b'\n' },
            Some(status) => (self.progress, self.part) = (Progress::Status(status), AnswerPart::Rest),
            None => self.is_no_answer(),
        }
    }

    const fn is_no_answer(&mut self) {
        (self.progress, self.part) = (Progress::Other, AnswerPart::Rest);
    }
}

const fn after_interim(byte: u8, line_is_empty: bool) -> AnswerPart {
    match byte {
        b'\n' if line_is_empty => AnswerPart::StatusLine,
        b'\n' => AnswerPart::InterimHead { line_is_empty: true },
        b'\r' => AnswerPart::InterimHead { line_is_empty },
        _ => AnswerPart::InterimHead { line_is_empty: false },
    }
}

fn status(line: &[u8; STATUS_BYTES]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, end) = rest.split_at_checked(3)?;
    if !matches!(end, [b' ' | b'\r' | b'\n']) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok().filter(|status| *status >= 100)
}

/// A view of the answer that is on its way over one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerWatch(Arc<Mutex<StatusReader>>);

impl AnswerWatch {
    /// Begins with the answer to the next request.
    pub(super) fn restart(&self) {
        *self.0.lock() = StatusReader::default();
    }

    /// Returns how much of the answer has come.
    pub(super) fn progress(&self) -> Progress {
        self.0.lock().progress
    }
}

/// A stream whose answers are watched.
pub(super) struct WatchedStream<S> {
    inner: S,
    watch: AnswerWatch,
}

impl<S> WatchedStream<S> {
    pub(super) fn new(inner: S, watch: AnswerWatch) -> Self {
        Self { inner, watch }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.inner).poll_read(cx, buf)) {
            // A peer that closes without TLS's close_notify. The lengths inside HTTP say
            // whether something is missing; where there are none, the close is the end.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(error)),
            Ok(()) => {}
        }
        self.watch.0.lock().read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> WatchedStream<S> {
    /// Looks for an answer where a request cannot be written to its end: hyper does not, and a
    /// receiver may answer and close before it has read all.
    fn look_after_error(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<std::io::Result<usize>>,
    ) -> Poll<std::io::Result<usize>> {
        if matches!(written, Poll::Ready(Err(_))) {
            let mut bytes = [0; 1024];
            let mut answer = ReadBuf::new(&mut bytes);
            // The end of the stream or a further error changes nothing.
            let _ = Pin::new(self).poll_read(cx, &mut answer);
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.look_after_error(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.look_after_error(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress(bytes: &[u8]) -> Progress {
        let mut reader = StatusReader::default();
        reader.read(bytes);
        reader.progress
    }

    #[test]
    fn a_status_is_known_with_the_byte_after_it() {
        for (bytes, expected) in [
            (&b""[..], Progress::Silent),
            (b"H", Progress::Begun),
            (b"HTTP/1.1 200", Progress::Begun),
            (b"HTTP/1.1 200 ", Progress::Status(200)),
            (b"HTTP/1.1 204\r", Progress::Status(204)),
            (b"HTTP/1.0 500\n", Progress::Status(500)),
            (b"\r\n\r\nHTTP/1.1 202 Accepted\r\n", Progress::Status(202)),
            (b"HTTP/1.1 101 Switching Protocols\r\n", Progress::Status(101)),
        ] {
            assert_eq!(progress(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn interim_answers_are_passed_over() {
        for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\n", "HTTP/1.1 102\n\n"]
        {
            assert_eq!(progress(interim.as_bytes()), Progress::Begun, "{interim}");
            let answer = format!("{interim}{interim}HTTP/1.1 200 OK\r\n");
            assert_eq!(progress(answer.as_bytes()), Progress::Status(200), "{answer}");
        }
        assert_eq!(progress(b"HTTP/1.1 103 Early\r\nX: HTTP/1.1 200 OK\r\n"), Progress::Begun);
    }

    #[test]
    fn other_bytes_are_no_status() {
        for bytes in [
            "OK",
            "HTTP/2",
            "HTTP/1.1 2000 OK\r\n",
            "HTTP/1.1  200 OK\r\n",
            "HTTP/1.1 20\r\n1 ab",
            "HTTP/1.1 099 No\r\n",
            "HTTP/2.0 200 OK\r\n",
            "HTTP/1.2 200 OK\r\n",
            "ICY 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n",
            "<html>200 OK</html>",
            "SSH-2.0-OpenSSH_9.6\r\n",
        ] {
            assert_eq!(progress(bytes.as_bytes()), Progress::Other, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn the_cuts_between_reads_do_not_matter(cuts in proptest::collection::vec(1_usize..40, 1..8)) {
            let answer = b"\r\nHTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 207 Multi-Status\r\n\r\n{}";
            let mut reader = StatusReader::default();
            let mut rest = &answer[..];
            for cut in cuts.into_iter().cycle() {
                let (read, left) = rest.split_at(cut.min(rest.len()));
                reader.read(read);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(reader.progress, Progress::Status(207));
        }
    }
}
