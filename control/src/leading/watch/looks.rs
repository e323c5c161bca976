//! The looks at ClickHouse of a leader's term, and the findings from them.
//!
//! A round asks for what has changed since the last one, and a second question only where the first one has found
//! something. Milestones and goals are looked for in each round with new rows; viral links and bursts every few seconds.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use schemas::{
    Campaign, CampaignId, Link, LinkId, Timestamp, WorkspaceId,
    fired::{CompletionOccurrence, FiredFact, FiredSubject, Milestone},
    watch::{CompletionFacts, CompletionReason, MilestoneFacts, MilestoneMetric},
};
use store::{CampaignPeople, Dimension, LinkPeople, Revenue, StatsPeriod, StatsSubject, Store};

use crate::{
    leading::{
        watch::{
            WatchConfig, WatchError,
            alerts::Alerts,
            arrivals::ClickArrivals,
            rules::{CampaignCounts, buckets_before, completion, reached},
            telling::{Finding, FindingReport, tell},
        },
        writer::ActiveLeader,
    },
    metrics::ControlMetrics,
    state::{State, collection::EntityCollection},
};

/// The subjects whose milestones a round tells at most; the next round tells the others.
const AT_ONCE: usize = 50;
/// The campaigns whose conversions a round counts at most.
const CONVERSIONS_AT_ONCE: usize = 5;
/// The campaigns in one question for rows of conversions.
const CAMPAIGNS_AT_ONCE: usize = 50;
/// The time after which a round looks through no further slice of links.
const SWEEP_TIME: Duration = Duration::from_millis(80);
/// The number of five minutes, beside the present ones, in which clicks count as recent.
const RECENT_BUCKETS: i64 = 1;

/// A subject that has reached milestones.
struct Reached {
    subject: WatchedSubject,
    milestones: Vec<(Milestone, u64)>,
}

/// A link or campaign with its latest version.
#[derive(Clone)]
enum WatchedSubject {
    Link(Arc<Link>),
    Campaign(Arc<Campaign>),
}

impl WatchedSubject {
    fn fired(&self) -> FiredSubject {
        match self {
            Self::Link(link) => FiredSubject::Link(link.id),
            Self::Campaign(campaign) => FiredSubject::Campaign(campaign.id),
        }
    }

    fn workspace(&self) -> &WorkspaceId {
        match self {
            Self::Link(link) => &link.workspace,
            Self::Campaign(campaign) => &campaign.workspace,
        }
    }

    fn stats(&self) -> StatsSubject {
        match self {
            Self::Link(link) => StatsSubject::Link(link.id),
            Self::Campaign(campaign) => StatsSubject::Campaign(campaign.name.clone()),
        }
    }

    /// Returns the time from which reaching a milestone is told; nothing where there are no clicks from before it.
    fn told_since(&self, milestone: &Milestone, watching_since: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Link(link) => (link.created_at < watching_since).then_some(watching_since),
            Self::Campaign(campaign) => match campaign.told_since(milestone) {
                // The past was asked for, unless it is that of the installation.
                None => (campaign.created_at < watching_since).then_some(watching_since),
                Some(since) => Some(since.max(watching_since)),
            },
        }
    }
}

/// The numbers of a subject that its events tell.
#[derive(Clone, Default)]
struct SubjectNumbers {
    people: u64,
    conversions: u64,
    top_source: Option<String>,
}

/// The looks of a term, and what they have seen so far.
pub(super) struct Looks {
    store: Store,
    config: WatchConfig,
    arrivals: ClickArrivals,
    alerts: Alerts,
    /// The rows of `conversions` of each campaign that was counted.
    conversion_rows: HashMap<CampaignId, u64>,
}

impl Looks {
    /// Begins with nothing seen.
    pub(super) fn new(store: Store, config: WatchConfig) -> Self {
        let alerts = Alerts::new(config.clone());
        Self { store, config, arrivals: ClickArrivals::new(), alerts, conversion_rows: HashMap::new() }
    }

