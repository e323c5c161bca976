//! Exchanges with receivers that speak raw bytes: answers that are late, cut, endless or
//! untidy, connections that die, TLS, HTTP/2, and a proxy.

use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// The end of a raw answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Close,
    KeepOpen,
    /// The connection is reset.
    Reset,
    /// The answer goes on until the other side closes.
    Endless,
    /// It goes on as well, a byte at a time.
    Drip,
}

pub(super) fn config() -> Config {
    Config { allow_private: true, allow_http: true, ..Config::default() }
}

pub(super) fn client(config: &Config) -> HttpClient {
    HttpClient::new(config, NameMetrics::default()).unwrap()
}

pub(super) fn post() -> Result<Request<Full<Bytes>>, http::Error> {
    Request::post("/").header("webhook-id", "evt_1").body(Full::new(Bytes::from_static(b"{}")))
}

pub(super) async fn exchange(client: &HttpClient, url: &str) -> Exchange {
    client.exchange(&RequestTarget::parse(url).unwrap(), post, ExchangeLimits::new(Duration::from_secs(20), 1)).await
}

pub(super) async fn exchange_within(client: &HttpClient, url: &str, ms: u64) -> Exchange {
    client.exchange(&RequestTarget::parse(url).unwrap(), post, ExchangeLimits::new(Duration::from_millis(ms), 1)).await
}

/// Reads one request, whose body has two bytes. Returns `None` when there is none.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        request.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(request).unwrap())
}

