//! The state of an endpoint, and its health as one dispatcher sees it: a record on `health`,
//! keyed by endpoint and process. The leader of `control` combines the records of all
//! processes, and writes the state.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EndpointId, Timestamp};

/// The state of an endpoint: only an active one gets deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointStatus {
    /// Deliveries are made.
    Active,
    /// A person paused the endpoint.
    Paused,
    /// The endpoint answered 410, or failed for too long.
    Disabled,
}

/// A report of one process on one endpoint, written when the endpoint's state changes, and
/// from time to time while the endpoint fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// Version of the format: 1.
    pub v: u8,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The time of the first failure of the run of failures that lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// The time of the last failure of that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Timestamp>,
    /// The time of the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// The time at which the endpoint answered 410: it wants no more webhooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<Timestamp>,
}

impl EndpointHealth {
    /// Returns the key of the record of `process`.
    #[must_use]
    pub fn key(&self, process: &str) -> String {
        format!("{}/{process}", self.endpoint)
    }
}
