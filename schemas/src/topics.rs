//! The topics with their names, contents and retentions (docs/CONTRACTS.md §5). No
//! other place in the project spells a topic's name.

use std::time::Duration;

use crate::DelayTier;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A topic of the pipeline, without the installation's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Bundles of visits that the redirector saw; partition by shard. NDJSON of
    /// [`RawClick`](crate::RawClick), headers `count` and `bundle`.
    ClicksRaw,
    /// Finished click and scan events, written by the enricher alone; partition
    /// by shard. [`Envelope`](crate::Envelope).
    Clicks,
    /// Every other event, keyed by its subject, and those of the audit log by workspace.
    /// [`Envelope`](crate::Envelope).
    Events,
    /// Conversions as they were reported, keyed by what makes two reports the same;
    /// partition by the shard of the key. [`RawConversion`](crate::RawConversion).
    ConversionsRaw,
    /// Conversions whose click was not found at first, with key and partition as on
    /// `conversions.raw`. [`RawConversion`](crate::RawConversion).
    ConversionsWaiting,
    /// The states of orders and the clicks of customers, by their keys.
    /// [`OrderState`](crate::conversion::OrderState),
    /// [`CustomerClicks`](crate::conversion::CustomerClicks), or a tombstone.
    Conversions,
    /// The control plane's links, by id. [`Link`](crate::Link), or a tombstone.
    Links,
    /// The control plane's endpoints, by id. [`Endpoint`](crate::Endpoint), or a tombstone.
    Endpoints,
    /// The control plane's workspaces, by id. [`Workspace`](crate::Workspace), or a tombstone.
    Workspaces,
    /// The control plane's domains, by id. [`Domain`](crate::Domain), or a tombstone.
    Domains,
    /// The control plane's keys, by id. [`Key`](crate::Key), or a tombstone.
    Keys,
    /// The time of each key's last use, by the key's id. [`KeyUse`](crate::workspace::KeyUse).
    KeyUses,
    /// The control plane's campaigns, by id. [`Campaign`](crate::Campaign), or a tombstone.
    Campaigns,
    /// The replays of events to endpoints, by id. [`Replay`](crate::Replay), or a tombstone.
    Replays,
    /// The answers to calls that may be repeated, by workspace and `Idempotency-Key`.
    Idempotency,
    /// The leader of the control plane with its address. [`Leader`](crate::leader::Leader).
    Leader,
    /// Bundles that say `again` and were accepted, by their id, so that a first copy
    /// that arrives later is dropped. [`Replayed`](crate::Replayed).
    Replayed,
    /// The facts that the watch has told, by subject and fact.
    /// [`FiredRecord`](crate::fired::FiredRecord), or a tombstone.
    Fired,
    /// The random key of a UTC day, under which visits are told apart.
    Daykeys,
    /// The health of endpoints as each dispatcher sees it, by endpoint and process.
    /// [`EndpointHealth`](crate::endpoint_health::EndpointHealth).
    Health,
    /// Every HTTP exchange with an endpoint, keyed by endpoint.
    /// [`Attempt`](crate::Attempt).
    Attempts,
    /// Deliveries waiting for their next attempt or a slow endpoint's turn: a topic for
    /// each tier, keyed by endpoint, in any partition. [`Delivery`](crate::Delivery).
    Delay(DelayTier),
    /// Records and deliveries that were given up. [`Dead`](crate::Dead).
    Dead,
}

/// The way in which Kafka treats a topic's old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Records are deleted after this time.
    After(Duration),
    /// The last record of each key is kept for good.
    Compact,
    /// The last record of each key is kept, and deleted after this time.
    CompactFor(Duration),
}

/// The number of a topic's partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Exactly one: its order is the truth, or its assignment elects a leader.
    One,
    /// The installation's number: co-partitioned with every other such topic.
    Shared,
}

impl Topic {
    /// Every topic, in the order in which `clickhook migrate` makes them.
    pub const ALL: [Self; 28] = [
        Self::ClicksRaw,
        Self::Clicks,
        Self::Events,
        Self::ConversionsRaw,
        Self::ConversionsWaiting,
        Self::Conversions,
        Self::Links,
        Self::Endpoints,
        Self::Workspaces,
        Self::Domains,
        Self::Keys,
        Self::KeyUses,
        Self::Campaigns,
        Self::Replays,
        Self::Idempotency,
        Self::Leader,
        Self::Replayed,
        Self::Fired,
        Self::Daykeys,
        Self::Health,
        Self::Attempts,
        Self::Delay(DelayTier::Seconds5),
        Self::Delay(DelayTier::Minute1),
        Self::Delay(DelayTier::Minutes5),
        Self::Delay(DelayTier::Minutes30),
        Self::Delay(DelayTier::Hours2),
        Self::Delay(DelayTier::Hours24),
        Self::Dead,
    ];

