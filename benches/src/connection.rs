//! A visitor's connection, kept alive. The generator shares the machine with
//! what it measures, and an HTTP client's library would take about as much of it
//! as the redirector does: so requests are bytes, and of answers only the head is
//! parsed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::agents;

/// A person's phone: programs get no webhooks unless an endpoint asks for them.
pub(crate) const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1";

const HEAD_BYTES: usize = 8 << 10;
const HEADERS: usize = 32;

/// An HTTP/1.1 connection.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(HEAD_BYTES) })
    }

    /// Whether the other side has closed it while nothing was asked.
    pub(crate) fn is_closed(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request for `path` and gives back the answer's status.
    pub(crate) async fn get(&mut self, path: &str, visitor: Ipv4Addr) -> io::Result<u16> {
        let agent = agents::agent(u32::from(visitor));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {agent}\r\nAccept: text/html,*/*;q=0.8\r\n\
             Accept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate\r\nX-Forwarded-For: {visitor}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(head) = head(&self.received)? {
                return self.skip_body(head).await;
            }
        }
    }

    async fn skip_body(&mut self, head: Head) -> io::Result<u16> {
        while self.received.len() < head.bytes + head.body_bytes {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(head.status)
    }
}

pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) bytes: usize,
    pub(crate) body_bytes: usize,
}

/// The head of an answer, once all of it is there.
pub(crate) fn head(received: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(received).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(bytes) = parsed else { return Ok(None) };
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body_bytes = length.and_then(|header| str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or(0);
    Ok(Some(Head { status: answer.code.unwrap_or_default(), bytes, body_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_all_of_it_is_there() {
        let answer = b"HTTP/1.1 302 Found\r\nlocation: /\r\nContent-Length: 3\r\n\r\nabc";
        assert!(head(&answer[..40]).unwrap().is_none());
        let head = head(answer).unwrap().unwrap();
        assert_eq!((head.status, head.bytes + head.body_bytes), (302, answer.len()));
    }
}
