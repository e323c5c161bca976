//! `clickhook listen`: a receiver on this machine that verifies webhooks,
//! prints a line for each event, explains why a webhook does not verify, and can be told
//! to fail, hang or be slow.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use dispatcher::webhook::{
    sign::{ATTEMPT, EVENT},
    verify::{Age, verify},
};
use schemas::{Event, Timestamp};
use serde_json::{json, value::RawValue};
use service::Shutdown;
use tokio::net::TcpListener;

use super::verify::SecretArgs;

/// Receive webhooks on this machine, verify and print them.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = r"Examples:
  clickhook listen --port 9000 --secret-file listen.secret &
  clickhook endpoints create --url http://127.0.0.1:9000/ --secret-file listen.secret

  clickhook listen --fail 503             # see how deliveries are tried again
  clickhook listen --json --count 1 | jq  # one event, for a program

A webhook that verifies is answered with 200, any other with 401. The file with the secret is
read at each request, so this may be started before the endpoint is created.")]
pub(crate) struct ListenArgs {
    /// The port to listen on, on this machine alone; 0 takes a free one.
    #[arg(long, default_value_t = 9000, conflicts_with = "addr")]
    port: u16,
    /// The address to listen on, as HOST:PORT, to be reached from elsewhere.
    #[arg(long, value_name = "ADDR")]
    addr: Option<SocketAddr>,
    #[command(flatten)]
    secret: SecretArgs,
    /// Answer everything with this status instead.
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..600))]
    fail: Option<u16>,
    /// Never answer.
    #[arg(long, conflicts_with = "fail")]
    hang: bool,
    /// Answer only after this number of milliseconds.
    #[arg(long, value_name = "MS")]
    slow: Option<u64>,
    /// Print a JSON object a line, with headers and body; the rest goes to
    /// standard error.
    #[arg(long)]
    json: bool,
    /// Exit after this number of webhooks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// The largest body that is read: more than any event.
const BODY_BYTES: usize = 16 * 1024 * 1024;
/// How long answers may take once enough webhooks have come.
const GRACE: Duration = Duration::from_secs(1);

struct Listener {
    args: ListenArgs,
    received: AtomicU64,
    enough: Shutdown,
}

/// The result of checking a webhook's signatures.
enum SignatureCheck {
    Verified,
    /// It could not be checked, for this reason.
    Unverified(String),
    /// It is not genuine, for this reason.
    Wrong(String),
}

