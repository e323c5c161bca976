//! `docs/CONTRACTS.md` is the program's promise: its tables of events, headers, topics,
//! ClickHouse tables, metrics and settings are compared with the code, row by row.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use dispatcher::webhook::sign::{ATTEMPT, EVENT, ID, SIGNATURE, SIMPLE_SIGNATURE, TIMESTAMP};
use schemas::{
    EventName,
    filter::FilterKey,
    topics::{Cleanup, Spread, Topic},
};
use store::Table;

/// A row of a table of the page: its cells, without backticks.
type Cells = Vec<String>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/CONTRACTS.md")).unwrap()
}

/// The rows of the table that has `column` as its first column, by their first cells.
fn documented(column: &str) -> BTreeMap<String, Cells> {
    let page = page();
    let header = format!("| {column} |");
    let rows = page.lines().skip_while(|line| !line.starts_with(&header)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect();
        (cells[0].clone(), cells)
    });
    let rows: BTreeMap<String, Cells> = rows.collect();
    assert!(!rows.is_empty(), "docs/CONTRACTS.md has no table whose first column is `{column}`");
    rows
}

fn assert_same_names<'n>(column: &str, of_the_code: impl IntoIterator<Item = &'n String>) {
    let page: Vec<String> = documented(column).into_keys().collect();
    let mut code: Vec<String> = of_the_code.into_iter().cloned().collect();
    code.sort();
    let missing: Vec<&String> = code.iter().filter(|name| !page.contains(name)).collect();
    assert!(missing.is_empty(), "docs/CONTRACTS.md, table of {column}s, lacks {missing:?}");
    let gone: Vec<&String> = page.iter().filter(|name| !code.contains(name)).collect();
    assert!(gone.is_empty(), "docs/CONTRACTS.md, table of {column}s, has what does not exist: {gone:?}");
}

fn time(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    let hours = format!("{} h", minutes / 60);
    if minutes.is_multiple_of(60) { hours } else { format!("{hours} {} min", minutes % 60) }
}

#[test]
fn topics_are_as_documented() {
    assert_same_names("topic", &Topic::ALL.map(|topic| topic.suffix().to_owned()));
    for (name, cells) in documented("topic") {
        let topic = Topic::ALL.into_iter().find(|topic| topic.suffix() == name).unwrap();
        let spread = match topic.spread() {
            Spread::One => "1",
            Spread::Shared => "shared",
        };
        assert_eq!(cells[2], spread, "partitions of {name}");
        let cleanup = match topic.cleanup() {
            Cleanup::After(retention) => format!("delete {}", time(retention)),
            Cleanup::Compact => "compact".to_owned(),
            Cleanup::CompactFor(retention) => format!("compact, delete {}", time(retention)),
        };
        assert_eq!(cells[3], cleanup, "cleanup of {name}");
    }
}

#[test]
fn events_are_as_documented() {
    assert_same_names("event", &EventName::ALL.iter().map(ToString::to_string).collect::<Vec<_>>());
}

#[test]
fn filters_are_as_documented() {
    let page = page();
    let sentence = page.split("- Filters of an endpoint: ").nth(1).unwrap();
    let sentence = sentence.split("Values of").next().unwrap();
    let documented: Vec<&str> = sentence.split('`').skip(1).step_by(2).collect();
    let known: Vec<&str> = FilterKey::ALL.iter().map(|key| key.as_str()).collect();
    assert_eq!(documented, known);
}

#[test]
fn headers_are_as_documented() {
    let set_by_the_program = [ID, TIMESTAMP, SIGNATURE, SIMPLE_SIGNATURE, EVENT, ATTEMPT];
    let documented = documented("header");
    for header in set_by_the_program {
        assert!(documented.contains_key(header), "docs/CONTRACTS.md lacks the header {header}");
    }
}

#[test]
fn tables_are_as_documented() {
    assert_same_names("table", &Table::ALL.map(|table| table.name().to_owned()));
    for (name, cells) in documented("table") {
        let migrations = cells[2].split(", ").map(|path| fs::read_to_string(repository().join(path)).unwrap());
        let migration: String = migrations.collect();
        assert!(migration.contains(&format!("CREATE TABLE IF NOT EXISTS {name}\n")), "{} makes {name}", cells[2]);
    }
}

#[test]
fn settings_are_as_documented() {
    let defaults = include_str!("../config.default.toml");
    let mut settings = BTreeMap::new();
    for (section, keys) in &defaults.parse::<toml::Table>().unwrap() {
        for (key, value) in keys.as_table().unwrap() {
            let value = if value.is_table() { "–".to_owned() } else { value.to_string() };
            settings.insert(format!("{section}.{key}"), value);
        }
    }
    // A setting without a default stands there as a comment.
    for (section, key) in [
        ("kafka", "instance"),
        ("clickhouse", "ca_file"),
        ("enricher", "networks"),
        ("enricher", "workers"),
        ("webhook", "ca_file"),
        ("webhook", "proxy"),
        ("log", "filter"),
    ] {
        assert!(defaults.contains(&format!("\n# {key} = ")), "config.default.toml lacks {key}");
        settings.insert(format!("{section}.{key}"), "–".to_owned());
    }
    assert_same_names("setting", settings.keys());
    for (name, cells) in documented("setting") {
        assert_eq!(cells[1], settings[&name], "default of {name}");
    }
}

/// Every metric that the sources register, with its type. Metrics appear at `/metrics`
/// only when they have a value, so no scrape shows them all.
fn registered() -> BTreeMap<String, String> {
    let mut metrics = BTreeMap::new();
    for role in ["ingest", "control", "enricher", "dispatcher", "bus", "store", "clickhook"] {
        visit(&repository().join(role).join("src"), &mut |source| {
            for (at, _) in source.match_indices("\"clickhook_") {
                let name = source[at + 1..].split('"').next().unwrap();
                // `metrics.family_counter::<Class>(` and a line break may stand before it.
                let call = source[..at].trim_end().strip_suffix('(').unwrap_or_default();
                let call = call.rsplit('.').next().unwrap_or_default().split("::").next().unwrap_or_default();
                let kind = call.strip_prefix("family_").unwrap_or(call);
                if ["counter", "gauge", "histogram"].contains(&kind) {
                    metrics.insert(name.to_owned(), kind.to_owned());
                }
            }
        });
    }
    metrics
}

fn visit(folder: &Path, look: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn metrics_are_as_documented() {
    let registered = registered();
    assert_same_names("metric", registered.keys());
    for (name, cells) in documented("metric") {
        assert_eq!(cells[1], registered[&name], "type of {name}");
        let unit = &cells[3];
        assert_eq!(name.ends_with("_seconds"), unit == "seconds", "unit of {name}");
        assert_eq!(name.ends_with("_bytes"), unit == "bytes", "unit of {name}");
    }
}
