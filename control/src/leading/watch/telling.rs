//! Findings of the watch become events. A finding's event and its record on `fired` are one transaction, drafted over the
//! committed state, so that no fact is told twice; what was deleted meanwhile is not told.

use schemas::{
    Campaign, Event, EventName, Link, Timestamp, WorkspaceId,
    fired::{AlertKind, CompletionOccurrence, FiredFact, FiredRecord, FiredSubject},
    watch::{BurstFacts, CompletionFacts, MilestoneFacts, ViralFacts},
};
use service::problem::Problem;

use crate::{
    leading::writer::ActiveLeader,
    metrics::{ControlMetrics, FiredLabels},
    state::{audit::Author, draft::Draft},
};

/// The findings that one transaction tells at most.
const AT_ONCE: usize = 200;

/// A fact that the watch has found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) workspace: WorkspaceId,
    pub(super) subject: FiredSubject,
    pub(super) fact: FiredFact,
    pub(super) report: FindingReport,
}

/// The way in which a finding is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FindingReport {
    /// Nobody is told: the fact is from before the watch, or an alert has ended.
    Silent,
    /// A deadline has passed.
    Expired,
    /// A milestone was reached.
    Milestone(MilestoneFacts<'static>),
    /// A campaign is complete.
    Completion(CompletionFacts),
    /// A link is viral.
    Viral(ViralFacts),
    /// A link has a burst.
    Burst(BurstFacts<'static>),
}

/// Tells the findings, behind the changes that wait already.
pub(super) async fn tell(
    leader: &ActiveLeader,
    findings: Vec<Finding>,
    metrics: &ControlMetrics,
) -> Result<(), Problem> {
    let mut findings = findings.into_iter().peekable();
    while findings.peek().is_some() {
        let some: Vec<Finding> = findings.by_ref().take(AT_ONCE).collect();
        let change = move |draft: &mut Draft<'_>| {
            let mut told = Vec::new();
            for finding in some {
                told.extend(tell_one(draft, finding)?);
            }
            Ok(told)
        };
        for event in leader.enqueue(Author::Leader, change).await?.committed().await? {
            metrics.fired.get_or_create(&FiredLabels { event: event.as_str() }).inc();
        }
    }
    Ok(())
}

/// Drafts a finding, and returns the name of its event if it has one.
fn tell_one(draft: &mut Draft<'_>, finding: Finding) -> Result<Option<EventName>, Problem> {
    let Finding { workspace, subject, fact, report } = finding;
    if draft.fired(subject).contains(&fact) {
        return Ok(None);
    }
    let at = draft.at();
    let (link, campaign) = match subject {
        FiredSubject::Installation => (None, None),
        FiredSubject::Link(id) => match draft.find::<Link>(&id).filter(|link| link.workspace == workspace) {
            Some(link) => (Some(link), None),
            None => return Ok(None),
        },
        FiredSubject::Campaign(id) => {
            match draft.find::<Campaign>(&id).filter(|campaign| campaign.workspace == workspace) {
                Some(campaign) => (None, Some(campaign)),
                None => return Ok(None),
            }
        }
    };
    // The deadline may have been changed meanwhile.
    if let (FiredFact::Expired(deadline), Some(link)) = (&fact, &link)
        && link.expires_at != Some(*deadline)
    {
        return Ok(None);
    }
    let created_at = link.as_ref().map(|link| link.created_at);
    let created_at = created_at.or(campaign.as_ref().map(|campaign| campaign.created_at)).unwrap_or(at);
    let name = match report {
        FindingReport::Silent => None,
        _ => event_name(subject, &fact),
    };
    let event = name.and_then(|name| {
        let id = fact.event_id(workspace.as_str(), name, subject, created_at)?;
        let bare = Event::bare(id, name, happened_at(&fact).unwrap_or(at));
        let facts = Event {
            link: link.as_ref().map(|link| link.facts()),
            campaign: campaign.as_ref().map(|campaign| campaign.facts()),
            ..bare
        };
        Some(with_report(facts, report))
    });
    let record = FiredRecord { v: 1, subject, fact, event: event.as_ref().map(|event| event.id), at };
    draft.fire(&workspace, record, event)?;
    Ok(name)
}

fn with_report<'a>(event: Event<'a>, report: FindingReport) -> Event<'a> {
    match report {
        FindingReport::Silent | FindingReport::Expired => event,
        FindingReport::Milestone(facts) => Event { milestone: Some(facts), ..event },
        FindingReport::Completion(facts) => Event { completion: Some(facts), ..event },
        FindingReport::Viral(facts) => Event { viral: Some(facts), ..event },
        FindingReport::Burst(facts) => Event { suspicious: Some(facts), ..event },
    }
}

