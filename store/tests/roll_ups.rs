//! The roll-ups against a real ClickHouse: they come to a table that has rows, agree with the
//! rows, and answer the questions that name them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use clickhouse::{Client, Row, RowOwned, RowRead};
use futures_util::future::join_all;
use schemas::{LinkId, Timestamp, WorkspaceId};
use serde::Deserialize;
use store::{LinkClicks, Person, StatsPeriod, StatsSubject, Store, StoreConfig};

/// The migrations before the roll-ups.
const BEFORE: [&str; 5] = [
    include_str!("../migrations/0001_clicks.sql"),
    include_str!("../migrations/0002_link_events.sql"),
    include_str!("../migrations/0003_deliveries.sql"),
    include_str!("../migrations/0004_click_facts.sql"),
    include_str!("../migrations/0005_conversions.sql"),
];

/// The columns and groups of each roll-up.
const ROLL_UPS: [(&str, &str, &str); 7] = [
    ("link_quarters", "workspace, link_id, kind, toStartOfFifteenMinutes(timestamp)", "count(), countIf(NOT bot)"),
    ("campaign_quarters", "workspace, campaign, kind, toStartOfFifteenMinutes(timestamp)", "count(), countIf(NOT bot)"),
    (
        "destination_quarters",
        "workspace, destination, kind, toStartOfFifteenMinutes(timestamp)",
        "count(), countIf(NOT bot)",
    ),
    (
        "totals",
        "workspace, link_id, campaign, destination, short_url, tags, kind",
        "count(), countIf(NOT bot), min(timestamp), max(timestamp)",
    ),
    (
        "by_time",
        "toStartOfFiveMinutes(timestamp), workspace, link_id, campaign, destination, kind",
        "count(), countIf(NOT bot)",
    ),
    ("link_days", "workspace, link_id, kind, toDate(timestamp)", "uniqCombinedIf(14)(session_id, NOT bot)"),
    ("campaign_days", "workspace, campaign, kind, toDate(timestamp)", "uniqCombinedIf(12)(session_id, NOT bot)"),
];

/// Sixty thousand clicks of two links, in the last two hours of a month and the first of the next.
const ROWS: &str = "INSERT INTO clicks (id, kind, timestamp, workspace, link_id, short_url, destination, campaign, tags, \
     bot, session_id, kafka_offset) SELECT concat('clk_', toString(number)), if(number % 20 = 0, 'scan', 'click'), \
     fromUnixTimestamp64Milli(toInt64(1769904000000 + (toInt64(number) - 30000) * 240)), 'default', \
     if(number % 3 = 0, {first:String}, {second:String}), 'https://go.acme.co/s', concat('https://acme.com/p/', toString(number % 2)), \
     concat('campaign-', toString(number % 2)), ['social'], number % 50 = 7, concat('ses_', toString(number % 200)), number \
     FROM numbers(60000)";

fn config() -> StoreConfig {
    let url = std::env::var("CLICKHOOK_TEST_CLICKHOUSE")
        .expect("start the engines: run `make test`, or `clickhook engines exec -- cargo test`");
    let database = format!("t{}", uuid::Uuid::now_v7().simple());
    StoreConfig { url, database, clicks_days: 0, deliveries_days: 0, ..StoreConfig::default() }
}

fn client(config: &StoreConfig) -> Client {
    Client::default().with_url(&config.url).with_database(&config.database)
}

async fn one<T: RowOwned + RowRead>(client: &Client, sql: &str) -> T {
    client.query(sql).fetch_one().await.unwrap()
}

