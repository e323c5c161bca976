//! An egress proxy: a tunnel through it (`CONNECT`, RFC 9110, 9.3.6) to an address that was
//! checked here. The proxy sees the address, not the name, so it cannot resolve the name to
//! another one.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::fault::ExchangeFault;

/// The largest head of the proxy's answer.
const HEAD_BYTES: usize = 8 * 1024;
/// The header lines of the proxy's answer.
const HEADER_LINES: usize = 64;

/// Opens a tunnel to `target` over a connection to the proxy.
pub(super) async fn tunnel(proxy: &mut TcpStream, target: SocketAddr) -> Result<(), ExchangeFault> {
    let broken = |error| ExchangeFault::Ours(format!("the connection to the proxy broke (`webhook.proxy`): {error}"));
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    proxy.write_all(request.as_bytes()).await.map_err(broken)?;
    match answer(proxy).await.map_err(broken)? {
        Some(200..=299) => Ok(()),
        Some(407) => {
            Err(ExchangeFault::Ours("the proxy wants a password (407), and `webhook.proxy` has none".to_owned()))
        }
        Some(status) => Err(ExchangeFault::Endpoint(format!("the proxy answered {status} to CONNECT {target}"))),
        None => Err(ExchangeFault::Ours("`webhook.proxy` does not speak HTTP/1".to_owned())),
    }
}

/// Reads the head of the answer, and not one byte of what the tunnel carries.
async fn answer(proxy: &mut TcpStream) -> std::io::Result<Option<u16>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES {
        head.push(proxy.read_u8().await?);
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADER_LINES];
    let mut answer = httparse::Response::new(&mut headers);
    let complete = answer.parse(&head).is_ok_and(|parsed| parsed.is_complete());
    Ok(answer.code.filter(|_| complete))
}