    /// Begins again after a failure: anything may have been missed.
    pub(super) fn begin_again(&mut self) {
        self.arrivals = ClickArrivals::new();
    }

    /// Looks at everything that can have changed, and tells what there is to tell.
    pub(super) async fn round(
        &mut self,
        leader: &ActiveLeader,
        watching_since: Timestamp,
        now: Timestamp,
        metrics: &ControlMetrics,
    ) -> Result<(), WatchError> {
        let began = Instant::now();
        let rows = self.store.click_rows().await?;
        let are_new = self.arrivals.are_new(rows);
        let mut campaigns = Vec::new();
        if are_new {
            let recent = buckets_before(now, RECENT_BUCKETS);
            let by_time = self.store.clicks_by_time(self.arrivals.since(recent)).await?;
            self.arrivals.look(rows, &by_time, recent);
            let links = self.links_over(recent).await?;
            campaigns = self.campaign_people(leader, Some(recent)).await?;
            let is_whole = self.tell_reached(leader, watching_since, &links, &campaigns, metrics).await?;
            if is_whole {
                self.arrivals.done(rows);
            }
        }
        while let Some(slice) = self.arrivals.next_slice() {
            let at_least = self.config.link_milestones.first().copied();
            let links = match at_least {
                Some(at_least) => self.store.links_above(slice, at_least).await?,
                None => Vec::new(),
            };
            // Campaigns are few: all of them are looked at with the first links.
            let all = if slice == 0 { self.campaign_people(leader, None).await? } else { Vec::new() };
            let is_whole = self.tell_reached(leader, watching_since, &links, &all, metrics).await?;
            campaigns.extend(all);
            if !is_whole {
                break;
            }
            self.arrivals.slice_done();
            if began.elapsed() > SWEEP_TIME {
                break;
            }
        }
        self.tell_conversions(leader, watching_since, metrics).await?;
        self.tell_completions(leader, watching_since, now, &campaigns, metrics).await?;
        let findings = self.alerts.look(&self.store, leader, rows, now).await?;
        tell(leader, findings, metrics).await.map_err(WatchError::Untold)
    }

