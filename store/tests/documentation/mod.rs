//! The pages for data teams: each query of docs/SQL.md runs and finds something, from a roll-up
//! where it names one, and docs/SCHEMA.md has the tables as they are.

use std::{fmt::Write, fs, path::PathBuf};

use clickhouse::{Client, Row};
use serde::Deserialize;
use store::{Store, StoreConfig};

use crate::{clicks, client, filled, link, shifted_to_now};

fn page(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Facts that the tests of statistics leave out, and rows of the other tables.
const MORE: [&str; 5] = [
    "INSERT INTO clicks (id, timestamp, workspace, link_id, campaign, source, medium, country, city, device, browser, \
     ad_creative, session_id, kafka_offset) SETTINGS async_insert = 0 SELECT concat('more_', toString(number)), \
     now64(3) - number, 'default', {link:String}, 'winter', 'instagram', 'social', 'DE', 'Berlin', 'mobile', 'Safari', \
     'story-7', concat('more_', toString(number)), number FROM numbers(50)",
    "INSERT INTO conversions (id, conversion_id, timestamp, workspace, link_id, campaign, name, status, value, currency, \
     attributed, seconds_since_click, source, ad_creative) SETTINGS async_insert = 0 VALUES \
     ('evt_1', 'cnv_1', now64(3), 'default', {link:String}, 'winter', 'purchase', 'approved', 1200, 'EUR', true, 60, \
     'instagram', 'story-7')",
    "INSERT INTO link_events (id, event, timestamp, workspace, link_id, body) SETTINGS async_insert = 0 VALUES \
     ('evt_2', 'link.created', now64(3) - 600, 'default', {link:String}, '{}'), \
     ('evt_3', 'link.created', now64(3), 'default', 'lnk_new', '{\"link\":{\"short_url\":\"https://go.acme.co/new\"}}'), \
     ('evt_4', 'link.milestone', now64(3), 'default', {link:String}, '{\"milestone\":{\"threshold\":100}}')",
    "INSERT INTO deliveries (id, timestamp, workspace, endpoint_id, event_id, event, outcome, status, error, duration_ms) \
     SETTINGS async_insert = 0 VALUES ('att_1', now64(3), 'default', 'ep_1', 'evt_4', 'link.milestone', 'retrying', 500, \
     'status 500', 12)",
    "INSERT INTO audit (id, timestamp, workspace, actor_type, action, resource, resource_ids) SETTINGS async_insert = 0 \
     VALUES ('evt_5', now64(3), 'default', 'system', 'disabled', 'endpoint', ['ep_1'])",
];

/// Returns the queries of the page.
fn queries(page: &str) -> Vec<&str> {
    page.split("```sql\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

#[tokio::test]
async fn every_query_of_the_page_answers() {
    let store = filled(&shifted_to_now(clicks())).await;
    let client = client(&store);
    for statement in MORE {
        client.query_raw(&statement.replace("{link:String}", &format!("'{}'", link(0)))).execute().await.unwrap();
    }
    client.query_raw("OPTIMIZE TABLE clicks FINAL").execute().await.unwrap();
    let page = fs::read_to_string(page("SQL.md")).unwrap();
    let queries = queries(&page);
    assert!(queries.len() >= 20, "{}", queries.len());
    let mut wrong = Vec::new();
    for query in queries {
        match answer(&client, query).await {
            Ok(rows) if rows.is_empty() => wrong.push(format!("no rows: {query}")),
            Ok(_) => {}
            Err(error) => wrong.push(format!("{error}: {query}")),
        }
        // Of conversions and events there are rows alone.
        let names_roll_up = query.contains("preferred_optimize_projection_name");
        if names_roll_up && !query.contains("link_events") && !query.contains("conversions_current") {
            // A query that would read rows is refused.
            let strict = client.clone().with_setting("force_optimize_projection", "1");
            if let Err(error) = answer(&strict, query).await {
                wrong.push(format!("{error}: {query}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Returns the rows of an answer as lines.
async fn answer(client: &Client, query: &str) -> clickhouse::error::Result<Vec<String>> {
    let mut lines = client.query_raw(query).fetch_bytes("JSONEachRow")?;
    let text = lines.collect().await?;
    Ok(String::from_utf8(text.to_vec()).unwrap().lines().map(str::to_owned).collect())
}

#[derive(Row, Deserialize)]
struct TableRow {
    name: String,
    comment: String,
    order: String,
    is_view: bool,
}

#[derive(Row, Deserialize)]
struct ColumnRow {
    name: String,
    kind: String,
    comment: String,
}

/// Returns the page with the tables as they are.
async fn schema(client: &Client) -> String {
    let head = "The tables and views of `clickhouse.database`, as `clickhook migrate` makes them. This page is made from \
                them, and a test holds it to them; `CLICKHOOK_WRITE=1` in the test's environment writes it again. \
                [SQL.md](SQL.md) has questions to ask.";
    let mut page = format!("# The tables\n\n{}\n", wrapped(head));
    let sql = "SELECT name, comment, sorting_key AS order, engine = 'View' AS is_view FROM system.tables \
               WHERE database = currentDatabase() AND name != 'migrations' ORDER BY name";
    for table in client.query(sql).fetch_all::<TableRow>().await.unwrap() {
        let kind = if table.is_view { " (a view)" } else { "" };
        let _ = write!(page, "\n## `{}`{kind}\n\n", table.name);
        if !table.comment.is_empty() {
            let _ = write!(page, "{}.\n\n", wrapped(&table.comment));
        }
        if !table.order.is_empty() {
            let _ = write!(page, "Rows are ordered by `{}`.\n\n", table.order);
        }
        page.push_str("| column | type | meaning |\n|---|---|---|\n");
        let sql = "SELECT name, type AS kind, comment FROM system.columns WHERE database = currentDatabase() AND table = ? \
                   ORDER BY position";
        for column in client.query(sql).bind(&table.name).fetch_all::<ColumnRow>().await.unwrap() {
            let _ = writeln!(page, "| `{}` | `{}` | {} |", column.name, column.kind, column.comment);
        }
        let sql =
            "SELECT name, query FROM system.projections WHERE database = currentDatabase() AND table = ? ORDER BY name";
        let roll_ups: Vec<(String, String)> = client.query(sql).bind(&table.name).fetch_all().await.unwrap();
        if !roll_ups.is_empty() {
            page.push_str("\n| projection | query |\n|---|---|\n");
            for (name, query) in roll_ups {
                let _ = writeln!(page, "| `{name}` | `{query}` |");
            }
        }
    }
    page
}

/// Returns a sentence in lines of at most 100 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().unwrap();
        if !last.is_empty() && last.chars().count() + word.chars().count() > 98 {
            lines.push(word.to_owned());
        } else {
            *last = if last.is_empty() { word.to_owned() } else { format!("{last} {word}") };
        }
    }
    lines.join("\n")
}

#[tokio::test]
async fn the_page_of_the_tables_is_true() {
    let config = StoreConfig {
        url: testbed::clickhouse(),
        database: testbed::unique("t"),
        clicks_days: 0,
        deliveries_days: 0,
        ..StoreConfig::default()
    };
    let store = Store::new(config).unwrap();
    store.migrate().await.unwrap();
    let schema = schema(&client(&store)).await;
    let path = page("SCHEMA.md");
    if std::env::var_os("CLICKHOOK_WRITE").is_some() {
        fs::write(&path, &schema).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let difference = schema.lines().zip(written.lines()).find(|(is, was)| is != was);
    let advice = "docs/SCHEMA.md is out of date: run this test with CLICKHOOK_WRITE=1";
    assert_eq!((difference, schema.lines().count()), (None, written.lines().count()), "{advice}");
}
