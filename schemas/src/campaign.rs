//! A campaign as the control plane keeps it: links that are counted together. A
//! record on `campaigns`. Links name their campaign by its name.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CampaignId, Timestamp, WorkspaceId, conversion::Amount, fired::Milestone, watch::MilestoneMetric};

/// The default milestones: the clicks at which a campaign announces its progress.
pub const MILESTONES: [u64; 5] = [100, 500, 1_000, 5_000, 10_000];

/// The goal of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This many clicks.
    Clicks(u64),
    /// This many conversions.
    Conversions(u64),
}

/// A campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Campaign {
    /// The id of the campaign.
    pub id: CampaignId,
    /// The workspace that owns it.
    pub workspace: WorkspaceId,
    /// The name that links give as their campaign; unique in the workspace.
    pub name: String,
    /// The name before, while the new one is being written to the links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed_from: Option<String>,
    /// The time at which the campaign begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// The time at which the campaign ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// The goal of the campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// The clicks at which the campaign announces its progress, in ascending order.
    pub milestones: Vec<u64>,
    /// The conversions at which the campaign announces its progress, in ascending order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conversion_milestones: Vec<u64>,
    /// The sums of conversions' worth at which the campaign announces its progress, each in the
    /// minor unit of a currency.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revenue_milestones: Vec<Amount>,
    /// The milestones that were added after the campaign was created. One that had been reached
    /// by then is not told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added_milestones: Vec<AddedMilestone>,
    /// The time at which the campaign was created.
    pub created_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The number of the version, from 1.
    pub revision: u64,
}

/// A campaign, as events tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CampaignFacts<'a> {
    /// Its id.
    pub id: CampaignId,
    /// The name that links give as their campaign.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The time at which the campaign begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// The time at which the campaign ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// The goal of the campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

/// A milestone that was added to a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddedMilestone {
    /// The number that is counted.
    pub metric: MilestoneMetric,
    /// The number at which the milestone is.
    pub threshold: u64,
    /// ISO 4217, where the metric is `revenue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// The time from which the campaign's progress is told; absent where all of it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl AddedMilestone {
    /// Returns whether the milestone is this one.
    #[must_use]
    pub fn is(&self, milestone: &Milestone) -> bool {
        self.metric == milestone.metric && self.threshold == milestone.threshold && self.currency == milestone.currency
    }
}

impl Campaign {
    /// Returns the campaign as events show it.
    #[must_use]
    pub fn facts(&self) -> CampaignFacts<'_> {
        CampaignFacts {
            id: self.id,
            name: self.name.as_str().into(),
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            goal: self.goal,
        }
    }

    /// Iterates over the milestones of the campaign.
    pub fn all_milestones(&self) -> impl Iterator<Item = Milestone> {
        let conversions =
            |threshold: &u64| Milestone { metric: MilestoneMetric::Conversions, threshold: *threshold, currency: None };
        let revenue = |amount: &Amount| Milestone {
            metric: MilestoneMetric::Revenue,
            threshold: u64::try_from(amount.value).unwrap_or_default(),
            currency: Some(amount.currency.clone()),
        };
        let clicks = self.milestones.iter().map(|threshold| Milestone::clicks(*threshold));
        clicks
            .chain(self.conversion_milestones.iter().map(conversions))
            .chain(self.revenue_milestones.iter().map(revenue))
    }

    /// Returns the time from which reaching a milestone is told; nothing where all of the
    /// campaign's clicks count.
    #[must_use]
    pub fn told_since(&self, milestone: &Milestone) -> Option<Timestamp> {
        match self.added_milestones.iter().find(|added| added.is(milestone)) {
            Some(added) => added.since,
            None => Some(self.created_at),
        }
    }
}
