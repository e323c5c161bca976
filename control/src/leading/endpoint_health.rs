//! The health of endpoints. Each dispatcher reports what it sees on the topic `health`; once a second the leader combines
//! the reports on each endpoint, and writes whether the endpoint is failing, and whether it is disabled. An endpoint that
//! succeeds anywhere is not failing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bus::{Bus, BusError, Change, Table};
use parking_lot::Mutex;
use schemas::{Endpoint, EndpointId, EndpointStatus, Timestamp, Topic, endpoint_health::EndpointHealth};
use service::problem::Problem;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    leading::{leadership::Leadership, writer::ActiveLeader},
    state::{audit::Author, collection::EntityCollection, draft::Draft, entity::Expected},
};

/// The interval at which reports are judged.
const INTERVAL: Duration = Duration::from_secs(1);
/// The endpoints that one transaction changes at most.
const AT_ONCE: usize = 100;
/// The processes that are remembered of one endpoint. Each start of a dispatcher is a process.
const MAX_PROCESSES: usize = 1000;

/// The reports of all processes. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct HealthReports(Arc<Mutex<HashMap<EndpointId, HashMap<String, EndpointHealth>>>>);

/// The conclusion from the reports on one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// The time since which nothing but failures was reported.
    failing_since: Option<Timestamp>,
    /// The reason for which the endpoint is to be disabled.
    disable: Option<DisableReason>,
}

/// The reason for which an endpoint is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DisableReason {
    Gone,
    Failing,
}

impl DisableReason {
    /// Returns the reason in words for the owner.
    fn words(self, patience: Duration) -> String {
        match self {
            Self::Gone => "the endpoint answered 410: it wants no more webhooks".to_owned(),
            Self::Failing => {
                let hours = patience.as_secs() / 3600;
                format!("nothing but failures for {hours} hours")
            }
        }
    }
}

impl HealthReports {
    /// Follows the topic.
    pub(crate) fn follow(&self, bus: &Bus) -> Result<Table, BusError> {
        let reports = self.clone();
        bus.table("control", Topic::Health, None, move |change| reports.read(&change))
    }

    fn read(&self, change: &Change<'_>) {
        match change {
            Change::Put { key, value } => {
                let process = str::from_utf8(key).ok().and_then(|key| key.split_once('/')).map(|(_, process)| process);
                let report = serde_json::from_slice::<EndpointHealth>(value);
                let (Some(process), Ok(report)) = (process, report) else {
                    warn!(key = %String::from_utf8_lossy(key), "record on the health topic unreadable: ignored");
                    return;
                };
                let mut reports = self.0.lock();
                let of_endpoint = reports.entry(report.endpoint).or_default();
                if of_endpoint.len() < MAX_PROCESSES || of_endpoint.contains_key(process) {
                    of_endpoint.insert(process.to_owned(), report);
                }
            }
            Change::Delete { key } => {
                let Some((endpoint, process)) = str::from_utf8(key).ok().and_then(|key| key.split_once('/')) else {
                    return;
                };
                let Ok(endpoint) = endpoint.parse() else { return };
                let mut reports = self.0.lock();
                if let Some(of_endpoint) = reports.get_mut(&endpoint) {
                    of_endpoint.remove(process);
                    if of_endpoint.is_empty() {
                        reports.remove(&endpoint);
                    }
                }
            }
            Change::Coming { .. } | Change::CaughtUp => {}
        }
    }

    /// Returns the endpoints that must be changed.
    fn changed(&self, find: impl Fn(EndpointId) -> Option<Arc<Endpoint>>, patience: Duration) -> Vec<Arc<Endpoint>> {
        let mut gone = HashSet::new();
        let mut reports = self.0.lock();
        let changed = reports
            .iter()
            .filter_map(|(id, of_endpoint)| {
                let Some(endpoint) = find(*id) else {
                    gone.insert(*id);
                    return None;
                };
                let verdict = judge(&endpoint, of_endpoint.values(), patience);
                changes(&endpoint, verdict).then_some(endpoint)
            })
            .take(AT_ONCE)
            .collect();
        reports.retain(|id, _| !gone.contains(id));
        changed
    }

    fn verdict(&self, endpoint: &Endpoint, patience: Duration) -> Verdict {
        let reports = self.0.lock();
        reports.get(&endpoint.id).map_or_else(Verdict::default, |reports| judge(endpoint, reports.values(), patience))
    }
}

