//! A campaign as the control plane keeps it: links that are counted together. A
//! record on `campaigns`. Links name their campaign by its name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CampaignId, Timestamp, WorkspaceId};

/// The clicks at which a campaign has something to tell, where nobody chose any.
pub const MILESTONES: [u64; 5] = [100, 500, 1_000, 5_000, 10_000];

/// What a campaign is to reach.
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
    /// Its id.
    pub id: CampaignId,
    /// The workspace that owns it.
    pub workspace: WorkspaceId,
    /// What links name it by; unique in the workspace.
    pub name: String,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// What it is to reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// The clicks at which it has something to tell, in ascending order.
    pub milestones: Vec<u64>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Counts its versions from 1.
    pub revision: u64,
}
