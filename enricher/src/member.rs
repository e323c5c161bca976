//! The enricher's loop, on one thread that owns its consumer: read bundles, make
//! events, commit both together, two transactions taking turns. Whatever goes
//! wrong on the way, it forgets what is open and reads again from what is
//! committed.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bus::{
    Assigned, Assignments, Bus, BusError, Commit, Consumer, Isolation, Membership, Outgoing, Partition, Record,
    Revoked, Turned, Turns,
};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use schemas::{Dead, Origin, RawClick, Timestamp, Topic};
use service::{Backoff, ConfigError, Part, Process, Shutdown};
use tokio::sync::oneshot;
use tracing::{info, warn};
use uuid::Uuid;
use woothee::parser::Parser;

use crate::{
    GeoError,
    clicks::{address, bundles::Bundles, day_keys::Daykeys, enrich::Enrich, geo::Geo},
    config::Config,
};

/// How long a poll waits where nothing is under way.
const IDLE_POLL: Duration = Duration::from_millis(500);
/// How long it waits while a transaction is open.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// How often it may be fenced off without a transaction in between before another
/// has its id for good.
const FENCED: usize = 5;

/// How long events wait for others on their way out: with less, the client polls
/// busily while a partition's last requests are under way.
const LINGER: Duration = Duration::from_millis(5);

/// Why the enricher stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A geo database cannot be used.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// Kafka.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A thread cannot be started, or died.
    #[error("the enricher's thread: {0}")]
    Thread(String),
}

/// Runs until told to stop, and then commits what is open.
///
/// # Errors
/// When the configuration is wrong, or reading on could lose or double clicks.
/// Brokers that are away are waited for.
pub async fn run(config: Config, bus: Bus, process: Process) -> Result<(), Error> {
    let Process { metrics, health, shutdown } = process;
    config.validate()?;
    let part = health.part("enricher");
    let daykeys = Daykeys::follow(&bus)?;
    let paths: Vec<PathBuf> = config.geo_city.iter().chain(&config.geo_country).cloned().collect();
    let geo = tokio::task::spawn_blocking(move || Geo::open(&paths))
        .await
        .map_err(|error| Error::Thread(error.to_string()))??;
    tokio::select! {
        () = daykeys.caught_up() => {}
        () = shutdown.wait() => return Ok(()),
    }
    let daykeys = Arc::new(daykeys);
    let today = Arc::clone(&daykeys);
    // The day's key is there before its first click asks for it.
    let _ = tokio::task::spawn_blocking(move || today.of(Timestamp::now(), Timestamp::now())).await;
    let worker = Worker {
        enrich: Enrich { geo, agents: Parser::new(), ip_mode: config.ip_mode },
        // Two processes must never share a transactional id: without a name of
        // its own, a process takes one at random.
        id: format!(
            "enricher.{}",
            bus.config().instance.clone().unwrap_or_else(|| hex::encode(rand::random::<[u8; 8]>()))
        ),
        clicks: metrics.counter("clickhook_enricher_clicks", "Clicks and scans enriched"),
        visits: metrics
            .family_counter("clickhook_enricher_visits", "Visits that are neither click nor scan, by their class"),
        dead: metrics.counter("clickhook_enricher_dead", "Lines that could not be enriched"),
        restarts: metrics.counter("clickhook_enricher_restarts", "Times that work was forgotten and read again"),
        doubles: metrics.counter("clickhook_enricher_doubles", "Second copies of bundles that were dropped"),
        config,
        bus,
        daykeys,
        part,
        shutdown,
    };
    let (tell, told) = oneshot::channel();
    thread::Builder::new()
        .name("enricher".to_owned())
        .spawn(move || drop(tell.send(worker.run())))
        .map_err(|error| Error::Thread(error.to_string()))?;
    told.await.map_err(|_| Error::Thread("it died".to_owned()))??;
    info!("enricher drained");
    Ok(())
}

/// Notes partitions that come, and that some were taken away: what is open must
/// be forgotten then, for another member does it again.
#[derive(Default)]
struct Owner {
    assigned: Mutex<Vec<Assigned>>,
    revoked: AtomicBool,
}

impl Assignments for Owner {
    fn assigned(&self, partitions: &[Assigned]) {
        self.assigned.lock().extend_from_slice(partitions);
    }

