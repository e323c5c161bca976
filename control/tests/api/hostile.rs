//! Hostile and broken requests, and their answers: a status, and the field that the problem names.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Api, KEY, leader};

/// A request with the expected answer.
struct Hostile {
    method: &'static str,
    path: String,
    /// The header lines, each with its end.
    headers: &'static str,
    body: Vec<u8>,
    status: u16,
    /// The field that the problem names; empty if it names none.
    field: &'static str,
}

fn send(method: &'static str, path: impl Into<String>, status: u16) -> Hostile {
    Hostile { method, path: path.into(), headers: "", body: Vec::new(), status, field: "" }
}

fn post(body: impl Into<Vec<u8>>, status: u16, field: &'static str) -> Hostile {
    Hostile { body: body.into(), field, ..send("POST", "/v1/links", status) }
}

/// A link with one wrong field.
fn link(field: &'static str, value: &Value) -> Hostile {
    let mut body = json!({"destination": "https://a.example/"});
    body[field] = value.clone();
    post(body.to_string(), 422, field)
}

fn destination(text: &str) -> Hostile {
    link("destination", &json!(text))
}

fn endpoint(body: &Value, field: &'static str) -> Hostile {
    Hostile { path: "/v1/endpoints".to_owned(), ..post(body.to_string(), 422, field) }
}

fn patch(id: &str, headers: &'static str, body: &str, status: u16, field: &'static str) -> Hostile {
    let path = format!("/v1/links/{id}");
    Hostile { headers, body: body.into(), field, ..send("PATCH", path, status) }
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}{}", open.repeat(depth), close.repeat(depth))
}

/// Bodies that are not JSON, or not the expected JSON.
fn bodies() -> Vec<Hostile> {
    let long = "a".repeat(2 << 20);
    vec![
        post("", 400, ""),
        post(" ", 400, ""),
        post("{", 400, ""),
        post("}", 400, ""),
        post("{\"destination\"", 400, ""),
        post("{\"destination\":\"https://a.example/\"", 400, ""),
        post("{\"destination\":\"https://a.example/\",}", 400, ""),
        post("{\"destination\":\"https://a.example/\"}{}", 400, ""),
        post("{'destination':'https://a.example/'}", 400, ""),
        post("{destination:1}", 400, ""),
        post("{\"destination\":\"https://a.example/\"} //", 400, ""),
        post("{\"destination\":undefined}", 400, ""),
        post("{\"destination\":NaN}", 400, ""),
        post("{\"destination\":\"a\nb\"}", 400, ""),
        post("{\"destination\":\"a\0b\"}", 400, ""),
        post("\u{feff}{\"destination\":\"https://a.example/\"}", 400, ""),
        post(&b"{\"destination\":\"\xff\xfe\"}"[..], 400, ""),
        post(&b"{\"destination\":\"https://a.example/\xc0\xaf\"}"[..], 400, ""),
        post(&b"\xff\xfe{\x00}\x00"[..], 400, ""),
        post("{\"destination\":\"\\ud800\"}", 400, ""),
        post("{\"destination\":\"\\udc00\\ud800\"}", 400, ""),
        post("{\"destination\":\"\\x41\"}", 400, ""),
        post("{\"destination\":\"https://a.example/\",\"max_clicks\":01}", 400, ""),
        post("{\"destination\":\"https://a.example/\",\"max_clicks\":+1}", 400, ""),
        post("{\"destination\":\"https://a.example/\",\"max_clicks\":1e999}", 400, ""),
        post(nested("[", "]", 100_000), 422, "(body)"),
        post(format!("{{\"destination\":{}}}", nested("[", "]", 100_000)), 422, "destination"),
        post(format!("{{\"x\":{}}}", nested("{\"x\":", "}", 10_000)), 422, "x"),
        post("null", 422, "(body)"),
        post("true", 422, "(body)"),
        post("\"https://a.example/\"", 422, "(body)"),
        post("[{\"destination\":\"https://a.example/\"}]", 422, "(body)"),
        post("[\"https://a.example/\"]", 422, "(body)"),
        post("{}", 422, "destination"),
        post("{\"__proto__\":{},\"destination\":\"https://a.example/\"}", 422, "__proto__"),
        post("{\"destination\":\"https://a.example/\",\"destination\":\"https://b.example/\"}", 422, "destination"),
        post(
            "{\"destination\":\"https://a.example/\",\"destin\\u0061tion\":\"https://b.example/\"}",
            422,
            "destination",
        ),
        post("{\"destination\":\"https://a.example/\",\"tags\":[],\"tags\":[]}", 422, "tags"),
        post("{\"destination\":\"https://a.example/\",\"workspace\":\"other\"}", 422, "workspace"),
        post("{\"destination\":\"https://a.example/\",\"id\":\"lnk_0\"}", 422, "id"),
        post("{\"destination\":\"https://a.example/\",\"revision\":9}", 422, "revision"),
        post(format!("{{\"destination\":\"{long}\"}}"), 413, ""),
        Hostile { headers: "Content-Encoding: gzip\r\n", ..post(&b"\x1f\x8b\x08\x00"[..], 400, "") },
        Hostile { headers: "Content-Type: text/xml\r\n", ..post("<destination/>", 400, "") },
    ]
}

