//! Two enrichers, killed while they turn clicks into events and while they find the clicks
//! of conversions: each click is told once, and each conversion once, with its own click.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bus::{Bus, BusConfig, Outgoing, Producer};
use schemas::{
    ClickClass, ClickId, ConversionId, Envelope, Event, LinkFacts, LinkId, RawConversion, Timestamp, Topic,
    WorkspaceId, click::Visit, usermap::UserMap,
};
use testbed::free_address;
use tokio::runtime::Runtime;

use crate::{
    roles::{Installation, RoleProcess},
    support::{PHONE, eventually, folder, query},
};

const PATIENCE: Duration = Duration::from_secs(60);
const BUNDLES: usize = 60;
const CLICKS_A_BUNDLE: usize = 10;

/// Produces a bundle of clicks.
async fn produce_clicks(producer: &Producer, ids: &[ClickId], partition: i32) {
    let link = LinkFacts {
        id: LinkId::from_bits(7),
        short_url: "https://go.acme.co/sale".into(),
        destination: "https://acme.com/winter-sale".into(),
        slug: "sale".into(),
        campaign: None,
        segment: None,
        tags: Vec::new(),
    };
    let tail = schemas::click::link_tail("default", &link).unwrap();
    let mut lines = Vec::new();
    for id in ids {
        let visit = Visit {
            id: *id,
            class: ClickClass::Click,
            rate_limited: false,
            ip: "203.0.113.42".parse().unwrap(),
            user_agent: Some(PHONE),
            referer: None,
            query: None,
            hints: schemas::hints::Hints::default(),
            traceparent: None,
        };
        visit.write_line(&tail, &mut lines);
    }
    let bundle = uuid::Uuid::now_v7().to_string();
    let out = Outgoing {
        topic: Topic::ClicksRaw,
        partition: Some(partition),
        key: None,
        value: Some(&lines),
        headers: &[("bundle", bundle.as_bytes())],
    };
    producer.produce(&out).await.unwrap();
}

/// Reports the sale of an order.
async fn report(bus: &Bus, producer: &Producer, order: &str, click: ClickId) {
    let now = Timestamp::now();
    let raw = RawConversion {
        v: 1,
        id: ConversionId::mint(),
        workspace: WorkspaceId::default(),
        received_at: now,
        same_as: format!("order/purchase/{order}"),
        click_id: Some(click),
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
    };
    let (key, value) = (raw.key(), serde_json::to_vec(&raw).unwrap());
    let partition = Some(bus.partition_of_shard(Topic::ConversionsRaw, raw.shard()));
    let out = Outgoing { partition, ..Outgoing::keyed(Topic::ConversionsRaw, key.as_bytes(), Some(&value)) };
    producer.produce(&out).await.unwrap();
}

#[test]
fn killed_enrichers_tell_every_click_and_every_conversion_once() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir, testbed::kafka());
    let (brokers, prefix) = (installation.brokers.clone(), installation.prefix.clone());
    let bus = Bus::new(BusConfig { brokers, prefix, ..BusConfig::default() });
    let runtime = Runtime::new().unwrap();
    let producer = bus.producer("test", Duration::ZERO, PATIENCE).unwrap();
    let enricher = |name: &str| installation.start_at("enricher", free_address(), name);
    let mut enrichers = ["one", "two"].map(enricher);
    let dispatcher = installation.start("dispatcher");
    for role in enrichers.iter().chain([&dispatcher]) {
        role.until_ready("a role is ready");
    }
    let kill = |victim: &mut RoleProcess, name: &str| std::mem::replace(victim, enricher(name)).kill();

    let mut clicks = Vec::new();
    for bundle in 0..BUNDLES {
        let shard = u16::try_from(bundle % 4).unwrap();
        let new = || ClickId::new(Timestamp::now(), shard, rand::random());
        let ids: Vec<ClickId> = std::iter::repeat_with(new).take(CLICKS_A_BUNDLE).collect();
        runtime.block_on(produce_clicks(&producer, &ids, shard.into()));
        clicks.extend(ids);
        if bundle == BUNDLES / 2 {
            // The process that takes its name over fences it off, also if it is not dead yet.
            kill(&mut enrichers[0], "one");
        }
    }
    let expected = clicks.len().to_string();
    eventually("the clicks are rows", PATIENCE, || {
        let count = query(&testbed::clickhouse(), &installation.database, "SELECT count() FROM clicks");
        (count.trim() == expected).then_some(())
    });
    let told =
        runtime.block_on(testbed::read(&bus, Topic::Clicks, move |told| told.len() >= BUNDLES * CLICKS_A_BUNDLE));
    assert_eq!(told.len(), clicks.len(), "a click was told twice");
    let told: BTreeSet<String> = told.into_iter().map(|told| told.key).collect();
    assert_eq!(told, clicks.iter().map(ToString::to_string).collect());

    for (order, click) in clicks.iter().enumerate() {
        runtime.block_on(report(&bus, &producer, &order.to_string(), *click));
        if order == clicks.len() / 2 {
            kill(&mut enrichers[1], "two");
        }
    }
    let count = clicks.len();
    let told = runtime.block_on(testbed::read(&bus, Topic::Events, move |told| told.len() >= count));
    assert_eq!(told.len(), count, "a conversion was told twice");
    let told: BTreeMap<usize, Option<ClickId>> = told
        .iter()
        .map(|told| {
            let event = serde_json::from_str::<Envelope<'_, Event<'_>>>(&told.value).unwrap().event;
            let order = event.conversion.unwrap().order_id.unwrap().parse().unwrap();
            (order, event.click.map(|click| click.id))
        })
        .collect();
    assert_eq!(told, clicks.into_iter().map(Some).enumerate().collect());
}
