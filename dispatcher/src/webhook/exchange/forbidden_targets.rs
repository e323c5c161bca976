//! The targets that nobody may make clickhook send to: this machine, private networks,
//! the metadata services of clouds, however they are written. A sentinel listens on this
//! machine, and proves that nothing reaches it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{ExchangeLimits, HttpClient, RequestTarget, name_server::NameServer};
use crate::webhook::{config::Config, metrics::NameMetrics, outcome::Exchange};

/// Hosts whose spelling says where they lead.
const HOSTS: &[&str] = &[
    // This machine, as people and parsers write it.
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7F.1",
    "0177.0.0.1",
    "0177.0x0.0.01",
    "0",
    "0.0.0.0",
    "0x0",
    "0.1.2.3",
    "%31%32%37.0.0.1",
    "127%2e0.0.1",
    "127\u{3002}0\u{3002}0\u{3002}1",
    "127\u{ff0e}0\u{ff0e}0\u{ff0e}1",
    "127\u{ff61}0\u{ff61}0\u{ff61}1",
    "127.000.000.001",
    "0x7f.0x0.0x0.0x1",
    "127.0x000001",
    "017700000001.",
    "12\t7.0.0.1",
    "127.0.\n0.1",
    "127\u{ad}.0.0.1",
    "127.0.0.1\\@acme.com",
    "127.0.0.1?",
    "127.0.0.1#",
    "127.0.0.1%00",
    "127.0.0.1%2f",
    "\u{1d7cf}\u{1d7d0}\u{1d7d5}.0.0.1",
    "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
    "\u{2460}\u{2461}\u{2466}.0.0.1",
    "acme.com@127.0.0.1",
    "acme.com:443@127.0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[::ffff:0:127.0.0.1]",
    "[::1%25lo]",
    "[::1%lo]",
    "[fe80::1%25eth0]",
    "[::ffff:0x7f.0.0.1]",
    "[::ffff:2130706433]",
    "[v1.127.0.0.1]",
    "me:hush@[::1]",
    // A tunnel's client behind a public relay (Teredo), and a relay of one's own (6to4).
    "[2001:0:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[2002:a9fe:a9fe::]",
    "[2002:c0a8:101::1]",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "a.localhost",
    "\u{24db}ocalhost",
    "\u{ff4c}\u{ff4f}calhost",
    "localhost\u{3002}",
    "%6cocalhost",
    // Metadata services.
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "169.254.169.254.",
    "169.254.170.2",
    "169.254.43518",
    "[::169.254.169.254]",
    "[fe80::a9fe:a9fe]",
    // Private and special networks.
    "10.0.0.1",
    "10.255.255.255",
    "0xa000001",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "192.168.257",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "100.127.255.254",
    "198.19.255.254",
    "224.0.0.1",
    "224.0.0.251",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[ff02::1]",
    "[ff02::fb]",
    "[ff05::1:3]",
    "[::ffff:10.0.0.1]",
    "[::ffff:192.168.0.1]",
    "[::ffff:100.64.0.1]",
    "[64:ff9b::a00:1]",
    "[64:ff9b::c0a8:1]",
    "[64:ff9b:1:fffe::a00:1]",
    "[2001::1]",
    "[2001:db8::1]",
    "[2002:a00:1::]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
];

/// Names, and the addresses that their name server gives.
const NAMES: &[(&str, &[&str])] = &[
    ("loopback", &["127.0.0.1"]),
    ("loopback6", &["::1"]),
    ("mapped", &["::ffff:127.0.0.1"]),
    ("compatible", &["::127.0.0.1"]),
    ("nat64", &["64:ff9b::127.0.0.1"]),
    ("unspecified", &["0.0.0.0"]),
    ("unspecified6", &["::"]),
    ("metadata", &["169.254.169.254"]),
    ("metadata6", &["fd00:ec2::254"]),
    ("private", &["10.0.0.1", "192.168.1.1", "172.16.0.1"]),
    ("both", &["127.0.0.1", "::1"]),
    ("carrier", &["100.64.0.1"]),
    ("broadcast", &["255.255.255.255"]),
    ("multicast", &["224.0.0.1", "ff02::1"]),
    ("linklocal", &["fe80::1", "169.254.1.1"]),
    ("sixtofour", &["2002:7f00:1::"]),
    ("teredo", &["2001:0:7f00:1::"]),
    ("translated", &["64:ff9b:1::7f00:1", "::ffff:0:127.0.0.1"]),
    ("many", &["127.0.0.1", "127.0.0.2", "10.0.0.1", "::1", "fd00::1", "169.254.169.254", "0.0.0.0", "192.168.0.1"]),
];

