//! One load and everything that came of it: what visitors saw, what the receiver
//! saw, what is in ClickHouse, and what each process used.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;
use tokio::{task::spawn_blocking, time::sleep};

use super::running::{Pipeline, SLUG};
use crate::{
    load::{self, Click, Clicks, Target},
    process::{self, CpuTimes, Memory, Who, Whole},
    summary::Latency,
};

/// How long webhooks and rows may come after the last click.
const CATCH_UP: Duration = Duration::from_secs(120);

/// A load's report.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) load: &'static str,
    /// Clicks that were answered with a redirect.
    pub(crate) clicks: usize,
    /// Answers that were no redirect.
    pub(crate) refused: u64,
    /// Requests without an answer.
    pub(crate) broken: u64,
    pub(crate) redirects_per_s: f64,
    /// Clicks by the time until the last webhook and the last row.
    pub(crate) clicks_per_s: f64,
    /// From the last answer to the last webhook and the last row.
    pub(crate) caught_up_after_s: f64,
    pub(crate) redirect: Latency,
    /// From the click to its webhook's first arrival.
    pub(crate) webhook: Latency,
    /// Clicks without a webhook.
    pub(crate) webhooks_missing: usize,
    /// Webhooks that came again.
    pub(crate) webhooks_again: u64,
    /// Rows, and how many clicks they are of. Clicks that were refused or broken
    /// may have been recorded.
    pub(crate) rows: u64,
    pub(crate) rows_distinct: u64,
    pub(crate) processes: Vec<Used>,
    /// Of one core, by everything else on the machine.
    pub(crate) others_percent: f64,
    /// Of one core, by the host of a virtual machine.
    pub(crate) stolen_percent: f64,
}

/// The resources that a process used during a load.
#[derive(Debug, Serialize)]
pub(crate) struct Used {
    pub(crate) process: &'static str,
    pub(crate) cpu_us_per_click: f64,
    /// Of one core.
    pub(crate) cpu_percent: f64,
    /// After the load; not for the bench's own threads.
    pub(crate) memory: Option<Memory>,
}

/// The name of the load generator in reports.
pub(crate) const GENERATOR: &str = "load generator";
/// The name of the receiver in reports.
pub(crate) const RECEIVER: &str = "receiver";

struct Snapshot {
    at: Instant,
    cpu: CpuTimes,
    whole: Whole,
    rows: u64,
}

/// Runs loads one after the other on a pipeline.
pub(crate) struct Phases<'a> {
    pub(crate) pipeline: &'a Pipeline,
    next_marker: u32,
}

impl<'a> Phases<'a> {
    pub(crate) const fn new(pipeline: &'a Pipeline) -> Self {
        Self { pipeline, next_marker: 1 }
    }

    /// Runs a load and waits for all that comes of it.
    pub(crate) async fn run(
        &mut self,
        name: &'static str,
        load: impl FnOnce(&Target) -> io::Result<Clicks> + Send + 'static,
    ) -> anyhow::Result<Phase> {
        let target =
            Target { redirectors: load::only(self.pipeline.redirect), slug: SLUG, first_marker: self.next_marker };
        let before = self.snapshot().await?;
        let mut clicks = spawn_blocking(move || load(&target)).await?.with_context(|| format!("the {name} load"))?;
        let answered = Instant::now();
        // By marker, and whatever was given to clicks that failed is not used again.
        clicks.answered.sort_unstable_by_key(|click| click.marker);
        let sent = clicks.answered.len() as u64 + clicks.refused + clicks.broken;
        self.next_marker += u32::try_from(sent).context("count clicks")? + 1;
        let (last_webhook, last_row) =
            tokio::join!(self.webhooks(&clicks), self.rows(before.rows + clicks.answered.len() as u64));
        let (last_webhook, last_row) = (last_webhook?, last_row?);
        let after = self.snapshot().await?;
        self.report(name, &clicks, answered, last_webhook.max(last_row), &before, &after).await
    }

