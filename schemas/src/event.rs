//! Events as receivers, tables and data teams get them, key for key in the order of
//! docs/CONTRACTS.md §3, and the envelope in which they travel on `clicks` and
//! `events`.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ClickId, ConversionId, EndpointId, EndpointStatus, EventId, LinkId, Timestamp,
    audit::AuditFacts,
    campaign::CampaignFacts,
    conversion::Amount,
    event_name::EventName,
    link::{MaxClicksOf, ReferrerPolicy},
    usermap::UserMap,
    watch::{BurstFacts, CompletionFacts, MilestoneFacts, ViralFacts},
};

/// The body of an event, which is signed and sent, and from which a row is made.
/// Absent facts are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event<'a> {
    /// The id of the event, which never changes: it is derived from the fact ([`EventId::of`]).
    pub id: EventId,
    /// The type of the event.
    pub event: EventName,
    /// The time of the event.
    pub timestamp: Timestamp,
    /// The link that the event is about.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkFacts<'a>>,
    /// The campaign that the event is about.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<CampaignFacts<'a>>,
    /// The milestone that was reached.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub milestone: Option<MilestoneFacts<'a>>,
    /// The completion of the campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<CompletionFacts>,
    /// The rise of the link's clicks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub viral: Option<ViralFacts>,
    /// The burst of the link's clicks.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub suspicious: Option<BurstFacts<'a>>,
    /// The conversion, or the change of its status.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<ConversionFacts<'a>>,
    /// The click or scan. Of a conversion it is the click that led to it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub click: Option<ClickFacts<'a>>,
    /// The campaign parameters that the visit carried.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub utm: Option<Utm<'a>>,
    /// The ad that the visit came from.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<Attribution<'a>>,
    /// The fields that an update changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// The endpoint whose health has changed.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointFacts<'a>>,
    /// The change that the audit log tells of.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditFacts<'a>>,
    /// A sentence for people, in tests and receipts.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
}

impl Event<'_> {
    /// Returns an event that has no facts yet.
    #[must_use]
    pub const fn bare(id: EventId, event: EventName, timestamp: Timestamp) -> Self {
        Self {
            id,
            event,
            timestamp,
            link: None,
            campaign: None,
            milestone: None,
            completion: None,
            viral: None,
            suspicious: None,
            conversion: None,
            click: None,
            utm: None,
            attribution: None,
            changes: None,
            endpoint: None,
            audit: None,
            message: None,
        }
    }
}

/// A link, as events tell of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkFacts<'a> {
    /// Its id.
    pub id: LinkId,
    /// The address that people share.
    #[serde(borrow)]
    pub short_url: Cow<'a, str>,
    /// The address that the link leads to.
    #[serde(borrow)]
    pub destination: Cow<'a, str>,
    /// The path of the short address.
    #[serde(borrow)]
    pub slug: Cow<'a, str>,
    /// The campaign that the link belongs to.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<Cow<'a, str>>,
    /// The audience that the link was made for.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<Cow<'a, str>>,
    /// The labels of the link.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Cow<'a, str>>,
}

/// An endpoint, as events tell of it: its address may hold a secret, and is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointFacts<'a> {
    /// Its id.
    pub id: EndpointId,
    /// Whether deliveries are made.
    pub status: EndpointStatus,
    /// The reason why the endpoint was disabled.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<Cow<'a, str>>,
    /// The time since which nothing but failures was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
}

/// A conversion, as events tell of it. Each status of a conversion has an event of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConversionFacts<'a> {
    /// Its id, the same in all events of the conversion.
    pub id: ConversionId,
    /// `purchase`, `signup`, ….
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The shop's number of the order.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<Cow<'a, str>>,
    /// `pending`, `approved`, …. Of several, the status with the latest time is the current one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Cow<'a, str>>,
    /// The product that was bought.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Cow<'a, str>>,
    /// The value of the conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
    /// The commission that is paid for the conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commission: Option<Amount>,
    /// The affiliate that the commission is paid to.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub affiliate_id: Option<Cow<'a, str>>,
    /// The customer, as the shop knows them.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<Cow<'a, str>>,
    /// Whether the click is known that led to the conversion. It may become known later:
    /// another event then tells of the same conversion and status.
    pub attributed: bool,
    /// The time from the click to the conversion, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_since_click: Option<u64>,
    /// The customer's own facts.
    #[serde(default, skip_serializing_if = "UserMap::is_empty")]
    pub metadata: UserMap,
}