/// A listener on every address of this machine, which counts who comes.
struct Sentinel {
    port: u16,
    reached: Arc<AtomicUsize>,
}

impl Sentinel {
    fn start() -> Self {
        // One socket takes connections of both families.
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        socket.listen(128).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reached);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsecret").await;
                });
            }
        });
        Self { port, reached }
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }
}

fn post() -> Result<Request<Full<Bytes>>, http::Error> {
    Request::post("/").body(Full::new(Bytes::from_static(b"{}")))
}

async fn exchange(client: &HttpClient, url: &str) -> Exchange {
    match RequestTarget::parse(url) {
        Ok(target) => client.exchange(&target, post, ExchangeLimits::new(Duration::from_secs(10), 1)).await,
        Err(reason) => Exchange::Failed(reason),
    }
}

/// A client of a strict installation that also allows plain HTTP, so that nothing but the
/// address can refuse a target.
fn strict() -> Config {
    Config { allow_http: true, ..Config::default() }
}

#[tokio::test]
async fn no_spelling_leads_into_a_network_that_is_not_public() {
    let sentinel = Sentinel::start();
    let client = HttpClient::new(&strict(), NameMetrics::default()).unwrap();
    for host in HOSTS {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{}/", sentinel.port);
            let exchange = exchange(&client, &url).await;
            let Exchange::Failed(reason) = &exchange else { panic!("{url}: {exchange:?}") };
            assert!(reason.contains("public internet") || reason.contains("cannot be parsed"), "{url}: {reason}");
        }
    }
    assert_eq!(sentinel.reached(), 0);
    // The sentinel would have told: it is reached where it may be.
    let open = HttpClient::new(&Config { allow_private: true, ..strict() }, NameMetrics::default()).unwrap();
    let local = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "0",
    ];
    for (n, host) in local.iter().enumerate() {
        let reached = exchange(&open, &format!("http://{host}:{}/", sentinel.port)).await;
        assert!(matches!(reached, Exchange::Answered(_)), "{host}: {reached:?}");
        assert_eq!(sentinel.reached(), n + 1, "{host}");
    }
}

#[tokio::test]
async fn no_name_leads_into_a_network_that_is_not_public() {
    let sentinel = Sentinel::start();
    let server = NameServer::start(|question| {
        let name = question.name();
        let (_, addresses) = NAMES.iter().find(|(known, _)| *known == name)?;
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Some(question.answer(&addresses))
    })
    .await;
    let mut client = HttpClient::new(&strict(), NameMetrics::default()).unwrap();
    client.dialer.names = server.names();
    for (name, _) in NAMES {
        let url = format!("http://{name}.example.:{}/", sentinel.port);
        let exchange = exchange(&client, &url).await;
        let Exchange::Failed(reason) = &exchange else { panic!("{url}: {exchange:?}") };
        assert!(reason.contains("public internet"), "{url}: {reason}");
    }
    assert_eq!(sentinel.reached(), 0);
}

#[tokio::test]
async fn of_the_addresses_of_a_name_only_those_that_are_allowed_are_asked() {
    // Both listen on one port of this machine, on different addresses.
    let allowed = TcpListener::bind("127.0.0.79:0").await.unwrap();
    let port = allowed.local_addr().unwrap().port();
    let refused = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let server = NameServer::start(|question| {
        let name = question.name();
        let mut addresses: Vec<IpAddr> = (1..=50).map(|_| IpAddr::from([127, 0, 0, 1])).collect();
        addresses.insert(if name == "first" { 0 } else { 50 }, IpAddr::from([127, 0, 0, 79]));
        Some(question.answer(if name == "few" { &addresses[49..] } else { &addresses }))
    })
    .await;
    let policy = Config { allow_nets: vec!["127.0.0.79/32".parse().unwrap()], ..strict() };
    let mut client = HttpClient::new(&policy, NameMetrics::default()).unwrap();
    client.dialer.names = server.names();
    for name in ["first", "last", "few"] {
        let url = format!("http://{name}.example.:{port}/");
        let answering = async {
            let (mut stream, _) = allowed.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
        };
        let (answered, ()) = tokio::join!(exchange(&client, &url), answering);
        assert!(matches!(answered, Exchange::Answered(_)), "{name}: {answered:?}");
    }
    // Nor are the others where the allowed one does not answer.
    drop(allowed);
    let failed = exchange(&client, &format!("http://last.example.:{port}/")).await;
    assert!(matches!(&failed, Exchange::Failed(reason) if reason.contains("127.0.0.79")), "{failed:?}");
    let nobody = tokio::time::timeout(Duration::from_millis(50), refused.accept()).await;
    assert!(nobody.is_err(), "{nobody:?}");
}

