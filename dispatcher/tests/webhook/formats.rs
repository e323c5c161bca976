//! The formats of webhooks on a real Kafka, and the official Standard Webhooks libraries, which
//! verify every format, single and batched, with either secret of a rotation. The JavaScript
//! library is given bodies that were parsed and written again, the Python one the raw bytes.
//! `scripts/engines --tests` installs both.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use schemas::{
    BatchLimits, DelayTier, Delivery, Endpoint, Event, EventId, EventName, Timestamp, Topic, WebhookFormat,
    endpoint::RetiringSecret, sample,
};
use serde_json::{Value, json};
use service::secret::{Secret, mint};

use super::{
    assert_verified,
    receiver::{Received, Receiver, Reply},
    rig::{Rig, click, config},
};

/// Events with hostile texts, besides one of each type.
const HOSTILE: u32 = 2_000;

/// Verifies each line of the input, and prints how many there were.
const JAVASCRIPT: &str = r"
const { Webhook } = require('standardwebhooks');
const lines = require('node:fs').readFileSync(0, 'utf8').split('\n').filter((line) => line);
for (const line of lines) {
  const { secret, headers, body } = JSON.parse(line);
  const raw = Buffer.from(body, 'base64').toString('utf8');
  new Webhook(secret).verify(JSON.stringify(JSON.parse(raw)), headers);
}
console.log(lines.length);
";

const PYTHON: &str = r"
import base64, json, sys
from standardwebhooks import Webhook
count = 0
for line in sys.stdin:
    told = json.loads(line)
    Webhook(told['secret']).verify(base64.b64decode(told['body']), told['headers'])
    count += 1
print(count)
";

/// The folder with the libraries.
fn libraries() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.engines");
    let dir = std::env::var_os("CLICKHOOK_ENGINES_DIR").map_or(root, PathBuf::from).join("standardwebhooks");
    assert!(dir.exists(), "{} is missing: run scripts/engines --tests", dir.display());
    dir
}

/// Has a library verify the requests.
fn verify_with(command: &mut Command, input: &str, count: usize) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?} does not verify");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), count.to_string());
}

fn verify_with_libraries(received: &[(Received, Secret)]) {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let mut input = String::new();
    for (received, secret) in received {
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let headers: Value = names.into_iter().map(|name| (name.to_owned(), json!(received.header(name)))).collect();
        let body = BASE64_STANDARD.encode(&received.body);
        input += &format!("{}\n", json!({"secret": secret.expose(), "headers": headers, "body": body}));
    }
    let dir = libraries();
    let mut node = Command::new("node");
    verify_with(node.env("NODE_PATH", dir.join("node_modules")).args(["-e", JAVASCRIPT]), &input, received.len());
    let mut python = Command::new("python3");
    verify_with(python.env("PYTHONPATH", dir.join("python")).args(["-c", PYTHON]), &input, received.len());
}

/// Returns a text that has broken parsers, terminals and signatures.
fn hostile_text(seed: u32) -> String {
    const PARTS: [&str; 28] = [
        "\0",
        "\u{1}",
        "\t",
        "\n",
        "\r\n",
        "\u{1b}[31m",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
        "\u{2029}",
        "\u{202e}",
        "\u{200d}",
        "\u{feff}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{d7ff}",
        "\u{10ffff}",
        "\"",
        "\\",
        "\\u0000",
        "/",
        "</script>",
        "&<>'",
        "e\u{301}",
        "👩‍👩‍👧‍👦",
        "<!channel|x>",
        "1e999",
    ];
    // A linear congruential generator: the same texts in every run.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize
    };
    (0..1 + next() % 6).map(|_| PARTS[next() % PARTS.len()]).collect()
}

