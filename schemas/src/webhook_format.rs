//! The formats in which endpoints get events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The format in which an endpoint gets events. Every retry repeats it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFormat {
    /// The event as it is, with all its facts.
    #[default]
    Clickhook,
    /// The most important facts, without nesting below `data`.
    Flat,
    /// CloudEvents 1.0 in structured mode, with the event as `data`.
    Cloudevents,
    /// A message for an incoming webhook of Slack, with a line for people.
    Slack,
}

impl WebhookFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Clickhook, Self::Flat, Self::Cloudevents, Self::Slack];

    /// Tells whether this is the format of endpoints that name none.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
