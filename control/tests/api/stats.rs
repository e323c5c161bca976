//! The statistics as callers get them, and their separation by workspace.

use clickhouse::Client;
use schemas::Timestamp;
use serde_json::{Value, json};
use testbed::PATIENCE;
use tokio::time::timeout;

use crate::support::{Api, Instance, instance, store};

const MINUTE: i64 = 60_000;

/// Starts an instance with tables of its own.
async fn counting() -> (Instance, Client) {
    let bus = testbed::bus().await;
    let database = testbed::unique("t");
    let store = store(&database);
    store.migrate().await.unwrap();
    let client = Client::default().with_url(testbed::clickhouse()).with_database(database);
    let instance = instance(&bus, store).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    (instance, client)
}

/// Inserts clicks of a link: the minutes since each, and whether it is a program's.
async fn click(client: &Client, link: &Value, now: i64, clicks: &[(i64, bool)]) {
    let text = |field: &str| link[field].as_str().unwrap_or_default().to_owned();
    let rows: Vec<String> = clicks
        .iter()
        .enumerate()
        .map(|(nth, (minutes, bot))| {
            format!(
                "('{}-{nth}', fromUnixTimestamp64Milli(toInt64({})), '{}', '{}', '{}', '{}', '{}', ['social'], {bot}, \
                 'ses_{nth}', 'instagram', '=US')",
                text("id"),
                now - minutes * MINUTE,
                text("workspace"),
                text("id"),
                text("short_url"),
                text("destination"),
                text("campaign"),
            )
        })
        .collect();
    let sql = format!(
        "INSERT INTO clicks (id, timestamp, workspace, link_id, short_url, destination, campaign, tags, bot, session_id, source, \
         country) SETTINGS async_insert = 0 VALUES {}",
        rows.join(", ")
    );
    client.query_raw(&sql).execute().await.unwrap();
}

async fn create(api: Api, slug: &str) -> Value {
    let body =
        json!({"destination": "https://acme.com/p/SKU-7", "slug": slug, "campaign": "winter", "tags": ["social"]});
    let made = api.post("/v1/links", body).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.body
}

#[tokio::test]
async fn the_questions_that_people_ask_are_one_call_each() {
    let (instance, client) = counting().await;
    let api = instance.api();
    let link = create(api, "sale").await;
    let campaign = api.post("/v1/campaigns", json!({"name": "winter"})).await.body["id"].as_str().unwrap().to_owned();
    let now = Timestamp::now().as_millis();
    click(&client, &link, now, &[(1, false), (20, false), (30, true), (180, false), (60 * 30, false)]).await;
    let id = link["id"].as_str().unwrap();
    for (path, total, human) in [
        (format!("links/{id}"), 5, 4),
        (format!("links/{id}?window=1h"), 3, 2),
        ("campaigns/winter".to_owned(), 5, 4),
        (format!("campaigns/{campaign}"), 5, 4),
        ("products/sku-7?window=24h".to_owned(), 4, 3),
        ("tags/social?window=2d".to_owned(), 5, 4),
        ("domains/go.example".to_owned(), 5, 4),
        ("workspace?window=1h".to_owned(), 3, 2),
        ("products/sku".to_owned(), 5, 4),
        ("products/sk".to_owned(), 0, 0),
    ] {
        let stats = api.get(&format!("/v1/stats/{path}")).await;
        assert_eq!(stats.status, 200, "{path}: {stats:?}");
        let clicks = &stats.body["clicks"];
        assert_eq!((&clicks["total"], &clicks["human"]), (&json!(total), &json!(human)), "{path}: {stats:?}");
    }
    let stats = api.get(&format!("/v1/stats/links/{id}?window=24h&compare=previous")).await.body;
    assert_eq!(stats["clicks"], json!({"total": 4, "human": 3, "unique": 3}));
    assert_eq!(stats["per_hour"], json!({"average": 0.125, "last": 2}));
    assert_eq!(stats["previous"]["clicks"]["total"], 1);
    assert_eq!(stats["previous"]["period"]["until"], stats["period"]["since"]);
    assert!(stats["newest_click"].is_string(), "{stats}");
    let top = api.get(&format!("/v1/stats/links/{id}/top/sources")).await.body;
    assert_eq!(top["data"], json!([{"value": "instagram", "total": 5, "human": 4, "conversions": 0}]));
    let series = api.get("/v1/stats/campaigns/winter/series?window=3h&interval=hour&timezone=Asia/Kolkata").await;
    assert_eq!(series.status, 200, "{series:?}");
    let intervals = series.body["data"].as_array().unwrap();
    assert!(intervals.len() >= 4, "{series:?}");
    let total: u64 = intervals.iter().map(|interval| interval["clicks"]["total"].as_u64().unwrap()).sum();
    assert!((3..=4).contains(&total), "{series:?}");
    assert!(intervals.iter().all(|interval| interval["start"].as_str().unwrap().contains(":30:00.000Z")));

    let csv = api.get(&format!("/v1/stats/links/{id}/top/countries?format=csv")).await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(csv.body, json!("value,country,region,total,human,conversions\r\n'=US,,,5,4,0\r\n"));
    let lines = api.send("GET", "/v1/stats/workspace/series?window=2h", "Accept: application/x-ndjson\r\n", "").await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert!(lines.body.as_str().unwrap().lines().count() >= 8, "{lines:?}");
    for (path, field) in [
        ("workspace?window=1y", "window"),
        ("workspace?since=2026-01-02&until=2026-01-01", "since"),
        ("workspace?timezone=Mars/Base", "timezone"),
        ("workspace/top/colours", "dimension"),
        ("workspace/top/sources?limit=0", "limit"),
        ("workspace/series?window=900d&interval=hour", "interval"),
    ] {
        let refused = api.get(&format!("/v1/stats/{path}")).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]), "{path}: {refused:?}");
    }
    assert_eq!(api.get("/v1/stats/workspace?windows=1h").await.status, 400);
    instance.stop().await;
}