/// Values that no link can have.
fn values() -> Vec<Hostile> {
    let many: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    vec![
        link("destination", &Value::Null),
        link("destination", &json!(["https://a.example/"])),
        link("destination", &json!({"$ne": ""})),
        link("tags", &json!("a")),
        Hostile { field: "tags[1]", ..link("tags", &json!(["a", 1])) },
        Hostile { field: "tags[0]", ..link("tags", &json!(["\u{0}"])) },
        link("tags", &json!(many)),
        link("status_code", &json!(200)),
        link("status_code", &json!(-302)),
        link("status_code", &json!(302.5)),
        link("status_code", &json!("302")),
        link("status_code", &json!(u64::MAX)),
        link("max_clicks", &json!(0)),
        link("max_clicks", &json!(-1)),
        link("max_clicks", &json!(1.5)),
        // JavaScript has no such number.
        link("max_clicks", &json!((1_u64 << 53) + 1)),
        link("max_clicks", &json!(u64::MAX)),
        post("{\"destination\":\"https://a.example/\",\"max_clicks\":18446744073709551616}", 422, "max_clicks"),
        post(
            format!("{{\"destination\":\"https://a.example/\",\"max_clicks\":{}}}", "9".repeat(300)),
            422,
            "max_clicks",
        ),
        link("starts_at", &json!("yesterday")),
        link("starts_at", &json!(1_770_301_425)),
        link("expires_at", &json!("2026-02-30T00:00:00Z")),
        link("expires_at", &json!("99999-01-01T00:00:00Z")),
        link("expires_at", &json!("2026-02-05T14:23:45")),
        link("disabled", &json!("false")),
        link("passthrough", &json!(1)),
        link("referrer_policy", &json!("no-referrer\r\nX: y")),
        link("slug", &json!("")),
        link("slug", &json!("../admin")),
        link("slug", &json!("a/b")),
        link("slug", &json!("a?b")),
        link("slug", &json!("a#b")),
        link("slug", &json!("a%2fb")),
        link("slug", &json!("a\\b")),
        link("slug", &json!("a b")),
        link("slug", &json!("a\u{0}")),
        link("slug", &json!("a\r\nSet-Cookie: b=c")),
        link("slug", &json!("\u{202e}evil")),
        link("slug", &json!("a\u{200b}b")),
        link("slug", &json!("v1")),
        link("slug", &json!("ROBOTS.TXT")),
        link("slug", &json!("a".repeat(65))),
        link("domain", &json!("evil.example/path")),
        link("domain", &json!("evil.example:80")),
        link("domain", &json!("user@evil.example")),
        link("domain", &json!("127.0.0.1")),
        link("domain", &json!("EVIL.example")),
        link("metadata", &json!([])),
        Hostile { field: "metadata.a", ..link("metadata", &json!({"a": 1})) },
        Hostile { field: "metadata.a", ..link("metadata", &json!({"a": {"b": "c"}})) },
        link("metadata", &json!({"": "x"})),
        link("external_id", &json!("")),
        link("external_id", &json!("a\nb")),
        link("external_id", &json!("a".repeat(256))),
        link("campaign", &json!("a\u{7}")),
    ]
}