    /// The name behind the prefix.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::ClicksRaw => "clicks.raw",
            Self::Clicks => "clicks",
            Self::Events => "events",
            Self::ConversionsRaw => "conversions.raw",
            Self::ConversionsWaiting => "conversions.waiting",
            Self::Conversions => "conversions",
            Self::Links => "links",
            Self::Endpoints => "endpoints",
            Self::Workspaces => "workspaces",
            Self::Domains => "domains",
            Self::Keys => "keys",
            Self::KeyUses => "key_uses",
            Self::Campaigns => "campaigns",
            Self::Replays => "replays",
            Self::Idempotency => "idempotency",
            Self::Leader => "leader",
            Self::Replayed => "replayed",
            Self::Fired => "fired",
            Self::Daykeys => "daykeys",
            Self::Health => "health",
            Self::Attempts => "attempts",
            Self::Delay(tier) => tier.topic(),
            Self::Dead => "dead",
        }
    }

    /// Returns the way in which Kafka treats old records.
    #[must_use]
    pub const fn cleanup(self) -> Cleanup {
        match self {
            // Full addresses live here: docs/CONTRACTS.md §5 promises 72 h.
            Self::ClicksRaw => Cleanup::After(Duration::from_secs(72 * 3600)),
            Self::Clicks | Self::ConversionsRaw | Self::ConversionsWaiting | Self::Events | Self::Attempts => {
                Cleanup::After(Duration::from_secs(14 * 24 * 3600))
            }
            Self::Conversions
            | Self::Links
            | Self::Endpoints
            | Self::Workspaces
            | Self::Domains
            | Self::Keys
            | Self::KeyUses
            | Self::Campaigns
            | Self::Fired
            | Self::Replays
            | Self::Leader => Cleanup::Compact,
            // How long an `Idempotency-Key` is remembered.
            Self::Idempotency => Cleanup::CompactFor(DAY),
            // The reports of processes that have ended.
            Self::Health => Cleanup::CompactFor(Duration::from_secs(14 * 24 * 3600)),
            // As long as `clicks.raw` keeps the bundles.
            Self::Replayed => Cleanup::CompactFor(Duration::from_secs(72 * 3600)),
            Self::Daykeys => Cleanup::After(Duration::from_secs(48 * 3600)),
            // 14 days more than the delay, so that an outage of 14 days loses no retry.
            Self::Delay(tier) => Cleanup::After(Duration::from_secs(14 * 24 * 3600 + tier.delay().as_secs())),
            Self::Dead => Cleanup::After(Duration::from_secs(90 * 24 * 3600)),
        }
    }

    /// Returns the number of partitions.
    #[must_use]
    pub const fn spread(self) -> Spread {
        match self {
            Self::Conversions
            | Self::Links
            | Self::Endpoints
            | Self::Workspaces
            | Self::Domains
            | Self::Keys
            | Self::KeyUses
            | Self::Campaigns
            | Self::Replays
            | Self::Idempotency
            | Self::Leader
            | Self::Replayed
            | Self::Fired
            | Self::Daykeys
            | Self::Health => Spread::One,
            Self::ClicksRaw
            | Self::ConversionsRaw
            | Self::ConversionsWaiting
            | Self::Clicks
            | Self::Events
            | Self::Attempts
            | Self::Delay(_)
            | Self::Dead => Spread::Shared,
        }
    }

    /// Returns the time that one segment file of a topic may span. A record outlives its
    /// retention by up to this time, so topics with short retentions have short segments.
    #[must_use]
    pub const fn segment(self) -> Duration {
        match self {
            Self::ClicksRaw | Self::Daykeys | Self::Idempotency | Self::Replayed => HOUR,
            _ => DAY,
        }
    }
}

/// The names of one installation's topics: its prefix, a dot, the suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// The topics named `prefix.…` (`clickhook` unless configured).
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The full name of `topic`.
    #[must_use]
    pub fn name(&self, topic: Topic) -> String {
        format!("{}.{}", self.prefix, topic.suffix())
    }

    /// The full name of a consumer group or transactional id: they share the
    /// prefix, so that installations on one Kafka never meet.
    #[must_use]
    pub fn group(&self, role: &str) -> String {
        format!("{}.{role}", self.prefix)
    }

    /// Returns the topic with a full name, if it is one of this installation's topics.
    #[must_use]
    pub fn parse(&self, name: &str) -> Option<Topic> {
        let suffix = name.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        Topic::ALL.into_iter().find(|topic| topic.suffix() == suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_topic() {
        let topics = Topics::new("acme.clickhook");
        for topic in Topic::ALL {
            assert_eq!(topics.parse(&topics.name(topic)), Some(topic));
        }
        assert_eq!(topics.parse("clickhook.clicks"), None);
    }
}