fn hostile(seed: u32) -> Event<'static> {
    let name = EventName::ALL[seed as usize % EventName::ALL.len()];
    let at = Timestamp::now();
    let mut event = Event { id: EventId::of("default", name, &seed.to_string(), "", at), ..sample::event(name, at) };
    let mut text = (0_u32..).map(|nth| hostile_text(seed.wrapping_mul(31) + nth));
    let mut text = || text.next().unwrap();
    if let Some(link) = &mut event.link {
        link.slug = text().into();
        link.short_url = text().into();
        link.campaign = Some(text().into());
        link.tags = vec![text().into(), text().into()];
    }
    if let Some(click) = &mut event.click {
        click.user_agent = Some(text().into());
        click.city = Some(text().into());
        click.source = Some(text().into());
        click.bot_reason = Some(text().into());
    }
    if let Some(conversion) = &mut event.conversion {
        conversion.order_id = Some(text().into());
        let mut metadata: Vec<(String, String)> = vec![(text(), text())];
        metadata.extend(["10", "9", "01", "__proto__", "4294967295"].map(|key| (key.to_owned(), text())));
        conversion.metadata = metadata.into_iter().collect();
    }
    if let Some(utm) = &mut event.utm {
        utm.term = Some(text().into());
    }
    event.message = event.message.is_some().then(|| text().into());
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn official_libraries_verify_every_format_with_either_secret_of_a_rotation() {
    let rig = Rig::new().await;
    let running = rig.start(config()).await;
    let mut receivers = Vec::new();
    for format in WebhookFormat::ALL {
        for batch in [None, Some(BatchLimits { max_events: 100, max_wait_ms: 100, max_bytes: 1_000_000 })] {
            let receiver = Receiver::start(&[]).await;
            let (endpoint, secret) = rig.endpoint(&receiver.url);
            let old = mint();
            let retiring = RetiringSecret {
                secret: rig.vault.seal(&endpoint.id.to_string(), old.expose().as_bytes()),
                expires_at: Timestamp::now().plus(Duration::from_secs(3600)),
            };
            let events = serde_json::from_str(r#"["*","audit.*"]"#).unwrap();
            let endpoint = Endpoint { events, format, batch, retiring_secrets: vec![retiring], ..endpoint };
            rig.write(&endpoint).await;
            receivers.push((receiver, endpoint, [secret, old]));
        }
    }
    // The dispatcher knows all endpoints when a test arrives at each: the records of the last one are read last.
    for (receiver, endpoint, _) in &receivers {
        rig.emit(&sample::event(EventName::WebhookTest, Timestamp::now()), Some(endpoint.id)).await;
        receiver.wait(1).await;
    }
    let samples = EventName::ALL.iter().map(|name| sample::event(*name, Timestamp::now()));
    let events: Vec<Event<'_>> = samples.chain((0..HOSTILE).map(hostile)).collect();
    for event in &events {
        // All of them in one topic, bots included.
        let mut event = event.clone();
        if let Some(click) = &mut event.click {
            click.bot = false;
        }
        rig.emit(&event, None).await;
    }
    let mut all = Vec::new();
    for (receiver, endpoint, secrets) in &receivers {
        let wanted = events.len() + 1;
        let received = testbed::eventually("all events", async || {
            let received = receiver.received();
            let count: usize = received.iter().map(|received| count(received, endpoint)).sum();
            (count >= wanted).then_some(received)
        })
        .await;
        for (nth, received) in received.into_iter().enumerate() {
            let content_type = match (endpoint.format, endpoint.batch) {
                (WebhookFormat::Cloudevents, None) => "application/cloudevents+json",
                (WebhookFormat::Cloudevents, Some(_)) => "application/cloudevents-batch+json",
                _ => "application/json",
            };
            assert_eq!(received.header("content-type"), content_type);
            assert_eq!(received.header("webhook-signature").split(' ').count(), 2);
            for secret in secrets {
                assert_verified(&received, secret);
            }
            all.push((received, secrets[nth % 2].clone()));
        }
    }
    running.stop().await;
    verify_with_libraries(&all);
}

/// Returns the number of events of a request.
fn count(received: &Received, endpoint: &Endpoint) -> usize {
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    match (endpoint.format, body.as_array()) {
        (_, Some(list)) => list.len(),
        (WebhookFormat::Slack, None) if endpoint.batch.is_some() => {
            let text = body["text"].as_str().unwrap();
            let last = text.lines().last().unwrap();
            let more = last.strip_prefix("… and ").and_then(|last| last.strip_suffix(" more"));
            more.map_or(text.lines().count(), |more| text.lines().count() - 1 + more.parse::<usize>().unwrap())
        }
        _ => 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_the_format_of_the_first_attempt() {
    let rig = Rig::new().await;
    let receiver = Receiver::start(&[Reply::Status(500), Reply::Status(200)]).await;
    let (endpoint, secret) = rig.endpoint(&receiver.url);
    let endpoint = Endpoint { format: WebhookFormat::Cloudevents, ..endpoint };
    rig.write(&endpoint).await;
    let running = rig.start(config()).await;
    let event = click();
    let body = rig.emit(&event, None).await;
    receiver.wait(1).await;
    let waiting: Vec<Delivery> = rig.read(Topic::Delay(DelayTier::Minute1), 1).await;
    assert_eq!(waiting[0].format, Some(WebhookFormat::Cloudevents));
    assert_eq!(waiting[0].events[0].body, body, "the record has the event as it is");
    running.stop().await;
    rig.write(&Endpoint { format: WebhookFormat::Slack, revision: 2, ..endpoint }).await;
    let running = rig.start(config()).await;
    let received = receiver.wait(2).await;
    for received in &received {
        assert_eq!(received.header("content-type"), "application/cloudevents+json");
        assert_eq!(received.header("webhook-id"), event.id.to_string());
        assert_verified(received, &secret);
    }
    assert_eq!(received[0].body, received[1].body);
    running.stop().await;
}