/// Combines the reports on an endpoint. Facts from before it was enabled do not count.
fn judge<'a>(
    endpoint: &Endpoint,
    reports: impl Iterator<Item = &'a EndpointHealth> + Clone,
    patience: Duration,
) -> Verdict {
    let enabled_at = endpoint.enabled_at.unwrap_or(endpoint.created_at);
    let is_gone = reports.clone().filter_map(|report| report.gone_at).any(|at| at > enabled_at);
    let last_success = reports.clone().filter_map(|report| report.last_success).max();
    let healthy_until = last_success.map_or(enabled_at, |success| success.max(enabled_at));
    let runs = reports.filter_map(|report| report.failing_since.zip(report.last_failure));
    let runs = runs.filter(|(_, last_failure)| *last_failure > healthy_until);
    let failing_since = runs.clone().map(|(since, _)| since.max(healthy_until)).min();
    let last_failure = runs.map(|(_, last_failure)| last_failure).max();
    let failed_for = failing_since.zip(last_failure).map(|(since, last)| last.since(since));
    let disable = if is_gone {
        Some(DisableReason::Gone)
    } else {
        failed_for.filter(|time| *time >= patience).map(|_| DisableReason::Failing)
    };
    Verdict { failing_since, disable }
}

/// Tells whether a verdict changes the endpoint. A paused endpoint stays paused.
fn changes(endpoint: &Endpoint, verdict: Verdict) -> bool {
    if endpoint.status != EndpointStatus::Active {
        return false;
    }
    verdict.disable.is_some() || endpoint.failing_since.is_some() != verdict.failing_since.is_some()
}

/// Returns `endpoint` as the verdict makes it.
fn judged(endpoint: &Endpoint, verdict: Verdict, patience: Duration, at: Timestamp) -> Endpoint {
    let mut new = endpoint.clone();
    if changes(endpoint, verdict) {
        new.failing_since = verdict.failing_since;
        if let Some(reason) = verdict.disable {
            new.status = EndpointStatus::Disabled;
            new.status_reason = Some(reason.words(patience));
        }
        new.updated_at = at;
        new.revision += 1;
    }
    new
}

/// Judges endpoints while this instance leads. Never returns.
pub(crate) async fn judge_endpoints(leadership: Arc<Leadership>, reports: HealthReports, patience: Duration) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else { continue };
        let changed = leader.read(|state| reports.changed(|id| state.endpoints.get(&id), patience));
        if changed.is_empty() {
            continue;
        }
        if let Err(problem) = write(&leader, changed, &reports, patience).await {
            warn!(reason = problem.detail, "health of endpoints not written: retrying");
        }
    }
}

