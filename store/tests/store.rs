//! The store against a real ClickHouse: migrations from several processes at
//! once, one block once, rows that are looked for, and what the statistics say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use futures_util::future::join_all;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use schemas::{
    Attempt, AttemptId, AttemptedEvent, ClickId, ConversionFacts, ConversionId, EndpointId, Envelope, Event, EventId,
    EventName, LinkId, Outcome, Timestamp, WorkspaceId, conversion::Amount, sample,
};
use store::{
    AdStats, ConversionCounts, ConversionFilter, Erased, Insertion, LinkClicks, LinkTotal, Person, PersonRows, Revenue,
    Span, StatsPeriod, StatsSubject, Store, StoreConfig, StoreError, SubjectCounts, Table,
    rows::{self, Source},
};
use testbed::eventually;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const AT: i64 = 1_770_301_425_120;
const TOPIC: &str = "t.clicks";

fn config() -> StoreConfig {
    let url = std::env::var("CLICKHOOK_TEST_CLICKHOUSE")
        .expect("start the engines: run `make test`, or `clickhook engines exec -- cargo test`");
    let database = format!("t{}", uuid::Uuid::now_v7().simple());
    StoreConfig { url, database, clicks_days: 0, deliveries_days: 0, ..StoreConfig::default() }
}

async fn fresh() -> Store {
    let store = Store::new(config()).unwrap();
    store.migrate().await.unwrap();
    store
}

struct Seen {
    link: LinkId,
    at: i64,
    session: &'static str,
    bot: bool,
    name: EventName,
}

fn envelope(seen: &Seen, nth: u64) -> Envelope<'static, Event<'static>> {
    let at = Timestamp::from_millis(seen.at);
    let mut event = sample::event(seen.name, at);
    let id = ClickId::new(at, 0, nth);
    event.id = EventId::of("default", seen.name, &id.to_string(), "", at);
    event.link.as_mut().unwrap().id = seen.link;
    let click = event.click.as_mut().unwrap();
    (click.id, click.bot, click.session_id) = (id, seen.bot, Some(seen.session.into()));
    Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint: None, event }
}

fn block(seen: &[Seen]) -> Vec<u8> {
    let mut block = Vec::new();
    for (offset, seen) in (0..).zip(seen) {
        let record = serde_json::to_vec(&envelope(seen, offset)).unwrap();
        rows::click(&record, Source { topic: TOPIC, partition: 2, offset }, &mut block).unwrap();
    }
    block
}

fn insertion(rows: Vec<u8>, token: &str) -> Insertion {
    let query_id = uuid::Uuid::now_v7().to_string();
    Insertion { table: Table::Clicks, rows: vec![rows.into()], token: token.to_owned(), query_id }
}

async fn visits(store: &Store, workspace: &WorkspaceId, link: LinkId) -> SubjectCounts {
    let ever = StatsPeriod::ever(Timestamp::from_millis(AT));
    store.visit_counts(workspace, &StatsSubject::Link(link), ever).await.unwrap()
}

/// Returns the offsets that are present of clicks that were written by [`block`].
async fn offsets(store: &Store, seen: &[Seen]) -> HashSet<u64> {
    let clicks: Vec<(String, Timestamp)> = (0..)
        .zip(seen)
        .map(|(nth, seen)| {
            (ClickId::new(Timestamp::from_millis(seen.at), 0, nth).to_string(), Timestamp::from_millis(seen.at))
        })
        .collect();
    let rows = clicks.iter().map(|(id, at)| (id.as_str(), *at)).collect();
    let span = Span { table: Table::Clicks, topic: TOPIC, partition: 2, first: 0, last: 1000, rows };
    store.present(&span).await.unwrap().into_iter().map(|(offset, _)| offset).collect()
}

#[tokio::test]
async fn replicas_may_migrate_at_once_and_again() {
    let config = StoreConfig { clicks_days: 30, deliveries_days: 7, ..config() };
    let stores: Vec<Store> = (0..6).map(|_| Store::new(config.clone()).unwrap()).collect();
    for migrated in join_all(stores.iter().map(Store::migrate)).await {
        migrated.unwrap();
    }
    let again = stores[0].migrate().await.unwrap();
    assert_eq!((again.applied, again.retained), (vec![], vec![]));
    let longer = Store::new(StoreConfig { clicks_days: 0, ..config }).unwrap();
    assert_eq!(longer.migrate().await.unwrap().retained, ["clicks", "link_events", "conversions", "audit"]);
    assert_eq!(longer.migrate().await.unwrap().retained, [""; 0]);
}

