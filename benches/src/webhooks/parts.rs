//! The parts of `bench webhooks`. Each makes topics and endpoints of its own, and starts a
//! dispatcher of its own.

use std::time::Duration;

use schemas::BatchLimits;
use serde::Serialize;
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    bare::{self, BarePosts},
    events::{self, BenchEndpoint, ClickStream},
    stand::{DeliveryCost, StreamOutcome, WebhookStand},
};
use crate::{context::say, process::Memory};

/// The connections of the bare client: as many as a dispatcher has to one endpoint.
const CONNECTIONS: usize = 32;
/// The events of a batch, and how many times as many events are delivered in batches.
const BATCH: u32 = 100;
const MORE_BATCHED: u32 = 5;
/// The campaign of the events that are measured.
const CAMPAIGN: &str = "bench";

/// Deliveries to one endpoint, beside a bare client that posts the same bytes.
#[derive(Debug, Serialize)]
pub(super) struct ThroughputRun {
    pub(super) ours: DeliveryCost,
    /// Ours in batches: of events.
    pub(super) batched: DeliveryCost,
    /// Before and after ours.
    pub(super) bare: [BarePosts; 2],
}

pub(super) async fn throughput(
    stand: &WebhookStand<'_>,
    events: u32,
    bare_for: Duration,
) -> anyhow::Result<ThroughputRun> {
    let url = stand.taking();
    let endpoint = BenchEndpoint::unbatched(url.clone(), CAMPAIGN);
    let part = stand.part("throughput", std::iter::once(endpoint)).await?;
    let markers = stand.markers(events);
    let body = events::body(markers.start)?;
    let address = stand.receiver.address;
    let bare = || {
        let body = body.clone();
        spawn_blocking(move || bare::measure(address, CONNECTIONS, bare_for, body))
    };
    say("throughput: a bare client");
    let first = bare().await??;
    part.fill(markers, CAMPAIGN).await?;
    say(&format!("throughput: {events} deliveries"));
    let before = stand.receiver.arrivals.total();
    let dispatcher = part.start().await?;
    let ours = dispatcher.work_off(before, events as usize).await?;
    dispatcher.stop().await;
    let second = bare().await??;
    let batched = batched(stand, url, events * MORE_BATCHED).await?;
    Ok(ThroughputRun { ours, batched, bare: [first, second] })
}

/// Measures a backlog that is delivered in batches.
async fn batched(stand: &WebhookStand<'_>, url: String, events: u32) -> anyhow::Result<DeliveryCost> {
    let batch = Some(BatchLimits { max_events: BATCH, max_wait_ms: 1_000, max_bytes: 1_000_000 });
    let endpoint = BenchEndpoint { url, campaign: CAMPAIGN, batch };
    let part = stand.part("batches", std::iter::once(endpoint)).await?;
    part.fill(stand.markers(events), CAMPAIGN).await?;
    say(&format!("throughput: {events} deliveries in batches of {BATCH}"));
    let before = stand.receiver.arrivals.total();
    let dispatcher = part.start().await?;
    let cost = dispatcher.work_off(before, events as usize).await?;
    dispatcher.stop().await;
    Ok(cost)
}

/// Deliveries where many endpoints exist.
#[derive(Debug, Serialize)]
pub(super) struct ManyEndpoints {
    pub(super) endpoints: u32,
    /// The endpoints that each event is for.
    pub(super) matching: u32,
    pub(super) events_per_s: f64,
    /// Of the dispatcher.
    pub(super) cpu_us_per_event: f64,
    pub(super) cost: DeliveryCost,
}

