//! `bench conversions`: two enrichers turn clicks into events and find the click of every
//! conversion, while they are killed at random moments. Then every click must have been
//! told once, and every conversion once, with its own click. At last, reports whose click
//! never comes must neither slow clicks nor be asked for again and again.

mod load;
mod observer;
mod report;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, BusConfig};
use engines::Engines;
use rand::RngExt;
use schemas::Timestamp;
use service::Shutdown;
use tokio::time::{interval, sleep};

pub(crate) use self::report::{ConversionsReport, text};
use self::{
    load::{ClickIs, ConversionLoad},
    observer::{Observer, ToldEvents},
    report::{AfterKills, Steady, WaitingReports},
};
use crate::{
    context::{BenchContext, say},
    machine::Machine,
    role::Role,
    summary::Latency,
};

/// How often the load is produced.
const TICK: Duration = Duration::from_millis(20);
/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a killed enricher is away: each third time for longer than its session, so that
/// the other one gets its partitions.
const AWAY: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(8)];
/// The enrichers, whose names they keep over restarts.
const NAMES: [&str; 2] = ["enricher-1", "enricher-2"];

/// The options of `bench conversions`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench conversions                  30 kills, 100,000 conversions that wait: half an hour
  bench conversions --quick          4 kills, and fewer and shorter waits: four minutes")]
pub(crate) struct ConversionsArgs {
    /// Clicks a second.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(50..=100_000))]
    rate: u32,
    /// Conversions a second.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(50..=10_000))]
    conversions: u32,
    /// Enrichers that are killed, one after the other [default: 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    kills: Option<u16>,
    /// Conversions that wait for clicks that never come [default: 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=150_000))]
    waiting: Option<u32>,
}

/// The size of a run.
#[derive(Clone, Copy, Debug)]
struct ConversionsPlan {
    rate: u32,
    conversions: u32,
    kills: u16,
    waiting: u32,
    steady: Duration,
    /// How long a conversion waits for its click.
    hold: Duration,
    /// How late a click comes at most that was reported before.
    late_by: Duration,
    old: usize,
}