#[tokio::test]
async fn an_absent_clickhouse_is_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = Store::new(StoreConfig { url: format!("http://{closed}"), ..StoreConfig::default() }).unwrap();
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
}

#[tokio::test]
async fn a_block_goes_in_once_also_where_it_touches_two_months() {
    let store = fresh().await;
    let link = LinkId::mint();
    let month = 31 * 24 * 3600 * 1000;
    let seen: Vec<Seen> = (0..4)
        .map(|n| Seen { link, at: AT + n % 2 * month, session: "a", bot: false, name: EventName::LinkClicked })
        .collect();
    let first = block(&seen);
    for _ in 0..3 {
        store.insert(insertion(first.clone(), "one")).await.unwrap();
    }
    assert_eq!(offsets(&store, &seen).await, HashSet::from([0, 1, 2, 3]));
    assert_eq!(visits(&store, &WorkspaceId::default(), link).await.clicks.total, 4);
    store.quiesce("nothing-is-called-like-this").await.unwrap();
}

#[tokio::test]
async fn the_statistics_tell_people_from_programs_and_clicks_from_scans() {
    let store = fresh().await;
    let (link, other) = (LinkId::mint(), LinkId::mint());
    let seen = |link, session, bot, name, hours: i64| Seen { link, at: AT + hours * 3_600_000, session, bot, name };
    let (click, scan) = (EventName::LinkClicked, EventName::QrScanned);
    let all = [
        seen(link, "a", false, click, 0),
        seen(link, "a", false, click, 5),
        seen(link, "b", false, click, 0),
        seen(link, "c", true, click, 0),
        seen(link, "d", false, scan, 0),
        seen(other, "e", false, click, 0),
    ];
    store.insert(insertion(block(&all[..3]), "one")).await.unwrap();
    store.insert(insertion(block(&all), "two")).await.unwrap();
    let workspace = WorkspaceId::default();
    let counts = visits(&store, &workspace, link).await;
    assert_eq!(counts.clicks, LinkClicks { total: 7, human: 6, unique: 2 });
    assert_eq!(counts.scans, LinkClicks { total: 1, human: 1, unique: 1 });
    assert_eq!(visits(&store, &WorkspaceId::new("other"), link).await.clicks, LinkClicks::default());
}

#[tokio::test]
async fn links_are_counted_in_all_each_in_its_workspace() {
    let store = fresh().await;
    let (link, other, unseen) = (LinkId::mint(), LinkId::mint(), LinkId::mint());
    let (click, scan) = (EventName::LinkClicked, EventName::QrScanned);
    let seen = |link, bot, name, hours: i64| Seen { link, at: AT + hours * 3_600_000, session: "a", bot, name };
    let all = [
        seen(link, false, click, 0),
        seen(link, true, click, 3),
        seen(link, false, scan, 800),
        seen(other, false, click, 0),
    ];
    store.insert(insertion(block(&all), "one")).await.unwrap();
    let (ours, theirs) = (WorkspaceId::default(), WorkspaceId::new("other"));
    let ask = async |links: &[(&WorkspaceId, LinkId)]| store.link_totals(links).await.unwrap();
    assert_eq!(
        ask(&[(&ours, link), (&ours, unseen), (&theirs, other)]).await,
        HashMap::from([(link, LinkTotal { all: 3, people: 2 })])
    );
    assert_eq!(ask(&[]).await, HashMap::new());
    // As many as there may be, from workspaces with names as long as there may be.
    let long = WorkspaceId::new(&"w".repeat(40));
    let mut many = vec![(&long, LinkId::mint()); Store::TOTALS_AT_ONCE - 1];
    many.push((&ours, other));
    assert_eq!(ask(&many).await, HashMap::from([(other, LinkTotal { all: 1, people: 1 })]));
}

