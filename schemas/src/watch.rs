//! The facts that the watch tells of links and campaigns: progress and alerts. Each is a part of
//! an event's body.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The number that a milestone is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MilestoneMetric {
    /// Clicks and scans by people.
    Clicks,
    /// Conversions that stand.
    Conversions,
    /// The worth of the conversions that stand, in the minor unit of one currency.
    Revenue,
}

impl MilestoneMetric {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clicks => "clicks",
            Self::Conversions => "conversions",
            Self::Revenue => "revenue",
        }
    }
}

/// A milestone that was reached, with the numbers at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MilestoneFacts<'a> {
    /// The number that the milestone is about.
    pub metric: MilestoneMetric,
    /// The number at which the milestone is.
    pub threshold: u64,
    /// The number that was counted when the milestone was told.
    pub value: u64,
    /// The source with the most clicks by people.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub top_source: Option<Cow<'a, str>>,
    /// Conversions that stand.
    pub conversions: u64,
    /// Conversions of 10,000 clicks and scans by people; absent without clicks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion_rate: Option<u64>,
    /// ISO 4217, where the metric is `revenue`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Cow<'a, str>>,
}

/// The reason why a campaign is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompletionReason {
    /// Its `ends_at` has passed.
    Ended,
    /// Its goal is reached.
    Goal,
}

/// The completion of a campaign, with the numbers at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionFacts {
    /// The reason why the campaign is complete.
    pub reason: CompletionReason,
    /// Clicks and scans by people.
    pub clicks: u64,
    /// Conversions that stand.
    pub conversions: u64,
}

/// The rise of a link's clicks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ViralFacts {
    /// Clicks and scans by people since `window_start`.
    pub clicks: u64,
    /// Clicks and scans by people of an average hour since the link's first click, rounded.
    pub hourly_average: u64,
    /// The beginning of the last hour: a multiple of five minutes.
    pub window_start: Timestamp,
}

/// The common trait of the clicks of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BurstCause {
    /// All came from one address.
    Address,
    /// All came from the network of one organisation.
    Network,
    /// All had one user agent.
    Agent,
}

impl BurstCause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Address, Self::Network, Self::Agent];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Network => "network",
            Self::Agent => "agent",
        }
    }
}

/// A burst of a link's clicks that have one cause. The address is never told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BurstFacts<'a> {
    /// The common trait of the clicks.
    pub cause: BurstCause,
    /// The clicks and scans of the burst, those of programs included.
    pub clicks: u64,
    /// All clicks and scans of the link in the same five minutes.
    pub link_clicks: u64,
    /// The beginning of the five minutes.
    pub window_start: Timestamp,
    /// The organisation of the network, where that is the cause.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<Cow<'a, str>>,
    /// The user agent, where that is the cause.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Cow<'a, str>>,
}
