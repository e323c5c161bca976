//! The join of conversions on a real Kafka and a real ClickHouse: every report has one
//! outcome, with its click where ClickHouse has the click.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bus::{Bus, Outgoing, Producer};
use enricher::Config;
use schemas::{
    ClickId, ConversionId, Dead, Envelope, Event, EventName, RawConversion, Timestamp, Topic, WorkspaceId,
    conversion::{Amount, Attributed, OrderState},
    sample,
    usermap::UserMap,
};
use service::{Health, Metrics, Process, Shutdown};
use store::{
    Insertion, Store, StoreConfig, Table,
    rows::{self, Source},
};
use testbed::eventually;
use tokio::task::JoinHandle;

/// The hold in tests where it is to be over soon.
const HOLD_S: u64 = 3;
/// The trace of the requests that report.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct JoinRig {
    bus: Bus,
    store: Store,
    producer: Producer,
}

struct Enricher {
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), enricher::Error>>,
}

impl JoinRig {
    async fn new() -> Self {
        let bus = testbed::bus().await;
        let config = StoreConfig {
            url: testbed::clickhouse(),
            database: testbed::unique("t"),
            clicks_days: 0,
            deliveries_days: 0,
            ..StoreConfig::default()
        };
        let store = Store::new(config).unwrap();
        store.migrate().await.unwrap();
        let producer = bus.producer("test", Duration::ZERO, Duration::ZERO).unwrap();
        Self { bus, store, producer }
    }

    async fn enricher(&self, hold_s: u64) -> Enricher {
        let process = Process::default();
        let Process { metrics, health, shutdown } = process.clone();
        for part in ["enricher", "conversions"] {
            // The role's own parts, named before it starts, so that they are waited for.
            let _ = health.part(part);
        }
        let config = Config { conversion_hold_s: hold_s, ..Config::default() };
        let task = tokio::spawn(enricher::run(config, self.bus.clone(), self.store.clone(), process));
        health.ready().await;
        Enricher { metrics, health, shutdown, task }
    }

