//! Facts that the watch has told: records on `fired`. A record and its event are one
//! transaction, so that no fact is told twice or left out, whichever leader is killed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    CampaignId, EventId, EventName, LinkId, Timestamp,
    ids::IdError,
    watch::{BurstCause, MilestoneMetric},
};

/// The subject of a fact that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FiredSubject {
    /// The whole installation.
    Installation,
    /// A link.
    Link(LinkId),
    /// A campaign.
    Campaign(CampaignId),
}

/// The text for the whole installation.
const INSTALLATION: &str = "installation";

impl fmt::Display for FiredSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installation => f.write_str(INSTALLATION),
            Self::Link(id) => id.fmt(f),
            Self::Campaign(id) => id.fmt(f),
        }
    }
}

impl FromStr for FiredSubject {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            INSTALLATION => Ok(Self::Installation),
            _ if text.starts_with(CampaignId::PREFIX) => text.parse().map(Self::Campaign),
            _ => text.parse().map(Self::Link),
        }
    }
}

impl Serialize for FiredSubject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FiredSubject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A number at which progress is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Milestone {
    /// The number that is counted.
    pub metric: MilestoneMetric,
    /// The number at which the milestone is.
    pub threshold: u64,
    /// ISO 4217, where the metric is `revenue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

impl Milestone {
    /// Returns the milestone at this number of clicks.
    #[must_use]
    pub const fn clicks(threshold: u64) -> Self {
        Self { metric: MilestoneMetric::Clicks, threshold, currency: None }
    }

    fn key(&self) -> String {
        let currency = self.currency.as_deref().map_or_else(String::new, |currency| format!("/{currency}"));
        format!("{}/{}{currency}", self.metric.as_str(), self.threshold)
    }
}

/// An alert about a link, which lasts until the link is quiet again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The beginning of the window in which the alert was raised.
    pub since: Timestamp,
    /// The time at which the link was found to be quiet again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// The kind of an alert. A link has one alert of each kind at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// The link has far more clicks than usual.
    Viral,
    /// Many clicks have one cause.
    Suspicious(BurstCause),
}

/// The occurrence of a campaign's completion. Another end or another goal is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompletionOccurrence {
    /// The campaign has ended at this time.
    Ended(Timestamp),
    /// The campaign has reached this many clicks.
    Clicks(u64),
    /// The campaign has reached this many conversions.
    Conversions(u64),
}

/// A fact that was told, or is known not to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FiredFact {
    /// The watch has begun at this time: what happened before is not told.
    Watching(Timestamp),
    /// A milestone was reached.
    Milestone(Milestone),
    /// An alert was raised, and may have ended since.
    Alert(AlertKind, Alert),
    /// The link's deadline has passed.
    Expired(Timestamp),
    /// The campaign is complete.
    Completed(CompletionOccurrence),
}

impl FiredFact {
    /// Returns the part of the record's key that tells the facts of a subject apart.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Watching(_) => "watching".to_owned(),
            Self::Milestone(milestone) => milestone.key(),
            Self::Alert(AlertKind::Viral, _) => "viral".to_owned(),
            Self::Alert(AlertKind::Suspicious(cause), _) => format!("suspicious/{}", cause.as_str()),
            Self::Expired(_) => "expired".to_owned(),
            Self::Completed(_) => "completed".to_owned(),
        }
    }

    /// Returns whether the other fact takes this one's place.
    #[must_use]
    pub fn is_replaced_by(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Watching(_), Self::Watching(_))
            | (Self::Expired(_), Self::Expired(_))
            | (Self::Completed(_), Self::Completed(_)) => true,
            (Self::Milestone(one), Self::Milestone(other)) => one == other,
            (Self::Alert(one, _), Self::Alert(other, _)) => one == other,
            _ => false,
        }
    }

    /// Returns the id of the event that tells of the fact, and nothing where no event does. It
    /// depends on the fact alone, so that it is the same whoever finds the fact, and whenever.
    /// `created_at` is the time at which the subject was created.
    #[must_use]
    pub fn event_id(
        &self,
        workspace: &str,
        event: EventName,
        subject: FiredSubject,
        created_at: Timestamp,
    ) -> Option<EventId> {
        let (occurrence, at) = match self {
            Self::Watching(_) => return None,
            Self::Milestone(_) => (self.key(), created_at),
            Self::Alert(_, alert) => (format!("{}/{}", self.key(), alert.since), alert.since),
            Self::Expired(deadline) => (deadline.to_string(), *deadline),
            Self::Completed(CompletionOccurrence::Ended(at)) => (format!("ended/{at}"), *at),
            Self::Completed(CompletionOccurrence::Clicks(goal)) => (format!("clicks/{goal}"), created_at),
            Self::Completed(CompletionOccurrence::Conversions(goal)) => (format!("conversions/{goal}"), created_at),
        };
        Some(EventId::of(workspace, event, &subject.to_string(), &occurrence, at))
    }
}