    async fn links_over(&self, recent: Timestamp) -> Result<Vec<LinkPeople>, WatchError> {
        let thresholds = &self.config.link_milestones;
        if thresholds.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.store.links_over(recent, thresholds).await?)
    }

    async fn campaign_people(
        &self,
        leader: &ActiveLeader,
        since: Option<Timestamp>,
    ) -> Result<Vec<CampaignPeople>, WatchError> {
        if leader.read(|state| state.campaigns.len()) == 0 {
            return Ok(Vec::new());
        }
        Ok(self.store.campaign_people(since).await?)
    }

    /// Tells of the milestones of clicks that links and campaigns have reached; returns whether that was all of them.
    async fn tell_reached(
        &self,
        leader: &ActiveLeader,
        watching_since: Timestamp,
        links: &[LinkPeople],
        campaigns: &[CampaignPeople],
        metrics: &ControlMetrics,
    ) -> Result<bool, WatchError> {
        let mut found = leader.read(|state| {
            let links = links.iter().filter_map(|link| self.link_reached(state, link));
            let campaigns = campaigns.iter().filter_map(|campaign| {
                campaign_reached(state, campaign_of(state, campaign)?, |milestone| {
                    (milestone.metric == MilestoneMetric::Clicks).then_some(campaign.people)
                })
            });
            links.chain(campaigns).take(AT_ONCE + 1).collect::<Vec<_>>()
        });
        let is_whole = found.len() <= AT_ONCE;
        found.truncate(AT_ONCE);
        self.tell_milestones(leader, watching_since, found, metrics).await?;
        Ok(is_whole)
    }

    /// Returns the milestones that a link has reached.
    fn link_reached(&self, state: &State, counted: &LinkPeople) -> Option<Reached> {
        let id: LinkId = counted.link_id.parse().ok()?;
        let milestones = self.config.link_milestones.iter().map(|threshold| Milestone::clicks(*threshold));
        let milestones = reached(milestones, |_| Some(counted.people), &state.fired, FiredSubject::Link(id));
        if milestones.is_empty() {
            return None;
        }
        let link = state.links.get(&id).filter(|link| link.workspace.as_str() == counted.workspace)?;
        Some(Reached { subject: WatchedSubject::Link(link), milestones })
    }

    /// Tells of milestones, but for those that were reached before they were watched: these are recorded in silence.
    async fn tell_milestones(
        &self,
        leader: &ActiveLeader,
        watching_since: Timestamp,
        found: Vec<Reached>,
        metrics: &ControlMetrics,
    ) -> Result<(), WatchError> {
        let mut findings = Vec::new();
        for Reached { subject, milestones } in found {
            let mut numbers = None;
            for (milestone, value) in milestones {
                let is_past = match subject.told_since(&milestone, watching_since) {
                    Some(since) => self.value_before(&subject, &milestone, since).await? >= milestone.threshold,
                    None => false,
                };
                let report = if is_past {
                    FindingReport::Silent
                } else {
                    if numbers.is_none() {
                        numbers = Some(self.numbers(&subject).await?);
                    }
                    FindingReport::Milestone(milestone_facts(&milestone, value, numbers.as_ref()))
                };
                findings.push(Finding {
                    workspace: subject.workspace().clone(),
                    subject: subject.fired(),
                    fact: FiredFact::Milestone(milestone),
                    report,
                });
            }
        }
        tell(leader, findings, metrics).await.map_err(WatchError::Untold)
    }

    /// Returns the number that a milestone is about, as it was at a time.
    async fn value_before(
        &self,
        subject: &WatchedSubject,
        milestone: &Milestone,
        at: Timestamp,
    ) -> Result<u64, WatchError> {
        let (workspace, stats) = (subject.workspace(), subject.stats());
        if milestone.metric == MilestoneMetric::Clicks {
            return Ok(self.store.people_before(workspace, &stats, at).await?);
        }
        let period = StatsPeriod { since: None, until: Some(at), asked_at: at };
        let (counts, revenue) = self.store.conversion_counts(workspace, &stats, period).await?;
        Ok(conversion_value(milestone, counts.total, &revenue))
    }

    /// Counts what the events of a subject tell.
    async fn numbers(&self, subject: &WatchedSubject) -> Result<SubjectNumbers, WatchError> {
        let (workspace, stats) = (subject.workspace(), subject.stats());
        let now = Timestamp::now();
        let period = StatsPeriod::ever(now);
        let (people, (counts, _), top) = tokio::try_join!(
            self.store.people_before(workspace, &stats, now),
            self.store.conversion_counts(workspace, &stats, period),
            self.store.top(workspace, &stats, Dimension::Sources, period, 1),
        )?;
        let top_source = top.into_iter().next().map(|entry| entry.value);
        Ok(SubjectNumbers { people, conversions: counts.total, top_source })
    }

    /// Tells of the milestones and goals of conversions and revenue. Only campaigns that have one are asked about, and
    /// only those whose conversions have changed are counted.
    async fn tell_conversions(
        &mut self,
        leader: &ActiveLeader,
        watching_since: Timestamp,
        metrics: &ControlMetrics,
    ) -> Result<(), WatchError> {
        let campaigns: Vec<Arc<Campaign>> = leader
            .read(|state| state.campaigns.iter().filter(|campaign| counts_conversions(campaign)).cloned().collect());
        let mut left = CONVERSIONS_AT_ONCE;
        for some in campaigns.chunks(CAMPAIGNS_AT_ONCE) {
            let asked: Vec<_> = some.iter().map(|campaign| (&campaign.workspace, campaign.name.as_str())).collect();
            let rows = self.store.conversion_rows(&asked).await?;
            for campaign in some {
                let key = (campaign.workspace.to_string(), campaign.name.clone());
                let Some(rows) = rows.get(&key).copied() else { continue };
                // Another version may have another milestone.
                let seen = rows.wrapping_add(campaign.revision << 40);
                if self.conversion_rows.get(&campaign.id) == Some(&seen) {
                    continue;
                }
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                self.tell_conversions_of(leader, watching_since, campaign, metrics).await?;
                self.conversion_rows.insert(campaign.id, seen);
            }
        }
        Ok(())
    }

    async fn tell_conversions_of(
        &self,
        leader: &ActiveLeader,
        watching_since: Timestamp,
        campaign: &Arc<Campaign>,
        metrics: &ControlMetrics,
    ) -> Result<(), WatchError> {
        let period = StatsPeriod::ever(Timestamp::now());
        let stats = StatsSubject::Campaign(campaign.name.clone());
        let (counts, revenue) = self.store.conversion_counts(&campaign.workspace, &stats, period).await?;
        let found = leader.read(|state| {
            campaign_reached(state, Arc::clone(campaign), |milestone| {
                (milestone.metric != MilestoneMetric::Clicks)
                    .then(|| conversion_value(milestone, counts.total, &revenue))
            })
        });
        self.tell_milestones(leader, watching_since, found.into_iter().collect(), metrics).await?;
        let counts = CampaignCounts { clicks: None, conversions: Some(counts.total) };
        self.tell_completion(leader, watching_since, Timestamp::now(), campaign, counts, metrics).await
    }

    /// Tells of the campaigns that have ended, and of those whose clicks have reached the goal.
    async fn tell_completions(
        &self,
        leader: &ActiveLeader,
        watching_since: Timestamp,
        now: Timestamp,
        counted: &[CampaignPeople],
        metrics: &ControlMetrics,
    ) -> Result<(), WatchError> {
        let mut complete: Vec<(Arc<Campaign>, CampaignCounts)> = leader.read(|state| {
            let ended = state.campaigns.iter().filter(|campaign| campaign.ends_at.is_some_and(|end| end <= now));
            let ended = ended.map(|campaign| (Arc::clone(campaign), CampaignCounts::default()));
            let clicked = counted.iter().filter_map(|counted| {
                let counts = CampaignCounts { clicks: Some(counted.people), conversions: None };
                Some((campaign_of(state, counted)?, counts))
            });
            ended
                .chain(clicked)
                .filter(|(campaign, counts)| {
                    let told = state.fired.completed(FiredSubject::Campaign(campaign.id));
                    completion(campaign, *counts, told, watching_since, now).is_some()
                })
                .collect()
        });
        complete.truncate(AT_ONCE);
        for (campaign, counts) in complete {
            self.tell_completion(leader, watching_since, now, &campaign, counts, metrics).await?;
        }
        Ok(())
    }

    async fn tell_completion(
        &self,
        leader: &ActiveLeader,
        watching_since: Timestamp,
        now: Timestamp,
        campaign: &Arc<Campaign>,
        counts: CampaignCounts,
        metrics: &ControlMetrics,
    ) -> Result<(), WatchError> {
        let subject = FiredSubject::Campaign(campaign.id);
        let told = leader.read(|state| state.fired.completed(subject));
        let Some(occurrence) = completion(campaign, counts, told, watching_since, now) else { return Ok(()) };
        let watched = WatchedSubject::Campaign(Arc::clone(campaign));
        let (reason, goal) = match occurrence {
            CompletionOccurrence::Ended(_) => (CompletionReason::Ended, None),
            CompletionOccurrence::Clicks(n) => (CompletionReason::Goal, Some(Milestone::clicks(n))),
            CompletionOccurrence::Conversions(threshold) => {
                let milestone = Milestone { metric: MilestoneMetric::Conversions, threshold, currency: None };
                (CompletionReason::Goal, Some(milestone))
            }
        };
        // A goal that was reached before the watch began is the past; one that is set later is told at once.
        let is_past = match goal.filter(|_| campaign.updated_at < watching_since) {
            Some(goal) => self.value_before(&watched, &goal, watching_since).await? >= goal.threshold,
            None => false,
        };
        let report = if is_past {
            FindingReport::Silent
        } else {
            let numbers = self.numbers(&watched).await?;
            let clicks = numbers.people;
            FindingReport::Completion(CompletionFacts { reason, clicks, conversions: numbers.conversions })
        };
        let workspace = campaign.workspace.clone();
        let finding = Finding { workspace, subject, fact: FiredFact::Completed(occurrence), report };
        tell(leader, vec![finding], metrics).await.map_err(WatchError::Untold)
    }
}

