//! Replays: events that are delivered to an endpoint once more. Records on `replays`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EndpointId, EventId, Outcome, ReplayId, Timestamp, WorkspaceId};

/// A replay of events to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Its id.
    pub id: ReplayId,
    /// The workspace of the endpoint.
    pub workspace: WorkspaceId,
    /// The endpoint that gets the events.
    pub endpoint: EndpointId,
    /// The choice of the events.
    pub choice: ReplayChoice,
    /// The state of the replay.
    pub state: ReplayState,
    /// The reason why the replay failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// The place at which reading goes on; none before the first step and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<ReplayPosition>,
    /// The number of records that are to be read.
    pub records: u64,
    /// The number of records that were read.
    pub read: u64,
    /// The number of events that were handed over for delivery.
    pub sent: u64,
    /// The time at which the replay was asked for.
    pub created_at: Timestamp,
    /// The time of the last step.
    pub updated_at: Timestamp,
    /// The number of the version, from 1.
    pub revision: u64,
}

/// The choice of the events of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum ReplayChoice {
    /// Events that were recorded in this time and that the endpoint asks for.
    Time {
        /// The beginning of the time.
        since: Timestamp,
        /// The end of the time, which is not in it.
        until: Timestamp,
    },
    /// Events that were attempted or skipped in this time, and whose last outcome is one of these.
    Outcome {
        /// The beginning of the time.
        since: Timestamp,
        /// The end of the time, which is not in it.
        until: Timestamp,
        /// The outcomes.
        outcomes: Vec<Outcome>,
    },
    /// These events.
    Events {
        /// Their ids.
        event_ids: Vec<EventId>,
    },
}

/// The state of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// Events are looked for and handed over.
    Running,
    /// All events that were found are handed over.
    Done,
    /// The replay cannot go on.
    Failed,
}

/// The place in Kafka at which a replay reads on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPosition {
    /// The topic's name, without the prefix.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record.
    pub offset: i64,
}
