//! A load under which things happen step by step, and what visitors and the receiver of
//! webhooks saw of each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    proof::{self, Proof, Rows},
    rig::Rig,
};
use crate::{
    load::{self, Click, Clicks, LoadEnd, Redirectors, Target},
    receiver::{Arrivals, Receiver},
    summary::Latency,
};

/// How long webhooks may take to come after the load.
const CATCH_UP: Duration = Duration::from_secs(120);

/// The kind of a step: while Kafka chooses leaders, redirects may take longer, while
/// dispatchers are restarted in order, webhooks may come again, and a warm-up shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StepKind {
    Election,
    Restart,
    Settled,
    WarmUp,
}

/// A step that has begun. It ends where the next one begins.
struct Begun {
    name: String,
    kind: StepKind,
    at: Instant,
}

/// A load that runs, and its steps so far.
pub(super) struct SteppedLoad {
    load: JoinHandle<io::Result<Clicks>>,
    stopped: Arc<AtomicBool>,
    steps: Vec<Begun>,
    spool_peak_bytes: f64,
}

/// The outcome of a step.
#[derive(Debug, Serialize)]
pub(crate) struct LoadStep {
    pub(crate) name: String,
    pub(crate) kind: StepKind,
    pub(crate) seconds: f64,
    /// Clicks that were answered with a redirect.
    pub(crate) answered: usize,
    /// Clicks that were not.
    pub(crate) failed: usize,
    pub(crate) redirect: Latency,
    pub(crate) webhook: Latency,
    /// Webhooks that came in it and had come before, under the same id.
    pub(crate) webhooks_again: usize,
}

/// The outcome of a load.
#[derive(Debug, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<LoadStep>,
    /// How clicks failed.
    pub(crate) failures: BTreeMap<String, usize>,
    pub(crate) webhooks_missing: usize,
    /// Webhooks that came more than once, under the same id.
    pub(crate) webhooks_again: u64,
    /// The most that the redirectors had on disk when it was looked.
    pub(crate) spool_peak_bytes: f64,
    /// From the end of the load until every answered click was in ClickHouse.
    pub(crate) caught_up_after_s: f64,
    pub(crate) proof: Proof,
    /// The table in the end.
    pub(crate) rows: Rows,
}

impl SteppedLoad {
    /// Starts a load of `rate` clicks a second.
    pub(super) fn start(rig: &Rig, rate: u32) -> Self {
        let target = Target { redirectors: Redirectors::clone(&rig.redirectors), slug: rig.slug, first_marker: 1 };
        let stopped = Arc::<AtomicBool>::default();
        let end = LoadEnd::Told(Arc::clone(&stopped));
        let load = spawn_blocking(move || load::open(&target, rate, end));
        Self { load, stopped, steps: Vec::new(), spool_peak_bytes: 0.0 }
    }

    /// Begins a step, which ends the one before.
    pub(super) fn step(&mut self, name: impl Into<String>, kind: StepKind) {
        let name = name.into();
        crate::context::say(&name);
        self.steps.push(Begun { name, kind, at: Instant::now() });
    }

    /// Lets time pass, and looks meanwhile how much is in the spools.
    pub(super) async fn pass(&mut self, rig: &mut Rig, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            rig.pass(Duration::from_millis(500).min(end.saturating_duration_since(Instant::now()))).await?;
            let bytes = rig.ingest("clickhook_ingest_spool_bytes").await.unwrap_or_default();
            self.spool_peak_bytes = self.spool_peak_bytes.max(bytes);
        }
        Ok(())
    }

    /// Ends the load, waits for its webhooks and rows, and reports.
    pub(super) async fn finish(
        self,
        name: &'static str,
        rig: &mut Rig,
        receiver: &Receiver,
    ) -> anyhow::Result<LoadReport> {
        self.stopped.store(true, Ordering::Relaxed);
        let ended = Instant::now();
        let clicks = self.load.await?.context("the load")?;
        let answered: BTreeSet<u32> = clicks.answered.iter().map(|click| click.marker).collect();
        let sent = u32::try_from(clicks.answered.len() + clicks.failures.len()).context("count clicks")?;
        let (proof, complete) = proof::of(rig, &answered, 1..sent + 1, 0).await?;
        until_delivered(rig, receiver, &clicks.answered).await?;
        let arrivals = receiver.arrivals.of(clicks.answered.iter().map(|click| click.marker));
        let mut failures = BTreeMap::new();
        for failure in &clicks.failures {
            *failures.entry(format!("{:?}", failure.why)).or_default() += 1;
        }
        let ends = self.steps.iter().skip(1).map(|step| step.at).chain([ended]);
        let steps = self.steps.iter().zip(ends).map(|(step, end)| report(step, end, &clicks, &receiver.arrivals));
        Ok(LoadReport {
            name,
            steps: steps.collect(),
            failures,
            webhooks_missing: arrivals.iter().filter(|arrival| arrival.is_none()).count(),
            webhooks_again: arrivals.iter().flatten().map(|arrival| u64::from(arrival.times) - 1).sum(),
            spool_peak_bytes: self.spool_peak_bytes,
            caught_up_after_s: complete.saturating_duration_since(ended).as_secs_f64(),
            proof,
            rows: proof::rows(rig).await?,
        })
    }
}

async fn until_delivered(rig: &mut Rig, receiver: &Receiver, clicks: &[Click]) -> anyhow::Result<()> {
    let deadline = Instant::now() + CATCH_UP;
    let mut left: Vec<u32> = clicks.iter().map(|click| click.marker).collect();
    while !left.is_empty() && Instant::now() < deadline {
        let arrivals = receiver.arrivals.of(left.iter().copied());
        let mut arrived = arrivals.iter();
        left.retain(|_| arrived.next().is_some_and(Option::is_none));
        rig.pass(Duration::from_millis(100)).await?;
    }
    Ok(())
}

fn report(step: &Begun, end: Instant, clicks: &Clicks, arrivals: &Arrivals) -> LoadStep {
    let within = |due: Instant| (step.at..end).contains(&due);
    let answered: Vec<&Click> = clicks.answered.iter().filter(|click| within(click.due)).collect();
    let webhooks_again = arrivals.repeats_within(&(step.at..end));
    let arrivals = arrivals.of(answered.iter().map(|click| click.marker));
    let arrived = answered.iter().zip(&arrivals).filter_map(|(click, arrival)| Some((click, (*arrival)?)));
    let webhook = arrived.map(|(click, arrival)| arrival.first.saturating_duration_since(click.due)).collect();
    LoadStep {
        name: step.name.clone(),
        kind: step.kind,
        seconds: end.saturating_duration_since(step.at).as_secs_f64(),
        answered: answered.len(),
        failed: clicks.failures.iter().filter(|failure| within(failure.due)).count(),
        redirect: Latency::of(answered.iter().map(|click| click.latency).collect()),
        webhook: Latency::of(webhook),
        webhooks_again,
    }
}