/// Returns the name of the event that tells of a fact.
const fn event_name(subject: FiredSubject, fact: &FiredFact) -> Option<EventName> {
    match (fact, subject) {
        (FiredFact::Watching(_), _) => None,
        (FiredFact::Milestone(_), FiredSubject::Campaign(_)) => Some(EventName::CampaignMilestone),
        (FiredFact::Milestone(_), _) => Some(EventName::LinkMilestone),
        (FiredFact::Alert(AlertKind::Viral, _), _) => Some(EventName::LinkViral),
        (FiredFact::Alert(AlertKind::Suspicious(_), _), _) => Some(EventName::LinkSuspicious),
        (FiredFact::Expired(_), _) => Some(EventName::LinkExpired),
        (FiredFact::Completed(_), _) => Some(EventName::CampaignCompleted),
    }
}

/// Returns the time of a fact that has one of its own.
const fn happened_at(fact: &FiredFact) -> Option<Timestamp> {
    match fact {
        FiredFact::Expired(at) | FiredFact::Completed(CompletionOccurrence::Ended(at)) => Some(*at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use schemas::{LinkId, Topic, fired::Milestone, sample::plain_link};

    use super::*;
    use crate::{
        rules::DraftRules,
        state::{entity::Expected, installed},
    };

    fn milestone(threshold: u64) -> Finding {
        let facts = MilestoneFacts {
            metric: schemas::watch::MilestoneMetric::Clicks,
            threshold,
            value: threshold + 1,
            top_source: None,
            conversions: 0,
            conversion_rate: Some(0),
            currency: None,
        };
        Finding {
            workspace: WorkspaceId::default(),
            subject: FiredSubject::Link(LinkId::from_bits(1)),
            fact: FiredFact::Milestone(Milestone::clicks(threshold)),
            report: FindingReport::Milestone(facts),
        }
    }

    #[test]
    fn a_fact_is_told_once_with_its_record_and_forgotten_with_its_link() {
        let rules = DraftRules::default();
        let mut state = installed();
        let mut draft = Draft::new(&state, &rules, Timestamp::from_millis(10));
        assert_eq!(tell_one(&mut draft, milestone(100)).unwrap(), None, "there is no such link");
        draft.create(plain_link(LinkId::from_bits(1), "s", "https://a.example/")).unwrap();
        assert_eq!(tell_one(&mut draft, milestone(100)).unwrap(), Some(EventName::LinkMilestone));
        assert_eq!(tell_one(&mut draft, milestone(100)).unwrap(), None, "in the same draft");
        let drafted = draft.finish();
        let topics: Vec<Topic> = drafted.records.iter().rev().take(2).map(|record| record.topic).collect();
        assert_eq!(topics, [Topic::Fired, Topic::Events]);
        let first = drafted.records[drafted.records.len() - 2].value.clone().unwrap();
        state.apply(drafted.changes);

        let mut draft = Draft::new(&state, &rules, Timestamp::from_millis(20));
        assert_eq!(tell_one(&mut draft, milestone(100)).unwrap(), None, "it is committed");
        assert_eq!(tell_one(&mut draft, milestone(500)).unwrap(), Some(EventName::LinkMilestone));
        draft.delete::<Link>(&WorkspaceId::default(), &LinkId::from_bits(1), &Expected::Anything, |_| Ok(())).unwrap();
        let drafted = draft.finish();
        let gone = drafted.records.iter().filter(|record| record.topic == Topic::Fired && record.value.is_none());
        assert_eq!(gone.count(), 2);
        state.apply(drafted.changes);
        assert_eq!(state.fired, crate::state::fired::FiredFacts::default());

        // Whoever tells the fact, and whenever: the event has the same id.
        let mut draft = Draft::new(&state, &rules, Timestamp::from_millis(99));
        draft.create(plain_link(LinkId::from_bits(1), "s", "https://a.example/")).unwrap();
        tell_one(&mut draft, milestone(100)).unwrap();
        let records = draft.finish().records;
        let again = records[records.len() - 2].value.clone().unwrap();
        let id = |value: &[u8]| serde_json::from_slice::<serde_json::Value>(value).unwrap()["event"]["id"].clone();
        assert_eq!(id(&first), id(&again));
    }
}
