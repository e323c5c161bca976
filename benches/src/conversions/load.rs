//! Clicks and reports of conversions as redirectors write them: most conversions follow
//! their click at once, some after hours, and some are reported before the click comes.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::Context;
use bus::{Bus, Outgoing, Producer};
use schemas::{
    ClickClass, ClickId, ConversionId, RawConversion, Timestamp, Topic, WorkspaceId,
    click::{BUNDLE_COUNT_HEADER, BUNDLE_HEADER, Visit, link_tail},
    hints::Hints,
    usermap::UserMap,
};
use uuid::Uuid;

use crate::{agents, catalogue, produce};

const PATIENCE: Duration = Duration::from_secs(60);
/// How old the oldest click is whose conversion is reported.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// The most clicks of a bundle.
const CLICKS_A_BUNDLE: usize = 100;

/// The state of a report's click when the report is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClickIs {
    /// Of up to 24 hours ago, and a row.
    Old,
    /// Just produced.
    New,
    /// Not produced yet.
    ToCome,
    /// Never produced.
    Unknown,
}

/// The clicks and reports that were produced.
pub(super) struct ConversionLoad {
    bus: Bus,
    producer: Producer,
    tail: Vec<u8>,
    /// The workspace that has the link.
    workspace: WorkspaceId,
    /// Every click that was produced.
    pub(super) clicks: Vec<ClickId>,
    /// The number of those that were produced as old ones.
    old: usize,
    /// The clicks that are yet to be produced, and when.
    to_come: BTreeMap<Instant, ClickId>,
    /// How late a click comes at most that was reported before.
    late_by: Duration,
    /// Of each order, its click, when it was reported, and what the click was then.
    pub(super) orders: HashMap<String, (ClickId, Timestamp, ClickIs)>,
}

impl ConversionLoad {
    pub(super) fn new(bus: &Bus, late_by: Duration) -> anyhow::Result<Self> {
        let link = catalogue::link(0);
        Ok(Self {
            producer: bus.producer("bench-conversions", Duration::from_millis(2), PATIENCE)?,
            bus: bus.clone(),
            tail: link_tail(link.workspace.as_str(), &link.facts()).context("a link's part of a line")?,
            workspace: link.workspace,
            clicks: Vec::new(),
            old: 0,
            to_come: BTreeMap::new(),
            late_by,
            orders: HashMap::new(),
        })
    }

    /// Produces clicks of the last 24 hours.
    pub(super) fn old_clicks(&mut self, count: usize) -> anyhow::Result<()> {
        let now = Timestamp::now().as_millis();
        let ago = || i64::try_from(OLDEST.as_millis()).unwrap_or_default() * i64::from(rand::random::<u16>()) / 65_536;
        let ids: Vec<ClickId> = (0..count).map(|_| new_click(Timestamp::from_millis(now - ago()))).collect();
        self.produce_clicks(&ids)?;
        self.old = self.clicks.len();
        produce::until_taken(&self.producer, PATIENCE)
    }

    /// Produces new clicks, and those that are due.
    pub(super) fn new_clicks(&mut self, count: usize) -> anyhow::Result<()> {
        let mut ids: Vec<ClickId> = (0..count).map(|_| new_click(Timestamp::now())).collect();
        while let Some(due) = self.to_come.first_entry().filter(|due| *due.key() <= Instant::now()) {
            ids.push(due.remove());
        }
        self.produce_clicks(&ids)
    }

    /// The number of clicks that are yet to be produced.
    pub(super) fn to_come(&self) -> usize {
        self.to_come.len()
    }

    /// Reports a conversion of a click.
    pub(super) fn report(&mut self, click_is: ClickIs) -> anyhow::Result<()> {
        let random = rand::random::<u64>() as usize;
        let click = match click_is {
            ClickIs::Old => *self.clicks.get(random % self.old.max(1)).context("there are no old clicks")?,
            ClickIs::New => {
                let new = self.clicks.len() - self.old;
                // One of the latest two hundred.
                let back = 1 + random % new.clamp(1, 200);
                self.clicks[self.clicks.len() - back]
            }
            ClickIs::ToCome => {
                let click = new_click(Timestamp::now());
                let at = Instant::now() + self.late_by.mul_f64(rand::random());
                self.to_come.insert(at, click);
                click
            }
            ClickIs::Unknown => new_click(Timestamp::now()),
        };
        let now = Timestamp::now();
        let order = format!("o{}", self.orders.len());
        let raw = RawConversion {
            v: 1,
            id: ConversionId::mint(),
            workspace: self.workspace.clone(),
            received_at: now,
            same_as: format!("order/purchase/{order}"),
            click_id: Some(click),
            name: "purchase".to_owned(),
            order_id: Some(order.clone()),
            product: None,
            amount: None,
            commission: None,
            affiliate_id: None,
            customer_id: None,
            status: None,
            timestamp: now,
            metadata: UserMap::default(),
        };
        let (key, value) = (raw.key(), serde_json::to_vec(&raw)?);
        let partition = Some(self.bus.partition_of_shard(Topic::ConversionsRaw, raw.shard()));
        let out = Outgoing { partition, ..Outgoing::keyed(Topic::ConversionsRaw, key.as_bytes(), Some(&value)) };
        produce::send(&self.producer, &out)?;
        self.orders.insert(order, (click, now, click_is));
        Ok(())
    }

    fn produce_clicks(&mut self, ids: &[ClickId]) -> anyhow::Result<()> {
        // A bundle has clicks of one partition.
        let mut by_partition = BTreeMap::<i32, Vec<ClickId>>::new();
        for id in ids {
            by_partition.entry(self.bus.partition_of(Topic::ClicksRaw, *id)).or_default().push(*id);
        }
        for (partition, ids) in by_partition {
            for ids in ids.chunks(CLICKS_A_BUNDLE) {
                self.produce_bundle(partition, ids)?;
            }
        }
        self.clicks.extend_from_slice(ids);
        Ok(())
    }

    fn produce_bundle(&self, partition: i32, ids: &[ClickId]) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for id in ids {
            let visit = Visit {
                id: *id,
                class: ClickClass::Click,
                rate_limited: false,
                ip: std::net::Ipv4Addr::from_bits(rand::random()).into(),
                user_agent: Some(agents::agent(rand::random())),
                referer: None,
                query: Some("utm_source=newsletter"),
                hints: Hints::default(),
                traceparent: None,
            };
            visit.write_line(&self.tail, &mut lines);
        }
        let (bundle, count) = (Uuid::now_v7().to_string(), ids.len().to_string());
        let headers = [(BUNDLE_COUNT_HEADER, count.as_bytes()), (BUNDLE_HEADER, bundle.as_bytes())];
        let out = Outgoing {
            topic: Topic::ClicksRaw,
            partition: Some(partition),
            key: None,
            value: Some(&lines),
            headers: &headers,
        };
        produce::send(&self.producer, &out)
    }
}

fn new_click(at: Timestamp) -> ClickId {
    ClickId::new(at, rand::random::<u16>() % schemas::ids::SHARDS, rand::random())
}
