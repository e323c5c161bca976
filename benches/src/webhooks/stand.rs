//! The dispatcher under measurement: a process of its own on a Kafka of the bench's own,
//! with the topics, endpoints and events of one part of the bench.

use std::{
    cell::Cell,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, Partition};
use schemas::{DelayTier, Topic};
use serde::Serialize;
use service::vault::Vault;
use tokio::{task::spawn_blocking, time::sleep};

use super::events::{BenchEndpoint, ClickStream, EventWriter, write_endpoints, write_streams};
use crate::{
    kafka::Kafka,
    process::{self, Memory, Who},
    receiver::Receiver,
    role::Role,
    sick::SickEndpoints,
    summary::Latency,
};

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(300);
/// The share of a backlog that is delivered before the measurement begins.
const WARM_UP: f64 = 0.1;

/// The things that all parts of the bench share.
pub(super) struct WebhookStand<'a> {
    pub(super) binary: &'a Path,
    pub(super) dir: &'a Path,
    pub(super) kafka: &'a Kafka,
    pub(super) receiver: &'a Receiver,
    pub(super) sick: &'a SickEndpoints,
    /// The first marker that no part has used.
    pub(super) next_marker: Cell<u32>,
}

/// One part's installation, whose dispatcher can be started.
pub(super) struct PartStand<'a> {
    stand: &'a WebhookStand<'a>,
    bus: Bus,
    writer: Arc<EventWriter>,
    key: String,
    dir: PathBuf,
}

/// A dispatcher that runs.
pub(super) struct RunningDispatcher<'a> {
    part: &'a PartStand<'a>,
    role: Role,
    pid: u32,
}

/// The cost of deliveries.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct DeliveryCost {
    pub(super) deliveries: usize,
    pub(super) deliveries_per_s: f64,
    /// Of the dispatcher.
    pub(super) cpu_us: f64,
    pub(super) kafka_us: f64,
    pub(super) receiver_us: f64,
    pub(super) memory: Memory,
}

/// The state of all processes at one moment.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    deliveries: usize,
    dispatcher: Duration,
    kafka: Duration,
    receiver: Duration,
}

impl<'a> WebhookStand<'a> {
    /// Takes markers that no other part has.
    pub(super) fn markers(&self, count: u32) -> Range<u32> {
        let start = self.next_marker.get();
        self.next_marker.set(start + count);
        start..start + count
    }

    /// Returns the address of the receiver that takes everything.
    pub(super) fn taking(&self) -> String {
        format!("http://{}/", self.receiver.address)
    }

    /// Makes the topics and endpoints of a part.
    pub(super) async fn part(
        &'a self,
        name: &str,
        endpoints: impl Iterator<Item = BenchEndpoint<'static>> + Send + 'static,
    ) -> anyhow::Result<PartStand<'a>> {
        let bus = self.kafka.bus(&format!("webhooks-{name}")).await?;
        let key = Vault::generate().to_string();
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let (filling, vault) = (bus.clone(), Vault::from_hex(&key)?);
        spawn_blocking(move || write_endpoints(&filling, &vault, endpoints)).await??;
        let writer = Arc::new(EventWriter::new(&bus)?);
        Ok(PartStand { stand: self, bus, writer, key, dir })
    }
}

impl PartStand<'_> {
    /// Writes a click of `campaign` for each marker, and returns when Kafka has them.
    pub(super) async fn fill(&self, markers: Range<u32>, campaign: &'static str) -> anyhow::Result<()> {
        let writer = Arc::clone(&self.writer);
        spawn_blocking(move || {
            for marker in markers {
                writer.write(marker, campaign)?;
            }
            writer.until_taken()
        })
        .await?
    }

    /// Starts the dispatcher, and waits until it knows its endpoints.
    pub(super) async fn start(&self) -> anyhow::Result<RunningDispatcher<'_>> {
        let settings = [
            ("CLICKHOOK_KAFKA_BROKERS", self.bus.config().brokers.clone()),
            ("CLICKHOOK_KAFKA_PREFIX", self.bus.config().prefix.clone()),
            ("CLICKHOOK_ENDPOINTS_ALLOW_HTTP", "true".to_owned()),
            ("CLICKHOOK_ENDPOINTS_ALLOW_PRIVATE", "true".to_owned()),
            ("CLICKHOOK_INSTALLATION_KEY", self.key.clone()),
            // A line for each delivery that is given up is none of what is measured.
            ("CLICKHOOK_LOG_FILTER", "error".to_owned()),
        ];
        let mut role =
            Role::start(self.stand.binary, &self.dir, &settings, "webhook", &["dispatcher", "--only", "webhook"])?;
        role.ready().await?;
        let pid = role.pid().context("the dispatcher has ended")?;
        Ok(RunningDispatcher { part: self, role, pid })
    }

    /// Returns the records that were ever written to the delay topics.
    pub(super) async fn delayed(&self) -> anyhow::Result<u64> {
        let bus = self.bus.clone();
        spawn_blocking(move || {
            let reader = bus.log_reader("bench")?;
            let mut records = 0;
            for tier in DelayTier::ALL {
                let topic = Topic::Delay(tier);
                for index in 0..i32::from(bus.partitions(topic)) {
                    records += reader.range(Partition { topic, index })?.end.unsigned_abs();
                }
            }
            anyhow::Ok(records)
        })
        .await?
    }
}

