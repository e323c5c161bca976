//! `max_clicks`, with the clicks in ClickHouse, where the leader counts them.

use schemas::{ClickId, Envelope, EventId, EventName, Link, LinkId, Timestamp, Topic, sample};
use serde_json::{Value, json};
use store::{
    Insertion, Store, Table,
    rows::{self, Source},
};
use testbed::{PATIENCE, eventually, read, unique};
use tokio::time::timeout;

use crate::support::{Answer, Api, Instance, instance, store};

/// Inserts visits of links: the workspace, the link, and the event of each.
async fn insert(store: &Store, visits: &[(&str, LinkId, EventName)]) {
    let mut block = Vec::new();
    for (offset, (workspace, link, name)) in (0..).zip(visits) {
        let at = Timestamp::now();
        let mut event = sample::event(*name, at);
        let id = ClickId::new(at, 0, offset);
        event.id = EventId::of(workspace, *name, &id.to_string(), "", at);
        event.link.as_mut().unwrap().id = *link;
        event.click.as_mut().unwrap().id = id;
        let envelope = Envelope { v: 1, workspace: (*workspace).into(), ip_key: None, endpoint: None, event };
        rows::click(
            &serde_json::to_vec(&envelope).unwrap(),
            Source { topic: "t.clicks", partition: 0, offset },
            &mut block,
        )
        .unwrap();
    }
    let insertion =
        Insertion { table: Table::Clicks, rows: vec![block.into()], token: unique("t"), query_id: unique("q") };
    store.insert(insertion).await.unwrap();
}

async fn leading(bus: &bus::Bus, store: &Store) -> Instance {
    let instance = instance(bus, store.clone()).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    instance
}

async fn limited(api: Api, max_clicks: u64) -> (String, LinkId) {
    let made = api.post("/v1/links", json!({"destination": "https://a.example/", "max_clicks": max_clicks})).await;
    assert_eq!(made.status, 201, "{made:?}");
    (made.header("location").unwrap().to_owned(), made.body["id"].as_str().unwrap().parse().unwrap())
}

async fn exhausted(api: Api, path: &str) -> Answer {
    eventually("the link is exhausted", async || {
        let link = api.get(path).await;
        link.body["exhausted_at"].is_string().then_some(link)
    })
    .await
}

#[tokio::test]
async fn a_link_that_has_had_its_clicks_is_exhausted_and_no_other_is() {
    let bus = testbed::bus().await;
    let store = store(&unique("control"));
    store.migrate().await.unwrap();
    let instance = leading(&bus, &store).await;
    let api = instance.api();
    let ((full, full_id), (below, below_id), (elsewhere, elsewhere_id)) =
        (limited(api, 2).await, limited(api, 3).await, limited(api, 1).await);
    let (click, scan) = (EventName::LinkClicked, EventName::QrScanned);
    // The visits of the exhausted link come last, so the others are counted when it is.
    let visits = [
        ("other", elsewhere_id, click),
        ("default", below_id, click),
        ("default", below_id, scan),
        ("default", full_id, click),
        ("default", full_id, scan),
    ];
    insert(&store, &visits).await;

    let link = exhausted(api, &full).await;
    assert_eq!((&link.body["revision"], link.etag_revision()), (&json!(2), Some("2")));
    assert_eq!(link.body["updated_at"], link.body["exhausted_at"]);
    for path in [&below, &elsewhere] {
        let link = api.get(path).await;
        assert_eq!((link.body.get("exhausted_at"), &link.body["revision"]), (None, &json!(1)), "{link:?}");
    }
    assert!(
        instance.metrics.text().contains("clickhook_control_links_exhausted_total 1\n"),
        "{}",
        instance.metrics.text()
    );

    // The topic of the redirectors has the change, and an event tells receivers of it.
    let key = full_id.to_string();
    let records = read(&bus, Topic::Links, move |r| r.iter().filter(|r| r.key == key).count() == 2).await;
    let last = records.iter().rfind(|record| record.key == full_id.to_string()).unwrap();
    assert!(serde_json::from_str::<Link>(&last.value).unwrap().exhausted_at.is_some());
    let key = full_id.to_string();
    let events = read(&bus, Topic::Events, move |r| r.iter().filter(|r| r.key == key).count() == 2).await;
    let event: Value =
        serde_json::from_str(&events.iter().rfind(|record| record.key == full_id.to_string()).unwrap().value).unwrap();
    assert_eq!(event["event"]["event"], "link.updated");
    assert_eq!(event["event"]["changes"], json!({"exhausted_at": {"to": link.body["exhausted_at"]}}));

    // The limit is raised, and reached again.
    let raised = api.patch(&full, json!({"max_clicks": 3})).await;
    assert_eq!((raised.status, raised.body.get("exhausted_at")), (200, None), "{raised:?}");
    insert(&store, &[("default", full_id, click)]).await;
    assert_eq!(exhausted(api, &full).await.body["revision"], 4);
    instance.stop().await;
}

#[tokio::test]
async fn nothing_waits_for_a_clickhouse_that_is_away() {
    let bus = testbed::bus().await;
    let store = store(&unique("control"));
    // The database does not exist yet.
    let instance = leading(&bus, &store).await;
    let api = instance.api();
    let (path, id) = limited(api, 1).await;
    for n in 2..6 {
        let changed = api.patch(&path, json!({"campaign": n.to_string()})).await;
        assert_eq!((changed.status, &changed.body["revision"]), (200, &json!(n)));
    }
    store.migrate().await.unwrap();
    insert(&store, &[("default", id, EventName::LinkClicked)]).await;
    exhausted(api, &path).await;
    instance.stop().await;
}
