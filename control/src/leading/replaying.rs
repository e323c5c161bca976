//! Replays: the leader looks for the events of each replay that is running (`replay_scan.rs`) and hands them over to
//! the delay topics, from which they are delivered like any others. A step's deliveries and the place at which the next
//! step begins are one transaction, so a new leader goes on where the old one stopped.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, BusError};
use schemas::{
    DelayTier, Endpoint, EventId, Replay, ReplayId, Topic,
    replay::{ReplayChoice, ReplayState},
};
use service::{Backoff, problem::Problem};
use store::{Store, StoreError};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::{
    leading::{
        leadership::Leadership,
        replay_scan::{FoundEvents, ReplayScan, WantedEvents},
        writer::ActiveLeader,
    },
    state::{
        audit::Author,
        collection::EntityCollection,
        draft::{Draft, serialise},
        entity::Expected,
    },
};

/// The interval of steps. Replays leave the writer to callers most of the time.
const INTERVAL: Duration = Duration::from_millis(250);
/// The shortest and the longest pause of a replay whose step failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The replays that take a step in each interval.
const AT_ONCE: usize = 4;
/// The replays of deleted endpoints that one transaction deletes.
const MAX_ORPHANS: usize = 100;
/// The most events that a replay by outcome has.
const MAX_EVENTS: usize = 100_000;

/// The reason why a step was not made.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}", .0.detail)]
    Uncommitted(Problem),
    #[error("the thread of a replay panicked")]
    Panicked,
    /// The replay can never be carried out.
    #[error("{0}")]
    Impossible(String),
}

/// The replays whose last step failed. Each pauses, and leaves its turn to others meanwhile.
#[derive(Default)]
struct FailingReplays(HashMap<ReplayId, FailingReplay>);

struct FailingReplay {
    backoff: Backoff,
    retry_at: Instant,
}

impl FailingReplays {
    /// Notes a step that failed, and returns the pause until the next one.
    fn failed(&mut self, id: ReplayId, now: Instant) -> Duration {
        let new = || FailingReplay { backoff: Backoff::new(RETRY.0, RETRY.1), retry_at: now };
        let failing = self.0.entry(id).or_insert_with(new);
        let pause = failing.backoff.next();
        failing.retry_at = now + pause;
        pause
    }

    fn succeeded(&mut self, id: ReplayId) {
        self.0.remove(&id);
    }

    fn pauses(&self, id: ReplayId, now: Instant) -> bool {
        self.0.get(&id).is_some_and(|failing| now < failing.retry_at)
    }
}

/// Carries out replays while this instance leads. Never returns.
pub(crate) async fn run_replays(leadership: Arc<Leadership>, bus: Bus, store: Store) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut scans: HashMap<ReplayId, ReplayScan> = HashMap::new();
    let mut failing = FailingReplays::default();
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else {
            scans.clear();
            failing.0.clear();
            continue;
        };
        if let Err(problem) = forget_orphans(&leader).await {
            warn!(reason = problem.detail, "replays of deleted endpoints not deleted: retrying");
        }
        let is_running = |replay: &&Arc<Replay>| replay.state == ReplayState::Running;
        let now = Instant::now();
        let running: Vec<Arc<Replay>> = leader.read(|state| {
            failing.0.retain(|id, _| state.replays.get(id).is_some_and(|replay| is_running(&&replay)));
            let takes_step = |replay: &&Arc<Replay>| is_running(replay) && !failing.pauses(replay.id, now);
            state.replays.iter().filter(takes_step).take(AT_ONCE).cloned().collect()
        });
        scans.retain(|id, _| running.iter().any(|replay| replay.id == *id));
        for replay in running {
            let scan = scans.remove(&replay.id);
            match step(&leader, &bus, &store, &replay, scan).await {
                Ok(scan) => {
                    failing.succeeded(replay.id);
                    scans.extend(scan.map(|scan| (replay.id, scan)));
                }
                Err(ReplayError::Impossible(reason)) => {
                    warn!(replay = %replay.id, endpoint = %replay.endpoint, reason, "replay failed");
                    if let Err(problem) = fail(&leader, &replay, reason).await {
                        warn!(replay = %replay.id, reason = problem.detail, "state of a replay not written: retrying");
                    }
                }
                Err(error) => {
                    let retry_in_ms = u64::try_from(failing.failed(replay.id, Instant::now()).as_millis());
                    let retry_in_ms = retry_in_ms.unwrap_or(u64::MAX);
                    warn!(replay = %replay.id, %error, retry_in_ms, "step of a replay not made: retrying");
                }
            }
        }
    }
}

/// Deletes the replays whose endpoint was deleted.
async fn forget_orphans(leader: &ActiveLeader) -> Result<(), Problem> {
    let orphans: Vec<Arc<Replay>> = leader.read(|state| {
        let is_orphan = |replay: &&Arc<Replay>| state.endpoints.get(&replay.endpoint).is_none();
        state.replays.iter().filter(is_orphan).take(MAX_ORPHANS).cloned().collect()
    });
    if orphans.is_empty() {
        return Ok(());
    }
    let change = move |draft: &mut Draft<'_>| {
        for orphan in orphans {
            // A replay that was deleted since is no obstacle to the others.
            let _ = draft.delete::<Replay>(&orphan.workspace, &orphan.id, &Expected::Anything, |_| Ok(()));
        }
        Ok(())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await
}

