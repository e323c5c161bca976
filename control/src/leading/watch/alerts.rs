//! The looks for viral links and for bursts of clicks. They tell of the present: rows that come more than ten minutes late
//! raise no alert.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    LinkId, Timestamp, WorkspaceId,
    fired::{Alert, AlertKind, FiredFact, FiredSubject},
    watch::{BurstCause, BurstFacts, ViralFacts},
};
use store::{LinkPeople, Store, StoreError};

use crate::{
    leading::{
        watch::{
            WatchConfig,
            rules::{AlertStep, BurstRule, LinkBurst, LinkHour, ViralRule, buckets_before},
            telling::{Finding, FindingReport},
        },
        writer::ActiveLeader,
    },
    state::{State, collection::EntityCollection},
};

/// The five minutes, the present ones included, that count as the last hour: 55 to 60 minutes.
const HOUR_BUCKETS: i64 = 11;
/// The five minutes before the present ones in which bursts are looked for.
const BURST_BUCKETS: i64 = 1;
/// The time between two looks for viral links.
const VIRAL_EVERY_MS: i64 = 10_000;
/// The time between two looks for bursts.
const BURSTS_EVERY_MS: i64 = 5_000;

/// A look that is made again after some time, if there are new rows or alerts that may end.
#[derive(Default)]
struct AlertTurn {
    at: Option<Timestamp>,
    rows: Option<u64>,
}

impl AlertTurn {
    /// Returns whether it is time for the next look.
    fn has_come(&self, every_ms: i64, rows: u64, are_raised: impl FnOnce() -> bool, now: Timestamp) -> bool {
        let is_due = self.at.is_none_or(|at| now.as_millis() - at.as_millis() >= every_ms);
        is_due && (self.rows != Some(rows) || are_raised())
    }

    fn done(&mut self, rows: u64, now: Timestamp) {
        *self = Self { at: Some(now), rows: Some(rows) };
    }
}

/// The looks for alerts.
pub(super) struct Alerts {
    config: WatchConfig,
    viral: AlertTurn,
    bursts: AlertTurn,
}

impl Alerts {
    pub(super) fn new(config: WatchConfig) -> Self {
        Self { config, viral: AlertTurn::default(), bursts: AlertTurn::default() }
    }

    /// Looks for alerts that begin or end, if it is time.
    pub(super) async fn look(
        &mut self,
        store: &Store,
        leader: &ActiveLeader,
        rows: u64,
        now: Timestamp,
    ) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let viral = raised(leader, |kind| kind == AlertKind::Viral);
        if let Some(rule) = self.config.viral()
            && self.viral.has_come(VIRAL_EVERY_MS, rows, || !viral.is_empty(), now)
        {
            findings.extend(look_for_viral(rule, store, leader, &viral, now).await?);
            self.viral.done(rows, now);
        }
        let suspicious = raised(leader, |kind| kind != AlertKind::Viral);
        if self.bursts.has_come(BURSTS_EVERY_MS, rows, || !suspicious.is_empty(), now) {
            findings.extend(self.look_for_bursts(store, leader, now).await?);
            self.bursts.done(rows, now);
        }
        Ok(findings)
    }

    async fn look_for_bursts(
        &self,
        store: &Store,
        leader: &ActiveLeader,
        now: Timestamp,
    ) -> Result<Vec<Finding>, StoreError> {
        let rules: Vec<(BurstCause, BurstRule)> =
            BurstCause::ALL.into_iter().filter_map(|cause| Some((cause, self.config.burst(cause)?))).collect();
        let Some(at_least) = rules.iter().map(|(_, rule)| rule.noticed()).min() else { return Ok(Vec::new()) };
        let since = buckets_before(now, BURST_BUCKETS);
        let busy = store.busy_links(since, at_least).await?;
        let clicks: BTreeMap<(i64, &str), u64> =
            busy.iter().map(|link| ((link.bucket, link.link_id.as_str()), link.clicks)).collect();
        let mut findings = Vec::new();
        for (cause, rule) in rules {
            let links: BTreeSet<(&str, &str)> = busy
                .iter()
                .filter(|link| link.clicks >= rule.noticed())
                .map(|link| (link.workspace.as_str(), link.link_id.as_str()))
                .collect();
            let links: Vec<_> = links.into_iter().collect();
            let mut bursts: BTreeMap<LinkId, Vec<LinkBurst>> = BTreeMap::new();
            for some in links.chunks(Store::TOTALS_AT_ONCE) {
                for row in store.bursts(cause, some, since, rule.noticed()).await? {
                    let Ok(id) = row.link_id.parse() else { continue };
                    let counted = clicks.get(&(row.bucket, row.link_id.as_str())).copied();
                    bursts.entry(id).or_default().push(LinkBurst {
                        window: Timestamp::from_millis(row.bucket * 1000),
                        clicks: row.clicks,
                        // Rows may have come between the two questions.
                        link_clicks: counted.unwrap_or_default().max(row.clicks),
                        who: row.who,
                    });
                }
            }
            let kind = AlertKind::Suspicious(cause);
            let silent = raised(leader, |raised| raised == kind);
            for link in silent {
                bursts.entry(link).or_default();
            }
            findings.extend(leader.read(|state| {
                let found =
                    bursts.into_iter().filter_map(|(link, bursts)| burst(state, cause, rule, link, bursts, now));
                found.collect::<Vec<_>>()
            }));
        }
        Ok(findings)
    }
}