pub(super) async fn endpoints(stand: &WebhookStand<'_>, deliveries: u32) -> anyhow::Result<Vec<ManyEndpoints>> {
    let mut measured = Vec::new();
    for (endpoints, matching) in [(1, 1), (100, 1), (10_000, 1), (10_000, 100)] {
        say(&format!("endpoints: {endpoints}, each event for {matching} of them"));
        let (url, every) = (stand.taking(), endpoints / matching);
        let all = (0..endpoints).map(move |number| {
            BenchEndpoint::unbatched(url.clone(), if number % every == 0 { CAMPAIGN } else { "another" })
        });
        let part = stand.part(&format!("endpoints-{endpoints}-{matching}"), all).await?;
        let events = deliveries / matching;
        part.fill(stand.markers(events), CAMPAIGN).await?;
        let before = stand.receiver.arrivals.total();
        let dispatcher = part.start().await?;
        let cost = dispatcher.work_off(before, (events * matching) as usize).await?;
        dispatcher.stop().await;
        measured.push(ManyEndpoints {
            endpoints,
            matching,
            events_per_s: cost.deliveries_per_s / f64::from(matching),
            cpu_us_per_event: cost.cpu_us * f64::from(matching),
            cost,
        });
    }
    Ok(measured)
}

/// Latency at a steady rate.
#[derive(Debug, Serialize)]
pub(super) struct AtRate {
    pub(super) per_s: u32,
    pub(super) outcome: StreamOutcome,
}

pub(super) async fn latency(stand: &WebhookStand<'_>, during: Duration) -> anyhow::Result<Vec<AtRate>> {
    let url = stand.taking();
    let part = stand.part("latency", std::iter::once(BenchEndpoint::unbatched(url, CAMPAIGN))).await?;
    let dispatcher = part.start().await?;
    let mut measured = Vec::new();
    // The first is not kept: it warms up.
    for (per_s, during) in [(500, Duration::from_secs(2)), (500, during), (2_000, during)] {
        say(&format!("latency: {per_s} events/s for {} s", during.as_secs()));
        let streams = vec![stream(stand, CAMPAIGN.to_owned(), f64::from(per_s), during)];
        measured.push(AtRate { per_s, outcome: dispatcher.stream(streams, during).await? });
    }
    dispatcher.stop().await;
    measured.remove(0);
    Ok(measured)
}

fn stream(stand: &WebhookStand<'_>, campaign: String, per_s: f64, during: Duration) -> ClickStream {
    let clicks = (per_s * during.as_secs_f64()).ceil() as u32 + 1;
    ClickStream { campaign, per_s, markers: stand.markers(clicks) }
}

/// A healthy endpoint alone, and beside endpoints that are ill.
#[derive(Debug, Serialize)]
pub(super) struct IsolationRun {
    pub(super) sick: &'static str,
    pub(super) alone: StreamOutcome,
    pub(super) beside: StreamOutcome,
    /// The dispatcher's memory after it was alone, and after it was not.
    pub(super) memory: [Memory; 2],
    /// Deliveries that went to a delay topic without an attempt.
    pub(super) spilled: f64,
}

/// The endpoints that are ill: how many of each illness, and events a second of each.
struct Illnesses {
    sick: &'static str,
    of_each: u32,
    per_s: f64,
    urls: Vec<String>,
}

pub(super) async fn isolation(stand: &WebhookStand<'_>, during: Duration) -> anyhow::Result<Vec<IsolationRun>> {
    let sick = stand.sick;
    let [hanging, refusing, slow] =
        [sick.hanging, sick.refusing, sick.slow].map(|address| format!("http://{address}/"));
    let few = Illnesses {
        sick: "three at 1,000/s",
        of_each: 1,
        per_s: 1_000.0,
        urls: vec![hanging.clone(), refusing.clone(), slow.clone()],
    };
    // Nobody has names that end like this (RFC 6761).
    let dead_name = "http://NUMBER.dead.invalid/".to_owned();
    let many =
        Illnesses { sick: "400 at 5/s", of_each: 100, per_s: 5.0, urls: vec![hanging, refusing, dead_name, slow] };
    Ok(vec![beside(stand, "few", few, during).await?, beside(stand, "many", many, during).await?])
}