/// Returns the campaign whose clicks were counted.
fn campaign_of(state: &State, counted: &CampaignPeople) -> Option<Arc<Campaign>> {
    let name = crate::kinds::campaign::campaign_name(WorkspaceId::new(&counted.workspace), &counted.campaign);
    state.campaigns.get(&state.campaigns.owner(&name)?)
}

/// Returns the milestones that a campaign has reached.
fn campaign_reached(
    state: &State,
    campaign: Arc<Campaign>,
    value: impl Fn(&Milestone) -> Option<u64>,
) -> Option<Reached> {
    let subject = FiredSubject::Campaign(campaign.id);
    let milestones = reached(campaign.all_milestones(), value, &state.fired, subject);
    (!milestones.is_empty()).then_some(Reached { subject: WatchedSubject::Campaign(campaign), milestones })
}

/// Tells whether conversions matter to a campaign's milestones or goal.
fn counts_conversions(campaign: &Campaign) -> bool {
    let has_goal = matches!(campaign.goal, Some(schemas::campaign::Goal::Conversions(_)));
    has_goal || !campaign.conversion_milestones.is_empty() || !campaign.revenue_milestones.is_empty()
}

/// Returns the number that a milestone of conversions or revenue is about.
fn conversion_value(milestone: &Milestone, conversions: u64, revenue: &[Revenue]) -> u64 {
    match milestone.metric {
        MilestoneMetric::Clicks | MilestoneMetric::Conversions => conversions,
        MilestoneMetric::Revenue => revenue
            .iter()
            .find(|sums| Some(&sums.currency) == milestone.currency.as_ref())
            .and_then(|sums| u64::try_from(sums.value).ok())
            .unwrap_or_default(),
    }
}

