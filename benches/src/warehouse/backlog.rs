//! The backlog of `bench warehouse`: clicks as the enricher writes them.

use std::time::Duration;

use bus::{Bus, LogEnd, OffsetScope, Outgoing};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schemas::{ClickId, Envelope, Event, EventId, EventName, Timestamp, Topic, sample};

use crate::{agents, catalogue, produce};

/// The links that are clicked.
const LINKS: u64 = 1_000;
/// How long Kafka may take for what is under way.
const PATIENCE: Duration = Duration::from_secs(300);

/// Writes the clicks to Kafka; the warehouse begins with the first. Blocks.
pub(super) fn fill(bus: &Bus, clicks: u64) -> anyhow::Result<()> {
    let producer = bus.producer("bench-clicks", Duration::from_millis(5), PATIENCE)?;
    let mut random = StdRng::seed_from_u64(clicks);
    let links: Vec<_> = (0..LINKS).map(catalogue::link).collect();
    let partitions = u64::from(bus.partitions(Topic::Clicks));
    for number in 0..clicks {
        // Squared, so that some links are clicked much more often than others.
        let link = &links[(random.random::<f64>().powi(2) * LINKS as f64) as usize];
        let at = Timestamp::now();
        let id = ClickId::new(at, u16::try_from(number % 4096)?, random.random());
        let visitor: u32 = random.random();
        let mut event: Event<'_> = sample::event(EventName::LinkClicked, at);
        event.id = EventId::of("default", EventName::LinkClicked, &id.to_string(), "", at);
        event.link = Some(link.facts());
        if let Some(click) = &mut event.click {
            click.id = id;
            click.ip_address = Some(format!("203.0.{}.0", visitor % 256).into());
            click.user_agent = Some(agents::agent(visitor).into());
            click.city = Some(format!("City {}", visitor % 1000).into());
            click.session_id = Some(format!("ses_{visitor:016x}").into());
        }
        let ip_key = Some(format!("{visitor:032x}").into());
        let envelope = Envelope { v: 1, workspace: "default".into(), ip_key, endpoint: None, event };
        let (key, value) = (id.to_string(), serde_json::to_vec(&envelope)?);
        let partition = Some(i32::try_from(number % partitions)?);
        let out = Outgoing { partition, ..Outgoing::keyed(Topic::Clicks, key.as_bytes(), Some(&value)) };
        produce::send(&producer, &out)?;
    }
    produce::until_taken(&producer, PATIENCE)?;
    bus.set_offsets("warehouse", Topic::Clicks, LogEnd::Earliest, OffsetScope::All)?;
    Ok(())
}