async fn beside(
    stand: &WebhookStand<'_>,
    name: &str,
    Illnesses { sick, of_each, per_s, urls }: Illnesses,
    during: Duration,
) -> anyhow::Result<IsolationRun> {
    const HEALTHY_PER_S: f64 = 1_000.0;
    let campaigns: Vec<(String, String)> = urls
        .iter()
        .enumerate()
        .flat_map(|(kind, url)| {
            (0..of_each)
                .map(move |number| (format!("sick-{kind}-{number}"), url.replace("NUMBER", &number.to_string())))
        })
        .collect();
    let healthy = BenchEndpoint::unbatched(stand.taking(), CAMPAIGN);
    // The names live as long as the bench.
    let ill = campaigns.clone().into_iter().map(|(campaign, url)| BenchEndpoint::unbatched(url, campaign.leak()));
    let part = stand.part(&format!("isolation-{name}"), std::iter::once(healthy).chain(ill)).await?;
    let dispatcher = part.start().await?;
    let alone_stream = |during| vec![stream(stand, CAMPAIGN.to_owned(), HEALTHY_PER_S, during)];
    let warm_up = Duration::from_secs(2);
    dispatcher.stream(alone_stream(warm_up), warm_up).await?;
    say(&format!("isolation: a healthy endpoint alone, {} s", during.as_secs()));
    let alone = dispatcher.stream(alone_stream(during), during).await?;
    let memory = dispatcher.memory()?;
    say(&format!("isolation: beside {sick} of sick endpoints, {} s", during.as_secs()));
    let mut streams = alone_stream(during);
    streams.extend(campaigns.into_iter().map(|(campaign, _)| stream(stand, campaign, per_s, during)));
    let beside = dispatcher.stream(streams, during).await?;
    let (spilled, memory) = (dispatcher.spilled().await, [memory, dispatcher.memory()?]);
    dispatcher.stop().await;
    Ok(IsolationRun { sick, alone, beside, memory, spilled })
}

/// An endpoint that refuses every connection, with many deliveries that wait.
#[derive(Debug, Serialize)]
pub(super) struct DeadEndpoint {
    pub(super) waiting: u32,
    pub(super) watched_s: u64,
    /// Records on delay topics for each delivery.
    pub(super) writes_per_delivery: f64,
    /// The dispatcher's CPU in percent of a core, in the last third of that time.
    pub(super) idle_percent: f64,
    pub(super) memory: Memory,
}

pub(super) async fn dead(stand: &WebhookStand<'_>, waiting: u32, watched: Duration) -> anyhow::Result<DeadEndpoint> {
    say(&format!("dead endpoint: {waiting} deliveries wait for {} s", watched.as_secs()));
    let url = format!("http://{}/", stand.sick.refusing);
    let part = stand.part("dead", std::iter::once(BenchEndpoint::unbatched(url, CAMPAIGN))).await?;
    part.fill(stand.markers(waiting), CAMPAIGN).await?;
    let dispatcher = part.start().await?;
    sleep(watched * 2 / 3).await;
    let idle_percent = dispatcher.idle_percent(watched / 3).await?;
    let memory = dispatcher.memory()?;
    let writes = part.delayed().await?;
    dispatcher.stop().await;
    Ok(DeadEndpoint {
        waiting,
        watched_s: watched.as_secs(),
        writes_per_delivery: writes as f64 / f64::from(waiting),
        idle_percent,
        memory,
    })
}

/// More deliveries to healthy endpoints than the machine can make.
#[derive(Debug, Serialize)]
pub(super) struct Overload {
    pub(super) endpoints: u32,
    pub(super) cost: DeliveryCost,
    /// Deliveries that went to a delay topic without an attempt, of all, in percent.
    pub(super) spilled_percent: f64,
}

pub(super) async fn overload(stand: &WebhookStand<'_>, events: u32) -> anyhow::Result<Overload> {
    const ENDPOINTS: u32 = 3;
    say(&format!("overload: {events} events at once for {ENDPOINTS} healthy endpoints"));
    let url = stand.taking();
    let all = (0..ENDPOINTS).map(move |_| BenchEndpoint::unbatched(url.clone(), CAMPAIGN));
    let part = stand.part("overload", all).await?;
    part.fill(stand.markers(events), CAMPAIGN).await?;
    let before = stand.receiver.arrivals.total();
    let dispatcher = part.start().await?;
    let deliveries = events * ENDPOINTS;
    let cost = dispatcher.work_off(before, deliveries as usize).await?;
    let spilled_percent = 100.0 * dispatcher.spilled().await / f64::from(deliveries);
    dispatcher.stop().await;
    Ok(Overload { endpoints: ENDPOINTS, cost, spilled_percent })
}