/// Receives until `--count` webhooks have come, or for ever.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn run(args: ListenArgs) -> anyhow::Result<()> {
    let addr = args.addr.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)));
    let socket = TcpListener::bind(addr).await.with_context(|| {
        format!("listen on {addr}: is it taken by another process? Choose another with --port, or 0 for a free one")
    })?;
    let addr = socket.local_addr().context("ask for the address")?;
    let welcome = format!("listening on http://{addr}/  {}", how(&args.secret));
    if args.json {
        eprintln!("{welcome}");
    } else {
        say!("{welcome}");
    }
    let enough = Shutdown::new();
    let listener = Arc::new(Listener { args, received: AtomicU64::new(0), enough: enough.clone() });
    let router = Router::new().fallback(receive).with_state(listener);
    let stop = enough.clone();
    let serving = axum::serve(socket, router).with_graceful_shutdown(async move { stop.wait().await });
    tokio::select! {
        served = serving => served.context("receive webhooks"),
        // Requests that hang are not waited for.
        () = async { enough.wait().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

fn how(secret: &SecretArgs) -> String {
    match (secret.file(), secret.signers()) {
        (Some(path), Ok(none)) if none.is_empty() => format!("(verifies once {} is there)", path.display()),
        (None, Ok(none)) if none.is_empty() => "(verifies nothing: give --secret-file or --secret)".to_owned(),
        (_, Ok(_)) => "(verifies both signatures)".to_owned(),
        (_, Err(error)) => format!("(verifies nothing yet: {error:#})"),
    }
}

async fn receive(State(listener): State<Arc<Listener>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or was cut off").into_response();
    };
    let verdict = listener.verify(&parts.headers, &body);
    let line = if listener.args.json {
        as_json(&verdict, &parts.headers, &body)
    } else {
        as_line(&verdict, &parts.headers, &body)
    };
    let printed = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    let received = listener.received.fetch_add(1, Ordering::Relaxed) + 1;
    // The reader has closed the output, as `head -1` does, or enough have come.
    if printed.is_err() || listener.args.count.is_some_and(|count| received >= count) {
        listener.enough.trigger();
    }
    listener.answer(&verdict).await
}

impl Listener {
    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> SignatureCheck {
        match self.args.secret.signers() {
            Ok(none) if none.is_empty() => SignatureCheck::Unverified("no secret to verify it with".to_owned()),
            Ok(signers) => match verify(&signers, headers, body, Age::At(Timestamp::now())) {
                Ok(()) => SignatureCheck::Verified,
                Err(fault) => SignatureCheck::Wrong(fault.to_string()),
            },
            Err(error) => SignatureCheck::Unverified(format!("{error:#}")),
        }
    }

    async fn answer(&self, verdict: &SignatureCheck) -> Response {
        if self.args.hang {
            return std::future::pending().await;
        }
        if let Some(slow) = self.args.slow {
            tokio::time::sleep(Duration::from_millis(slow)).await;
        }
        if let Some(status) = self.args.fail {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return (status, "told to fail").into_response();
        }
        match verdict {
            SignatureCheck::Verified | SignatureCheck::Unverified(_) => StatusCode::OK.into_response(),
            SignatureCheck::Wrong(fault) => (StatusCode::UNAUTHORIZED, fault.clone()).into_response(),
        }
    }
}

/// Returns a line for people: the time, the event, its link, the visitor and whether
/// it is genuine; a second line gives the reason where it is not. A batch has a further line
/// for each event.
fn as_line(verdict: &SignatureCheck, headers: &HeaderMap, body: &[u8]) -> String {
    // The day is today.
    let now = Timestamp::now().to_string();
    let mut parts = vec![now.get(11..23).unwrap_or(&now).to_owned()];
    let batch: Option<Vec<&RawValue>> = serde_json::from_slice(body).ok();
    match (&batch, serde_json::from_slice::<Event<'_>>(body)) {
        (Some(events), _) => parts.push(format!("batch of {}", events.len())),
        (None, Ok(event)) => parts.extend(facts(&event)),
        (None, Err(_)) => match other_format(body) {
            Some(told) => parts.push(told),
            None => {
                parts.push(text(headers, EVENT).unwrap_or("no event's name").to_owned());
                parts.push(format!("a body of {} bytes that is no event", body.len()));
            }
        },
    }
    parts.extend(text(headers, ATTEMPT).map(|attempt| format!("attempt {attempt}")));
    parts.push(match verdict {
        SignatureCheck::Verified => "verified ✓".to_owned(),
        SignatureCheck::Unverified(why) => format!("not verified: {why}"),
        SignatureCheck::Wrong(fault) => format!("NOT GENUINE ✗\n    {fault}"),
    });
    let mut line = parts.join("  ");
    for event in batch.iter().flatten() {
        line.push_str("\n    ");
        match serde_json::from_str::<Event<'_>>(event.get()) {
            Ok(event) => line.push_str(&facts(&event).join("  ")),
            Err(_) => line.push_str(&other_format(event.get().as_bytes()).unwrap_or_else(|| "no event".to_owned())),
        }
    }
    // Text from outside must not steer the terminal.
    line.replace(|letter: char| letter.is_control() && letter != '\n', "�")
}

/// Returns an event's name, link, message and visitor, for people.
fn facts(event: &Event<'_>) -> Vec<String> {
    let mut parts = vec![event.event.to_string()];
    parts.extend(event.link.as_ref().map(|link| link.short_url.to_string()));
    parts.extend(event.message.as_ref().map(ToString::to_string));
    if let Some(click) = &event.click {
        let facts = [&click.country, &click.device, &click.browser, &click.source];
        let facts: Vec<&str> = facts.into_iter().flatten().map(AsRef::as_ref).collect();
        parts.push(if facts.is_empty() { "(nothing known of the visitor)".to_owned() } else { facts.join(" ") });
        parts.extend(click.bot.then(|| "bot".to_owned()));
    }
    parts
}

/// Returns what an event in another format than its own tells.
fn other_format(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    if let Some(text) = value["text"].as_str() {
        return Some(text.replace('\n', "\n    "));
    }
    let data = value.get("data")?;
    if let Ok(event) = serde_json::from_str::<Event<'_>>(&data.to_string()) {
        return Some(facts(&event).join("  "));
    }
    let told = [value.get("event"), data.get("short_url"), data.get("message")];
    let told: Vec<&str> = told.into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    (!told.is_empty()).then(|| told.join("  "))
}