/// Returns the links that have an alert of a kind.
fn raised(leader: &ActiveLeader, is: impl Fn(AlertKind) -> bool) -> BTreeSet<LinkId> {
    leader.read(|state| {
        let raised = state.fired.raised().iter().filter(|(_, kind)| is(*kind));
        raised.map(|(link, _)| *link).collect()
    })
}

/// Returns the finding about a link's bursts.
fn burst(
    state: &State,
    cause: BurstCause,
    rule: BurstRule,
    link: LinkId,
    mut bursts: Vec<LinkBurst>,
    now: Timestamp,
) -> Option<Finding> {
    bursts.sort_by_key(|burst| burst.window);
    let kind = AlertKind::Suspicious(cause);
    let last = state.fired.alert(link, kind);
    let step = rule.step(&bursts, last);
    let report = match step {
        AlertStep::Raise(window) => {
            let burst = bursts.into_iter().find(|burst| burst.window == window)?;
            let who = (!burst.who.is_empty()).then(|| shortened(&burst.who).into());
            let (organisation, user_agent) = match cause {
                BurstCause::Address => (None, None),
                BurstCause::Network => (who, None),
                BurstCause::Agent => (None, who),
            };
            FindingReport::Burst(BurstFacts {
                cause,
                clicks: burst.clicks,
                link_clicks: burst.link_clicks,
                window_start: window,
                organisation,
                user_agent,
            })
        }
        AlertStep::End | AlertStep::Stay => FindingReport::Silent,
    };
    alert_finding(state, link, kind, step, last, report, now)
}

/// Returns a user agent or organisation, of which at most 512 characters are told.
fn shortened(text: &str) -> String {
    text.chars().take(512).collect()
}

/// Returns the finding that follows from a decision about an alert.
fn alert_finding(
    state: &State,
    link: LinkId,
    kind: AlertKind,
    step: AlertStep,
    last: Option<Alert>,
    report: FindingReport,
    now: Timestamp,
) -> Option<Finding> {
    let (alert, report) = match (step, last) {
        (AlertStep::Raise(since), _) => (Alert { since, ended_at: None }, report),
        (AlertStep::End, Some(last)) => (Alert { ended_at: Some(now), ..last }, FindingReport::Silent),
        _ => return None,
    };
    let workspace = state.links.get(&link)?.workspace.clone();
    Some(Finding { workspace, subject: FiredSubject::Link(link), fact: FiredFact::Alert(kind, alert), report })
}

