//! Batches: several events in one webhook.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The limits at which a batch of events is cut, whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchLimits {
    /// The most events of a batch.
    pub max_events: u32,
    /// The longest time that an event waits for others, in milliseconds.
    pub max_wait_ms: u32,
    /// The most bytes of a batch's body. An event that is larger goes alone.
    pub max_bytes: u32,
}

/// The form in which events are sent. Every retry repeats it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One event is the whole body.
    #[default]
    Single,
    /// The body is a list of events, be it of one.
    Batch,
}
