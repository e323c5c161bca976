//! Connections that end in the ways in which they do: kept ones that are dead when the next
//! request comes, answers that come before the request was read, and TLS that ends without
//! a word.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    tests::{
        End, answer, authority, client, config, exchange, exchange_within, raw, read_request, reset, start, status,
        trusting,
    },
    *,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The end of a connection that has carried one request.
#[derive(Clone, Copy, Debug)]
enum KeptEnd {
    /// It is closed at once.
    Closed,
    /// It is reset at once.
    ResetAtOnce,
    /// It is closed when the next request has come.
    ClosedOnUse,
    /// It is reset when the next request has come.
    ResetOnUse,
    /// These bytes come at once, and it is closed.
    Bytes(&'static [u8]),
    /// These bytes come when the next request has come, and it is closed.
    BytesOnUse(&'static [u8]),
}

/// Starts a receiver that answers one request on each connection, which then ends so.
/// Returns its address, and the number of its connections so far.
async fn ending(end: KeptEnd) -> (String, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let serve = move |mut stream: TcpStream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            if read_request(&mut stream).await.is_none() {
                return;
            }
            stream.write_all(OK).await.unwrap();
            if matches!(end, KeptEnd::ClosedOnUse | KeptEnd::ResetOnUse | KeptEnd::BytesOnUse(_)) {
                read_request(&mut stream).await;
            }
            match end {
                KeptEnd::Closed | KeptEnd::ClosedOnUse => {}
                // The answer must not be lost with the connection.
                KeptEnd::ResetAtOnce | KeptEnd::ResetOnUse => reset(&stream),
                KeptEnd::Bytes(bytes) | KeptEnd::BytesOnUse(bytes) => stream.write_all(bytes).await.unwrap(),
            }
        }
    };
    (start(serve).await.0, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_has_ended_costs_no_attempt_whatever_ended_it() {
    let late = b"HTTP/1.1 408 Request Time-out\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let ends = [
        KeptEnd::Closed,
        KeptEnd::ResetAtOnce,
        KeptEnd::ClosedOnUse,
        KeptEnd::ResetOnUse,
        KeptEnd::Bytes(late),
        KeptEnd::BytesOnUse(late),
        // The rest of a body that was longer than announced.
        KeptEnd::Bytes(b"ok"),
        KeptEnd::BytesOnUse(b"ok"),
        KeptEnd::BytesOnUse(b"okHTTP/1.1 500 No\r\n\r\n"),
    ];
    join_all(ends.map(|end| async move {
        let (url, connections) = ending(end).await;
        let client = client(&config());
        for _ in 0..5 {
            let exchange = exchange(&client, &url).await;
            assert!(matches!(&exchange, Exchange::Answered(answer) if answer.status == 200), "{end:?}: {exchange:?}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 5, "{end:?}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_over_connections_that_do_not_last_is_delivered_in_first_attempts() {
    let answers: [&[u8]; 6] = [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nOK",
        b"HTTP/1.1 204 No Content\r\n\r\nOK",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nokok",
    ];
    join_all(answers.map(|bytes| async move {
        let serve = move |mut stream: TcpStream| async move {
            while read_request(&mut stream).await.is_some() {
                if stream.write_all(bytes).await.is_err() {
                    return;
                }
            }
        };
        let (url, _) = start(serve).await;
        let client = client(&config());
        for _ in 0..3 {
            for exchange in join_all((0..20).map(|_| exchange(&client, &url))).await {
                let status = status(&exchange);
                assert!((200..300).contains(&status), "{status} of {}", String::from_utf8_lossy(bytes));
            }
        }
    }))
    .await;
}

#[tokio::test]
async fn a_new_connection_that_breaks_is_not_asked_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    for (bytes, end) in [(&b""[..], End::Close), (b"", End::Reset), (b"ok", End::Close), (b"HTTP/1.1 2", End::Reset)] {
        let counted = Arc::clone(&requests);
        let serve = move |mut stream: TcpStream| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                if end == End::Reset {
                    reset(&stream);
                }
                answer(&mut stream, bytes, end).await;
            }
        };
        let (url, _) = start(serve).await;
        let exchange = exchange(&client(&config()), &url).await;
        assert!(matches!(&exchange, Exchange::Failed(_)), "{bytes:?}: {exchange:?}");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn an_answer_before_the_request_was_read_is_an_answer() {
    const LARGE: usize = 8 << 20;
    let large = || Request::post("/").body(Full::new(Bytes::from_static(&[b'a'; LARGE])));
    for (answer, expected) in
        [("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 202), ("HTTP/1.1 413 Large\r\n", 413)]
    {
        // Bytes that are not read when a connection is closed make its end a reset.
        let serve = move |mut stream: TcpStream| async move {
            let _ = stream.read(&mut [0; 100]).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (url, _) = start(serve).await;
        let limits = ExchangeLimits::new(Duration::from_secs(20), 1);
        let exchange = client(&config()).exchange(&RequestTarget::parse(&url).unwrap(), large, limits).await;
        assert_eq!(status(&exchange), expected);
    }
}

#[tokio::test]
async fn a_wait_is_asked_for_by_answers_that_are_not_whole_as_well() {
    let asked = |head: &'static str| async move {
        let url = raw(format!("HTTP/1.1 503 No\r\n{head}").as_bytes(), End::KeepOpen).await;
        match exchange_within(&client(&config()), &url, 300).await {
            Exchange::Answered(answer) => answer.retry_after,
            other => panic!("{other:?}"),
        }
    };
    let cases = [
        ("Retry-After: 7\r\nContent-Length: 0\r\n\r\n", Some(7)),
        ("retry-after:7\r\nContent-Length: 100\r\n\r\nno", Some(7)),
        ("Retry-After : 7\r\nX-A: b\x01c\r\n\r\n", Some(7)),
        ("Retry-After: 99999999999999999999\r\n\r\n", Some(u64::MAX)),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n", Some(0)),
        ("Retry-After: soon\r\n\r\n", None),
        ("Retry-After: \u{e9}\r\n\r\n", None),
        ("Retry-After:\r\n\r\n", None),
    ];
    for (told, (head, expected)) in join_all(cases.map(|(head, _)| asked(head))).await.into_iter().zip(cases) {
        assert_eq!(told, expected.map(Duration::from_secs), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_2xx_over_tls_is_a_delivery_however_the_connection_ends() {
    let cases: [(&str, &[u8], End); 9] = [
        ("no length", b"HTTP/1.1 200 OK\r\n\r\nok", End::Close),
        ("nothing", b"HTTP/1.0 200 OK\r\n\r\n", End::Close),
        ("no length, reset", b"HTTP/1.1 200 OK\r\n\r\nok", End::Reset),
        ("whole", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", End::Close),
        ("shorter than announced", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", End::Close),
        ("chunked, cut off", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", End::Close),
        ("head cut off", b"HTTP/1.1 200 OK\r\nContent-Le", End::Close),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n", End::Reset),
        ("untidy", b"HTTP/1.1 200 OK\r\nX A : b\x01\r\nContent-Length: 2\r\n\r\nok", End::Close),
    ];
    let (ca_file, acceptor) = authority(&[]);
    let client = client(&trusting(&ca_file));
    let exchanges = cases.map(|(case, bytes, end)| {
        let (acceptor, client) = (acceptor.clone(), &client);
        async move {
            let serve = move |stream: TcpStream| {
                let acceptor = acceptor.clone();
                async move {
                    // A reset throws away what still waits for the acknowledgement of TLS's tickets.
                    stream.set_nodelay(true).unwrap();
                    let Ok(mut tls) = acceptor.accept(stream).await else { return };
                    answer(&mut tls, bytes, end).await;
                    // The connection ends, and TLS says nothing of it.
                    let (tcp, _) = tls.into_inner();
                    if end == End::Reset {
                        reset(&tcp);
                    }
                }
            };
            let (_, port) = start(serve).await;
            (case, exchange(client, &format!("https://localhost:{port}/")).await)
        }
    });
    for (case, exchange) in join_all(exchanges).await {
        assert!(
            matches!(&exchange, Exchange::Answered(answer) if (200..300).contains(&answer.status)),
            "{case}: {exchange:?}"
        );
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_do_its_work_is_not_the_endpoints_fault() {
    let receiver = raw(OK, End::KeepOpen).await;
    let cases: [(&[u8], End, bool); 8] = [
        (b"HTTP/1.1 407 Who are you\r\n\r\n", End::Close, true),
        (b"", End::Close, true),
        (b"", End::Reset, true),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n\r\n", End::Close, true),
        (b"HTTP/1.1 200 Con", End::Close, true),
        (b"HTTP/1.1 403 No\r\n\r\n", End::Close, false),
        (b"HTTP/1.1 502 No\r\nContent-Length: 2\r\n\r\nno", End::KeepOpen, false),
        (b"HTTP/1.1 200 Yes\r\n\r\n", End::Close, false),
    ];
    for (bytes, end, is_ours) in cases {
        let (proxy, _) = start(move |mut stream| async move {
            if end == End::Reset {
                reset(&stream);
            }
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(bytes).await.unwrap();
            if end == End::KeepOpen {
                let _ = stream.read(&mut [0]).await;
            }
        })
        .await;
        let through = Config { proxy: Some(proxy.try_into().unwrap()), ..config() };
        let exchange = exchange(&client(&through), &receiver).await;
        let told = String::from_utf8_lossy(bytes);
        assert_eq!(matches!(exchange, Exchange::Ours(_)), is_ours, "{told}: {exchange:?}");
        assert!(!matches!(exchange, Exchange::Answered(_)), "{told}: {exchange:?}");
    }
}