fn milestone_facts(milestone: &Milestone, value: u64, numbers: Option<&SubjectNumbers>) -> MilestoneFacts<'static> {
    let numbers = numbers.cloned().unwrap_or_default();
    // The number that was counted a moment later is at least as large.
    let people = if milestone.metric == MilestoneMetric::Clicks { numbers.people.max(value) } else { numbers.people };
    let conversion_rate = numbers.conversions.saturating_mul(10_000).checked_div(people);
    MilestoneFacts {
        metric: milestone.metric,
        threshold: milestone.threshold,
        value,
        top_source: numbers.top_source.map(Into::into),
        conversions: numbers.conversions,
        conversion_rate,
        currency: milestone.currency.clone().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_milestone_tells_the_numbers_around_it() {
        let top_source = Some("instagram".to_owned());
        let numbers = SubjectNumbers { people: 400, conversions: 10, top_source };
        let facts = milestone_facts(&Milestone::clicks(100), 402, Some(&numbers));
        assert_eq!((facts.value, facts.conversions, facts.conversion_rate), (402, 10, Some(248)));
        let none = milestone_facts(&Milestone::clicks(100), 0, None);
        assert_eq!(none.conversion_rate, None);
        let revenue = [Revenue { currency: "EUR".to_owned(), value: 900, commission: 0 }];
        let of = |currency: &str| Milestone {
            metric: MilestoneMetric::Revenue,
            threshold: 1,
            currency: Some(currency.to_owned()),
        };
        assert_eq!(conversion_value(&of("EUR"), 3, &revenue), 900);
        assert_eq!(conversion_value(&of("USD"), 3, &revenue), 0);
    }
}
