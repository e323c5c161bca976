//! Endpoints that are ill: one that accepts connections and never answers, and one that
//! answers after a while. They run on one thread of the bench.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
    task::spawn_local,
    time::sleep,
};

/// The time after which the slow endpoint answers.
pub(crate) const SLOW: Duration = Duration::from_secs(4);

/// The addresses of endpoints that are ill.
pub(crate) struct SickEndpoints {
    /// Accepts connections, reads, and never answers.
    pub(crate) hanging: SocketAddr,
    /// Answers after [`SLOW`].
    pub(crate) slow: SocketAddr,
    /// Nothing listens there.
    pub(crate) refusing: SocketAddr,
}

#[derive(Clone, Copy)]
enum Illness {
    Hangs,
    IsSlow,
}

impl SickEndpoints {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listen = || -> anyhow::Result<std::net::TcpListener> {
            let listener =
                std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen as a sick endpoint")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let (hanging, slow) = (listen()?, listen()?);
        let sick = Self { hanging: hanging.local_addr()?, slow: slow.local_addr()?, refusing: testbed::free_address() };
        thread::Builder::new().name("sick".to_owned()).spawn(move || {
            if let Err(error) = serve(hanging, slow) {
                eprintln!("bench: the sick endpoints failed: {error}");
            }
        })?;
        Ok(sick)
    }
}

fn serve(hanging: std::net::TcpListener, slow: std::net::TcpListener) -> std::io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let (hanging, slow) = (TcpListener::from_std(hanging)?, TcpListener::from_std(slow)?);
        loop {
            let (accepted, illness) = tokio::select! {
                accepted = hanging.accept() => (accepted, Illness::Hangs),
                accepted = slow.accept() => (accepted, Illness::IsSlow),
            };
            let (stream, _) = accepted?;
            // A connection that ends is the sender's affair.
            spawn_local(async move { drop(answer(stream, illness).await) });
        }
    })
}

/// Reads until the sender closes. A slow endpoint answers what comes as one request: the
/// sender waits for each answer before it sends on.
async fn answer(mut stream: TcpStream, illness: Illness) -> std::io::Result<()> {
    let mut buffer = [0; 8192];
    while stream.read(&mut buffer).await? > 0 {
        if let Illness::IsSlow = illness {
            sleep(SLOW).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
    }
    Ok(())
}