pub(super) async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &[u8], end: End) {
    if read_request(stream).await.is_none() {
        return;
    }
    // The other side may close while the answer is written.
    let _ = stream.write_all(answer).await;
    let _ = stream.flush().await;
    match end {
        // Whoever has the socket resets it.
        End::Close | End::Reset => {}
        End::KeepOpen => {
            let _ = stream.read(&mut [0]).await;
        }
        End::Endless => while stream.write_all(&[b'a'; 1024]).await.is_ok() {},
        End::Drip => {
            while stream.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Makes the end of a connection a reset.
pub(super) fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Starts a receiver that serves each connection with `serve`.
pub(super) async fn start<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (String, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    (format!("http://127.0.0.1:{port}/"), port)
}

/// Starts a receiver that answers each connection's one request with these bytes.
pub(super) async fn raw(bytes: &[u8], end: End) -> String {
    let bytes = bytes.to_vec();
    let serve = move |mut stream: TcpStream| {
        let bytes = bytes.clone();
        async move {
            if end == End::Reset {
                reset(&stream);
            }
            answer(&mut stream, &bytes, end).await;
        }
    };
    start(serve).await.0
}

pub(super) fn status(exchange: &Exchange) -> u16 {
    match exchange {
        Exchange::Answered(answer) => answer.status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_2xx_status_line_is_a_delivery_whatever_follows() {
    let many_lines = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X-A: b\r\n".repeat(111));
    let too_many_lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(5000));
    let large_head = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "b".repeat(200_000));
    let long_line = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\nContent-Length: 2\r\n\r\nok", "b".repeat(40_000));
    let long_name = format!("HTTP/1.1 200 OK\r\n{}: b\r\nContent-Length: 2\r\n\r\nok", "a".repeat(70_000));
    let large_body = format!("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n{}", "b".repeat(3_000_000));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(50) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let chunked = |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let huge_chunk = chunked("FFFFFFFFFFFFFFFFFF\r\nok\r\n");
    let long_extension = chunked(&format!("2;{}\r\nok\r\n0\r\n\r\n", "a".repeat(40_000)));
    let untidy_trailer = chunked("2\r\nok\r\n0\r\nno colon\r\n\r\n");
    let no_trailer_end = chunked("2\r\nok\r\n0\r\n");
    let many_trailers = chunked(&format!("2\r\nok\r\n0\r\n{}\r\n", "X-A: b\r\n".repeat(5000)));
    let line_feeds_in_chunks = chunked("2\nok\n0\n\n");
    let cases: &[(&str, &str, End)] = &[
        ("shorter than announced", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", End::Close),
        ("shorter than announced, open", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", End::KeepOpen),
        ("longer than announced", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nokokok", End::Close),
        ("chunked, cut off", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", End::Close),
        ("chunked, wrong", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nab", End::KeepOpen),
        ("no length, open", "HTTP/1.1 200 OK\r\n\r\nok", End::KeepOpen),
        ("no length, closed", "HTTP/1.1 200 OK\r\n\r\nok", End::Close),
        ("endless", "HTTP/1.1 200 OK\r\n\r\n", End::Endless),
        ("endless head", "HTTP/1.1 200 OK\r\nX-A: ", End::Endless),
        ("endless, slow", "HTTP/1.1 200 OK\r\n\r\n", End::Drip),
        ("endless head, slow", "HTTP/1.1 200 OK\r\nX-A: ", End::Drip),
        ("endless chunk, slow", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", End::Drip),
        ("reset in the body", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", End::Reset),
        ("reset after the answer", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", End::Reset),
        ("reset in the head", "HTTP/1.1 200 OK\r\nContent-Le", End::Reset),
        ("reset without a length", "HTTP/1.1 200 OK\r\n\r\nok", End::Reset),
        ("huge chunk", &huge_chunk, End::KeepOpen),
        ("long chunk extension", &long_extension, End::KeepOpen),
        ("untidy trailer", &untidy_trailer, End::KeepOpen),
        ("no end of the trailer", &no_trailer_end, End::Close),
        ("5000 trailer lines", &many_trailers, End::KeepOpen),
        ("line feeds in chunks", &line_feeds_in_chunks, End::KeepOpen),
        ("3 MB of body", &large_body, End::KeepOpen),
        ("line of 40 kB", &long_line, End::KeepOpen),
        ("name of 70 kB", &long_name, End::KeepOpen),
        ("50 interim answers", &interim, End::KeepOpen),
        ("line feeds alone", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", End::KeepOpen),
        ("line feeds, no reason", "HTTP/1.1 200\n\n", End::Close),
        ("latin-1 reason", "HTTP/1.1 200 D\u{e9}livr\u{e9}\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("control character in the reason", "HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("no space after the status", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("line of a tab", "HTTP/1.1 200 OK\r\n\t\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("tab before colon", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A\t: b\r\n\r\nok", End::KeepOpen),
        ("empty value", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A:\r\n\r\nok", End::KeepOpen),
        ("carriage return alone", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\rc\r\n\r\nok", End::KeepOpen),
        ("delete character", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\x7fc\r\n\r\nok", End::KeepOpen),
        ("space in a name", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX A: b\r\n\r\nok", End::KeepOpen),
        ("equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", End::KeepOpen),
        ("empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", End::KeepOpen),
        (
            "chunked and a length",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            End::KeepOpen,
        ),
        ("unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: brotli\r\n\r\nok", End::KeepOpen),
        ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", End::KeepOpen),
        ("broken gzip", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("two answers", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 No\r\n\r\n", End::Close),
        ("205 with a body", "HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("204 with a bare body", "HTTP/1.1 204 No Content\r\n\r\nok", End::KeepOpen),
        ("206", "HTTP/1.1 206 Partial\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("299", "HTTP/1.1 299 Fine\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("untidy interim answer", "HTTP/1.1 103 Early\r\nX A : b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", End::Close),
        ("empty lines before", "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("HTTP/1.0 kept", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("HTTP/1.0 without an end", "HTTP/1.0 200 OK\r\n\r\nok", End::KeepOpen),
        ("HTTP/1.0 reset", "HTTP/1.0 200 OK\r\n\r\nok", End::Reset),
        ("control character", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b\x01c\r\n\r\nok", End::KeepOpen),
        ("zero byte", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b\0c\r\n\r\nok", End::KeepOpen),
        ("space before colon", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A : b\r\n\r\nok", End::KeepOpen),
        ("folded line", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b;\r\n c\r\n\r\nok", End::KeepOpen),
        ("first line folded", "HTTP/1.1 200 OK\r\n X-A: b\r\n\r\n", End::KeepOpen),
        ("no colon", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nnonsense\r\n\r\nok", End::KeepOpen),
        ("no name", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n: b\r\n\r\nok", End::KeepOpen),
        ("latin-1", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-\u{fc}: \u{fc}\r\n\r\nok", End::KeepOpen),
        ("111 lines", &many_lines, End::KeepOpen),
        ("5000 lines", &too_many_lines, End::KeepOpen),
        ("200 kB of head", &large_head, End::KeepOpen),
        ("head cut off", "HTTP/1.1 200 OK\r\nContent-Le", End::Close),
        ("head open", "HTTP/1.1 200 OK\r\nContent-Le", End::KeepOpen),
        ("status line alone", "HTTP/1.1 200 OK\r\n", End::Close),
        ("no reason", "HTTP/1.1 200\r\n\r\n", End::Close),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok", End::Close),
        (
            "HTTP/1.0 chunked",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            End::KeepOpen,
        ),
        ("identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", End::KeepOpen),
        ("no number", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", End::KeepOpen),
        ("negative", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok", End::KeepOpen),
        ("huge", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", End::KeepOpen),
        ("204 with body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen),
        ("202 after 103", "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 202 Accepted\r\nX: ", End::Close),
        (
            "upgrade",
            "HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
            End::KeepOpen,
        ),
    ];
    let exchanges = cases.iter().map(|(case, bytes, end)| async move {
        let url = raw(bytes.as_bytes(), *end).await;
        (case, exchange_within(&client(&config()), &url, 1500).await)
    });
    for (case, exchange) in futures_util::future::join_all(exchanges).await {
        assert!(
            matches!(&exchange, Exchange::Answered(answer) if (200..300).contains(&answer.status)),
            "{case}: {exchange:?}"
        );
    }
}

#[tokio::test]
async fn other_answers_are_judged_by_their_status_line_too() {
    for (bytes, expected) in [
        ("HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nno", 500),
        ("HTTP/1.1 503 No\r\nRetry-After: 7", 503),
        ("HTTP/1.1 410 Gone\r\nX-A\r\n\r\n", 410),
        ("HTTP/1.1 307 Elsewhere\r\nLocation: https://example.com/\r\n\r\n", 307),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", 101),
        ("HTTP/1.1 408 Too late\r\nConnection: close\r\n\r\n", 408),
        ("HTTP/1.1 599 No", 599),
    ] {
        let url = raw(bytes.as_bytes(), End::Close).await;
        assert_eq!(status(&exchange(&client(&config()), &url).await), expected, "{bytes}");
    }
    for bytes in [
        "",
        "\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 2xx OK\r\n\r\n",
        "HTTP/1.1 20",
        "<html>200</html>",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        // A receiver of HTTP/2 alone begins with its settings.
        "\0\0\0\x04\0\0\0\0\0",
        // One of TLS alone answers with an alert.
        "\x15\x03\x01\0\x02\x02\x46",
    ] {
        let url = raw(bytes.as_bytes(), End::Close).await;
        let exchange = exchange(&client(&config()), &url).await;
        assert!(matches!(&exchange, Exchange::Failed(_)), "{bytes}: {exchange:?}");
    }
}

#[tokio::test]
async fn the_flaw_of_an_answer_is_told() {
    for (bytes, end, told) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", End::Close, "its body broke off"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", End::KeepOpen, "its body did not end in time"),
        ("HTTP/1.1 200 OK\r\nX-A", End::KeepOpen, "its head did not end in time"),
        ("HTTP/1.1 200 OK\r\nX-A", End::Close, "its head could not be read"),
    ] {
        let url = raw(bytes.as_bytes(), end).await;
        let Exchange::Answered(answer) = exchange_within(&client(&config()), &url, 500).await else {
            panic!("{bytes}")
        };
        assert!(answer.flaw.as_ref().is_some_and(|flaw| flaw.starts_with(told)), "{answer:?}");
    }
    let url = raw(b"HTTP/1.1 200 OK\r\n\r\nok", End::Close).await;
    let Exchange::Answered(answer) = exchange(&client(&config()), &url).await else { panic!() };
    assert_eq!(answer, EndpointAnswer { status: 200, body: Bytes::from_static(b"ok"), ..EndpointAnswer::default() });
}

#[tokio::test]
async fn no_more_than_16_kib_of_a_body_and_the_ids_of_a_batch_are_read() {
    let client = client(&config());
    for (events, ids) in [(1, 0), (1000, 999 * "  \"evt_01KGQ7ZJ4GE01A80000000002A\",\r\n".len())] {
        let url = raw(b"HTTP/1.1 200 OK\r\n\r\n", End::Endless).await;
        let limits = ExchangeLimits::new(Duration::from_secs(20), events);
        let answered = client.exchange(&RequestTarget::parse(&url).unwrap(), post, limits).await;
        let Exchange::Answered(answer) = answered else { panic!("{answered:?}") };
        assert!((READ_BYTES + ids..READ_BYTES + 65_000).contains(&answer.body.len()), "{}", answer.body.len());
        assert_eq!(answer.flaw, None);
    }
}

#[tokio::test]
async fn a_failure_says_how_far_it_came() {
    let client = client(&config());
    let reason = |exchange| match exchange {
        Exchange::Failed(reason) => reason,
        other => panic!("{other:?}"),
    };
    let silent = raw(b"", End::KeepOpen).await;
    assert_eq!(reason(exchange_within(&client, &silent, 100).await), "no answer within 100 ms");
    let closing = raw(b"", End::Close).await;
    let told = reason(exchange(&client, &closing).await);
    assert!(told.starts_with("connected, but the connection broke before an answer: "), "{told}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let told = reason(exchange(&client, &format!("http://{closed}/")).await);
    assert!(told.starts_with(&format!("cannot connect to {closed}: Connection refused")), "{told}");
    let told = reason(exchange(&client, "http://127.0.0.1:22/").await);
    assert!(told.contains("port 22"), "{told}");
}

#[tokio::test]
async fn a_kept_connection_that_is_dead_costs_no_attempt() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    // Answers one request, reads the second, and closes.
    let (url, _) = start(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            if read_request(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                read_request(&mut stream).await;
            }
        }
    })
    .await;
    let client = client(&config());
    for _ in 0..10 {
        assert_eq!(status(&exchange(&client, &url).await), 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_inside_an_answer_is_not_asked_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let (url, _) = start(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            read_request(&mut stream).await;
            counted.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            read_request(&mut stream).await;
            counted.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 2").await.unwrap();
        }
    })
    .await;
    let client = client(&config());
    assert_eq!(status(&exchange(&client, &url).await), 200);
    assert!(matches!(exchange(&client, &url).await, Exchange::Failed(_)));
    assert_eq!(requests.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn the_status_of_one_answer_is_not_taken_for_the_next() {
    // The second request on the connection is never answered.
    let (url, _) = start(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        read_request(&mut stream).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let client = client(&config());
    assert_eq!(status(&exchange(&client, &url).await), 200);
    assert_eq!(exchange_within(&client, &url, 200).await, Exchange::Failed("no answer within 200 ms".to_owned()));
}

#[tokio::test]
async fn a_connection_is_kept_and_the_requests_are_whole() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let (url, port) = start(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let client = client(&config());
    for _ in 0..5 {
        let Exchange::Answered(answer) = exchange(&client, &format!("{url}a%2Fb?c=d#e")).await else { panic!() };
        let request = str::from_utf8(&answer.body).unwrap().to_ascii_lowercase();
        assert!(request.starts_with("post /a%2fb?c=d http/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("\r\nhost: 127.0.0.1:{port}\r\n")), "{request}");
        assert!(request.contains("\r\ncontent-length: 2\r\n"), "{request}");
        assert!(request.contains("\r\nwebhook-id: evt_1\r\n"), "{request}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn sockets_and_exchanges_that_are_short_are_our_fault() {
    let silent = raw(b"", End::KeepOpen).await;
    for config in [Config { max_connections: 1, ..config() }, Config { max_exchanges: 1, ..config() }] {
        let client = client(&config);
        let target = RequestTarget::parse(&silent).unwrap();
        let first = client.exchange(&target, post, ExchangeLimits::new(Duration::from_millis(600), 1));
        let second = async {
            tokio::task::yield_now().await;
            client.exchange(&target, post, ExchangeLimits::new(Duration::from_millis(100), 1)).await
        };
        let (first, second) = tokio::join!(first, second);
        assert!(matches!(first, Exchange::Failed(_)), "{first:?}");
        assert!(matches!(second, Exchange::Ours(_)), "{second:?}");
    }
    // A kept connection makes room.
    let client = client(&Config { max_connections: 1, ..config() });
    for _ in 0..3 {
        let url = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen).await;
        assert_eq!(status(&exchange(&client, &url).await), 200);
    }
}

/// An authority of this test's own, and a receiver's settings with a certificate of it for
/// `localhost`.
pub(super) fn authority(alpn: &[&str]) -> (tempfile::NamedTempFile, TlsAcceptor) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(signed.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signed.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    (file, TlsAcceptor::from(Arc::new(server)))
}

pub(super) fn trusting(ca_file: &tempfile::NamedTempFile) -> Config {
    Config { ca_file: Some(ca_file.path().to_owned()), ..config() }
}

#[tokio::test]
async fn a_close_without_close_notify_ends_the_body() {
    let (ca_file, acceptor) = authority(&[]);
    let (_, port) = start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut tls) = acceptor.accept(stream).await else { return };
            answer(&mut tls, b"HTTP/1.0 200 OK\r\n\r\nok", End::Close).await;
            // The TCP connection ends, and TLS says nothing of it.
            let (mut tcp, _) = tls.into_inner();
            tcp.shutdown().await.unwrap();
        }
    })
    .await;
    for host in ["localhost", "localhost.", "127.0.0.1"] {
        let Exchange::Answered(answer) =
            exchange(&client(&trusting(&ca_file)), &format!("https://{host}:{port}/")).await
        else {
            panic!("{host}")
        };
        assert_eq!(
            answer,
            EndpointAnswer { status: 200, body: Bytes::from_static(b"ok"), ..EndpointAnswer::default() }
        );
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let (ca_file, acceptor) = authority(&["http/1.1"]);
    let (_, port) = start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut tls) = acceptor.accept(stream).await {
                answer(&mut tls, b"HTTP/1.1 204 No Content\r\n\r\n", End::KeepOpen).await;
            }
        }
    })
    .await;
    let url = format!("https://localhost:{port}/");
    assert_eq!(status(&exchange(&client(&trusting(&ca_file)), &url).await), 204);
    let Exchange::Failed(reason) = exchange(&client(&config()), &url).await else { panic!("trusted") };
    assert!(reason.starts_with("TLS with ") && reason.contains("UnknownIssuer"), "{reason}");
}

#[tokio::test]
async fn a_handshake_that_hangs_is_told_and_frees_its_socket() {
    let (url, port) = start(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let client = client(&Config { max_connections: 1, ..config() });
    for _ in 0..2 {
        let Exchange::Failed(reason) = exchange_within(&client, &format!("https://127.0.0.1:{port}/"), 200).await
        else {
            panic!("answered")
        };
        assert!(reason.contains("its TLS handshake did not end in time"), "{reason} {url}");
    }
}

/// Starts a receiver of HTTP/2 that takes `streams` requests at a time and counts its
/// connections. It sends GOAWAY after `requests` answers.
async fn http2(acceptor: TlsAcceptor, streams: u32, requests: usize) -> (u16, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let (_, port) = start(move |stream| {
        let acceptor = acceptor.clone();
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let answered = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&answered);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let counted = Arc::clone(&counted);
                async move {
                    assert_eq!(request.version(), http::Version::HTTP_2);
                    assert_eq!(request.uri().path(), "/a");
                    assert_eq!(request.headers()["webhook-id"], "evt_1");
                    let body = request.into_body().collect().await?.to_bytes();
                    counted.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .max_concurrent_streams(streams)
                .serve_connection(hyper_util::rt::TokioIo::new(tls), service);
            let mut connection = std::pin::pin!(connection);
            let mut going_away = false;
            std::future::poll_fn(|context| {
                if !going_away && answered.load(Ordering::Relaxed) >= requests {
                    going_away = true;
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(context)
            })
            .await
            .unwrap_or_default();
        }
    })
    .await;
    (port, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_where_the_endpoint_chooses_it() {
    let (ca_file, acceptor) = authority(&["h2", "http/1.1"]);
    let (port, connections) = http2(acceptor, 2, usize::MAX).await;
    let client = client(&trusting(&ca_file));
    let url = format!("https://localhost:{port}/a");
    assert_eq!(status(&exchange(&client, &url).await), 200);
    // More at once than the endpoint takes streams.
    let answers = futures_util::future::join_all((0..50).map(|_| exchange(&client, &url))).await;
    for answer in answers {
        assert_eq!(status(&answer), 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_says_goaway_is_asked_on_a_new_connection() {
    let (ca_file, acceptor) = authority(&["h2"]);
    let (port, connections) = http2(acceptor, 100, 5).await;
    let client = client(&trusting(&ca_file));
    let url = format!("https://localhost:{port}/a");
    for _ in 0..40 {
        assert_eq!(status(&exchange(&client, &url).await), 200);
    }
    assert!(connections.load(Ordering::Relaxed) >= 4);
}

#[tokio::test]
async fn all_goes_through_the_proxy_to_the_checked_address() {
    let tunnels = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = Arc::clone(&tunnels);
    let (proxy, _) = start(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
            seen.lock().push(target.clone());
            let Ok(mut target) = TcpStream::connect(target).await else {
                stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.unwrap();
                return;
            };
            stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: a\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut target).await;
        }
    })
    .await;
    let through = Config { proxy: Some(proxy.clone().try_into().unwrap()), ..config() };
    let receiver = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", End::KeepOpen).await;
    let port = receiver.trim_end_matches('/').rsplit(':').next().unwrap().to_owned();
    assert_eq!(status(&exchange(&client(&through), &receiver).await), 200);
    assert_eq!(*tunnels.lock(), [format!("127.0.0.1:{port}")]);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let Exchange::Failed(reason) = exchange(&client(&through), &format!("http://{closed}/")).await else { panic!() };
    assert!(reason.contains("the proxy answered 502"), "{reason}");
    // The address is checked before the proxy is asked.
    let strict = Config { allow_private: false, ..through };
    let Exchange::Failed(reason) = exchange(&client(&strict), &receiver).await else { panic!() };
    assert!(reason.contains("loopback"), "{reason}");
    assert_eq!(tunnels.lock().len(), 2);
    // Without the proxy nothing can be sent, which is no endpoint's fault.
    let gone = Config { proxy: Some(format!("http://{closed}").try_into().unwrap()), ..config() };
    let exchange = exchange(&client(&gone), &receiver).await;
    assert!(matches!(&exchange, Exchange::Ours(reason) if reason.contains("webhook.proxy")), "{exchange:?}");
}
