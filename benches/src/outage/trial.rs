//! One outage under load.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::Signal;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    disk::Probe,
    plan::Plan,
    proof::{self, Proof},
    rig::Rig,
};
use crate::{
    load::{self, Clicks, LoadEnd, Redirectors, Target},
    summary::Latency,
};

/// How Kafka goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outage {
    /// SIGSTOP, then SIGCONT.
    Frozen,
    /// kill -9, then started again on its data.
    Killed,
    /// The same, and the redirector is killed -9 in the middle and started again.
    BothKilled,
}

impl Outage {
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Frozen => "Kafka frozen",
            Self::Killed => "Kafka killed",
            Self::BothKilled => "Kafka killed, ingest too",
        }
    }
}

/// The outcome of one outage.
#[derive(Debug, Serialize)]
pub(crate) struct Trial {
    pub(crate) round: u16,
    pub(crate) outage: Outage,
    /// Clicks that were answered with a redirect.
    pub(crate) answered: usize,
    /// Clicks that were not, while a redirector was there.
    pub(crate) failed: usize,
    /// How they failed.
    pub(crate) failures: BTreeMap<String, usize>,
    /// Clicks that were not, while none was there.
    pub(crate) failed_without_ingest: usize,
    /// How long that was.
    pub(crate) without_ingest_ms: u64,
    /// While Kafka was away.
    pub(crate) outage_latency: Latency,
    /// Of the whole load, which went on while Kafka came back.
    pub(crate) latency: Latency,
    /// How long the disk took at worst to sync 8 KB while Kafka was away.
    pub(crate) slowest_sync_ms: f64,
    /// Clicks put on disk, as the redirector that ran last says.
    pub(crate) spooled: f64,
    pub(crate) shed: f64,
    /// From the end of the load until every answered click was in ClickHouse.
    pub(crate) caught_up_after_s: f64,
    pub(crate) proof: Proof,
    /// The first marker that no click of this trial has.
    pub(crate) next_marker: u32,
}

/// When it was.
struct Times {
    begun: Instant,
    over: Instant,
    /// When there was no redirector.
    gone: Option<(Instant, Instant)>,
}

pub(crate) async fn run(
    plan: Plan,
    rig: &mut Rig,
    round: u16,
    outage: Outage,
    first_marker: u32,
) -> anyhow::Result<Trial> {
    let target = Target { redirectors: Redirectors::clone(&rig.redirectors), slug: rig.slug, first_marker };
    let (rate, during) = (plan.rate, plan.before + plan.outage + plan.after);
    let load = spawn_blocking(move || load::open(&target, rate, LoadEnd::After(during)));
    rig.pass(plan.before).await?;
    let probe = Probe::start(&rig.dir).context("write beside the redirector")?;
    let times = take_kafka_away(plan.outage, rig, outage).await?;
    let slowest_sync = spawn_blocking(|| probe.slowest()).await?.context("write beside the redirector")?;
    let clicks = loop {
        if load.is_finished() {
            break load.await?.context("the load")?;
        }
        rig.pass(Duration::from_millis(200)).await?;
    };
    let ended = Instant::now();
    let spooled = rig.ingest("clickhook_ingest_spooled_clicks_total").await.unwrap_or_default();
    let shed = rig.ingest("clickhook_ingest_shed_clicks_total").await.unwrap_or_default();
    let answered: BTreeSet<u32> = clicks.answered.iter().map(|click| click.marker).collect();
    let sent = u32::try_from(clicks.answered.len() + clicks.failures.len()).context("count clicks")?;
    let next_marker = first_marker + sent + 1;
    let (proof, complete) = proof::of(rig, &answered, first_marker..next_marker, 0).await?;
    Ok(report(
        &clicks,
        &times,
        Trial {
            round,
            outage,
            answered: answered.len(),
            failed: 0,
            failures: BTreeMap::new(),
            failed_without_ingest: 0,
            without_ingest_ms: 0,
            outage_latency: Latency::default(),
            latency: Latency::default(),
            slowest_sync_ms: slowest_sync.as_secs_f64() * 1000.0,
            spooled,
            shed,
            caught_up_after_s: complete.saturating_duration_since(ended).as_secs_f64(),
            proof,
            next_marker,
        },
    ))
}

async fn take_kafka_away(time: Duration, rig: &mut Rig, outage: Outage) -> anyhow::Result<Times> {
    let begun = Instant::now();
    let mut gone = None;
    match outage {
        Outage::Frozen => {
            rig.signal_kafka(Signal::STOP)?;
            rig.pass(time).await?;
            let over = Instant::now();
            rig.signal_kafka(Signal::CONT)?;
            return Ok(Times { begun, over, gone });
        }
        Outage::Killed => {
            rig.kill_kafka().await?;
            rig.pass(time).await?;
        }
        Outage::BothKilled => {
            rig.kill_kafka().await?;
            rig.pass(time / 2).await?;
            gone = Some(rig.kill_ingest().await?);
            rig.pass(time / 2).await?;
        }
    }
    let over = Instant::now();
    rig.start_kafka().await?;
    Ok(Times { begun, over, gone })
}

/// Tells failures that nobody could prevent from those that nobody should see.
fn report(clicks: &Clicks, times: &Times, mut trial: Trial) -> Trial {
    for failure in &clicks.failures {
        // A click that was under way when the redirector was killed is cut off, however long it
        // had waited until then.
        let margin = Duration::from_millis(100);
        let gone = times.gone.is_some_and(|(from, to)| (from - margin..to + margin).contains(&failure.at));
        if gone {
            trial.failed_without_ingest += 1;
        } else {
            trial.failed += 1;
            *trial.failures.entry(format!("{:?}", failure.why)).or_default() += 1;
        }
    }
    trial.without_ingest_ms = times.gone.map_or(0, |(from, to)| u64::try_from((to - from).as_millis()).unwrap_or(0));
    let outage = clicks.answered.iter().filter(|click| (times.begun..times.over).contains(&click.due));
    trial.outage_latency = Latency::of(outage.map(|click| click.latency).collect());
    trial.latency = Latency::of(clicks.answered.iter().map(|click| click.latency).collect());
    trial
}