    /// Inserts the rows of clicks.
    async fn clicks(&self, workspace: &str, ids: &[ClickId]) {
        let mut block = Vec::new();
        for (offset, id) in (0..).zip(ids) {
            let at = id.timestamp();
            let mut event = sample::event(EventName::LinkClicked, at);
            event.click.as_mut().unwrap().id = *id;
            let envelope = Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: None, event };
            rows::click(
                &serde_json::to_vec(&envelope).unwrap(),
                Source { topic: "t", partition: 0, offset },
                &mut block,
            )
            .unwrap();
        }
        let token = testbed::unique("block");
        let insertion = Insertion { table: Table::Clicks, rows: vec![block.into()], query_id: token.clone(), token };
        self.store.insert(insertion).await.unwrap();
    }

    /// Inserts the rows of the conversions that were told so far, as the warehouse does.
    async fn conversions(&self) {
        let mut block = Vec::new();
        for read in testbed::read(&self.bus, Topic::Events, |read| !read.is_empty()).await {
            let envelope: Envelope<'_, Event<'_>> = serde_json::from_str(&read.value).unwrap();
            let (partition, offset) = (read.partition.try_into().unwrap(), read.offset.try_into().unwrap());
            let source = Source { topic: "t", partition, offset };
            rows::conversion(&envelope.workspace, &envelope.event, source, &mut block).unwrap();
        }
        let token = testbed::unique("block");
        let insertion =
            Insertion { table: Table::Conversions, rows: vec![block.into()], query_id: token.clone(), token };
        self.store.insert(insertion).await.unwrap();
    }

    /// Changes the state of an order as if the order had been told without its click
    /// `ago`.
    async fn told_ago(&self, raw: &RawConversion, ago: Duration) {
        let key = raw.order_key();
        let states = testbed::read(&self.bus, Topic::Conversions, |read| !read.is_empty()).await;
        let state = states.iter().rfind(|read| read.key == key).unwrap();
        let mut order: OrderState = serde_json::from_str(&state.value).unwrap();
        let at = Timestamp::now().as_millis() - i64::try_from(ago.as_millis()).unwrap();
        for status in &mut order.statuses {
            assert_eq!(status.outcome, Attributed::Unattributed);
            status.unattributed_at = Some(Timestamp::from_millis(at));
        }
        let value = serde_json::to_vec(&order).unwrap();
        self.producer.produce(&Outgoing::keyed(Topic::Conversions, key.as_bytes(), Some(&value))).await.unwrap();
    }

    async fn report(&self, raw: &RawConversion) {
        let (key, value) = (raw.key(), serde_json::to_vec(raw).unwrap());
        let out = Outgoing {
            topic: Topic::ConversionsRaw,
            partition: Some(self.bus.partition_of_shard(Topic::ConversionsRaw, raw.shard())),
            key: Some(key.as_bytes()),
            value: Some(&value),
            headers: &[("traceparent", TRACE.as_bytes())],
        };
        self.producer.produce(&out).await.unwrap();
    }

    /// The events, once there are `count`: of each order and status, the conversion, the
    /// click, and whether it is attributed.
    async fn events(&self, count: usize) -> Vec<ToldConversion> {
        let events = testbed::read(&self.bus, Topic::Events, move |read| read.len() >= count).await;
        assert_eq!(events.len(), count, "{events:#?}");
        events
            .iter()
            .map(|read| {
                let envelope: Envelope<'_, Event<'_>> = serde_json::from_str(&read.value).unwrap();
                let event = envelope.event;
                let conversion = event.conversion.unwrap();
                assert_eq!(conversion.attributed, event.click.is_some());
                assert_eq!(conversion.attributed, event.link.is_some());
                ToldConversion {
                    order: conversion.order_id.unwrap_or_default().into_owned(),
                    status: conversion.status.unwrap_or_default().into_owned(),
                    conversion: conversion.id,
                    click: event.click.map(|click| click.id),
                    seconds: conversion.seconds_since_click,
                    amount: conversion.amount,
                    trace: read.headers.get("traceparent").cloned(),
                }
            })
            .collect()
    }
}

#[derive(Debug)]
struct ToldConversion {
    order: String,
    status: String,
    conversion: ConversionId,
    click: Option<ClickId>,
    seconds: Option<u64>,
    amount: Option<Amount>,
    trace: Option<String>,
}

impl Enricher {
    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap().unwrap();
    }
}

fn click_of(seconds_ago: i64) -> ClickId {
    let at = Timestamp::from_millis(Timestamp::now().as_millis() - seconds_ago * 1000);
    ClickId::new(at, rand::random(), rand::random())
}

