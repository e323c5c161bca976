//! Exhausted links, which have reached their `max_clicks`. Once a second the leader asks ClickHouse for the clicks of the
//! links that have a limit, have not reached it, and were visited in the last minutes, and marks those that have;
//! redirectors answer them as expired. So a workspace with a million links that nobody visits delays no other's limits.
//! Rows that come late are found by going through all links with a limit, some at a time, and at once when a term begins.
//! Without ClickHouse no link is marked, and nothing else waits for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use schemas::{Link, LinkId, Timestamp, link::MaxClicksOf};
use service::problem::Problem;
use store::{LinkTotal, Store, StoreError};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::{
    leading::{leadership::Leadership, writer::ActiveLeader},
    metrics::ControlMetrics,
    state::{audit::Author, draft::Draft, entity::Expected, links::LimitedLink},
};

/// The interval of the counts, or the time of a count if that is longer.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time within which the rows of visits are usually there.
const LATE: Duration = Duration::from_secs(120);

/// The reason why not all links were counted.
#[derive(Debug, thiserror::Error)]
enum ExhaustionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("exhausted links are not marked: {}", .0.detail)]
    Unmarked(Problem),
}

/// The outcome of the last count.
#[derive(Clone, Copy)]
enum LastCount {
    Complete,
    Failed,
}

/// Marks exhausted links while this instance leads. Never returns.
pub(crate) async fn mark_exhausted_links(leadership: Arc<Leadership>, store: Store, metrics: ControlMetrics) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = LastCount::Complete;
    let mut progress = CountProgress::default();
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else { continue };
        if progress.term != leadership.term() {
            progress = CountProgress { term: leadership.term(), ..CountProgress::default() };
        }
        last = match (count(&leader, &store, &metrics, &mut progress).await, last) {
            (Ok(()), LastCount::Complete) => LastCount::Complete,
            (Ok(()), LastCount::Failed) => {
                info!("counting the clicks of links with max_clicks resumed");
                LastCount::Complete
            }
            (Err(error), LastCount::Complete) => {
                warn!(%error, "counting the clicks of links with max_clicks failed, they may exceed their limits: retrying");
                LastCount::Failed
            }
            (Err(error), LastCount::Failed) => {
                debug!(%error, "counting the clicks of links with max_clicks failed again");
                LastCount::Failed
            }
        };
    }
}

/// How far the counting has come.
#[derive(Default)]
struct CountProgress {
    /// The term in which the links were counted.
    term: u64,
    /// The moment of the last complete count; nothing where all links are to be counted.
    counted_at: Option<Timestamp>,
    /// The last link of those that are gone through beside the visited ones.
    swept: Option<LinkId>,
}

/// Counts the clicks of links that have a limit and have not reached it, and marks those that have.
async fn count(
    leader: &ActiveLeader,
    store: &Store,
    metrics: &ControlMetrics,
    progress: &mut CountProgress,
) -> Result<(), ExhaustionError> {
    let began = Timestamp::now();
    match progress.counted_at {
        None => {
            let mut after = None;
            while let Some(last) = count_after(leader, store, metrics, after).await? {
                after = Some(last);
            }
        }
        Some(counted_at) => {
            progress.swept = count_after(leader, store, metrics, progress.swept).await?;
            if leader.read(|state| state.links.limited(None, Store::TOTALS_AT_ONCE + 1)).len() > Store::TOTALS_AT_ONCE {
                let since = Timestamp::from_millis(counted_at.as_millis() - LATE.as_millis() as i64);
                let visited = store.links_visited_since(since).await?;
                let limited = leader.read(|state| state.links.limited_of(visited.iter().map(|(_, id)| *id)));
                for links in limited.chunks(Store::TOTALS_AT_ONCE) {
                    count_links(leader, store, metrics, links).await?;
                }
            }
        }
    }
    progress.counted_at = Some(began);
    Ok(())
}

/// Counts the clicks of some links after `after`, and returns the last of them; nothing at the end. Locks the state for
/// these links alone.
async fn count_after(
    leader: &ActiveLeader,
    store: &Store,
    metrics: &ControlMetrics,
    after: Option<LinkId>,
) -> Result<Option<LinkId>, ExhaustionError> {
    let limited = leader.read(|state| state.links.limited(after, Store::TOTALS_AT_ONCE));
    count_links(leader, store, metrics, &limited).await?;
    Ok(limited.last().map(|last| last.id))
}

async fn count_links(
    leader: &ActiveLeader,
    store: &Store,
    metrics: &ControlMetrics,
    limited: &[LimitedLink],
) -> Result<(), ExhaustionError> {
    let asked: Vec<_> = limited.iter().map(|link| (&link.workspace, link.id)).collect();
    let totals = store.link_totals(&asked).await?;
    let reached = reached(limited, &totals);
    if !reached.is_empty() {
        let marked = mark(leader, reached).await.map_err(ExhaustionError::Unmarked)?;
        metrics.links_exhausted.inc_by(marked);
    }
    Ok(())
}