/// A click or scan, as events tell of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClickFacts<'a> {
    /// Its id.
    pub id: ClickId,
    /// The time at which the redirect was requested.
    pub timestamp: Timestamp,
    /// The visitor's address, reduced by `ip_mode`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<Cow<'a, str>>,
    /// The header `User-Agent`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Cow<'a, str>>,
    /// The header `Referer`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub referer: Option<Cow<'a, str>>,
    /// The country: ISO 3166-1 alpha-2.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub country: Option<Cow<'a, str>>,
    /// The region: the ISO 3166-2 subdivision code where it is known, else its name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Cow<'a, str>>,
    /// The city, in English.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub city: Option<Cow<'a, str>>,
    /// The number of the autonomous system that announces the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// The organisation that the autonomous system belongs to.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<Cow<'a, str>>,
    /// The kind of network, where it is not an ordinary one: `hosting`, `cdn`, `vpn`, `tor`
    /// or `bot`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Cow<'a, str>>,
    /// The kind of device: `desktop`, `mobile`, `tablet`, `tv`, `appliance` or `crawler`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Cow<'a, str>>,
    /// The browser's name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub browser: Option<Cow<'a, str>>,
    /// The browser's version.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub browser_version: Option<Cow<'a, str>>,
    /// The operating system.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub os: Option<Cow<'a, str>>,
    /// The operating system's version.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<Cow<'a, str>>,
    /// The app whose built-in browser opened the link, such as `instagram`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Cow<'a, str>>,
    /// The source of the visit: `utm_source`, else the network of the click id, else the
    /// referrer's known name or host, else the app, else `direct`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Cow<'a, str>>,
    /// The kind of source: `search`, `social`, `email`, `sms`, `ai`, `video`, `chat`, `work`,
    /// `news`, `ads`, `affiliate`, `internal`, `direct` or `unknown`. A `utm_medium` of a
    /// known meaning decides it; its text is in `utm`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Cow<'a, str>>,
    /// Whether a program followed the link.
    pub bot: bool,
    /// The reason why `bot` is true.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub bot_reason: Option<Cow<'a, str>>,
    /// The session that the visit belongs to. It tells visits of one day apart and identifies no person.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Cow<'a, str>>,
}

/// Campaign parameters (`utm_…`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Utm<'a> {
    /// The parameter `utm_source`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Cow<'a, str>>,
    /// The parameter `utm_medium`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Cow<'a, str>>,
    /// The parameter `utm_campaign`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<Cow<'a, str>>,
    /// The parameter `utm_term`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub term: Option<Cow<'a, str>>,
    /// The parameter `utm_content`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Cow<'a, str>>,
}

/// The ad that a visit came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attribution<'a> {
    /// The creative: `referrerAdCreative` or another name of it, and `utm_content` where
    /// there is none of them.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub referrer_ad_creative: Option<Cow<'a, str>>,
    /// The set or group that the ad belongs to: its id or name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ad_set: Option<Cow<'a, str>>,
    /// The campaign of the ads platform: its id or name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ad_campaign: Option<Cow<'a, str>>,
    /// Google's click id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub gclid: Option<Cow<'a, str>>,
    /// Meta's click id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub fbclid: Option<Cow<'a, str>>,
    /// The click ids of other networks, by the name of their parameter, such as `msclkid`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub click_ids: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// A value before and after an update; an absent value is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct Change<T> {
    /// The value before the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<T>,
    /// The value after the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<T>,
}

/// The fields of a link that an update changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "each is the field of Link with that name")]
pub struct Changes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Change<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<Change<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_slugs: Option<Change<Vec<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<Change<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<Change<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Change<Vec<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Change<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<Change<u16>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Change<Timestamp>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Change<Timestamp>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_url: Option<Change<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_clicks: Option<Change<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_clicks_of: Option<Change<MaxClicksOf>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted_at: Option<Change<Timestamp>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Change<bool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<Change<bool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_click_id: Option<Change<bool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<Change<bool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrer_policy: Option<Change<ReferrerPolicy>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<Change<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Change<UserMap>>,
}

/// The envelope in which an event travels on `clicks` and `events`: beside the body it
/// has the facts that route and count the event but are never delivered. `E` is
/// [`Event`] for writing, and `&RawValue` for reading the body's exact bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<'a, E> {
    /// Version of the format: 1.
    pub v: u8,
    /// The workspace that the event belongs to.
    #[serde(borrow)]
    pub workspace: Cow<'a, str>,
    /// The address hashed under the day's key, for telling bursts.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ip_key: Option<Cow<'a, str>>,
    /// The one endpoint that a test is for. No other endpoint gets the event, and no
    /// table counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointId>,
    /// The body.
    pub event: E,
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::sample;

    #[test]
    fn the_bytes_of_the_body_survive_the_envelope() {
        for name in EventName::ALL {
            let event = sample::event(*name, Timestamp::from_millis(1_770_301_425_120));
            let body = serde_json::to_string(&event).unwrap();
            let sent = Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint: None, event };
            let bytes = serde_json::to_vec(&sent).unwrap();
            let read: Envelope<'_, &RawValue> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read.event.get(), body);
            let typed: Event<'_> = serde_json::from_str(&body).unwrap();
            assert_eq!(typed, sent.event);
        }
    }

    #[test]
    fn every_name_reads_back() {
        for name in EventName::ALL {
            assert_eq!(name.as_str().parse::<EventName>().unwrap(), *name);
            assert_eq!(serde_json::to_string(name).unwrap(), format!("\"{name}\""));
        }
        assert!("link.klicked".parse::<EventName>().unwrap_err().to_string().contains("link.clicked"));
    }
}