fn sale(order: &str, click: Option<ClickId>) -> RawConversion {
    let now = Timestamp::now();
    RawConversion {
        v: 1,
        id: ConversionId::mint(),
        workspace: WorkspaceId::new("acme"),
        received_at: now,
        same_as: format!("order/purchase/{order}"),
        click_id: click,
        name: "purchase".to_owned(),
        order_id: Some(order.to_owned()),
        product: None,
        amount: None,
        commission: None,
        affiliate_id: None,
        customer_id: None,
        status: None,
        timestamp: now,
        metadata: UserMap::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_finds_its_click_and_its_order_is_updated_without_naming_it() {
    let here = JoinRig::new().await;
    let enricher = here.enricher(600).await;
    let click = click_of(60);
    here.clicks("acme", &[click]).await;
    let first = RawConversion { status: Some("pending".to_owned()), ..sale("1", Some(click)) };
    here.report(&first).await;
    // The same report again, and then a change of its status.
    here.report(&RawConversion { id: ConversionId::mint(), ..first.clone() }).await;
    here.report(&RawConversion { status: Some("refunded".to_owned()), ..sale("1", None) }).await;
    let told = here.events(2).await;
    // Events are not in order.
    let statuses: BTreeSet<&str> = told.iter().map(|told| told.status.as_str()).collect();
    assert_eq!(statuses, BTreeSet::from(["pending", "refunded"]));
    for told in &told {
        assert_eq!((told.conversion, told.click), (first.id, Some(click)));
        assert!((60..120).contains(&told.seconds.unwrap()), "{told:?}");
        assert_eq!(told.trace.as_deref(), Some(TRACE));
    }
    assert_eq!(enricher.metric("clickhook_enricher_conversions_repeats_total"), 1);
    enricher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_waits_for_its_click_and_goes_out_without_it_after_the_hold() {
    let here = JoinRig::new().await;
    let enricher = here.enricher(HOLD_S).await;
    let (late, never, foreign) = (click_of(1), click_of(1), click_of(1));
    here.clicks("other", &[foreign]).await;
    for (order, click) in [("late", late), ("never", never), ("foreign", foreign)] {
        here.report(&sale(order, Some(click))).await;
    }
    eventually("all three wait", async || {
        (enricher.metric("clickhook_enricher_conversions_waiting") == 3).then_some(())
    })
    .await;
    here.clicks("acme", &[late]).await;
    let told = here.events(3).await;
    assert!(told.iter().all(|told| told.trace.as_deref() == Some(TRACE)), "{told:?}");
    let told: BTreeMap<String, Option<ClickId>> = told.into_iter().map(|told| (told.order, told.click)).collect();
    let expected = [("foreign", None), ("late", Some(late)), ("never", None)];
    assert_eq!(told, expected.map(|(order, click)| (order.to_owned(), click)).into());
    here.store.ping().await.unwrap();
    assert!(enricher.health.is_ready(), "{:?}", enricher.health.waiting());
    enricher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_used_goes_to_dead_without_its_customer() {
    let here = JoinRig::new().await;
    let customer_id = Some("jane".to_owned());
    let one_more = RawConversion { customer_id, status: Some("64".to_owned()), ..sale("1", None) };
    let mut order = OrderState {
        v: 1,
        conversion: one_more.id,
        click_id: None,
        shard: None,
        traceparent: None,
        statuses: Vec::new(),
    };
    for status in 0..64 {
        order.note(Some(&status.to_string()), one_more.timestamp, Attributed::Attributed, one_more.timestamp);
    }
    let (key, value) = (one_more.order_key(), serde_json::to_vec(&order).unwrap());
    here.producer.produce(&Outgoing::keyed(Topic::Conversions, key.as_bytes(), Some(&value))).await.unwrap();
    let enricher = here.enricher(600).await;
    here.report(&one_more).await;
    here.report(&RawConversion { v: 9, customer_id: one_more.customer_id.clone(), ..sale("2", None) }).await;
    let dead = testbed::read(&here.bus, Topic::Dead, |read| read.len() >= 2).await;
    let dead: Vec<Dead> = dead.iter().map(|read| serde_json::from_str(&read.value).unwrap()).collect();
    let reasons: BTreeSet<&str> = dead.iter().map(|dead| dead.reason.as_str()).collect();
    let expected = [
        "its order has 64 statuses, and this one would be one more",
        "the record's format is version 9, only 1 is known",
    ];
    assert_eq!(reasons, expected.into());
    for Dead { payload, origin, .. } in &dead {
        let payload = payload.as_deref().unwrap();
        assert!(payload.contains("\"order_id\"") && !payload.contains("jane"), "{payload}");
        assert_eq!(origin.topic, here.bus.topics().name(Topic::ConversionsRaw));
    }
    assert_eq!(enricher.metric("clickhook_enricher_conversions_dead_total"), 2);
    enricher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_later_sale_belongs_to_the_last_click() {
    let here = JoinRig::new().await;
    let enricher = here.enricher(600).await;
    let (first, last) = (click_of(600), click_of(60));
    here.clicks("acme", &[first, last]).await;
    let of_customer = |order, click| RawConversion { customer_id: Some("cus".to_owned()), ..sale(order, click) };
    here.report(&of_customer("1", Some(last))).await;
    here.report(&of_customer("2", Some(first))).await;
    here.events(2).await;
    here.report(&of_customer("3", None)).await;
    let told = here.events(3).await;
    assert_eq!(told.iter().find(|told| told.order == "3").unwrap().click, Some(last));
    enricher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_that_shows_up_after_the_hold_updates_its_conversion_once() {
    let here = JoinRig::new().await;
    let enricher = here.enricher(1).await;
    let click = click_of(60);
    let amount = Some(Amount { value: 4990, currency: "EUR".to_owned() });
    let customer_id = Some("cus".to_owned());
    let report = RawConversion { amount, customer_id, ..sale("1", Some(click)) };
    here.report(&report).await;
    let told = here.events(1).await;
    assert_eq!((told[0].click, told[0].conversion), (None, report.id));
    assert_eq!(enricher.metric("clickhook_enricher_conversions_awaited"), 1);
    enricher.stop().await;

    // A redirector's disk hands the click over, seconds before it is looked for.
    here.conversions().await;
    here.clicks("acme", &[click]).await;
    let enricher = here.enricher(1).await;
    here.told_ago(&report, Duration::from_secs(300 - 4)).await;
    let told = here.events(2).await;
    let late = told.iter().find(|told| told.click.is_some()).unwrap();
    assert_eq!((late.conversion, late.click, late.order.as_str()), (report.id, Some(click), "1"));
    assert_eq!(late.amount, report.amount);
    assert_eq!(late.trace.as_deref(), Some(TRACE));
    assert!((60..120).contains(&late.seconds.unwrap()), "{late:?}");
    assert_eq!(enricher.metric("clickhook_enricher_conversions_awaited"), 0);

    // The conversion has its click now: a repeat is a repeat, and the customer's next sale
    // belongs to the click.
    here.report(&RawConversion { id: ConversionId::mint(), ..report.clone() }).await;
    here.report(&RawConversion { customer_id: report.customer_id, ..sale("2", None) }).await;
    let told = here.events(3).await;
    assert_eq!(told.iter().find(|told| told.order == "2").unwrap().click, Some(click));
    assert_eq!(enricher.metric("clickhook_enricher_conversions_repeats_total"), 1);
    enricher.stop().await;
}

/// Enrichers join and leave in the middle of their work.
#[tokio::test(flavor = "multi_thread")]
async fn every_report_has_one_outcome_while_enrichers_come_and_go() {
    let here = JoinRig::new().await;
    let clicks: Vec<ClickId> = (0..200).map(|_| click_of(10)).collect();
    here.clicks("acme", &clicks).await;
    let mut expected = BTreeMap::new();
    let mut running = vec![here.enricher(HOLD_S).await];
    for (number, click) in clicks.iter().enumerate() {
        let order = format!("{number:04}");
        // Every fourth names a click that never comes, and every third is reported twice.
        let known = number % 4 != 3;
        let report = sale(&order, Some(if known { *click } else { click_of(5) }));
        here.report(&report).await;
        if number % 3 == 0 {
            here.report(&RawConversion { id: ConversionId::mint(), ..report }).await;
        }
        expected.insert(order, known.then_some(*click));
        if number % 40 == 20 {
            running.push(here.enricher(HOLD_S).await);
        }
        if number % 40 == 35 {
            running.remove(0).stop().await;
        }
    }
    let told: BTreeMap<String, Option<ClickId>> =
        here.events(expected.len()).await.into_iter().map(|told| (told.order, told.click)).collect();
    assert_eq!(told, expected);
    for enricher in running {
        enricher.stop().await;
    }
}