/// Returns the links that have reached their limit, with their clicks.
fn reached(limited: &[LimitedLink], totals: &HashMap<LinkId, LinkTotal>) -> Vec<(LimitedLink, LinkTotal)> {
    let total =
        |link: &LimitedLink| totals.get(&link.id).copied().filter(|total| counted(*total, link.of) >= link.max_clicks);
    limited.iter().filter_map(|link| Some((link.clone(), total(link)?))).collect()
}

/// Returns the clicks and scans that count towards a limit.
const fn counted(total: LinkTotal, of: MaxClicksOf) -> u64 {
    match of {
        MaxClicksOf::People => total.people,
        MaxClicksOf::All => total.all,
    }
}

/// Marks links as exhausted, behind the changes that wait already, and returns the number of marked links.
async fn mark(leader: &ActiveLeader, reached: Vec<(LimitedLink, LinkTotal)>) -> Result<u64, Problem> {
    let change = move |draft: &mut Draft<'_>| {
        let mut marked = 0;
        for (limited, total) in reached {
            let exhausted = |link: &Link, at| Ok(exhausted(link, total, at));
            match draft.update(&limited.workspace, &limited.id, &Expected::Anything, exhausted) {
                Ok(link) if link.exhausted_at == Some(draft.at()) => marked += 1,
                Ok(_) => {}
                // The link was deleted since. The others are marked all the same.
                Err(problem) => debug!(link = %limited.id, reason = problem.detail, "an exhausted link was not marked"),
            }
        }
        Ok(marked)
    };
    let change = |draft: &mut Draft<'_>| draft.without_quotas(change);
    leader.enqueue(Author::Leader, change).await?.committed().await
}

/// Returns `link` marked, if `total` clicks exhaust it: it may have been changed since it was counted.
fn exhausted(link: &Link, total: LinkTotal, at: Timestamp) -> Link {
    let mut new = link.clone();
    if link.exhausted_at.is_none() && link.max_clicks.is_some_and(|max| max <= counted(total, link.max_clicks_of)) {
        new.exhausted_at = Some(at);
        new.updated_at = at;
        new.revision += 1;
    }
    new
}

#[cfg(test)]
mod tests {
    use schemas::WorkspaceId;
    use serde_json::json;

    use super::*;

    fn limited(id: u128, max_clicks: u64, of: MaxClicksOf) -> LimitedLink {
        LimitedLink { id: LinkId::from_bits(id), workspace: WorkspaceId::default(), max_clicks, of }
    }

    #[test]
    fn a_limit_is_reached_by_as_many_clicks_as_it_says() {
        let total = |all, people| LinkTotal { all, people };
        let totals = HashMap::from([
            (LinkId::from_bits(1), total(20, 9)),
            (LinkId::from_bits(2), total(20, 10)),
            (LinkId::from_bits(3), total(10, 0)),
            (LinkId::from_bits(4), total(9, 9)),
        ]);
        let (people, all) = (MaxClicksOf::People, MaxClicksOf::All);
        let links = [limited(1, 10, people), limited(2, 10, people), limited(3, 10, all), limited(4, 10, all)];
        let expected = [(limited(2, 10, people), total(20, 10)), (limited(3, 10, all), total(10, 0))];
        assert_eq!(reached(&links, &totals), expected);
        assert_eq!(reached(&[limited(5, 10, all)], &totals), []);
    }

    #[test]
    fn what_was_changed_since_it_was_counted_is_held_to_what_it_says_now() {
        let at = Timestamp::from_millis(7);
        let link = |max: Option<u64>, exhausted: Option<Timestamp>| -> Link {
            serde_json::from_value(json!({
                "id": LinkId::from_bits(1), "workspace": "default", "slug": "s", "destination": "https://a.example/",
                "short_url": "https://go.example/s", "status_code": 302, "created_at": Timestamp::from_millis(0),
                "updated_at": Timestamp::from_millis(0), "revision": 1, "max_clicks": max, "exhausted_at": exhausted,
            }))
            .unwrap()
        };
        let total = LinkTotal { all: 12, people: 10 };
        let marked = exhausted(&link(Some(10), None), total, at);
        assert_eq!((marked.exhausted_at, marked.updated_at, marked.revision), (Some(at), at, 2));
        for same in [link(Some(11), None), link(None, None), link(Some(10), Some(Timestamp::from_millis(3)))] {
            assert_eq!(exhausted(&same, total, at), same);
        }
    }
}