impl RunningDispatcher<'_> {
    fn moment(&self) -> anyhow::Result<Moment> {
        let stand = self.part.stand;
        Ok(Moment {
            at: Instant::now(),
            deliveries: stand.receiver.arrivals.total(),
            dispatcher: process::cpu_time(Who::Process(self.pid))?,
            kafka: process::cpu_time(Who::Process(stand.kafka.pid()?))?,
            receiver: process::cpu_time(stand.receiver.who)?,
        })
    }

    fn cost(&self, before: Moment, after: Moment) -> anyhow::Result<DeliveryCost> {
        let deliveries = after.deliveries - before.deliveries;
        let each = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / deliveries.max(1) as f64
        };
        Ok(DeliveryCost {
            deliveries,
            deliveries_per_s: deliveries as f64 / (after.at - before.at).as_secs_f64(),
            cpu_us: each(before.dispatcher, after.dispatcher),
            kafka_us: each(before.kafka, after.kafka),
            receiver_us: each(before.receiver, after.receiver),
            memory: self.memory()?,
        })
    }

    /// Waits until `deliveries` have arrived since `before` of them had, and returns what
    /// all but the first of them cost.
    pub(super) async fn work_off(&self, before: usize, deliveries: usize) -> anyhow::Result<DeliveryCost> {
        let arrivals = &self.part.stand.receiver.arrivals;
        let deadline = Instant::now() + PATIENCE;
        let begins_at = before + (deliveries as f64 * WARM_UP) as usize;
        let mut begun = None;
        loop {
            let arrived = arrivals.total();
            if begun.is_none() && arrived >= begins_at {
                begun = Some(self.moment()?);
            }
            if let Some(begun) = begun
                && arrived >= before + deliveries
            {
                return self.cost(begun, self.moment()?);
            }
            if Instant::now() > deadline {
                bail!("only {} of {deliveries} deliveries arrived: {}", arrived - before, self.role.last_words());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes streams of clicks for `during`, and waits until those of the first have
    /// arrived, at most as long again. Returns the time that each of these took.
    pub(super) async fn stream(&self, streams: Vec<ClickStream>, during: Duration) -> anyhow::Result<StreamOutcome> {
        let before = self.moment()?;
        let writer = Arc::clone(&self.part.writer);
        let written = spawn_blocking(move || write_streams(&writer, &streams, during)).await??;
        let arrivals = &self.part.stand.receiver.arrivals;
        let of_first = || arrivals.of(written.iter().map(|(marker, _)| *marker));
        let deadline = Instant::now() + during;
        let mut arrived = of_first();
        while arrived.iter().any(Option::is_none) && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
            arrived = of_first();
        }
        let missing = arrived.iter().filter(|arrival| arrival.is_none()).count();
        let latencies = written.iter().zip(&arrived).filter_map(|((_, written), arrival)| {
            arrival.map(|arrival| arrival.first.saturating_duration_since(*written))
        });
        let latency = Latency::of(latencies.collect());
        Ok(StreamOutcome { written: written.len(), missing, latency, cost: self.cost(before, self.moment()?)? })
    }

    /// Returns the CPU that the dispatcher takes while it is left alone, in percent of a core.
    pub(super) async fn idle_percent(&self, during: Duration) -> anyhow::Result<f64> {
        let before = self.moment()?;
        sleep(during).await;
        let after = self.moment()?;
        let cpu = after.dispatcher.saturating_sub(before.dispatcher);
        Ok(100.0 * cpu.as_secs_f64() / (after.at - before.at).as_secs_f64())
    }

    pub(super) fn memory(&self) -> anyhow::Result<Memory> {
        process::memory(self.pid).context("read the dispatcher's memory")
    }

    /// Returns the deliveries that went to a delay topic without an attempt.
    pub(super) async fn spilled(&self) -> f64 {
        self.role.metric("clickhook_webhook_spilled_deliveries_total").await.unwrap_or_default()
    }

    pub(super) async fn stop(self) {
        self.role.stop().await;
    }
}

/// The outcome of streams of clicks: the latency is that of the first stream's.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StreamOutcome {
    pub(super) written: usize,
    /// Clicks of the first stream that did not arrive in time.
    pub(super) missing: usize,
    /// From writing a click to Kafka to its arrival.
    pub(super) latency: Latency,
    /// Of all deliveries that arrived.
    pub(super) cost: DeliveryCost,
}
