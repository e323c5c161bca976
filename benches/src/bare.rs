//! A server that answers 302 and does nothing else, with the runtimes, sockets
//! and connections of the redirector: what a redirect costs before anything is
//! looked up or recorded.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Empty;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, runtime, task::spawn_local};

/// The hidden subcommand whose process is the bare server.
pub(crate) const SUBCOMMAND: &str = "__bare-302";

/// The headers that every one of the servers answers with.
pub(crate) const HEADERS: [(&str, &str); 3] = [
    ("cache-control", "private, no-store"),
    ("location", "https://www.acme-outdoor.example/winter-sale/jackets/alpine-shell?ref=short"),
    ("x-robots-tag", "noindex"),
];

/// The bare server's process; it ends when this is dropped.
pub(crate) struct BareServer {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl BareServer {
    /// Starts it with a thread for each core that this thread may use.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the bare server")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("read the bare server's address")?).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("the bare server said {line:?}"))?;
        Ok(Self { child, address })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bare server: runtimes, sockets and connections as the redirector's.
/// Lives until its standard input closes.
pub(crate) fn serve() -> anyhow::Result<()> {
    let cores = thread::available_parallelism()?.get();
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for _ in 0..cores {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = std::net::TcpListener::from(socket);
        address = listener.local_addr()?;
        thread::spawn(move || serve_core(listener));
    }
    println!("{address}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn serve_core(listener: std::net::TcpListener) -> std::io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = service_fn(async |_| {
                let mut answer = Response::new(Empty::<Bytes>::new());
                *answer.status_mut() = StatusCode::FOUND;
                for (name, value) in HEADERS {
                    answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                Ok::<_, Infallible>(answer)
            });
            let serve = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
            spawn_local(async move { drop(serve.await) });
        }
    })
}
