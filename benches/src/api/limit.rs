//! The limit beside the API: Kafka alone takes the records of new links, a link and its event
//! each, in one transaction after the other.

use std::time::{Duration, Instant};

use bus::{Bus, Outgoing};
use schemas::{EventName, Timestamp, Topic};

use crate::catalogue;

/// Links a second, so many a transaction. Blocks.
pub(crate) fn per_second(bus: &Bus, group: u16, during: Duration) -> anyhow::Result<f64> {
    let transaction = bus.transaction("limit", Duration::ZERO)?;
    let event = serde_json::to_vec(&schemas::sample::event(EventName::LinkCreated, Timestamp::now()))?;
    let began = Instant::now();
    let mut links = 0;
    while began.elapsed() < during {
        transaction.begin()?;
        for _ in 0..group {
            let link = catalogue::link(links);
            let (key, value) = (link.id.to_string(), serde_json::to_vec(&link)?);
            transaction.send(&Outgoing::keyed(Topic::Links, key.as_bytes(), Some(&value)))?;
            transaction.send(&Outgoing::keyed(Topic::Events, key.as_bytes(), Some(&event)))?;
            links += 1;
        }
        transaction.commit(&[], None)?;
    }
    Ok(links as f64 / began.elapsed().as_secs_f64())
}
