//! Bodies survive `JSON.stringify(JSON.parse(body))` byte for byte, since many receivers
//! verify the body that they have parsed and written again. Node reads 10,000 events with
//! hostile texts in every field that a visitor or customer fills in.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
    thread,
};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use schemas::{Event, EventName, Timestamp, event::Change, sample, usermap::UserMap};

const EVENTS: usize = 10_000;

/// Prints each line as JavaScript writes it after it has parsed it.
const SCRIPT: &str = r"
const lines = require('node:fs').readFileSync(0, 'utf8').split('\n').slice(0, -1);
process.stdout.write(lines.map((line) => JSON.stringify(JSON.parse(line)) + '\n').join(''));
";

/// Parts of texts that have broken parsers, terminals and signatures.
const PARTS: [&str; 36] = [
    "\0",
    "\u{1}",
    "\u{7}",
    "\u{8}",
    "\t",
    "\n",
    "\u{b}",
    "\u{c}",
    "\r\n",
    "\u{1b}[31m",
    "\u{7f}",
    "\u{80}",
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
    "\u{e000}",
    "\u{10ffff}",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "/",
    "</script>",
    "&<>'",
    "e\u{301}",
    "👩‍👩‍👧‍👦",
    "%00",
    "{{constructor}}",
    "🚒",
];

/// Names that are special as keys of an object.
const KEYS: [&str; 12] =
    ["__proto__", "constructor", "toString", "toJSON", "0", "9", "10", "01", "4294967294", "4294967295", "-1", "1e3"];

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => prop::sample::select(&PARTS[..]).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(&KEYS[..]).prop_map(str::to_owned),
        text(),
        any::<u32>().prop_map(|n| n.to_string())
    ]
}

/// An event of any type with these texts in all its fields, and this map in its changes.
fn event(name: EventName, texts: &[String], map: &BTreeMap<String, String>) -> Event<'static> {
    let mut texts = texts.iter().cycle().cloned();
    let mut next = || texts.next().unwrap();
    let mut event = sample::event(name, Timestamp::from_millis(1_770_301_425_120));
    if let Some(link) = &mut event.link {
        link.destination = next().into();
        link.slug = next().into();
        link.campaign = Some(next().into());
        link.segment = Some(next().into());
        link.tags = vec![next().into(), next().into()];
    }
    if let Some(click) = &mut event.click {
        for field in [&mut click.user_agent, &mut click.referer, &mut click.city, &mut click.browser, &mut click.source]
        {
            *field = Some(next().into());
        }
    }
    if let Some(utm) = &mut event.utm {
        for field in [&mut utm.source, &mut utm.medium, &mut utm.campaign, &mut utm.term, &mut utm.content] {
            *field = Some(next().into());
        }
    }
    if let Some(attribution) = &mut event.attribution {
        attribution.referrer_ad_creative = Some(next().into());
        attribution.gclid = Some(next().into());
    }
    if let Some(changes) = &mut event.changes {
        let from: UserMap = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        changes.metadata = Some(Change { from: Some(from), to: Some(UserMap::default()) });
        changes.max_clicks = Some(Change { from: Some(1), to: Some(1 << 53) });
        changes.tags = Some(Change { from: Some(vec![next()]), to: None });
    }
    if let Some(campaign) = &mut event.campaign {
        campaign.name = next().into();
    }
    if let Some(milestone) = &mut event.milestone {
        milestone.top_source = Some(next().into());
        milestone.value = 1 << 53;
    }
    if let Some(burst) = &mut event.suspicious {
        (burst.organisation, burst.user_agent) = (Some(next().into()), Some(next().into()));
    }
    if event.message.is_some() {
        event.message = Some(next().into());
    }
    event
}

#[test]
fn ten_thousand_hostile_bodies_survive_javascript() {
    let mut runner = TestRunner::deterministic();
    let texts = prop::collection::vec(text(), 12);
    let map = prop::collection::btree_map(key(), text(), 0..8);
    let mut bodies = String::new();
    for n in 0..EVENTS {
        let texts = texts.new_tree(&mut runner).unwrap().current();
        let map = map.new_tree(&mut runner).unwrap().current();
        let name = EventName::ALL[n % EventName::ALL.len()];
        bodies.push_str(&serde_json::to_string(&event(name, &texts, &map)).unwrap());
        bodies.push('\n');
    }
    let mut node = Command::new("node")
        .args(["-e", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs: `scripts/engines --tests` says what the tests need");
    let mut stdin = node.stdin.take().unwrap();
    let sent = bodies.clone();
    let writer = thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let output = node.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let written = String::from_utf8(output.stdout).unwrap();
    assert_eq!(written.lines().count(), EVENTS);
    for (body, written) in bodies.lines().zip(written.lines()) {
        assert_eq!(body, written);
    }
}