/// Addresses to which no redirect may lead.
fn destinations() -> Vec<Hostile> {
    [
        "",
        " ",
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\tscript:alert(1)",
        "\u{1}javascript:alert(1)",
        "javascript://a.example/%0aalert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "file:///etc/passwd",
        "blob:https://a.example/x",
        "about:blank",
        "view-source:https://a.example/",
        "intent://a.example/#Intent;end",
        "ftp://a.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example\\",
        "evil.example",
        "https://",
        "https:///",
        "https://:80/",
        "https://a.example:99999/",
        "https://a b.example/",
        "https://a.example/\r\nLocation: https://evil.example/",
        "https://a.example/\nX: y",
        "https://a.example/\u{0}",
        "https://a.example/ ",
        "https://[::1",
        "https://exa%00mple.com/",
        "https://%zz/",
    ]
    .iter()
    .map(|text| destination(text))
    .chain([destination(&format!("https://a.example/{}", "a".repeat(10_000)))])
    .collect()
}

/// Addresses that no endpoint may have.
fn endpoints() -> Vec<Hostile> {
    let with = |field: &str, value: Value| {
        let mut body = json!({"url": "https://a.example/", "events": ["*"]});
        body[field] = value;
        body
    };
    let mut all: Vec<Hostile> = [
        "http://a.example/",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://user:password@a.example/",
        "gopher://a.example/",
    ]
    .iter()
    .map(|url| endpoint(&with("url", json!(url)), "url"))
    .collect();
    all.extend([
        endpoint(&with("events", json!([])), "events"),
        endpoint(&with("events", json!("*")), "events"),
        endpoint(&with("events", json!(["link.**"])), "events[0]"),
        endpoint(&with("timeout_ms", json!(0)), "timeout_ms"),
        endpoint(&with("batch", json!({"max_events": 1_000_000})), "batch.max_events"),
        endpoint(&with("batch", json!({"max_wait_ms": 4_000_000_000_u64})), "batch.max_wait_ms"),
        endpoint(&with("batch", json!({"max_bytes": 0})), "batch.max_bytes"),
        endpoint(&with("batch", json!(100)), "batch"),
        endpoint(&with("retry_schedule", json!([300])), "retry_schedule"),
        endpoint(&with("retry_schedule", json!([60, 300, 1800, 7200, 86400, 1])), "retry_schedule"),
        endpoint(&with("timeout_ms", json!(4_000_000_000_u64)), "timeout_ms"),
        endpoint(&with("filters", json!({"$where": "1"})), "filters"),
        endpoint(&with("headers", json!({"Host": "evil.example"})), "headers.Host"),
        endpoint(&with("headers", json!({"Content-Length": "0"})), "headers.Content-Length"),
        endpoint(&with("headers", json!({"webhook-signature": "v1,x"})), "headers.webhook-signature"),
        endpoint(&with("headers", json!({"X-A": "b\r\nX-C: d"})), "headers.X-A"),
        endpoint(&with("headers", json!({"X A": "b"})), "headers.X A"),
        endpoint(&with("secret", json!("whsec_mine")), "secret"),
        endpoint(&with("status", json!("disabled")), "status"),
    ]);
    all
}