/// Measures, or stops everything when told to.
pub(crate) async fn run(
    args: &ConversionsArgs,
    common: &BenchContext,
    shutdown: &Shutdown,
) -> anyhow::Result<ConversionsReport> {
    let (full, short) = (Duration::from_secs(600), Duration::from_secs(45));
    let hold = if common.quick { short } else { full };
    let plan = ConversionsPlan {
        rate: args.rate,
        conversions: args.conversions,
        kills: args.kills.unwrap_or(if common.quick { 4 } else { 30 }),
        waiting: args.waiting.unwrap_or(if common.quick { 5_000 } else { 100_000 }),
        steady: common.seconds(None, 30, 10),
        hold,
        late_by: hold.mul_f64(0.9),
        old: if common.quick { 5_000 } else { 50_000 },
    };
    let machine = Machine::look();
    let dir = tempfile::Builder::new().prefix("clickhook-bench-").tempdir().context("make a temporary folder")?;
    say("starting Kafka, ClickHouse, two enrichers and a warehouse");
    let mut options = engines::Options::new(dir.path().join("engines"));
    options.exe = Some(common.binary.clone());
    let engines = Engines::start(options).await?;
    let measured = tokio::select! {
        measured = measure(&common.binary, dir.path(), &engines, plan) => measured,
        () = shutdown.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    engines.shutdown().await;
    let (steady, kills, waiting) = measured?;
    Ok(ConversionsReport::new(machine, steady, kills, waiting))
}

async fn measure(
    binary: &Path,
    dir: &Path,
    engines: &Engines,
    plan: ConversionsPlan,
) -> anyhow::Result<(Steady, AfterKills, WaitingReports)> {
    let mut rig = ConversionsRig::start(binary, dir, engines, plan).await?;
    let measured = rig.measure().await;
    let measured = measured.with_context(|| rig.enrichers.iter().map(Role::last_words).collect::<String>());
    let ConversionsRig { enrichers, warehouse, observer, .. } = rig;
    observer.stop()?;
    for role in enrichers.into_iter().chain([warehouse]) {
        role.stop().await;
    }
    measured
}

struct ConversionsRig {
    plan: ConversionsPlan,
    binary: PathBuf,
    dir: PathBuf,
    settings: Vec<(&'static str, String)>,
    enrichers: Vec<Role>,
    warehouse: Role,
    load: ConversionLoad,
    observer: Observer,
}

impl ConversionsRig {
    async fn start(binary: &Path, dir: &Path, engines: &Engines, plan: ConversionsPlan) -> anyhow::Result<Self> {
        let settings = vec![
            ("CLICKHOOK_KAFKA_BROKERS", engines.kafka_brokers()),
            ("CLICKHOOK_CLICKHOUSE_URL", engines.clickhouse_url()),
            ("CLICKHOOK_ENRICHER_CONVERSION_HOLD_S", plan.hold.as_secs().to_string()),
        ];
        Role::start(binary, dir, &settings, "migrate", &["migrate"])?.finished().await?;
        let bus = Bus::new(BusConfig { brokers: engines.kafka_brokers(), ..BusConfig::default() });
        let mut rig = Self {
            plan,
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            warehouse: Role::start(binary, dir, &settings, "warehouse", &["dispatcher", "--only", "warehouse"])?,
            enrichers: Vec::new(),
            load: ConversionLoad::new(&bus, plan.late_by)?,
            observer: Observer::start(&bus)?,
            settings,
        };
        for name in NAMES {
            rig.enrichers.push(rig.enricher(name)?);
        }
        for role in rig.enrichers.iter_mut().chain([&mut rig.warehouse]) {
            role.ready().await?;
        }
        Ok(rig)
    }

    fn enricher(&self, name: &'static str) -> anyhow::Result<Role> {
        let own = [("CLICKHOOK_KAFKA_INSTANCE", name.to_owned())];
        Role::start(&self.binary, &self.dir, &[&self.settings[..], &own[..]].concat(), name, &["enricher"])
    }

    async fn measure(&mut self) -> anyhow::Result<(Steady, AfterKills, WaitingReports)> {
        let plan = self.plan;
        say(&format!("{} clicks of the last 24 hours", plan.old));
        self.load.old_clicks(plan.old)?;
        let old = plan.old;
        self.until("the old clicks are told", |_, told| told.clicks.len() >= old).await?;
        // Rows follow events within seconds, as everywhere.
        self.pass(Duration::from_secs(5), &[]).await?;

        say(&format!("{} clicks and {} conversions a second", plan.rate, plan.conversions));
        let since = Timestamp::now();
        self.pass(plan.steady, &[ClickIs::Old]).await?;
        self.until_all_told().await?;
        let steady = Steady { click: self.click_latency(since), report: self.report_latency(since) };

        say(&format!("{} kills under the same load", plan.kills));
        self.kill_enrichers().await?;
        say(&format!("clicks that come up to {} s after their conversions", plan.late_by.as_secs()));
        self.until_all_told().await?;
        let kills = self.compare();

        say(&format!("{} conversions whose clicks never come", plan.waiting));
        let waiting = self.let_wait().await?;
        Ok((steady, kills, waiting))
    }

    /// Produces the load for a while. Reports have clicks of these kinds in turn; without a
    /// kind there are only clicks.
    async fn pass(&mut self, time: Duration, kinds: &[ClickIs]) -> anyhow::Result<()> {
        let mut pace = LoadPace::new(self.plan);
        let end = Instant::now() + time;
        let mut ticks = interval(TICK);
        while Instant::now() < end {
            ticks.tick().await;
            pace.produce(&mut self.load, kinds)?;
        }
        Ok(())
    }

    /// Kills one enricher after the other at random moments, and starts it again.
    async fn kill_enrichers(&mut self) -> anyhow::Result<()> {
        const KINDS: [ClickIs; 4] = [ClickIs::New, ClickIs::Old, ClickIs::New, ClickIs::ToCome];
        for kill in 0..self.plan.kills {
            let (wait, victim) = (rand::rng().random_range(500..4000), usize::from(rand::random::<bool>()));
            self.pass(Duration::from_millis(wait), &KINDS).await?;
            self.enrichers[victim].kill().await?;
            self.pass(AWAY[usize::from(kill) % AWAY.len()], &KINDS).await?;
            self.enrichers[victim] = self.enricher(NAMES[victim])?;
        }
        self.pass(Duration::from_secs(2), &KINDS).await?;
        for enricher in &mut self.enrichers {
            enricher.ready().await?;
        }
        Ok(())
    }

    /// Lets time pass with nothing but the clicks that are due, until a condition holds.
    async fn until(
        &mut self,
        what: &str,
        condition: impl Fn(&ConversionLoad, &ToldEvents) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE + 2 * self.plan.hold;
        while !condition(&self.load, &self.observer.told()) {
            if Instant::now() > deadline {
                bail!("gave up waiting until {what}: {}", self.compare().summary());
            }
            self.load.new_clicks(0)?;
            sleep(TICK).await;
        }
        Ok(())
    }

    async fn until_all_told(&mut self) -> anyhow::Result<()> {
        let all = |load: &ConversionLoad, told: &ToldEvents| {
            load.to_come() == 0 && told.clicks.len() >= load.clicks.len() && told.orders.len() >= load.orders.len()
        };
        self.until("everything is told", all).await?;
        // What is told twice comes a moment later.
        sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// Returns how late clicks since `since` were told.
    fn click_latency(&self, since: Timestamp) -> Latency {
        let told = self.observer.told();
        let new = told.clicks.iter().filter(|(id, _)| id.timestamp() >= since);
        Latency::of(new.map(|(id, (_, at))| at.since(id.timestamp())).collect())
    }

    /// Returns how late conversions since `since` were told whose click was a row.
    fn report_latency(&self, since: Timestamp) -> Latency {
        let told = self.observer.told();
        let old = self.load.orders.iter().filter(|(_, (_, at, kind))| *kind == ClickIs::Old && *at >= since);
        let first =
            old.filter_map(|(order, (_, reported, _))| Some(told.orders.get(order)?.first()?.at.since(*reported)));
        Latency::of(first.collect())
    }

    /// Compares what was told with what was produced, id by id.
    fn compare(&self) -> AfterKills {
        let told = self.observer.told();
        let produced: HashSet<_> = self.load.clicks.iter().copied().collect();
        let mut found = AfterKills {
            kills: self.plan.kills,
            clicks: produced.len(),
            clicks_missing: produced.iter().filter(|id| !told.clicks.contains_key(id)).count(),
            clicks_doubled: told.clicks.values().filter(|(times, _)| *times > 1).count(),
            clicks_unknown: told.clicks.keys().filter(|id| !produced.contains(id)).count(),
            conversions: self.load.orders.len(),
            ..AfterKills::default()
        };
        for (order, (click, ..)) in &self.load.orders {
            match told.orders.get(order).map(Vec::as_slice).unwrap_or_default() {
                [] => found.conversions_missing += 1,
                [one] if one.click == Some(*click) => {}
                [one] if one.click.is_none() => found.conversions_unattributed += 1,
                [_] => found.conversions_of_others += 1,
                _ => found.conversions_doubled += 1,
            }
        }
        found
    }

    async fn let_wait(&mut self) -> anyhow::Result<WaitingReports> {
        let since = Timestamp::now();
        self.pass(self.plan.steady, &[]).await?;
        let click_without = self.click_latency(since);
        let asked_before = self.sum("clickhook_enricher_conversions_lookup_clicks_total").await?;
        let (count, since) = (self.plan.waiting, Timestamp::now());
        for _ in 0..count {
            self.load.report(ClickIs::Unknown)?;
        }
        let most_waiting = self.until_waiting(f64::from(count)).await?;
        self.pass(self.plan.steady, &[]).await?;
        let click = self.click_latency(since);
        self.until_all_told().await?;
        let asked = self.sum("clickhook_enricher_conversions_lookup_clicks_total").await? - asked_before;
        Ok(WaitingReports { count, most_waiting, click_without, click, lookups_each: asked / f64::from(count) })
    }

    /// Produces clicks until so many conversions wait. Returns the number.
    async fn until_waiting(&mut self, count: f64) -> anyhow::Result<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.pass(Duration::from_millis(500), &[]).await?;
            let waiting = self.sum("clickhook_enricher_conversions_waiting").await?;
            if waiting >= count {
                return Ok(waiting);
            }
            if Instant::now() > deadline {
                bail!("of {count} conversions only {waiting} wait");
            }
        }
    }

    async fn sum(&self, metric: &'static str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for enricher in &self.enrichers {
            sum += enricher.metric(metric).await.with_context(|| format!("no {metric}: {}", enricher.last_words()))?;
        }
        Ok(sum)
    }
}

/// An open load: so many clicks and reports as are due, however late the tick is.
struct LoadPace {
    plan: ConversionsPlan,
    begun: Instant,
    clicks: u64,
    reports: u64,
}

impl LoadPace {
    fn new(plan: ConversionsPlan) -> Self {
        Self { plan, begun: Instant::now(), clicks: 0, reports: 0 }
    }

    fn produce(&mut self, load: &mut ConversionLoad, kinds: &[ClickIs]) -> anyhow::Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let due = |rate: u32| (f64::from(rate) * seconds) as u64;
        let clicks = due(self.plan.rate) - self.clicks;
        load.new_clicks(usize::try_from(clicks)?)?;
        self.clicks += clicks;
        while !kinds.is_empty() && self.reports < due(self.plan.conversions) {
            load.report(kinds[self.reports as usize % kinds.len()])?;
            self.reports += 1;
        }
        Ok(())
    }
}
