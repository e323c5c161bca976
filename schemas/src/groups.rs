//! The consumer groups with the topics that each reads. No other place in the project
//! spells a group's name.

use crate::{DelayTier, Topic};

/// A consumer group of the pipeline, without the installation's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConsumerGroup {
    /// The election of the leader of the control plane.
    Control,
    /// The enricher's work on raw clicks.
    Enricher,
    /// The enricher's work on reported conversions.
    Conversions,
    /// Deliveries that follow from clicks.
    WebhookClicks,
    /// Deliveries that follow from all other events.
    WebhookEvents,
    /// Deliveries that wait for their next attempt.
    WebhookDelay,
    /// Rows for ClickHouse.
    Warehouse,
}

impl ConsumerGroup {
    /// Every group.
    pub const ALL: [Self; 7] = [
        Self::Control,
        Self::Enricher,
        Self::Conversions,
        Self::WebhookClicks,
        Self::WebhookEvents,
        Self::WebhookDelay,
        Self::Warehouse,
    ];

    /// Returns the name behind the prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Enricher => "enricher",
            Self::Conversions => "conversions",
            Self::WebhookClicks => "webhook.clicks",
            Self::WebhookEvents => "webhook.events",
            Self::WebhookDelay => "webhook.delay",
            Self::Warehouse => "warehouse",
        }
    }

    /// Returns the topics that the group reads.
    #[must_use]
    pub const fn topics(self) -> &'static [Topic] {
        match self {
            Self::Control => &[Topic::Links],
            Self::Enricher => &[Topic::ClicksRaw],
            Self::Conversions => &[Topic::ConversionsRaw, Topic::ConversionsWaiting],
            Self::WebhookClicks => &[Topic::Clicks],
            Self::WebhookEvents => &[Topic::Events],
            Self::WebhookDelay => &[
                Topic::Delay(DelayTier::Seconds5),
                Topic::Delay(DelayTier::Minute1),
                Topic::Delay(DelayTier::Minutes5),
                Topic::Delay(DelayTier::Minutes30),
                Topic::Delay(DelayTier::Hours2),
                Topic::Delay(DelayTier::Hours24),
            ],
            Self::Warehouse => &[Topic::Clicks, Topic::Events, Topic::Attempts],
        }
    }
}