/// Waits until ClickHouse has rewritten all parts.
async fn rewritten(client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let open = "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done";
    while one::<u64>(client, open).await > 0 {
        assert!(Instant::now() < deadline, "mutations do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Compares each roll-up with the rows.
async fn assert_roll_ups_agree(client: &Client) {
    for (name, groups, columns) in ROLL_UPS {
        let hash = |settings: &str| {
            format!(
                "SELECT count(), sum(cityHash64(*)) FROM (SELECT {groups}, {columns} FROM clicks GROUP BY {groups} \
                 SETTINGS {settings})"
            )
        };
        let rolled_up = hash(&format!("preferred_optimize_projection_name = '{name}', force_optimize_projection = 1"));
        let counted = hash("optimize_use_projections = 0");
        assert_eq!(one::<(u64, u64)>(client, &rolled_up).await, one::<(u64, u64)>(client, &counted).await, "{name}");
    }
}

#[tokio::test]
async fn a_table_with_rows_gets_roll_ups_that_agree_with_the_rows() {
    let config = config();
    let outside = Client::default().with_url(&config.url);
    outside.query(&format!("CREATE DATABASE {}", config.database)).execute().await.unwrap();
    let client = client(&config);
    for statement in BEFORE.iter().flat_map(|sql| sql.split(";\n")).filter(|sql| !sql.trim().is_empty()) {
        client.query_raw(statement).execute().await.unwrap();
    }
    for statement in [
        "CREATE TABLE migrations (version UInt32, name String, applied_at DateTime DEFAULT now()) \
         ENGINE = ReplacingMergeTree ORDER BY version",
        "INSERT INTO migrations (version, name) SETTINGS async_insert = 0 VALUES (5, 'conversions')",
    ] {
        client.query_raw(statement).execute().await.unwrap();
    }
    let (first, second) = (LinkId::mint(), LinkId::mint());
    client.query(ROWS).param("first", first.to_string()).param("second", second.to_string()).execute().await.unwrap();
    // Deleted rows are masked in their parts, and no roll-up may count them.
    client.query("DELETE FROM clicks WHERE session_id = 'ses_5'").execute().await.unwrap();

    let stores: Vec<Store> = (0..3).map(|_| Store::new(config.clone()).unwrap()).collect();
    for migrated in join_all(stores.iter().map(Store::migrate)).await {
        migrated.unwrap();
    }
    rewritten(&client).await;
    assert_roll_ups_agree(&client).await;
    let deleted = "SELECT count() FROM clicks WHERE id IN (SELECT concat('clk_', toString(number)) FROM numbers(60000) WHERE number % 200 = 5)";
    assert_eq!(one::<u64>(&client, deleted).await, 0);
    let count = |link: LinkId| {
        let client = client.clone();
        async move {
            let sql = "SELECT count() AS total, countIf(NOT bot) AS human, uniqExactIf((session_id, toDate(timestamp)), NOT bot) \
                       AS unique FROM clicks WHERE kind = 'click' AND link_id = {link:String} \
                       SETTINGS optimize_use_projections = 0";
            client.query(sql).param("link", link.to_string()).fetch_one::<LinkClicks>().await.unwrap()
        }
    };
    // A question that would read the rows is refused.
    let strict = StoreConfig { url: format!("{}/?force_optimize_projection=1", config.url), ..config.clone() };
    let strict = Store::new(strict).unwrap();
    let workspace = WorkspaceId::default();
    // Until a day after all clicks: whole quarters of an hour, and whole days.
    let until = Some(Timestamp::from_millis(1_770_076_800_000));
    let whole = StatsPeriod { since: None, until, asked_at: Timestamp::from_millis(1_770_076_800_000) };
    let mut total = 0;
    for link in [second, first] {
        let visits = strict.visit_counts(&workspace, &StatsSubject::Link(link), whole).await.unwrap();
        assert_eq!(visits.clicks, count(link).await);
        total = visits.clicks.total + visits.scans.total;
    }
    let totals = strict.link_totals(&[(&workspace, first)]).await.unwrap();
    assert_eq!(totals[&first].all, total);

    // The watch, too, reads no row.
    let since = Timestamp::from_millis(1_769_904_000_000);
    let slices = join_all((0..store::LINK_SLICES).map(|slice| strict.links_above(slice, 1))).await;
    assert_eq!(slices.into_iter().map(|slice| slice.unwrap().len()).sum::<usize>(), 2);
    assert_eq!(strict.links_over(since, &[1_000_000]).await.unwrap(), []);
    assert_eq!(strict.campaign_people(Some(since)).await.unwrap().len(), 2);
    assert_eq!(strict.campaign_people(None).await.unwrap().len(), 2);
    assert_eq!(strict.people_since(since, 1).await.unwrap().len(), 2);
    assert!(!strict.busy_links(since, 1).await.unwrap().is_empty());
    assert!(!strict.clicks_by_time(since).await.unwrap().is_empty());
    assert_eq!(strict.link_histories(&[("default", &first.to_string())]).await.unwrap().len(), 1);

    let store = &stores[0];
    store.erase(&workspace, Person::Session("ses_6")).await.unwrap();
    let visits = store.visit_counts(&workspace, &StatsSubject::Link(first), whole).await.unwrap();
    assert_eq!(visits.clicks, count(first).await);
    rewritten(&client).await;
    assert_roll_ups_agree(&client).await;
    outside.query(&format!("DROP DATABASE {}", config.database)).execute().await.unwrap();
}

#[derive(Debug, PartialEq, Eq, Row, Deserialize)]
struct Uncommented {
    table: String,
    name: String,
}

#[tokio::test]
async fn every_column_has_a_comment() {
    let config = config();
    let store = Store::new(config.clone()).unwrap();
    store.migrate().await.unwrap();
    let sql = "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND comment = ''";
    assert_eq!(client(&config).query(sql).fetch_all::<Uncommented>().await.unwrap(), []);
}