/// A record on `fired`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiredRecord {
    /// Version of the format: 1.
    pub v: u8,
    /// The subject of the fact.
    pub subject: FiredSubject,
    /// The fact.
    pub fact: FiredFact,
    /// The event that told of the fact; absent where the fact is from before the watch and is
    /// not told, or where an alert has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventId>,
    /// The time of the record.
    pub at: Timestamp,
}

impl FiredRecord {
    /// Returns the key of the record.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.subject, self.fact.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<FiredFact> {
        let at = Timestamp::from_millis(1_770_301_425_120);
        let alert = Alert { since: at, ended_at: None };
        let mut facts = vec![
            FiredFact::Milestone(Milestone::clicks(100)),
            FiredFact::Milestone(Milestone::clicks(500)),
            FiredFact::Milestone(Milestone { metric: MilestoneMetric::Conversions, threshold: 100, currency: None }),
            FiredFact::Milestone(Milestone {
                metric: MilestoneMetric::Revenue,
                threshold: 100,
                currency: Some("EUR".to_owned()),
            }),
            FiredFact::Alert(AlertKind::Viral, alert),
            FiredFact::Expired(at),
            FiredFact::Completed(CompletionOccurrence::Ended(at)),
        ];
        facts.extend(BurstCause::ALL.map(|cause| FiredFact::Alert(AlertKind::Suspicious(cause), alert)));
        facts
    }

    #[test]
    fn a_record_reads_back_and_facts_have_keys_and_events_of_their_own() {
        let at = Timestamp::from_millis(7);
        let subject = FiredSubject::Link(LinkId::from_bits(1));
        let mut keys = std::collections::BTreeSet::new();
        let mut ids = std::collections::BTreeSet::new();
        for fact in facts() {
            let event = fact.event_id("default", EventName::LinkViral, subject, at);
            assert!(ids.insert(event), "{fact:?}");
            let record = FiredRecord { v: 1, subject, fact, event, at };
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<FiredRecord>(&json).unwrap(), record, "{json}");
            assert!(keys.insert(record.key()), "{}", record.key());
        }
        for text in ["installation", &CampaignId::from_bits(5).to_string(), &LinkId::from_bits(5).to_string()] {
            assert_eq!(text.parse::<FiredSubject>().unwrap().to_string(), text);
        }
        assert!("ep_1".parse::<FiredSubject>().is_err());
    }

    #[test]
    fn another_window_deadline_or_goal_is_another_event() {
        let at = Timestamp::from_millis;
        let id = |fact: FiredFact, created_at: i64| {
            let subject = FiredSubject::Campaign(CampaignId::from_bits(1));
            fact.event_id("default", EventName::CampaignCompleted, subject, at(created_at)).unwrap()
        };
        let alert = |since, ended_at| FiredFact::Alert(AlertKind::Viral, Alert { since: at(since), ended_at });
        assert_ne!(id(alert(1, None), 0), id(alert(2, None), 0));
        assert_eq!(id(alert(1, None), 0), id(alert(1, Some(at(9))), 0));
        assert_ne!(id(FiredFact::Expired(at(1)), 0), id(FiredFact::Expired(at(2)), 0));
        let completed = |occurrence| id(FiredFact::Completed(occurrence), 0);
        assert_ne!(completed(CompletionOccurrence::Clicks(5)), completed(CompletionOccurrence::Conversions(5)));
        assert_ne!(completed(CompletionOccurrence::Clicks(5)), completed(CompletionOccurrence::Clicks(6)));
    }
}
