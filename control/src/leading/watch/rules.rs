//! The rules of the watch, without I/O: which milestones are reached, when an alert is raised and when it ends, and when a
//! campaign is complete. An alert that was raised lasts until its numbers have fallen to half of the limit, so that a link
//! near the limit raises one alert.

use schemas::{
    Campaign, Timestamp,
    campaign::Goal,
    fired::{Alert, CompletionOccurrence, FiredSubject, Milestone},
};

use crate::state::fired::FiredFacts;

/// The length of the roll-up's buckets, in seconds.
pub(super) const BUCKET_S: i64 = 300;
const HOUR_S: f64 = 3600.0;

/// Returns the beginning of the five minutes that a moment lies in.
pub(super) const fn bucket(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_secs().div_euclid(BUCKET_S) * BUCKET_S * 1000)
}

/// Returns the beginning of the five minutes that lie so many buckets before a moment's.
pub(super) const fn buckets_before(at: Timestamp, buckets: i64) -> Timestamp {
    Timestamp::from_millis(bucket(at).as_millis() - buckets * BUCKET_S * 1000)
}

/// Returns the milestones that the value has reached and that were neither told nor passed over.
pub(super) fn reached(
    milestones: impl Iterator<Item = Milestone>,
    value: impl Fn(&Milestone) -> Option<u64>,
    told: &FiredFacts,
    subject: FiredSubject,
) -> Vec<(Milestone, u64)> {
    milestones
        .filter_map(|milestone| {
            let value = value(&milestone).filter(|value| *value >= milestone.threshold)?;
            (!told.has_milestone(subject, &milestone)).then_some((milestone, value))
        })
        .collect()
}

/// The decision about an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AlertStep {
    /// Nothing changes.
    Stay,
    /// An alert is raised for the window that begins at this time.
    Raise(Timestamp),
    /// The alert ends.
    End,
}

/// The limits of a viral link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ViralRule {
    /// The clicks of an hour, as a multiple of the average hour, above which a link is viral.
    pub(super) factor: u64,
    /// The fewest clicks of an hour.
    pub(super) min_clicks: u64,
}

/// People's clicks of a link in the last hour, and ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkHour {
    /// The clicks since the beginning of the window.
    pub(super) clicks: u64,
    /// All clicks.
    pub(super) ever: u64,
    /// The time of the first click.
    pub(super) first: Timestamp,
}

impl LinkHour {
    /// Returns the clicks of an average hour since the first click, of one hour at least, as the statistics tell it.
    pub(super) fn average(&self, now: Timestamp) -> f64 {
        let hours = (now.since(self.first).as_secs_f64() / HOUR_S).max(1.0);
        self.ever as f64 / hours
    }
}

impl ViralRule {
    /// Decides whether a link is viral in the window.
    pub(super) fn step(self, hour: LinkHour, window: Timestamp, now: Timestamp, last: Option<Alert>) -> AlertStep {
        let usual = self.factor as f64 * hour.average(now);
        match last {
            Some(Alert { ended_at: None, .. }) => {
                let is_quiet = hour.clicks < self.min_clicks / 2 || (hour.clicks as f64) < usual / 2.0;
                if is_quiet { AlertStep::End } else { AlertStep::Stay }
            }
            Some(last) if last.since >= window => AlertStep::Stay,
            _ if hour.clicks >= self.min_clicks && hour.clicks as f64 > usual => AlertStep::Raise(window),
            _ => AlertStep::Stay,
        }
    }
}

/// The limits of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BurstRule {
    /// The fewest clicks in five minutes.
    pub(super) min_clicks: u64,
    /// The fewest of a link's clicks that have the cause, in percent.
    pub(super) min_percent: u64,
}

/// The largest burst of a link in five minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkBurst {
    /// The beginning of the five minutes.
    pub(super) window: Timestamp,
    /// The clicks with the cause.
    pub(super) clicks: u64,
    /// All clicks of the link.
    pub(super) link_clicks: u64,
    /// The organisation or user agent.
    pub(super) who: String,
}

impl BurstRule {
    /// Returns the number of clicks from which on a burst matters: half of the limit.
    pub(super) const fn noticed(self) -> u64 {
        self.min_clicks.div_ceil(2)
    }

    fn is_exceeded_by(self, burst: &LinkBurst) -> bool {
        let share = burst.clicks.saturating_mul(100);
        burst.clicks >= self.min_clicks && share >= self.min_percent.saturating_mul(burst.link_clicks)
    }