#[tokio::test]
async fn a_proxy_is_asked_for_no_target_that_is_not_public() {
    let proxy = Sentinel::start();
    let server = NameServer::start(|question| {
        let name = question.name();
        let (_, addresses) = NAMES.iter().find(|(known, _)| *known == name)?;
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Some(question.answer(&addresses))
    })
    .await;
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let through = Config { proxy: Some(address.try_into().unwrap()), ..strict() };
    let mut client = HttpClient::new(&through, NameMetrics::default()).unwrap();
    let failed = async |client: &HttpClient, url: &str| {
        let exchange = exchange(client, url).await;
        assert!(matches!(&exchange, Exchange::Failed(_)), "{url}: {exchange:?}");
    };
    for host in HOSTS {
        failed(&client, &format!("https://{host}:8443/")).await;
    }
    client.dialer.names = server.names();
    for (name, _) in NAMES {
        failed(&client, &format!("https://{name}.example.:8443/")).await;
    }
    assert_eq!(proxy.reached(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_each_time() {
    let sentinel = Sentinel::start();
    let asked = AtomicUsize::new(0);
    // The answer to the first two questions, one a family, is an address that is allowed.
    let server = NameServer::start(move |question| {
        let is_first = asked.fetch_add(1, Ordering::SeqCst) < 2;
        Some(question.answer(&[IpAddr::from([127, 0, 0, if is_first { 78 } else { 1 }])]))
    })
    .await;
    let listener = TcpListener::bind("127.0.0.78:0").await.unwrap();
    let url = format!("http://rebinding.example.:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
    });
    let allowed = Config { allow_nets: vec!["127.0.0.78/32".parse().unwrap()], ..strict() };
    let mut client = HttpClient::new(&allowed, NameMetrics::default()).unwrap();
    client.dialer.names = server.names();
    let answered = exchange(&client, &url).await;
    assert!(matches!(answered, Exchange::Answered(_)), "{answered:?}");
    // The resolver forgets the first answer.
    client.dialer.names = server.names();
    let refused = exchange(&client, &url).await;
    assert!(matches!(&refused, Exchange::Failed(reason) if reason.contains("loopback")), "{refused:?}");
    assert_eq!(sentinel.reached(), 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let sentinel = Sentinel::start();
    let listener = TcpListener::bind("127.0.0.77:0").await.unwrap();
    let receiver = listener.local_addr().unwrap();
    let allowed = Config { allow_nets: vec!["127.0.0.77/32".parse().unwrap()], ..strict() };
    let client = HttpClient::new(&allowed, NameMetrics::default()).unwrap();
    // Whatever names another address: redirects, refreshes, and alternative services.
    for status in [200, 201, 300, 301, 302, 303, 305, 307, 308, 401, 503] {
        let to = format!("http://127.0.0.1:{}/", sentinel.port);
        let head = format!(
            "HTTP/1.1 {status} Elsewhere\r\nLocation: {to}\r\nContent-Location: {to}\r\nRefresh: 0; url={to}\r\n\
             Alt-Svc: h2=\"127.0.0.1:{}\"\r\nLink: <{to}>; rel=preload\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n",
            sentinel.port
        );
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(head.as_bytes()).await.unwrap();
        };
        let url = format!("http://{receiver}/");
        let (answered, ()) = tokio::join!(exchange(&client, &url), answering);
        assert!(matches!(&answered, Exchange::Answered(answer) if answer.status == status), "{answered:?}");
    }
    let refused = exchange(&client, &format!("http://127.0.0.1:{}/", sentinel.port)).await;
    assert!(matches!(&refused, Exchange::Failed(reason) if reason.contains("loopback")), "{refused:?}");
    assert_eq!(sentinel.reached(), 0);
}

#[tokio::test]
async fn other_schemes_and_the_ports_of_other_services_are_refused() {
    let client = HttpClient::new(&Config { allow_private: true, ..strict() }, NameMetrics::default()).unwrap();
    for scheme in ["ftp", "file", "gopher", "dict", "ldap", "ws", "unix", "data"] {
        let url = format!("{scheme}://127.0.0.1:6379/");
        let refused = exchange(&client, &url).await;
        assert!(
            matches!(&refused, Exchange::Failed(reason) if reason.contains("neither https://") || reason.contains("cannot be parsed")),
            "{url}: {refused:?}"
        );
    }
    for port in [1, 21, 22, 23, 25, 53, 110, 111, 135, 139, 143, 389, 445, 465, 587, 631, 993, 995] {
        let url = format!("https://127.0.0.1:{port}/");
        let refused = exchange(&client, &url).await;
        assert!(matches!(&refused, Exchange::Failed(reason) if reason.contains("port")), "{url}: {refused:?}");
    }
}
