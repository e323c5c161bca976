//! A campaign as the control plane keeps it: links that are counted together. A
//! record on `campaigns`. Links name their campaign by its name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CampaignId, Timestamp, WorkspaceId};

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
    /// The time at which the campaign was created.
    pub created_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The number of the version, from 1.
    pub revision: u64,
}
