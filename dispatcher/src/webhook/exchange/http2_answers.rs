//! Answers over HTTP/2 from receivers that speak raw frames (RFC 9113): cut, endless, and
//! connections that are given up in each of the ways that there are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    tests::{authority, client, exchange, exchange_within, reset, start, status, trusting},
    *,
};

/// The length of the client's preface, and of a frame's head.
const PREFACE: usize = 24;
const HEAD: usize = 9;
/// The types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// Flags of frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The field `:status: 200` of HPACK's static table.
const STATUS_200: u8 = 0x88;
/// Codes of errors.
const INTERNAL_ERROR: u8 = 2;
const REFUSED_STREAM: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn head(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[STATUS_200])
}

fn whole(stream: u32) -> Vec<u8> {
    [head(stream), frame(DATA, END_STREAM, stream, b"ok")].concat()
}

fn reset_stream(stream: u32, code: u8) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, code])
}

/// A GOAWAY that says that no stream above `last` was looked at.
fn goaway(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

/// The reaction to a request.
enum Reaction {
    Frames(Vec<u8>),
    /// These frames, and the end of the connection.
    Last(Vec<u8>),
    /// The connection is reset.
    Reset,
}

/// A name for a failing assertion, and the reaction to the request of a stream.
type Case = (&'static str, fn(u32) -> Reaction);

/// Starts a receiver that reacts to each request by the number of its connection and its
/// stream, both from 1: of a connection's streams, 1, 3 and so on.
async fn receiver(
    react: impl Fn(usize, u32) -> Reaction + Clone + Send + Sync + 'static,
) -> (tempfile::NamedTempFile, String, Arc<AtomicUsize>) {
    let (ca_file, acceptor) = authority(&["h2"]);
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let serve = move |stream: TcpStream| {
        let (acceptor, react) = (acceptor.clone(), react.clone());
        let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            let Ok(mut tls) = acceptor.accept(stream).await else { return };
            if tls.read_exact(&mut [0; PREFACE]).await.is_err() {
                return;
            }
            tls.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            loop {
                let mut head = [0; HEAD];
                if tls.read_exact(&mut head).await.is_err() {
                    return;
                }
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                tls.read_exact(&mut payload).await.unwrap();
                let (kind, flags) = (head[3], head[4]);
                if kind == SETTINGS && flags & ACK == 0 {
                    tls.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
                }
                if !matches!(kind, HEADERS | DATA) || flags & END_STREAM == 0 {
                    continue;
                }
                match react(number, stream) {
                    Reaction::Frames(frames) => tls.write_all(&frames).await.unwrap(),
                    Reaction::Last(frames) => {
                        tls.write_all(&frames).await.unwrap();
                        return tls.shutdown().await.unwrap_or_default();
                    }
                    Reaction::Reset => return reset(tls.get_ref().0),
                }
                tls.flush().await.unwrap();
            }
        }
    };
    let (_, port) = start(serve).await;
    (ca_file, format!("https://localhost:{port}/a"), connections)
}

#[tokio::test]
async fn a_2xx_head_is_a_delivery_whatever_follows() {
    let cases: [Case; 6] = [
        ("whole", |stream| Reaction::Frames(whole(stream))),
        ("no body", |stream| Reaction::Frames(frame(HEADERS, END_HEADERS | END_STREAM, stream, &[STATUS_200]))),
        ("body reset", |stream| Reaction::Frames([head(stream), reset_stream(stream, INTERNAL_ERROR)].concat())),
        ("body without an end", |stream| Reaction::Frames([head(stream), frame(DATA, 0, stream, b"ok")].concat())),
        ("closed after the head", |stream| Reaction::Last(head(stream))),
        ("given up after the answer", |stream| Reaction::Last([whole(stream), goaway(stream)].concat())),
    ];
    for (case, react) in cases {
        let (ca_file, url, _) = receiver(move |_, stream| react(stream)).await;
        let exchange = exchange_within(&client(&trusting(&ca_file)), &url, 2000).await;
        assert!(matches!(&exchange, Exchange::Answered(answer) if answer.status == 200), "{case}: {exchange:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_takes_no_more_costs_no_attempt() {
    let ends: [Case; 6] = [
        ("GOAWAY", |_| Reaction::Frames(goaway(1))),
        ("GOAWAY and a close", |_| Reaction::Last(goaway(1))),
        ("refused stream", |stream| Reaction::Frames(reset_stream(stream, REFUSED_STREAM))),
        ("broken stream", |stream| Reaction::Frames(reset_stream(stream, INTERNAL_ERROR))),
        ("close", |_| Reaction::Last(Vec::new())),
        ("reset", |_| Reaction::Reset),
    ];
    for (case, end) in ends {
        // Each connection answers one request.
        let react = move |_, stream| if stream == 1 { Reaction::Frames(whole(stream)) } else { end(stream) };
        let (ca_file, url, _) = receiver(react).await;
        let client = client(&trusting(&ca_file));
        for _ in 0..4 {
            let exchange = exchange(&client, &url).await;
            assert!(matches!(&exchange, Exchange::Answered(answer) if answer.status == 200), "{case}: {exchange:?}");
        }
    }
}

#[tokio::test]
async fn a_new_connection_that_takes_nothing_is_the_endpoints_failure() {
    let ends: [Case; 5] = [
        ("GOAWAY", |_| Reaction::Last(goaway(0))),
        ("refused stream", |stream| Reaction::Frames(reset_stream(stream, REFUSED_STREAM))),
        ("close", |_| Reaction::Last(Vec::new())),
        ("reset", |_| Reaction::Reset),
        ("another protocol", |_| Reaction::Last(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
    ];
    for (case, end) in ends {
        let (ca_file, url, connections) = receiver(move |_, stream| end(stream)).await;
        let exchange = exchange(&client(&trusting(&ca_file)), &url).await;
        assert!(matches!(&exchange, Exchange::Failed(_)), "{case}: {exchange:?}");
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{case}");
    }
}

#[tokio::test]
async fn a_connection_that_has_gone_silent_takes_no_further_requests() {
    let react = |number, stream| {
        if (number, stream) == (1, 3) { Reaction::Frames(Vec::new()) } else { Reaction::Frames(whole(stream)) }
    };
    let (ca_file, url, connections) = receiver(react).await;
    let client = client(&trusting(&ca_file));
    assert_eq!(status(&exchange(&client, &url).await), 200);
    assert_eq!(exchange_within(&client, &url, 200).await, Exchange::Failed("no answer within 200 ms".to_owned()));
    assert_eq!(status(&exchange(&client, &url).await), 200);
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}