#[tokio::test]
async fn every_table_takes_its_rows() {
    let store = fresh().await;
    let at = Timestamp::from_millis(AT);
    let source = Source { topic: TOPIC, partition: 2, offset: 7 };
    let event = sample::event(EventName::LinkUpdated, at);
    let mut events = Vec::new();
    rows::link_event("default", &event, "{}", source, &mut events).unwrap();
    let attempt = Attempt {
        v: 2,
        id: AttemptId::mint(),
        endpoint: EndpointId::mint(),
        workspace: WorkspaceId::default(),
        batch: None,
        events: vec![AttemptedEvent { id: event.id, event: event.event, outcome: None }],
        attempt: 1,
        at,
        duration_ms: 12,
        outcome: Outcome::Retrying,
        status: Some(500),
        error: Some("500 Internal Server Error".to_owned()),
        response: None,
    };
    let mut deliveries = Vec::new();
    rows::delivery(&attempt, &attempt.events[0], source, &mut deliveries).unwrap();
    for (table, rows, id) in
        [(Table::LinkEvents, events, event.id.to_string()), (Table::Deliveries, deliveries, attempt.id.to_string())]
    {
        store.insert(Insertion { table, ..insertion(rows, "one") }).await.unwrap();
        let span = Span { table, topic: TOPIC, partition: 2, first: 7, last: 7, rows: vec![(&id, at)] };
        assert_eq!(store.present(&span).await.unwrap(), HashSet::from([(7, id.clone())]));
    }
}

/// A conversion's row, as a test wants it.
struct Told<'a> {
    conversion: ConversionId,
    event: &'a str,
    at: i64,
    status: Option<&'a str>,
    value: Option<i64>,
    commission: Option<i64>,
    click: Option<(LinkId, ClickId)>,
    ad: &'a str,
    customer: &'a str,
}