    async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut meters = self.pipeline.processes();
        meters.push((RECEIVER, self.pipeline.receiver.who));
        let rows = self.pipeline.query("SELECT count() FROM clicks").await?.first().copied().unwrap_or_default();
        let cpu = process::cpu_times(&meters).context("read a process's CPU time: has a role ended?")?;
        Ok(Snapshot { at: Instant::now(), cpu, whole: process::whole()?, rows })
    }

    /// Waits for the clicks' webhooks; when the last came.
    async fn webhooks(&self, clicks: &Clicks) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + CATCH_UP;
        let mut left: Vec<Click> = clicks.answered.clone();
        let mut last = Instant::now();
        while !left.is_empty() && Instant::now() < deadline {
            let arrivals = self.pipeline.receiver.arrivals.of(left.iter().map(|click| click.marker));
            let mut arrived = arrivals.iter();
            left.retain(|_| arrived.next().is_some_and(Option::is_none));
            last = arrivals.iter().flatten().map(|arrival| arrival.first).fold(last, Instant::max);
            sleep(Duration::from_millis(if left.is_empty() { 0 } else { 20 })).await;
        }
        Ok(last)
    }

    /// Waits until there are so many rows; when they were there.
    async fn rows(&self, goal: u64) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + CATCH_UP;
        while Instant::now() < deadline {
            if self.pipeline.query("SELECT count() FROM clicks").await?.first().is_some_and(|rows| *rows >= goal) {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(Instant::now())
    }

    async fn report(
        &self,
        load: &'static str,
        clicks: &Clicks,
        answered: Instant,
        done: Instant,
        before: &Snapshot,
        after: &Snapshot,
    ) -> anyhow::Result<Phase> {
        let arrivals = self.pipeline.receiver.arrivals.of(clicks.answered.iter().map(|click| click.marker));
        let arrived = clicks.answered.iter().zip(&arrivals).filter_map(|(click, arrival)| Some((click, (*arrival)?)));
        let webhook = arrived.map(|(click, arrival)| arrival.first.saturating_duration_since(click.due)).collect();
        let numbers = self.pipeline.query("SELECT count(), uniqExact(id) FROM clicks").await?;
        let [rows, distinct] = numbers[..] else { anyhow::bail!("ClickHouse answered {numbers:?}") };
        let spent = Spent::new(clicks, before, after);
        let count = clicks.answered.len();
        let caught_up = done.saturating_duration_since(answered);
        Ok(Phase {
            load,
            clicks: count,
            refused: clicks.refused,
            broken: clicks.broken,
            redirects_per_s: count as f64 / clicks.took.as_secs_f64(),
            clicks_per_s: count as f64 / (clicks.took + caught_up).as_secs_f64(),
            caught_up_after_s: caught_up.as_secs_f64(),
            redirect: Latency::of(clicks.answered.iter().map(|click| click.latency).collect()),
            webhook: Latency::of(webhook),
            webhooks_missing: arrivals.iter().filter(|arrival| arrival.is_none()).count(),
            webhooks_again: arrivals.iter().flatten().map(|arrival| u64::from(arrival.times) - 1).sum(),
            rows: rows - before.rows,
            // Earlier loads' rows were distinct, or their report says so.
            rows_distinct: distinct.saturating_sub(before.rows),
            processes: spent.processes(self.pipeline)?,
            others_percent: spent.others_percent(),
            stolen_percent: percent(after.whole.stolen.saturating_sub(before.whole.stolen), spent.wall),
        })
    }
}

/// The resources spent between two moments.
struct Spent {
    clicks: f64,
    wall: Duration,
    cpu: Vec<(&'static str, Duration)>,
    busy: Duration,
}

impl Spent {
    fn new(clicks: &Clicks, before: &Snapshot, after: &Snapshot) -> Self {
        let since = |(name, time): (&&'static str, &Duration)| {
            (*name, time.saturating_sub(before.cpu.get(name).copied().unwrap_or_default()))
        };
        let mut cpu: Vec<_> = after.cpu.iter().map(since).collect();
        cpu.push((GENERATOR, clicks.cpu));
        Self {
            clicks: clicks.answered.len().max(1) as f64,
            wall: after.at - before.at,
            cpu,
            busy: after.whole.busy.saturating_sub(before.whole.busy),
        }
    }

    fn processes(&self, pipeline: &Pipeline) -> anyhow::Result<Vec<Used>> {
        let order = pipeline.processes();
        let order = order.iter().map(|(name, who)| (*name, Some(*who))).chain([(GENERATOR, None), (RECEIVER, None)]);
        order
            .map(|(name, who)| {
                let cpu = self.cpu.iter().find(|(of, _)| *of == name).map_or(Duration::ZERO, |(_, cpu)| *cpu);
                let memory = match who {
                    Some(Who::Process(pid)) => Some(process::memory(pid).context("read a process's memory")?),
                    _ => None,
                };
                let cpu_us_per_click = cpu.as_secs_f64() * 1e6 / self.clicks;
                Ok(Used { process: name, cpu_us_per_click, cpu_percent: percent(cpu, self.wall), memory })
            })
            .collect()
    }

    fn others_percent(&self) -> f64 {
        let ours = self.cpu.iter().map(|(_, cpu)| *cpu).sum();
        percent(self.busy.saturating_sub(ours), self.wall)
    }
}

fn percent(cpu: Duration, wall: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / wall.as_secs_f64().max(1e-9)
}