#[tokio::test]
async fn no_question_sees_the_clicks_of_another_workspace() {
    let (instance, client) = counting().await;
    let theirs = instance.api().workspace("acme").await;
    instance.api().within("acme").proven_domain(json!({"name": "go.acme.co", "is_default": true})).await;
    let ours = instance.api().scoped(&["stats"]).await;
    let link = create(theirs, "sale").await;
    let campaign =
        theirs.post("/v1/campaigns", json!({"name": "winter"})).await.body["id"].as_str().unwrap().to_owned();
    let now = Timestamp::now().as_millis();
    click(&client, &link, now, &[(1, false), (2, false)]).await;
    let host = link["short_url"].as_str().unwrap().split('/').nth(2).unwrap().to_owned();
    let id = link["id"].as_str().unwrap();
    let subjects = [
        format!("links/{id}"),
        format!("campaigns/{campaign}"),
        "campaigns/winter".to_owned(),
        "products/sku-7".to_owned(),
        "tags/social".to_owned(),
        format!("domains/{host}"),
        "workspace".to_owned(),
    ];
    let links = instance.api().scoped(&["links"]).await;
    for subject in subjects {
        for (below, found) in [("", "/clicks/total"), ("/series?window=1h", "/data"), ("/top/sources", "/data/0/total")]
        {
            let path = format!("/v1/stats/{subject}{below}");
            let seen = theirs.get(&path).await;
            let counted = match seen.body.pointer(found) {
                Some(Value::Array(intervals)) => {
                    intervals.iter().map(|interval| interval["clicks"]["total"].as_u64().unwrap()).sum()
                }
                found => found.and_then(Value::as_u64).unwrap_or_default(),
            };
            assert_eq!((seen.status, counted), (200, 2), "{path}: {seen:?}");
            let hidden = ours.get(&path).await;
            if subject.contains(id) || subject.contains(&campaign) {
                assert_eq!(hidden.status, 404, "{path}: {hidden:?}");
            } else {
                assert_eq!(hidden.status, 200, "{path}: {hidden:?}");
                let text = hidden.body.to_string();
                assert!(!text.contains("\"total\":2") && !text.contains("newest_click"), "{path}: {text}");
                assert!(!text.contains("instagram"), "{path}: {text}");
            }
            assert_eq!(links.get(&path).await.status, 403, "{path}");
        }
    }
    instance.stop().await;
}