async fn write(
    leader: &ActiveLeader,
    changed: Vec<Arc<Endpoint>>,
    reports: &HealthReports,
    patience: Duration,
) -> Result<(), Problem> {
    let reports = reports.clone();
    let change = move |draft: &mut Draft<'_>| {
        for endpoint in changed {
            let judge =
                |endpoint: &Endpoint, at| Ok(judged(endpoint, reports.verdict(endpoint, patience), patience, at));
            // An endpoint that was deleted since is no obstacle to the others.
            if let Ok(new) = draft.update(&endpoint.workspace, &endpoint.id, &Expected::Anything, judge) {
                let failing = new.failing_since.is_some();
                info!(endpoint = %new.id, failing, status = ?new.status, "health of an endpoint changed");
            }
        }
        Ok(())
    };
    leader.enqueue(Author::Leader, change).await?.committed().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemas::{SealedSecret, WebhookFormat, WorkspaceId};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(100);

    const fn at(s: i64) -> Timestamp {
        Timestamp::from_millis(s * 1000)
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            id: EndpointId::from_bits(1),
            workspace: WorkspaceId::default(),
            url: "https://a.example/".to_owned(),
            events: Vec::new(),
            filters: serde_json::from_str("{}").unwrap(),
            timeout_ms: 5000,
            retry_schedule: schemas::RetrySchedule::default(),
            headers: BTreeMap::new(),
            batch: None,
            format: WebhookFormat::default(),
            rate_limit: None,
            max_in_flight: None,
            status: EndpointStatus::Active,
            status_reason: None,
            failing_since: None,
            enabled_at: None,
            subscribed_at: None,
            secret: SealedSecret { key: String::new(), nonce: String::new(), sealed: String::new() },
            retiring_secrets: Vec::new(),
            created_at: at(0),
            updated_at: at(0),
            revision: 1,
        }
    }

    fn failing(since: i64, last: i64) -> EndpointHealth {
        EndpointHealth { failing_since: Some(at(since)), last_failure: Some(at(last)), ..nothing() }
    }

    fn success(last: i64) -> EndpointHealth {
        EndpointHealth { last_success: Some(at(last)), ..nothing() }
    }

    fn gone(when: i64) -> EndpointHealth {
        EndpointHealth { gone_at: Some(at(when)), ..nothing() }
    }

    fn nothing() -> EndpointHealth {
        EndpointHealth {
            v: 1,
            endpoint: EndpointId::from_bits(1),
            failing_since: None,
            last_failure: None,
            last_success: None,
            gone_at: None,
        }
    }

    fn verdict(reports: &[EndpointHealth]) -> Verdict {
        judge(&endpoint(), reports.iter(), PATIENCE)
    }

    #[test]
    fn an_endpoint_fails_since_its_last_success_anywhere() {
        let since = |reports: &[EndpointHealth]| verdict(reports).failing_since;
        assert_eq!(since(&[]), None);
        assert_eq!(since(&[failing(10, 20)]), Some(at(10)));
        assert_eq!(since(&[failing(10, 20), failing(5, 9)]), Some(at(5)));
        assert_eq!(since(&[failing(10, 20), success(15)]), Some(at(15)));
        assert_eq!(since(&[failing(10, 20), success(25)]), None);
        assert_eq!(since(&[failing(10, 20), failing(26, 30), success(25)]), Some(at(26)));
    }

    #[test]
    fn nothing_but_failures_for_long_enough_disables() {
        let disable = |reports: &[EndpointHealth]| verdict(reports).disable;
        assert_eq!(disable(&[failing(10, 109)]), None);
        assert_eq!(disable(&[failing(10, 110)]), Some(DisableReason::Failing));
        assert_eq!(disable(&[failing(10, 60), failing(50, 110)]), Some(DisableReason::Failing));
        assert_eq!(disable(&[failing(10, 110), success(11)]), None);
        assert_eq!(disable(&[gone(1), success(2)]), Some(DisableReason::Gone));
    }

    #[test]
    fn facts_from_before_it_was_enabled_do_not_count() {
        let enabled = Endpoint { enabled_at: Some(at(50)), ..endpoint() };
        let judge = |reports: &[EndpointHealth]| judge(&enabled, reports.iter(), PATIENCE);
        assert_eq!(judge(&[gone(49), failing(1, 49)]), Verdict::default());
        assert_eq!(judge(&[failing(1, 120)]), Verdict { failing_since: Some(at(50)), disable: None });
        assert_eq!(judge(&[failing(1, 150)]).disable, Some(DisableReason::Failing));
        assert_eq!(judge(&[gone(51)]).disable, Some(DisableReason::Gone));
    }

    #[test]
    fn a_verdict_changes_an_active_endpoint_once() {
        let disabled = Verdict { failing_since: Some(at(1)), disable: Some(DisableReason::Gone) };
        let new = judged(&endpoint(), disabled, PATIENCE, at(9));
        assert_eq!(new.status, EndpointStatus::Disabled);
        assert!(new.status_reason.as_ref().is_some_and(|reason| reason.contains("410")));
        assert_eq!(new.failing_since, Some(at(1)));
        assert_eq!(new.revision, 2);
        assert_eq!(judged(&new, disabled, PATIENCE, at(10)), new);
        let paused = Endpoint { status: EndpointStatus::Paused, ..endpoint() };
        assert_eq!(judged(&paused, disabled, PATIENCE, at(9)), paused);
        let failing = Verdict { failing_since: Some(at(3)), disable: None };
        let marked = judged(&endpoint(), failing, PATIENCE, at(9));
        assert_eq!(marked.failing_since, Some(at(3)));
        assert_eq!(judged(&marked, Verdict { failing_since: Some(at(4)), disable: None }, PATIENCE, at(10)), marked);
        assert_eq!(judged(&marked, Verdict::default(), PATIENCE, at(10)).failing_since, None);
    }

    #[test]
    fn reports_are_kept_by_endpoint_and_process() {
        let reports = HealthReports::default();
        let id = EndpointId::from_bits(1);
        let put = |process: &str, report: &EndpointHealth| {
            let value = serde_json::to_vec(report).unwrap();
            reports.read(&Change::Put { key: report.key(process).as_bytes(), value: &value });
        };
        put("a", &failing(10, 20));
        put("b", &success(15));
        assert_eq!(reports.verdict(&endpoint(), PATIENCE).failing_since, Some(at(15)));
        put("a", &success(21));
        assert_eq!(reports.verdict(&endpoint(), PATIENCE), Verdict::default());
        put("a", &gone(22));
        assert_eq!(reports.changed(|_| Some(Arc::new(endpoint())), PATIENCE).len(), 1);
        reports.read(&Change::Delete { key: format!("{id}/a").as_bytes() });
        assert_eq!(reports.verdict(&endpoint(), PATIENCE), Verdict::default());
        assert!(reports.changed(|_| None, PATIENCE).is_empty());
        assert!(reports.0.lock().is_empty(), "of a deleted endpoint nothing is kept");
        reports.read(&Change::Put { key: b"?", value: b"?" });
    }
}
