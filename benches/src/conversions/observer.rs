//! A reader of everything that enrichers commit: how often each click and each
//! conversion was told, and how late.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, bail};
use bus::{Bus, Isolation, LogEnd, Membership, OffsetScope};
use parking_lot::{Mutex, MutexGuard};
use schemas::{ClickId, Envelope, Event, Timestamp, Topic};

const GROUP: &str = "observer";

/// An event of a conversion, as it was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToldOutcome {
    pub(super) click: Option<ClickId>,
    pub(super) at: Timestamp,
}

/// Everything that was committed so far.
#[derive(Default)]
pub(super) struct ToldEvents {
    /// How often each click was told, and when first.
    pub(super) clicks: HashMap<ClickId, (u32, Timestamp)>,
    /// The events of each order.
    pub(super) orders: HashMap<String, Vec<ToldOutcome>>,
}

/// The reader and its thread.
pub(super) struct Observer {
    told: Arc<Mutex<ToldEvents>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Observer {
    /// Begins to read at the beginning of both topics.
    pub(super) fn start(bus: &Bus) -> anyhow::Result<Self> {
        let topics = [Topic::Clicks, Topic::Events];
        for topic in topics {
            bus.set_offsets(GROUP, topic, LogEnd::Earliest, OffsetScope::All)?;
        }
        let bus = bus.clone();
        let (told, stop) = (Arc::<Mutex<ToldEvents>>::default(), Arc::<AtomicBool>::default());
        let (noted, stopped) = (Arc::clone(&told), Arc::clone(&stop));
        let thread = thread::Builder::new().name("observer".to_owned()).spawn(move || {
            let consumer = bus.consumer(GROUP, &topics, Isolation::Committed, Membership::Dynamic, Arc::new(()))?;
            while !stopped.load(Ordering::Relaxed) {
                let Some(record) = consumer.poll(Duration::from_millis(50))? else { continue };
                let at = Timestamp::now();
                let value = record.value().context("an event without a value")?;
                let envelope: Envelope<'_, Event<'_>> = serde_json::from_slice(value)?;
                let click = envelope.event.click.as_ref().map(|click| click.id);
                match (&envelope.event.conversion, click) {
                    (Some(conversion), click) => {
                        let order = conversion.order_id.as_deref().unwrap_or_default().to_owned();
                        noted.lock().orders.entry(order).or_default().push(ToldOutcome { click, at });
                    }
                    (None, Some(click)) => noted.lock().clicks.entry(click).or_insert((0, at)).0 += 1,
                    (None, None) => bail!("an event that nobody has caused"),
                }
            }
            Ok(())
        })?;
        Ok(Self { told, stop, thread })
    }

    /// Returns what was committed so far.
    pub(super) fn told(&self) -> MutexGuard<'_, ToldEvents> {
        self.told.lock()
    }

    /// Stops reading. Returns everything that was read.
    pub(super) fn stop(self) -> anyhow::Result<ToldEvents> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the observer panicked")??;
        Ok(std::mem::take(&mut *self.told.lock()))
    }
}