fn told(told: &[Told<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (offset, told) in (0..).zip(told) {
        let at = Timestamp::from_millis(told.at);
        let mut event = sample::event(EventName::LinkConverted, at);
        event.id = EventId::of("default", event.event, told.event, "", at);
        let eur = |value| Amount { value, currency: "EUR".to_owned() };
        let conversion = event.conversion.as_mut().unwrap();
        conversion.id = told.conversion;
        conversion.status = told.status.map(Into::into);
        (conversion.amount, conversion.commission) = (told.value.map(eur), told.commission.map(eur));
        conversion.attributed = told.click.is_some();
        conversion.customer_id = Some(told.customer.into());
        match told.click {
            Some((link, click)) => {
                event.link.as_mut().unwrap().id = link;
                event.click.as_mut().unwrap().id = click;
                event.attribution.as_mut().unwrap().referrer_ad_creative = Some(told.ad.into());
            }
            None => (event.link, event.click, event.utm, event.attribution) = (None, None, None, None),
        }
        rows::conversion("default", &event, Source { topic: "t.events", partition: 0, offset }, &mut block).unwrap();
    }
    block
}

#[tokio::test]
async fn a_conversion_has_one_current_state_and_is_counted_once() {
    let store = fresh().await;
    let workspace = WorkspaceId::default();
    let link = LinkId::mint();
    let [sale, refund, late, other]: [ConversionId; 4] = std::array::from_fn(|_| ConversionId::mint());
    let click = |nth| ClickId::new(Timestamp::from_millis(AT), 0, nth);
    let row = |conversion, event, at, status, value, click| Told {
        conversion,
        event,
        at: AT + at,
        status: Some(status),
        value,
        commission: value.map(|value| value / 10),
        click,
        ad: "story-7",
        customer: "jane",
    };
    let all = [
        row(sale, "1", 2, "approved", Some(5000), Some((link, click(1)))),
        // An older status that is reported later, and is not current.
        row(sale, "2", 1, "pending", Some(4000), Some((link, click(1)))),
        row(refund, "3", 1, "approved", Some(700), Some((link, click(2)))),
        // A status alone: the worth stays as it was.
        row(refund, "4", 3, "refunded", None, Some((link, click(2)))),
        row(late, "5", 1, "approved", Some(100), None),
        // Its click is found later: another row of the same status.
        row(late, "6", 1, "approved", Some(100), Some((link, click(3)))),
        Told { customer: "joe", ..row(other, "7", 1, "approved", Some(9), None) },
        row(other, "8", 0, "pending", Some(8), None),
    ];
    store.insert(Insertion { table: Table::Conversions, ..insertion(told(&all), "one") }).await.unwrap();

    let ask = async |filter: ConversionFilter<'_>| store.conversions(&workspace, &filter, None, 10).await.unwrap();
    let listed = ask(ConversionFilter::default()).await;
    let states: Vec<_> =
        listed.iter().map(|row| (row.conversion_id.clone(), row.status.as_str(), row.value, row.attributed)).collect();
    assert_eq!(
        states,
        [
            (other.to_string(), "approved", 9, false),
            (late.to_string(), "approved", 100, true),
            (refund.to_string(), "refunded", 700, true),
            (sale.to_string(), "approved", 5000, true),
        ]
    );
    assert_eq!((listed[1].click_id.as_str(), listed[0].link_id.as_str()), (&*click(3).to_string(), ""));
    assert_eq!((listed[3].timestamp_ms, listed[3].updated_ms), (AT + 1, AT + 2));
    let status = |status| ConversionFilter { status: Some(status), ..ConversionFilter::default() };
    assert_eq!(ask(status("pending")).await, []);
    assert_eq!(ask(status("refunded")).await.len(), 1);
    assert_eq!(ask(ConversionFilter { link: Some(link), ..ConversionFilter::default() }).await.len(), 3);
    assert_eq!(ask(ConversionFilter { click: Some(click(2)), ..ConversionFilter::default() }).await.len(), 1);
    assert_eq!(ask(ConversionFilter { customer: Some("joe"), ..ConversionFilter::default() }).await.len(), 1);
    assert_eq!(ask(ConversionFilter { order: Some("no"), ..ConversionFilter::default() }).await, []);
    let page = store.conversions(&workspace, &ConversionFilter::default(), Some(late), 1).await.unwrap();
    assert_eq!(page[0].conversion_id, refund.to_string());

    let unattributed = store.unattributed_conversions(&[other, sale, ConversionId::mint()]).await.unwrap();
    assert_eq!(unattributed.keys().collect::<Vec<_>>(), [&other]);
    let latest = &unattributed[&other];
    assert_eq!((latest.workspace.as_str(), latest.timestamp), ("default", Timestamp::from_millis(AT + 1)));
    let expected = sample::event(EventName::LinkConverted, latest.timestamp).conversion.unwrap();
    assert_eq!(
        latest.facts,
        ConversionFacts {
            id: other,
            amount: Some(Amount { value: 9, currency: "EUR".to_owned() }),
            commission: Some(Amount { value: 0, currency: "EUR".to_owned() }),
            customer_id: Some("joe".into()),
            attributed: false,
            seconds_since_click: None,
            ..expected
        }
    );

    let (subject, ever) = (StatsSubject::Link(link), StatsPeriod::ever(Timestamp::from_millis(AT + 10)));
    let (counts, revenue) = store.conversion_counts(&workspace, &subject, ever).await.unwrap();
    assert_eq!(counts, ConversionCounts { total: 2, taken_back: 1 });
    assert_eq!(revenue, [Revenue { currency: "EUR".to_owned(), value: 5100, commission: 510 }]);
    let ads = store.link_ads(&workspace, link, ever).await.unwrap();
    assert_eq!(ads, [AdStats { ad_creative: "story-7".to_owned(), clicks: 0, conversions: 2 }]);
    let theirs = WorkspaceId::new("other");
    let (counts, revenue) = store.conversion_counts(&theirs, &subject, ever).await.unwrap();
    assert_eq!((counts, revenue), (ConversionCounts::default(), Vec::new()));
    assert_eq!(store.conversions(&theirs, &ConversionFilter::default(), None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_person_is_erased_and_nobody_else() {
    let store = fresh().await;
    let workspace = WorkspaceId::default();
    let link = LinkId::mint();
    let seen = |session| Seen { link, at: AT, session, bot: false, name: EventName::LinkClicked };
    store.insert(insertion(block(&[seen("ses_a"), seen("ses_b"), seen("ses_c")]), "one")).await.unwrap();
    let click = |nth| ClickId::new(Timestamp::from_millis(AT), 0, nth);
    let row = |event, nth, customer| Told {
        conversion: ConversionId::mint(),
        event,
        at: AT,
        status: None,
        value: Some(1),
        commission: None,
        click: Some((link, click(nth))),
        ad: "",
        customer,
    };
    let rows = told(&[row("1", 0, "jane"), row("2", 0, "jane"), row("3", 1, "joe")]);
    store.insert(Insertion { table: Table::Conversions, ..insertion(rows, "one") }).await.unwrap();

    let rows = |clicks, conversions| PersonRows { clicks, conversions };
    let erased = store.erase(&WorkspaceId::new("other"), Person::Customer("jane")).await.unwrap();
    assert_eq!(erased, Erased::default());
    let erased = store.erase(&workspace, Person::Customer("jane")).await.unwrap();
    assert_eq!(erased, Erased { erased: rows(1, 2), remaining: rows(0, 0) });
    assert_eq!(store.erase(&workspace, Person::Customer("jane")).await.unwrap(), Erased::default());
    // Totals are read from a projection, which must not keep what is deleted.
    assert_eq!(visits(&store, &workspace, link).await.clicks.total, 2);
    let erased = store.erase(&workspace, Person::Session("ses_c")).await.unwrap();
    assert_eq!(erased, Erased { erased: rows(1, 0), remaining: rows(0, 0) });
    let erased = store.erase(&workspace, Person::Click(&click(1).to_string())).await.unwrap();
    assert_eq!(erased, Erased { erased: rows(1, 1), remaining: rows(0, 0) });
    assert_eq!(visits(&store, &workspace, link).await.clicks, LinkClicks::default());
}

/// Returns the numbers of clicks that ClickHouse tells where it answers from rows, from
/// rows by their ids, and from the projections.
async fn counts(client: &clickhouse::Client, ids: &[String]) -> [u64; 4] {
    let count = async |sql: &str| client.query(sql).bind(ids).fetch_one::<u64>().await.unwrap();
    [
        count("SELECT count() FROM clicks WHERE id IN ? SETTINGS optimize_use_projections = 0").await,
        count("SELECT count() FROM clicks WHERE id IN ?").await,
        count("SELECT uniqExact(id) FROM clicks WHERE id != '' OR id IN ?").await,
        count("SELECT sum(n) FROM (SELECT count() AS n FROM clicks GROUP BY workspace, link_id, kind) WHERE [] != ?")
            .await,
    ]
}

#[tokio::test]
async fn deleted_and_expired_rows_are_in_no_answer() {
    let store = fresh().await;
    let client = clickhouse::Client::default().with_url(&store.config().url).with_database(&store.config().database);
    let link = LinkId::mint();
    let now = Timestamp::now().as_millis();
    let seen = |session, at| Seen { link, at, session, bot: false, name: EventName::LinkClicked };
    let all = [seen("ses_a", AT), seen("ses_b", AT), seen("ses_a", now), seen("ses_b", now), seen("ses_c", now)];
    store.insert(insertion(block(&all), "one")).await.unwrap();
    let ids: Vec<String> =
        (0..).zip(&all).map(|(nth, seen)| ClickId::new(Timestamp::from_millis(seen.at), 0, nth).to_string()).collect();
    assert_eq!(counts(&client, &ids).await, [5; 4]);

    let erased = store.erase(&WorkspaceId::default(), Person::Session("ses_a")).await.unwrap();
    assert_eq!(erased.erased.clicks, 2);
    assert_eq!(counts(&client, &ids).await, [3; 4]);
    assert_eq!(offsets(&store, &all).await, HashSet::from([1, 3, 4]));
    // The rows leave the disk, and every part has its projections again.
    let ours = "WHERE database = currentDatabase() AND table = 'clicks' AND active";
    let rows = format!("SELECT sum(rows) FROM system.parts {ours}");
    let built = format!("SELECT countIf(name = 'by_row') FROM system.projection_parts {ours}");
    eventually("deleted rows are purged", async || {
        let rows: u64 = client.query(&rows).fetch_one().await.unwrap();
        let built: u64 = client.query(&built).fetch_one().await.unwrap();
        ((rows, built) == (3, 2)).then_some(())
    })
    .await;
    assert_eq!(counts(&client, &ids).await, [3; 4]);

    let month = Store::new(StoreConfig { clicks_days: 30, ..store.config().clone() }).unwrap();
    month.migrate().await.unwrap();
    client.query("OPTIMIZE TABLE clicks FINAL").execute().await.unwrap();
    eventually("rows expire", async || (counts(&client, &ids).await[0] == 2).then_some(())).await;
    assert_eq!(counts(&client, &ids).await, [2; 4]);
    assert_eq!(offsets(&store, &all).await, HashSet::from([3, 4]));
}

/// Starts what many put before ClickHouse: it takes TLS and passes on what it decrypts. Gives
/// back its port, and writes its certificate to `pem`.
async fn tls_before_clickhouse(pem: &Path) -> u16 {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(pem, signed.cert.pem()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signed.signing_key.serialize_pem().as_bytes()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let behind = config().url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(&behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_clickhouse_with_a_certificate_of_a_private_authority_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("authority.pem");
    let port = tls_before_clickhouse(&pem).await;
    let secured = StoreConfig { url: format!("https://127.0.0.1:{port}"), ..config() };

    let error = Store::new(secured.clone()).unwrap().ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");

    let store = Store::new(StoreConfig { ca_file: Some(pem), ..secured }).unwrap();
    store.migrate().await.unwrap();
    let seen = [Seen { link: LinkId::mint(), at: AT, session: "a", bot: false, name: EventName::LinkClicked }];
    store.insert(insertion(block(&seen), "1")).await.unwrap();
    assert_eq!(offsets(&store, &seen).await, HashSet::from([0]));
}
