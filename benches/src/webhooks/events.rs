//! The events and the endpoints of `bench webhooks`, as the enricher and the control plane
//! would have written them.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use bus::{Bus, Outgoing, Producer};
use schemas::{
    Attribution, BatchLimits, ClickId, Endpoint, EndpointId, Envelope, Event, EventId, EventName, Timestamp, Topic,
    WorkspaceId, sample,
};
use serde_json::json;
use service::vault::Vault;

use crate::produce;

/// How long Kafka may take for what is under way.
const PATIENCE: Duration = Duration::from_secs(60);
/// The secret of every endpoint.
const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// An endpoint that asks for the clicks of one campaign.
pub(super) struct BenchEndpoint<'a> {
    pub(super) url: String,
    pub(super) campaign: &'a str,
    pub(super) batch: Option<BatchLimits>,
}

impl<'a> BenchEndpoint<'a> {
    /// An endpoint that gets each event alone.
    pub(super) const fn unbatched(url: String, campaign: &'a str) -> Self {
        Self { url, campaign, batch: None }
    }
}

/// Writes endpoints to their topic. Blocks.
pub(super) fn write_endpoints<'a>(
    bus: &Bus,
    vault: &Vault,
    endpoints: impl Iterator<Item = BenchEndpoint<'a>>,
) -> anyhow::Result<()> {
    let producer = bus.producer("bench-endpoints", Duration::from_millis(5), PATIENCE)?;
    for BenchEndpoint { url, campaign, batch } in endpoints {
        let id = EndpointId::mint();
        let (secret, at) = (vault.seal(&id.to_string(), SECRET.as_bytes()), Timestamp::now());
        let endpoint: Endpoint = serde_json::from_value(json!({
            "id": id, "workspace": WorkspaceId::default(), "url": url, "events": ["link.clicked"],
            "filters": {"campaign": campaign}, "batch": batch, "timeout_ms": 5000, "status": "active", "secret": secret,
            "created_at": at, "updated_at": at, "revision": 1,
        }))?;
        let (key, value) = (id.to_string(), serde_json::to_vec(&endpoint)?);
        produce::send(&producer, &Outgoing::keyed(Topic::Endpoints, key.as_bytes(), Some(&value)))?;
    }
    produce::until_taken(&producer, PATIENCE)
}

/// Writes events to `clicks`.
pub(super) struct EventWriter {
    producer: Producer,
    partitions: u32,
}

impl EventWriter {
    pub(super) fn new(bus: &Bus) -> anyhow::Result<Self> {
        let producer = bus.producer("bench-clicks", Duration::from_millis(1), PATIENCE)?;
        Ok(Self { producer, partitions: u32::from(bus.partitions(Topic::Clicks)) })
    }

    /// Writes the click with this marker, of a campaign.
    pub(super) fn write(&self, marker: u32, campaign: &str) -> anyhow::Result<()> {
        let at = Timestamp::now();
        let id = ClickId::new(at, 0, u64::from(marker));
        let (key, value) = (id.to_string(), serde_json::to_vec(&envelope(id, at, marker, campaign))?);
        let partition = i32::try_from(marker % self.partitions)?;
        let out = Outgoing::keyed(Topic::Clicks, key.as_bytes(), Some(&value));
        produce::send(&self.producer, &Outgoing { partition: Some(partition), ..out })
    }

    /// Waits until Kafka has all of them.
    pub(super) fn until_taken(&self) -> anyhow::Result<()> {
        produce::until_taken(&self.producer, PATIENCE)
    }
}

/// Returns the body of a click with this marker.
pub(super) fn body(marker: u32) -> anyhow::Result<Vec<u8>> {
    let at = Timestamp::now();
    Ok(serde_json::to_vec(&envelope(ClickId::new(at, 0, u64::from(marker)), at, marker, "bench").event)?)
}

fn envelope(id: ClickId, at: Timestamp, marker: u32, campaign: &str) -> Envelope<'static, Event<'static>> {
    let mut event = sample::event(EventName::LinkClicked, at);
    event.id = EventId::of("default", EventName::LinkClicked, &id.to_string(), "", at);
    if let Some(click) = &mut event.click {
        click.id = id;
    }
    if let Some(link) = &mut event.link {
        link.campaign = Some(campaign.to_owned().into());
    }
    event.attribution = Some(Attribution { gclid: Some(marker.to_string().into()), ..Attribution::default() });
    Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint: None, event }
}

/// A stream of clicks of one campaign at a steady rate.
#[derive(Clone, Debug)]
pub(super) struct ClickStream {
    pub(super) campaign: String,
    pub(super) per_s: f64,
    /// The markers, as many as the stream has clicks at most.
    pub(super) markers: Range<u32>,
}

/// Writes streams of clicks side by side for `during`, each at moments of its own. Returns
/// when each click of the first stream was written. Blocks.
pub(super) fn write_streams(
    writer: &EventWriter,
    streams: &[ClickStream],
    during: Duration,
) -> anyhow::Result<Vec<(u32, Instant)>> {
    let begun = Instant::now();
    let mut written = vec![0_u32; streams.len()];
    let mut first = Vec::new();
    while begun.elapsed() < during {
        let elapsed = begun.elapsed().as_secs_f64();
        for (number, (stream, written)) in streams.iter().zip(&mut written).enumerate() {
            // Campaigns have their clicks independently of each other, not at the same moment.
            let phase = number as f64 / streams.len() as f64;
            let due = elapsed.mul_add(stream.per_s, phase) as u32;
            while *written < due && stream.markers.start + *written < stream.markers.end {
                let marker = stream.markers.start + *written;
                if number == 0 {
                    first.push((marker, Instant::now()));
                }
                writer.write(marker, &stream.campaign)?;
                *written += 1;
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    writer.until_taken()?;
    Ok(first)
}