/// Looks for links that are viral, and for those that no longer are.
async fn look_for_viral(
    rule: ViralRule,
    store: &Store,
    leader: &ActiveLeader,
    raised: &BTreeSet<LinkId>,
    now: Timestamp,
) -> Result<Vec<Finding>, StoreError> {
    let window = buckets_before(now, HOUR_BUCKETS);
    let busy: Vec<LinkPeople> = store.people_since(window, rule.min_clicks.div_ceil(2)).await?;
    let mut hours: BTreeMap<LinkId, LinkHour> = BTreeMap::new();
    // Of a link that is quiet enough to be left out, the alert ends whatever its history.
    for link in raised {
        hours.insert(*link, LinkHour { clicks: 0, ever: 0, first: now });
    }
    for some in busy.chunks(Store::TOTALS_AT_ONCE) {
        let asked: Vec<_> = some.iter().map(|link| (link.workspace.as_str(), link.link_id.as_str())).collect();
        let histories = store.link_histories(&asked).await?;
        for history in histories {
            let is = |link: &&LinkPeople| link.link_id == history.link_id && link.workspace == history.workspace;
            let clicks = some.iter().find(is).map_or(0, |link| link.people);
            if let (Ok(id), Ok(_)) = (history.link_id.parse(), history.workspace.parse::<WorkspaceId>()) {
                let first = Timestamp::from_millis(history.first_ms);
                hours.insert(id, LinkHour { clicks, ever: history.people, first });
            }
        }
    }
    Ok(leader.read(|state| {
        let found = hours.into_iter().filter_map(|(link, hour)| viral(state, rule, link, hour, window, now));
        found.collect()
    }))
}

/// Returns the finding about a link's last hour.
fn viral(
    state: &State,
    rule: ViralRule,
    link: LinkId,
    hour: LinkHour,
    window: Timestamp,
    now: Timestamp,
) -> Option<Finding> {
    let last = state.fired.alert(link, AlertKind::Viral);
    let step = rule.step(hour, window, now, last);
    let average = hour.average(now).round();
    // Far below 2^53, where a float stops to be exact.
    let hourly_average = if average.is_finite() && average >= 0.0 { average as u64 } else { 0 };
    let report = FindingReport::Viral(ViralFacts { clicks: hour.clicks, hourly_average, window_start: window });
    alert_finding(state, link, AlertKind::Viral, step, last, report, now)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schemas::sample::plain_link;

    use super::*;

    fn state() -> (State, LinkId) {
        let id = LinkId::from_bits(1);
        let mut state = State::default();
        state.links.insert(Arc::new(plain_link(id, "s", "https://a.example/")));
        (state, id)
    }

    const fn at(minutes: i64) -> Timestamp {
        Timestamp::from_millis(minutes * 60_000)
    }

    #[test]
    fn an_address_is_never_told_and_a_long_user_agent_is_cut() {
        let (state, id) = state();
        let rule = BurstRule { min_clicks: 10, min_percent: 0 };
        let bursts = |who: &str| vec![LinkBurst { window: at(5), clicks: 10, link_clicks: 12, who: who.to_owned() }];
        let told = |cause, who: &str| match burst(&state, cause, rule, id, bursts(who), at(7)).unwrap().report {
            FindingReport::Burst(facts) => facts,
            other => panic!("{other:?}"),
        };
        let address = told(BurstCause::Address, "");
        assert_eq!((address.organisation, address.user_agent, address.link_clicks), (None, None, 12));
        let agent = told(BurstCause::Agent, &"x".repeat(2000));
        assert_eq!(agent.user_agent.map(|agent| agent.len()), Some(512));
        assert_eq!(told(BurstCause::Network, "Example Net").organisation.as_deref(), Some("Example Net"));
        assert!(burst(&state, BurstCause::Agent, rule, LinkId::from_bits(2), bursts("a"), at(7)).is_none());
    }

    #[test]
    fn a_look_waits_for_its_time_and_for_new_rows() {
        let mut turn = AlertTurn::default();
        let come = |turn: &AlertTurn, rows, are_raised: bool, now| turn.has_come(60_000, rows, || are_raised, at(now));
        assert!(come(&turn, 5, false, 0));
        turn.done(5, at(0));
        assert!(!come(&turn, 6, true, 0));
        assert!(!come(&turn, 5, false, 1));
        assert!(come(&turn, 6, false, 1) && come(&turn, 5, true, 1));
    }
}