/// Paths, queries and headers of attackers.
fn requests(id: &str) -> Vec<Hostile> {
    let one = format!("/v1/links/{id}");
    vec![
        send("GET", "/v1/links/..%2f..%2fetc%2fpasswd", 404),
        send("GET", "/v1/links/%00", 404),
        send("GET", "/v1/links/%ff", 400),
        send("GET", "/v1/links/%", 404),
        send("GET", "/v1//links", 404),
        send("GET", "/v1/links/", 404),
        send("GET", "/V1/links", 404),
        send("GET", "/v1/links;a=b", 404),
        send("GET", format!("{one}/"), 404),
        send("GET", format!("{one}%20"), 404),
        send("GET", one.to_lowercase(), 404),
        send("GET", "/v1/links/lnk_ZZZZZZZZZZZZZZZZZZZZZZZZZZ", 404),
        send("GET", format!("/v1/links/{}", "a".repeat(4000)), 404),
        send("GET", "/v1/stats/links/ep_00000000000000000000000000", 404),
        Hostile { field: "limit", ..send("GET", "/v1/links?limit=0", 422) },
        Hostile { field: "limit", ..send("GET", "/v1/links?limit=1000000", 422) },
        send("GET", "/v1/links?limit=-1", 400),
        send("GET", "/v1/links?limit=1e3", 400),
        send("GET", "/v1/links?limit=99999999999999999999", 400),
        send("GET", "/v1/links?limit=1&limit=2", 400),
        send("GET", "/v1/links?limit", 400),
        Hostile { field: "cursor", ..send("GET", "/v1/links?cursor=", 422) },
        Hostile { field: "cursor", ..send("GET", "/v1/links?cursor=%00", 422) },
        Hostile { field: "cursor", ..send("GET", "/v1/links?cursor=ep_00000000000000000000000000", 422) },
        Hostile { field: "cursor", ..send("GET", "/v1/links?cursor='%20OR%201=1--", 422) },
        send("GET", "/v1/links?colour=red", 400),
        send("TRACE", "/v1/links", 405),
        send("PUT", &*one, 405),
        send("BREW", "/v1/event-types", 405),
        patch(id, "If-Match: 1\r\n", "{}", 400, ""),
        patch(id, "If-Match: W/\"1\"\r\n", "{}", 412, ""),
        patch(id, "If-Match: \"1\r\n", "{}", 400, ""),
        patch(id, "If-Match: \"-1\"\r\n", "{}", 412, ""),
        patch(id, "If-Match: \"99999999999999999999\"\r\n", "{}", 412, ""),
        patch(id, "If-Match: \"7\", \"2\"\r\n", "{}", 412, ""),
        patch(id, "If-Match: \"1\" \"2\"\r\n", "{}", 400, ""),
        patch(id, "If-None-Match: *\r\n", "{}", 412, ""),
        patch(id, "If-None-Match: W/\"1\"\r\n", "{}", 412, ""),
        patch(id, "If-Match: \"1\"\r\nIf-None-Match: *\r\n", "{}", 400, ""),
        patch(id, "If-Match: \u{fc}\r\n", "{}", 400, ""),
        patch(id, "If-Match: \"7\"\r\n", "{}", 412, ""),
        patch(id, "", "[]", 422, "(body)"),
        patch(id, "", "{\"destination\":null}", 422, "destination"),
        patch(id, "", "{\"destination\":\"javascript:alert(1)\"}", 422, "destination"),
        patch(id, "", "{\"slug\":\"..\"}", 422, "slug"),
        patch(id, "", "{\"id\":\"lnk_0\"}", 422, "id"),
        patch(id, "", "{\"created_at\":\"2026-02-05T14:23:45Z\"}", 422, "created_at"),
    ]
}

/// Sends the bytes of a request as they are, and returns the head and the body of the answer.
async fn answer(api: Api, hostile: &Hostile) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let Hostile { method, path, headers, body, .. } = hostile;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    // The server may stop reading a refused body before its end.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn what_is_hostile_is_answered_with_a_problem_that_names_the_field() {
    let bus = testbed::bus().await;
    let instance = leader(&bus).await;
    let api = instance.api();
    let created = api.post("/v1/links", json!({"destination": "https://a.example/", "slug": "before"})).await;
    let id = created.body["id"].as_str().unwrap();
    let all: Vec<Hostile> =
        [bodies(), values(), destinations(), endpoints(), requests(id)].into_iter().flatten().collect();
    assert!(all.len() >= 80, "{}", all.len());
    let mut wrong = Vec::new();
    for hostile in &all {
        let (status, head, body) = answer(api, hostile).await;
        let fields: Vec<&str> =
            body["errors"].as_array().into_iter().flatten().filter_map(|error| error["field"].as_str()).collect();
        let named = if hostile.field.is_empty() { fields.is_empty() } else { fields.contains(&hostile.field) };
        let problem = head.contains("content-type: application/problem+json") && body["status"] == status;
        if status != hostile.status || !named || !problem {
            let sent: String = String::from_utf8_lossy(&hostile.body).chars().take(120).collect();
            let (method, path, headers) = (hostile.method, &hostile.path, hostile.headers);
            wrong.push(format!(
                "{method} {path} {headers:?} {sent}\n  wanted {} {:?}, was answered {status} {fields:?} {body}",
                hostile.status, hostile.field
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    // None of the requests has left a trace.
    assert_eq!(api.get("/v1/links").await.body["data"], json!([created.body]));
    assert_eq!(api.get("/v1/endpoints").await.body["data"], json!([]));
    instance.stop().await;
}