    /// Decides about the bursts of a link in the last windows, the earliest first. Those of less than half the limit
    /// are left out.
    pub(super) fn step(self, bursts: &[LinkBurst], last: Option<Alert>) -> AlertStep {
        match last {
            Some(Alert { ended_at: None, .. }) if bursts.is_empty() => AlertStep::End,
            Some(Alert { ended_at: None, .. }) => AlertStep::Stay,
            _ => {
                let is_new = |burst: &&LinkBurst| last.is_none_or(|last| burst.window > last.since);
                let first = bursts.iter().filter(is_new).find(|burst| self.is_exceeded_by(burst));
                first.map_or(AlertStep::Stay, |burst| AlertStep::Raise(burst.window))
            }
        }
    }
}

/// The numbers of a campaign, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CampaignCounts {
    /// Clicks and scans by people.
    pub(super) clicks: Option<u64>,
    /// Conversions that stand.
    pub(super) conversions: Option<u64>,
}

/// Returns the occurrence by which a campaign is complete and which is to be told. A campaign is complete once, by its end
/// or its goal, until one of the two is changed.
pub(super) fn completion(
    campaign: &Campaign,
    counts: CampaignCounts,
    told: Option<CompletionOccurrence>,
    watching_since: Timestamp,
    now: Timestamp,
) -> Option<CompletionOccurrence> {
    let end = campaign.ends_at.map(CompletionOccurrence::Ended);
    let goal = campaign.goal.map(|goal| match goal {
        Goal::Clicks(n) => CompletionOccurrence::Clicks(n),
        Goal::Conversions(n) => CompletionOccurrence::Conversions(n),
    });
    if told.is_some() && (told == end || told == goal) {
        return None;
    }
    let is_reached = match campaign.goal {
        Some(Goal::Clicks(n)) => counts.clicks.is_some_and(|clicks| clicks >= n),
        Some(Goal::Conversions(n)) => counts.conversions.is_some_and(|conversions| conversions >= n),
        None => false,
    };
    // An end that was over before the campaign was created or watched is the past.
    let from = campaign.created_at.max(watching_since);
    let has_ended = campaign.ends_at.is_some_and(|end| end <= now && end >= from);
    goal.filter(|_| is_reached).or_else(|| end.filter(|_| has_ended))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schemas::{
        LinkId,
        fired::{FiredFact, FiredRecord},
    };
    use serde_json::json;

    use super::*;
    use crate::state::fired::FiredChange;

    const HOUR: Duration = Duration::from_secs(3600);

    const fn at(minutes: i64) -> Timestamp {
        Timestamp::from_millis(minutes * 60_000)
    }

    fn milestones(thresholds: &[u64]) -> impl Iterator<Item = Milestone> {
        thresholds.iter().map(|threshold| Milestone::clicks(*threshold))
    }

    #[test]
    fn every_milestone_that_was_not_told_is_reached_however_far_the_value_jumped() {
        let subject = FiredSubject::Link(LinkId::from_bits(1));
        let mut told = FiredFacts::default();
        let due = |told: &FiredFacts, value: u64| -> Vec<u64> {
            let due = reached(milestones(&[100, 500, 1000]), |_| Some(value), told, subject);
            due.into_iter().map(|(milestone, _)| milestone.threshold).collect()
        };
        assert_eq!(due(&told, 99), [0_u64; 0]);
        assert_eq!(due(&told, 100), [100]);
        assert_eq!(due(&told, 700), [100, 500]);
        let fact = FiredFact::Milestone(Milestone::clicks(100));
        told.apply(vec![FiredChange::Told(FiredRecord { v: 1, subject, fact, event: None, at: at(0) })]);
        assert_eq!(due(&told, 700), [500]);
        assert_eq!(due(&told, 90), [0_u64; 0]);
        let unknown = reached(milestones(&[100]), |_| None, &FiredFacts::default(), subject);
        assert!(unknown.is_empty());
    }

    #[test]
    fn a_link_is_viral_once_until_it_is_quiet() {
        let rule = ViralRule { factor: 5, min_clicks: 100 };
        let now = at(100 * 60);
        let step = |clicks, ever, last| rule.step(LinkHour { clicks, ever, first: at(0) }, at(99 * 60), now, last);
        // An average of 10 an hour, over 100 hours.
        assert_eq!(step(50, 1000, None), AlertStep::Stay);
        assert_eq!(step(99, 1000, None), AlertStep::Stay);
        assert_eq!(step(100, 1000, None), AlertStep::Raise(at(99 * 60)));
        // 5 times 40 is 200: the factor decides for large links.
        assert_eq!(step(200, 4000, None), AlertStep::Stay);
        assert_eq!(step(201, 4000, None), AlertStep::Raise(at(99 * 60)));
        let raised = Some(Alert { since: at(90 * 60), ended_at: None });
        assert_eq!(step(150, 4000, raised), AlertStep::Stay);
        assert_eq!(step(99, 4000, raised), AlertStep::End);
        let ended = Some(Alert { since: at(90 * 60), ended_at: Some(at(95 * 60)) });
        assert_eq!(step(201, 4000, ended), AlertStep::Raise(at(99 * 60)));
        // The same window is the same occurrence.
        let just = Some(Alert { since: at(99 * 60), ended_at: Some(now) });
        assert_eq!(step(201, 4000, just), AlertStep::Stay);
    }

    #[test]
    fn a_link_without_a_history_is_not_viral() {
        let rule = ViralRule { factor: 5, min_clicks: 100 };
        let hour = LinkHour { clicks: 5000, ever: 5000, first: at(0) };
        for hours in 0..5 {
            let now = at(0).plus(HOUR * hours);
            assert_eq!(rule.step(hour, at(0), now, None), AlertStep::Stay, "{hours}");
        }
        assert!(matches!(rule.step(hour, at(0), at(301), None), AlertStep::Raise(_)));
    }

    #[test]
    fn a_burst_raises_one_alert_until_it_is_over() {
        let rule = BurstRule { min_clicks: 100, min_percent: 80 };
        let burst =
            |window, clicks, link_clicks| LinkBurst { window: at(window), clicks, link_clicks, who: String::new() };
        assert_eq!(rule.step(&[], None), AlertStep::Stay);
        assert_eq!(rule.step(&[burst(0, 99, 99)], None), AlertStep::Stay);
        assert_eq!(rule.step(&[burst(0, 100, 126)], None), AlertStep::Stay);
        assert_eq!(rule.step(&[burst(0, 100, 125), burst(5, 400, 400)], None), AlertStep::Raise(at(0)));
        let raised = Some(Alert { since: at(0), ended_at: None });
        assert_eq!(rule.step(&[burst(5, 50, 500)], raised), AlertStep::Stay);
        assert_eq!(rule.step(&[], raised), AlertStep::End);
        let ended = Some(Alert { since: at(0), ended_at: Some(at(12)) });
        assert_eq!(rule.step(&[burst(0, 500, 500)], ended), AlertStep::Stay);
        assert_eq!(rule.step(&[burst(0, 500, 500), burst(10, 500, 500)], ended), AlertStep::Raise(at(10)));
    }

    #[test]
    fn a_campaign_is_complete_once_by_its_goal_or_its_end() {
        let campaign = |goal: Option<u64>, ends: Option<i64>| -> Campaign {
            serde_json::from_value(json!({
                "id": schemas::CampaignId::from_bits(1), "workspace": "default", "name": "a", "milestones": [],
                "goal": goal.map(|goal| json!({"clicks": goal})), "ends_at": ends.map(at), "created_at": at(10),
                "updated_at": at(10), "revision": 1,
            }))
            .unwrap()
        };
        let by = |campaign: &Campaign, clicks: u64, told, now| {
            let counts = CampaignCounts { clicks: Some(clicks), conversions: None };
            completion(campaign, counts, told, at(20), at(now))
        };
        let (goal, end) = (CompletionOccurrence::Clicks(50), CompletionOccurrence::Ended(at(30)));
        let both = campaign(Some(50), Some(30));
        assert_eq!(by(&both, 49, None, 29), None);
        assert_eq!(by(&both, 50, None, 29), Some(goal));
        assert_eq!(by(&both, 49, None, 30), Some(end));
        assert_eq!((by(&both, 50, Some(goal), 31), by(&both, 50, Some(end), 31)), (None, None));
        // A new end is another occurrence.
        assert_eq!(by(&campaign(None, Some(40)), 0, Some(end), 41), Some(CompletionOccurrence::Ended(at(40))));
        // Before the campaign, or the watch, began.
        assert_eq!(
            (by(&campaign(None, Some(5)), 0, None, 41), by(&campaign(None, Some(15)), 0, None, 41)),
            (None, None)
        );
        let unknown = completion(&both, CampaignCounts::default(), None, at(20), at(29));
        assert_eq!(unknown, None);
    }

    #[test]
    fn buckets_begin_at_multiples_of_five_minutes() {
        assert_eq!((bucket(at(7)), bucket(at(10)), buckets_before(at(7), 2)), (at(5), at(10), at(-5)));
    }
}
