//! Connections: those that are under way when the redirector is told to stop get
//! their answers, no more are served at once than are allowed, and idle ones make room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;

use common::{header, link, redirector, status, write};
use ingest::Config;
use testbed::{PATIENCE, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

const HALF: &[u8] = b"GET /sale HTTP/1.1\r\nHos";
const REST: &[u8] = b"t: a\r\n\r\n";

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

fn open(text: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix("clickhook_ingest_connections "));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_drain_loses_no_connection_in_flight() {
    const EACH: usize = 20;
    let bus = testbed::bus().await;
    let sale = link("sale");
    write(&bus, sale.id, Some(&sale)).await;
    let redirector = redirector(&bus, Config::default()).await;
    let address = redirector.running.local_addr();
    let (mut halves, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(HALF).await.unwrap();
        halves.push(half);
        let mut used = TcpStream::connect(address).await.unwrap();
        used.write_all(&[HALF, REST].concat()).await.unwrap();
        let mut answer = vec![0; 12];
        used.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 302");
        idle.push(used);
    }
    eventually("all are served", async || (open(&redirector.metrics.text()) == 2 * EACH).then_some(())).await;

    redirector.shutdown.trigger();
    eventually("nobody new is taken", async || TcpStream::connect(address).await.err()).await;
    for mut idle in idle {
        // The rest of its answer, and the end.
        assert!(rest(&mut idle).await.ends_with("\r\n\r\n"));
    }
    for mut half in halves {
        half.write_all(REST).await.unwrap();
        let answer = rest(&mut half).await;
        assert_eq!((status(&answer), header(&answer, "connection")), (302, Some("close")), "{answer}");
    }
    timeout(PATIENCE, redirector.running.wait()).await.unwrap().unwrap();
    let text = redirector.metrics.text();
    assert!(text.contains(&format!("clickhook_ingest_redirects_total{{class=\"click\"}} {}", 2 * EACH)), "{text}");
}

/// Opens a connection and has a request answered on it, so that it is idle.
async fn idle(address: SocketAddr) -> TcpStream {
    answered(address, b"").await
}

/// Opens a connection whose request is under way: the redirector reads its begin together
/// with a request before it, and has answered that one.
async fn half(address: SocketAddr) -> TcpStream {
    answered(address, HALF).await
}

/// Opens a connection, sends a request and in the same segment `more`, and reads the answer.
async fn answered(address: SocketAddr, more: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", more].concat()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"no such link.\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    stream
}

#[tokio::test]
async fn no_more_are_served_at_once_than_are_allowed() {
    let bus = testbed::bus().await;
    let redirector = redirector(&bus, Config { threads: 1, max_connections: 2, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    let served = || open(&redirector.metrics.text());
    let held = [half(address).await, half(address).await];
    let mut waits = TcpStream::connect(address).await.unwrap();
    waits.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(served(), 2);
    assert_eq!(waits.try_read(&mut [0; 1]).map_err(|error| error.kind()), Err(std::io::ErrorKind::WouldBlock));
    drop(held);
    assert_eq!(status(&rest(&mut waits).await), 404);
    redirector.stop().await;
}

#[tokio::test]
async fn the_connection_that_is_idle_for_longest_makes_room() {
    let bus = testbed::bus().await;
    let redirector = redirector(&bus, Config { threads: 1, max_connections: 3, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    let mut busy = half(address).await;
    let mut first = idle(address).await;
    let mut second = idle(address).await;
    let third = idle(address).await;
    assert_eq!(rest(&mut first).await, "", "it is closed without a word");
    // Those that were not closed go on.
    busy.write_all(REST).await.unwrap();
    assert_ne!(busy.read(&mut [0; 512]).await.unwrap(), 0);
    second.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&rest(&mut second).await), 404);
    let text = redirector.metrics.text();
    assert!(text.contains("clickhook_ingest_evicted_connections_total 1"), "{text}");
    drop((busy, third));
    redirector.stop().await;
}

#[tokio::test]
async fn one_network_cannot_have_all_connections() {
    let bus = testbed::bus().await;
    let config = Config { threads: 1, max_connections_per_network: 2, ..Config::default() };
    let redirector = redirector(&bus, config).await;
    let address = redirector.running.local_addr();
    let _busy = half(address).await;
    let mut oldest = idle(address).await;
    let mut newest = idle(address).await;
    assert_eq!(rest(&mut oldest).await, "", "its own idle connection makes room");
    let _busy_too = half(address).await;
    assert_eq!(rest(&mut newest).await, "");
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or(0), 0, "nobody of it makes room");
    // Another network has places of its own.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.1.2.3:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(address).await.unwrap();
    other.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&rest(&mut other).await), 404);
    assert!(redirector.metrics.text().contains("clickhook_ingest_refused_connections_total 1"));
    redirector.stop().await;
}

#[tokio::test]
async fn a_kept_connection_waits_longer_than_a_head_may_take() {
    let bus = testbed::bus().await;
    let config = Config { header_timeout_ms: 200, keep_alive_ms: 60_000, ..Config::default() };
    let redirector = redirector(&bus, config).await;
    let address = redirector.running.local_addr();
    let mut kept = idle(address).await;
    // The head's time has passed for this one, and would have for the kept one.
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(HALF).await.unwrap();
    assert_eq!(status(&rest(&mut slow).await), 408);
    let slow = TcpStream::connect(address).await.unwrap();
    kept.write_all(HALF).await.unwrap();
    kept.write_all(&REST[..REST.len() - 2]).await.unwrap();
    kept.write_all(b"Connection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&rest(&mut kept).await), 404);
    drop(slow);
    redirector.stop().await;
}