fn as_json(verdict: &SignatureCheck, headers: &HeaderMap, body: &[u8]) -> String {
    let (verified, fault) = match verdict {
        SignatureCheck::Verified => (Some(true), None),
        SignatureCheck::Unverified(why) => (None, Some(why)),
        SignatureCheck::Wrong(fault) => (Some(false), Some(fault)),
    };
    let headers: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    json!({
        "received_at": Timestamp::now(),
        "verified": verified,
        "fault": fault,
        "headers": headers,
        "body": String::from_utf8_lossy(body),
    })
    .to_string()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use schemas::{EventName, sample};

    use super::*;

    fn body(name: EventName) -> Vec<u8> {
        serde_json::to_vec(&sample::event(name, Timestamp::from_millis(1_770_301_425_120))).unwrap()
    }

    #[test]
    fn a_line_says_what_happened_and_whether_it_is_true() {
        let mut headers = HeaderMap::new();
        headers.insert(ATTEMPT, "2".parse().unwrap());
        let line = as_line(&SignatureCheck::Verified, &headers, &body(EventName::LinkClicked));
        let (_, rest) = line.split_once("  ").unwrap();
        assert_eq!(rest, "link.clicked  https://go.acme.co/sale  US mobile Safari instagram  attempt 2  verified ✓");
        let line = as_line(&SignatureCheck::Wrong("because".to_owned()), &headers, &body(EventName::WebhookTest));
        assert!(
            line.contains("webhook.test  This is a test.") && line.ends_with("NOT GENUINE ✗\n    because"),
            "{line}"
        );
    }

    #[test]
    fn a_batch_has_a_line_for_each_event() {
        let events = [EventName::LinkClicked, EventName::WebhookTest].map(body);
        let list = [b"[", events[0].as_slice(), b",", &events[1], b",7]"].concat();
        let text = as_line(&SignatureCheck::Verified, &HeaderMap::new(), &list);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("batch of 3  verified ✓"), "{text}");
        assert_eq!(lines[1], "    link.clicked  https://go.acme.co/sale  US mobile Safari instagram");
        assert_eq!(lines[2], "    webhook.test  This is a test. Your endpoint works.");
        assert_eq!(lines[3], "    no event");
    }

    #[test]
    fn events_of_other_formats_are_told_as_well() {
        let told = |body: &str| as_line(&SignatureCheck::Verified, &HeaderMap::new(), body.as_bytes());
        let event = String::from_utf8(body(EventName::LinkClicked)).unwrap();
        let cloudevent = format!(r#"{{"specversion":"1.0","id":"evt_1","type":"link.clicked","data":{event}}}"#);
        assert!(told(&cloudevent).contains("https://go.acme.co/sale  US mobile"), "{}", told(&cloudevent));
        assert!(told(&format!("[{cloudevent}]")).contains("\n    link.clicked  https://go.acme.co/sale"));
        let flat = r#"{"event":"link.clicked","data":{"short_url":"https://go.acme.co/sale"}}"#;
        assert!(told(flat).contains("link.clicked  https://go.acme.co/sale"), "{}", told(flat));
        assert!(told(r#"{"text":"Someone followed it"}"#).contains("Someone followed it"));
    }

    #[test]
    fn what_is_no_event_cannot_steer_the_terminal() {
        let mut event = sample::event(EventName::LinkClicked, Timestamp::from_millis(0));
        if let Some(link) = &mut event.link {
            link.short_url = "\u{1b}[2J".into();
        }
        let body = serde_json::to_vec(&event).unwrap();
        let line = as_line(&SignatureCheck::Verified, &HeaderMap::new(), &body);
        assert!(!line.contains('\u{1b}'), "{line:?}");
        let line = as_line(&SignatureCheck::Unverified("no secret".to_owned()), &HeaderMap::new(), b"hello");
        assert!(line.contains("5 bytes that is no event") && line.ends_with("not verified: no secret"), "{line}");
    }

    #[test]
    fn json_keeps_the_body_as_it_came() {
        let body = body(EventName::LinkClicked);
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "evt_1".parse().unwrap());
        let line: serde_json::Value =
            serde_json::from_str(&as_json(&SignatureCheck::Verified, &headers, &body)).unwrap();
        assert_eq!(line["body"].as_str().unwrap().as_bytes(), body);
        assert_eq!(line["verified"], true);
        assert_eq!(line["headers"]["webhook-id"], "evt_1");
    }
}