/// Makes a step, and returns the scan if there is more to be read.
async fn step(
    leader: &ActiveLeader,
    bus: &Bus,
    store: &Store,
    replay: &Arc<Replay>,
    scan: Option<ReplayScan>,
) -> Result<Option<ReplayScan>, ReplayError> {
    let endpoint = leader.read(|state| state.endpoints.get(&replay.endpoint));
    let endpoint = endpoint.ok_or_else(|| ReplayError::Impossible("the endpoint was deleted".to_owned()))?;
    let mut scan = match scan {
        Some(scan) => scan,
        None => {
            let wanted = wanted(store, replay).await?;
            let (bus, replay) = (bus.clone(), Arc::clone(replay));
            blocking(move || ReplayScan::plan(&bus, &replay, wanted)).await?
        }
    };
    let reading = Arc::clone(&endpoint);
    let (scan, found) = blocking(move || {
        let found = scan.next(&reading)?;
        Ok((scan, found))
    })
    .await?;
    let has_more = found.position.is_some();
    commit(leader, replay, &endpoint, found).await.map_err(ReplayError::Uncommitted)?;
    Ok(has_more.then_some(scan))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, ReplayError> {
    Ok(spawn_blocking(work).await.map_err(|_| ReplayError::Panicked)??)
}

/// Returns the events that a replay looks for.
async fn wanted(store: &Store, replay: &Replay) -> Result<WantedEvents, ReplayError> {
    let ids: HashSet<EventId> = match &replay.choice {
        ReplayChoice::Time { .. } => return Ok(WantedEvents::Subscribed),
        ReplayChoice::Events { event_ids } => event_ids.iter().copied().collect(),
        ReplayChoice::Outcome { since, until, outcomes } => {
            let chosen =
                store.events_by_outcome(&replay.workspace, replay.endpoint, *since..*until, outcomes, MAX_EVENTS + 1);
            chosen.await?.into_iter().collect()
        }
    };
    if ids.len() > MAX_EVENTS {
        let reason = format!("more than {MAX_EVENTS} events have these outcomes: choose a shorter time");
        return Err(ReplayError::Impossible(reason));
    }
    Ok(WantedEvents::Ids(ids))
}

/// Hands events over, and writes how far the replay is, in one transaction.
async fn commit(
    leader: &ActiveLeader,
    replay: &Replay,
    endpoint: &Endpoint,
    found: FoundEvents,
) -> Result<(), Problem> {
    let FoundEvents { deliveries, position, records, read } = found;
    let is_done = position.is_none();
    let sent = replay.sent + deliveries.len() as u64;
    let (workspace, id, key) = (replay.workspace.clone(), replay.id, endpoint.id.to_string());
    let change = move |draft: &mut Draft<'_>| {
        // A replay that was deleted hands nothing over any more.
        draft.update::<Replay>(&workspace, &id, &Expected::Anything, |replay, at| {
            let mut new = Replay { position, records, read, updated_at: at, ..replay.clone() };
            new.sent += deliveries.len() as u64;
            new.revision += 1;
            if new.position.is_none() {
                new.state = ReplayState::Done;
            }
            Ok(new)
        })?;
        for delivery in &deliveries {
            draft.produce(Topic::Delay(DelayTier::Seconds5), &key, serialise(delivery)?);
        }
        Ok(())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await?;
    if is_done {
        info!(replay = %id, endpoint = %endpoint.id, sent, "replay done");
    }
    Ok(())
}

async fn fail(leader: &ActiveLeader, replay: &Replay, reason: String) -> Result<(), Problem> {
    let (workspace, id) = (replay.workspace.clone(), replay.id);
    let change = move |draft: &mut Draft<'_>| {
        draft.update::<Replay>(&workspace, &id, &Expected::Anything, |replay, at| {
            let state_reason = Some(reason);
            let revision = replay.revision + 1;
            Ok(Replay { state: ReplayState::Failed, state_reason, updated_at: at, revision, ..replay.clone() })
        })?;
        Ok(())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_whose_steps_fail_pauses_for_longer_each_time() {
        let (mut failing, now) = (FailingReplays::default(), Instant::now());
        let [one, other] = [1, 2].map(ReplayId::from_bits);
        assert!(!failing.pauses(one, now));
        let pauses: Vec<Duration> = (0..8).map(|_| failing.failed(one, now)).collect();
        assert!(pauses.is_sorted_by(|before, after| before.mul_f64(0.8) <= *after), "{pauses:?}");
        assert!(pauses[0] >= Duration::from_millis(900) && pauses[7] >= Duration::from_secs(50), "{pauses:?}");
        assert!(failing.pauses(one, now) && !failing.pauses(other, now));
        assert!(!failing.pauses(one, now + pauses[7]));
        failing.succeeded(one);
        assert!(!failing.pauses(one, now));
        assert!(failing.failed(one, now) <= Duration::from_millis(1100));
    }
}
