//! The watch: the leader tells of progress and alerts. Once a second it asks ClickHouse what has changed, decides by the
//! rules, and tells what it finds as events, each fact exactly once.
//!
//! `rules.rs` decides, without I/O. `arrivals.rs` says which links can have changed. `looks.rs` and `alerts.rs` ask
//! ClickHouse, `deadlines.rs` the links in memory, and `telling.rs` turns findings into events. Without ClickHouse nothing but
//! deadlines is told; the rest is told when ClickHouse is back.

mod alerts;
mod arrivals;
mod config;
mod deadlines;
mod looks;
mod rules;
mod telling;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use schemas::Timestamp;
use service::problem::Problem;
use store::{Store, StoreError};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

pub use self::config::WatchConfig;
use self::looks::Looks;
use crate::{
    leading::{leadership::Leadership, writer::ActiveLeader},
    metrics::ControlMetrics,
};

/// The interval of the rounds, or the time of a round if that is longer.
const INTERVAL: Duration = Duration::from_secs(1);

/// The reason why a round was not completed.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("events were not told: {}", .0.detail)]
    Untold(Problem),
}

/// The outcome of the last round.
#[derive(Clone, Copy)]
enum LastRound {
    Complete,
    Failed,
}

/// Watches links and campaigns while this instance leads. Never returns.
pub(crate) async fn watch(leadership: Arc<Leadership>, store: Store, config: WatchConfig, metrics: ControlMetrics) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = LastRound::Complete;
    let mut term: Option<(Arc<ActiveLeader>, Looks)> = None;
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else {
            term = None;
            metrics.watch_waiting.set(0);
            continue;
        };
        let looks = match &mut term {
            Some((before, looks)) if Arc::ptr_eq(before, &leader) => looks,
            // Another leader may have told since: what was seen in an earlier term counts for nothing.
            _ => &mut term.insert((Arc::clone(&leader), Looks::new(store.clone(), config.clone()))).1,
        };
        let began = Instant::now();
        let outcome = round(&leader, looks, &metrics).await;
        metrics.watch_round_seconds.observe(began.elapsed().as_secs_f64());
        last = match (outcome, last) {
            (Ok(()), LastRound::Complete) => LastRound::Complete,
            (Ok(()), LastRound::Failed) => {
                info!("the watch over links and campaigns resumed");
                LastRound::Complete
            }
            (Err(error), LastRound::Complete) => {
                warn!(%error, "the watch over links and campaigns waits, milestones and alerts will be late: retrying");
                LastRound::Failed
            }
            (Err(error), LastRound::Failed) => {
                debug!(%error, "the watch over links and campaigns still waits");
                LastRound::Failed
            }
        };
        if matches!(last, LastRound::Failed) {
            looks.begin_again();
        }
        metrics.watch_waiting.set(i64::from(matches!(last, LastRound::Failed)));
    }
}

/// Looks once at everything that can have changed, and tells what there is to tell.
async fn round(leader: &ActiveLeader, looks: &mut Looks, metrics: &ControlMetrics) -> Result<(), WatchError> {
    // The first leader of the installation has recorded when the watch begins.
    let Some(since) = leader.read(|state| state.fired.watching_since()) else { return Ok(()) };
    let now = Timestamp::now();
    deadlines::tell_passed(leader, since, now, metrics).await.map_err(WatchError::Untold)?;
    looks.round(leader, since, now, metrics).await
}
