//! Connections: those that are under way when the redirector is told to stop get
//! their answers, and no more are served at once than are allowed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{header, link, redirector, status, write};
use ingest::Config;
use testbed::{PATIENCE, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
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

#[tokio::test]
async fn no_more_are_served_at_once_than_are_allowed() {
    let bus = testbed::bus().await;
    let redirector = redirector(&bus, Config { threads: 1, max_connections: 2, ..Config::default() }).await;
    let address = redirector.running.local_addr();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        held.push(stream);
    }
    let mut waits = TcpStream::connect(address).await.unwrap();
    waits.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(open(&redirector.metrics.text()), 2);
    assert_eq!(waits.try_read(&mut [0; 1]).map_err(|error| error.kind()), Err(std::io::ErrorKind::WouldBlock));
    drop(held);
    assert_eq!(status(&rest(&mut waits).await), 404);
    redirector.stop().await;
}