    fn revoked(&self, _: &Revoked<'_>) -> Vec<Commit> {
        self.assigned.lock().clear();
        self.revoked.store(true, Ordering::Relaxed);
        Vec::new()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

/// What has failed since a transaction was last handed over.
struct Failures {
    backoff: Backoff,
    fenced: usize,
}

impl Failures {
    /// Whether to go on after an error. A process that stood still for longer than
    /// its transaction may be open is fenced off like one whose id another has taken.
    fn allow(&mut self, error: &BusError) -> bool {
        let fenced = matches!(error, BusError::Fenced { .. });
        self.fenced += usize::from(fenced);
        error.is_transient() || (fenced && self.fenced <= FENCED)
    }

    const fn reset(&mut self) {
        self.backoff.reset();
        self.fenced = 0;
    }
}

struct Worker {
    config: Config,
    bus: Bus,
    enrich: Enrich,
    daykeys: Arc<Daykeys>,
    id: String,
    part: Part,
    clicks: Counter,
    visits: Family<Class, Counter>,
    dead: Counter,
    restarts: Counter,
    doubles: Counter,
    shutdown: Shutdown,
}

impl Worker {
    fn run(&self) -> Result<(), BusError> {
        let mut failures =
            Failures { backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)), fenced: 0 };
        while !self.shutdown.is_triggered() {
            // Whatever failed, a member that joins anew reads from what is
            // committed; one that stays may own partitions that it does not read.
            match self.member(&mut failures) {
                Ok(()) => {}
                Err(error) if failures.allow(&error) => {
                    let delay = failures.backoff.next();
                    warn!(%error, delay_ms = delay.as_millis(), "what was open is forgotten and read again");
                    self.restarts.inc();
                    thread::sleep(delay);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Works as one member of the group until told to stop or something fails.
    fn member(&self, failures: &mut Failures) -> Result<(), BusError> {
        let owner = Arc::new(Owner::default());
        let read = [Topic::ClicksRaw];
        let consumer =
            self.bus.consumer("enricher", &read, Isolation::Committed, Membership::Static, Arc::clone(&owner))?;
        while !self.shutdown.is_triggered() {
            self.ownership(&consumer, &owner, failures)?;
        }
        Ok(())
    }

    /// Works until told to stop, partitions are taken away, or something fails.
    /// What is open when partitions go is forgotten: those that come next are
    /// read from what is committed.
    fn ownership(&self, consumer: &Consumer<Owner>, owner: &Owner, failures: &mut Failures) -> Result<(), BusError> {
        // Making the pair aborts what its predecessor left open.
        let mut turns = self.bus.turns(&self.id, LINGER)?;
        owner.revoked.store(false, Ordering::Relaxed);
        self.part.ready();
        let window = Duration::from_millis(self.config.window_ms);
        let mut clicks = 0_usize;
        // Forgotten with what is open: it holds only what is, or will be, committed.
        let mut bundles = Bundles::new(Duration::from_secs(self.config.replay_horizon_s));
        let mut event = Vec::with_capacity(4096);
        while !self.shutdown.is_triggered() {
            let busy = turns.age().is_some();
            let record = consumer.poll(if busy { BUSY_POLL } else { IDLE_POLL })?;
            if owner.revoked.load(Ordering::Relaxed) {
                return Ok(());
            }
            for assigned in std::mem::take(&mut *owner.assigned.lock()) {
                let since = bundles.begin(assigned.partition.index, Timestamp::now());
                self.look_back(assigned.partition, since, assigned.offset, &mut bundles)?;
            }
            if let Some(record) = &record {
                clicks += self.bundle(record, &mut bundles, &mut turns, &mut event)?;
            }
            let due = turns.age().is_some_and(|age| age >= window) || clicks >= self.config.max_clicks;
            if (due || !busy) && turns.turn(|| consumer.group_metadata())? == Turned::Handed {
                clicks = 0;
                failures.reset();
            }
        }
        turns.settle(|| consumer.group_metadata())
    }

    /// Enriches every click of a bundle into the open transaction; says how many
    /// lines it had.
    fn bundle(
        &self,
        record: &Record<'_>,
        bundles: &mut Bundles,
        turns: &mut Turns,
        event: &mut Vec<u8>,
    ) -> Result<usize, BusError> {
        let now = Timestamp::now();
        if let Some(id) = id(record) {
            if let Some(since) = bundles.unknown_before(record.partition().index, id, now) {
                self.look_back(record.partition(), since, record.offset(), bundles)?;
            }
            if !bundles.note(id) {
                info!(partition = %record.partition(), offset = record.offset(), %id, "a bundle's second copy is dropped");
                self.doubles.inc();
                turns.read_up_to(record.partition(), record.offset() + 1)?;
                return Ok(0);
            }
        }
        let lines = record.value().unwrap_or_default().split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut count = 0;
        for (number, line) in lines.enumerate() {
            count += 1;
            if let Err(reason) = self.line(line, now, turns, event)? {
                self.dead.inc();
                self.bury(record, number, line, reason, now, turns)?;
            }
        }
        turns.read_up_to(record.partition(), record.offset() + 1)?;
        Ok(count)
    }

    /// Notes the bundles of a partition since then and up to before `end`.
    fn look_back(
        &self,
        partition: Partition,
        since: Timestamp,
        end: i64,
        bundles: &mut Bundles,
    ) -> Result<(), BusError> {
        if end == 0 {
            return Ok(());
        }
        self.bus.look_back("enricher", partition, since, end, |record| {
            if let Some(id) = id(record) {
                bundles.note(id);
            }
        })
    }

    /// Enriches a line, or says why that cannot be done.
    fn line(
        &self,
        line: &[u8],
        now: Timestamp,
        turns: &mut Turns,
        event: &mut Vec<u8>,
    ) -> Result<Result<(), String>, BusError> {
        let raw: RawClick<'_> = match serde_json::from_slice(line) {
            Ok(raw) => raw,
            Err(error) => return Ok(Err(format!("not a click: {error}"))),
        };
        if !raw.class.counts() {
            self.visits.get_or_create(&Class { class: raw.class.as_str() }).inc();
            return Ok(Ok(()));
        }
        let key = self.daykeys.of(raw.id.timestamp(), now);
        let envelope = match self.enrich.event(&raw, key.as_ref()) {
            Ok(envelope) => envelope,
            Err(error) => return Ok(Err(error.to_string())),
        };
        event.clear();
        if let Err(error) = serde_json::to_writer(&mut *event, &envelope) {
            return Ok(Err(error.to_string()));
        }
        let id = raw.id.to_string();
        let headers = raw.traceparent.as_deref().map(|trace| [("traceparent", trace.as_bytes())]);
        turns.send(&Outgoing {
            topic: Topic::Clicks,
            partition: Some(self.bus.partition_of(Topic::Clicks, raw.id)),
            key: Some(id.as_bytes()),
            value: Some(event),
            headers: headers.as_ref().map_or(&[], |headers| headers),
        })?;
        self.clicks.inc();
        Ok(Ok(()))
    }

    fn bury(
        &self,
        record: &Record<'_>,
        number: usize,
        line: &[u8],
        reason: String,
        now: Timestamp,
        turns: &mut Turns,
    ) -> Result<(), BusError> {
        let Partition { topic, index } = record.partition();
        let bundle = record.header("bundle").map(|id| String::from_utf8_lossy(id).into_owned());
        warn!(partition = %record.partition(), offset = record.offset(), line = number, reason, "a line goes to `dead`");
        let dead = Dead {
            v: 1,
            reason,
            at: now,
            origin: Origin {
                topic: self.bus.topics().name(topic),
                partition: index,
                offset: record.offset(),
                line: u32::try_from(number).ok(),
                bundle,
            },
            payload: Some(address::scrub(&String::from_utf8_lossy(line))),
            delivery: None,
        };
        let value = serde_json::to_vec(&dead)
            .unwrap_or_else(|error| format!("{{\"v\":1,\"reason\":\"{error}\"}}").into_bytes());
        turns.send(&Outgoing::keyed(Topic::Dead, Topic::ClicksRaw.suffix().as_bytes(), Some(&value)))
    }
}

/// The id under which a redirector made a bundle; others may have none.
fn id(record: &Record<'_>) -> Option<Uuid> {
    Uuid::try_parse_ascii(record.header("bundle")?).ok()
}
