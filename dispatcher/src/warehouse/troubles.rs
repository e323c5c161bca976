//! The engines that the warehouse waits for, each with its reason and the time of the next
//! try. Trouble with one table does not hold up another. The process is not ready while
//! there is any.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use service::Backoff;
use store::Table;
use tracing::{debug, info, warn};

use super::sink::{WaitCause, WaitFailure};

/// The shortest and the longest wait before the next try.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long a view's refusal is told of where no rows come that would show whether the
/// view works again.
const VIEW_TOLD: Duration = Duration::from_secs(60);

/// An engine that has failed.
struct Trouble {
    since: Instant,
    failed_at: Instant,
    /// The time of the next try. None where nothing has to be tried again, because only a
    /// view has failed: its table has the rows.
    retry_at: Option<Instant>,
    failure: WaitFailure,
    backoff: Backoff,
}

/// All engines that have failed, by their cause.
#[derive(Default)]
pub(super) struct Troubles(BTreeMap<WaitCause, Trouble>);

impl Troubles {
    /// Reports whether blocks with rows of these tables must wait.
    pub(super) fn hold(&self, tables: &[Table], now: Instant) -> bool {
        let holds = |cause| self.0.get(&cause).is_some_and(|trouble| trouble.retry_at.is_some_and(|at| at > now));
        holds(WaitCause::Kafka) || tables.iter().any(|table| holds(WaitCause::Table(*table)))
    }

    /// Returns the time of the next try.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        self.0.values().filter_map(|trouble| trouble.retry_at).filter(|at| *at > now).min()
    }

    /// Notes that a cause has failed. Returns true where it had not before.
    pub(super) fn begin(&mut self, cause: WaitCause, failure: WaitFailure, now: Instant) -> bool {
        if let Some(trouble) = self.0.get_mut(&cause) {
            trouble.failed_at = now;
            trouble.retry_at = Some(now + trouble.backoff.next());
            debug!(%cause, why = failure.why, "warehouse still paused");
            trouble.failure = failure;
            return false;
        }
        warn!(%cause, why = failure.why, "warehouse paused: rows wait, and none is lost");
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let retry_at = Some(now + backoff.next());
        self.0.insert(cause, Trouble { since: now, failed_at: now, retry_at, failure, backoff });
        true
    }

    /// Notes that a cause works again.
    pub(super) fn end(&mut self, cause: WaitCause) {
        if let Some(trouble) = self.0.remove(&cause) {
            info!(%cause, paused_ms = trouble.since.elapsed().as_millis() as u64, "warehouse resumed");
        }
    }

    /// Notes that nothing waits for a table any more, although no insert has shown that it
    /// takes rows: they were there. A view's refusal is told of for some time.
    pub(super) fn nothing_waits(&mut self, table: Table) {
        let cause = WaitCause::Table(table);
        match self.0.get_mut(&cause) {
            Some(trouble) if trouble.failure.of_view => trouble.retry_at = None,
            Some(_) => self.end(cause),
            None => {}
        }
    }

    /// Forgets the refusals of views that were told of for long enough.
    pub(super) fn forget_views(&mut self, now: Instant) {
        let old = |trouble: &Trouble| trouble.retry_at.is_none() && now.duration_since(trouble.failed_at) >= VIEW_TOLD;
        let causes: Vec<WaitCause> =
            self.0.iter().filter(|(_, trouble)| old(trouble)).map(|(cause, _)| *cause).collect();
        causes.into_iter().for_each(|cause| self.end(cause));
    }

    /// Returns the reasons, each once with everything that it concerns; none if there are
    /// none.
    pub(super) fn reason(&self) -> Option<String> {
        let mut causes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (cause, trouble) in &self.0 {
            causes.entry(&trouble.failure.why).or_default().push(cause.to_string());
        }
        let reasons: Vec<String> =
            causes.into_iter().map(|(why, causes)| format!("{}: {why}", causes.join(", "))).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(why: &str, of_view: bool) -> WaitFailure {
        WaitFailure { why: why.to_owned(), of_view }
    }

    #[test]
    fn a_table_waits_alone_and_a_reason_is_told_once() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        assert_eq!(troubles.reason(), None);
        assert!(troubles.begin(WaitCause::Table(Table::Clicks), failure("away", false), now));
        assert!(!troubles.begin(WaitCause::Table(Table::Clicks), failure("away", false), now));
        assert!(troubles.hold(&[Table::Clicks], now));
        assert!(!troubles.hold(&[Table::Deliveries], now));
        assert!(!troubles.hold(&[Table::Clicks], troubles.next_try(now).unwrap()));
        troubles.begin(WaitCause::Table(Table::Deliveries), failure("away", false), now);
        assert_eq!(troubles.reason().as_deref(), Some("clicks, deliveries: away"));
        troubles.nothing_waits(Table::Clicks);
        troubles.begin(WaitCause::Kafka, failure("no leader", false), now);
        assert_eq!(troubles.reason().as_deref(), Some("deliveries: away; Kafka: no leader"));
        assert!(troubles.hold(&[Table::LinkEvents], now));
    }

    #[test]
    fn a_views_refusal_is_told_of_although_nothing_waits() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        troubles.begin(WaitCause::Table(Table::Clicks), failure("a view fails", true), now);
        troubles.nothing_waits(Table::Clicks);
        assert!(!troubles.hold(&[Table::Clicks], now));
        assert_eq!(troubles.reason().as_deref(), Some("clicks: a view fails"));
        troubles.forget_views(now + VIEW_TOLD / 2);
        assert!(troubles.reason().is_some());
        troubles.forget_views(now + VIEW_TOLD);
        assert_eq!(troubles.reason(), None);
    }
}
