//! Filters choose among the events that an endpoint subscribes to. All keys must
//! match, and of a list one value. An unknown key is refused when the endpoint is
//! written, and never ignored.

use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{bot_reason::BotReason, event::Event};

macro_rules! filter_keys {
    ($($variant:ident = $name:literal;)*) => {
        /// A fact that can be filtered by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each is the fact of that name in the event's body")]
        pub enum FilterKey { $($variant,)* }

        impl FilterKey {
            /// Every key.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

filter_keys! {
    Campaign = "campaign";
    Segment = "segment";
    Tags = "tags";
    LinkId = "link_id";
    Country = "country";
    Device = "device";
    Browser = "browser";
    Os = "os";
    App = "app";
    Network = "network";
    Source = "source";
    Medium = "medium";
    UtmSource = "utm.source";
    UtmMedium = "utm.medium";
    UtmCampaign = "utm.campaign";
    UtmTerm = "utm.term";
    UtmContent = "utm.content";
    Bot = "bot";
    BotReason = "bot_reason";
}

/// The error of a filter that has no meaning.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No fact has that name.
    #[error("`{0}` cannot be filtered by: known are {known}", known = FilterKey::ALL.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", "))]
    UnknownKey(String),
    /// `bot` is true or false.
    #[error("`bot` takes true, false or both in a list, not `{0}`")]
    NotABool(String),
    /// `bot_reason` is one of the reasons, with or without a detail.
    #[error("`bot_reason` takes a reason, with or without a detail behind a colon, not `{0}`: known are {known}", known = BotReason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", "))]
    NotAReason(String),
    /// No event has this reason.
    #[error("`bot_reason` is never `{0}`: prefetches and HEAD requests are no clicks, so no event tells of them")]
    NoClick(String),
}

impl FromStr for FilterKey {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::ALL
            .iter()
            .copied()
            .find(|key| key.as_str() == text)
            .ok_or_else(|| FilterError::UnknownKey(text.chars().take(64).collect()))
    }
}

/// The filters of an endpoint. Without the keys `bot` and `bot_reason`, only events of
/// humans pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<FilterKey, Vec<String>>);

impl Filters {
    /// Returns whether no filter is set. Events of bots are then left out by default.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys that have no values. They let nothing pass.
    pub fn empty_keys(&self) -> impl Iterator<Item = FilterKey> {
        self.0.iter().filter(|(_, values)| values.is_empty()).map(|(key, _)| *key)
    }

    /// Adds the filter that `key` must be one of `values`.
    ///
    /// # Errors
    /// When `key` is `bot` and a value is neither `true` nor `false`, or `key` is
    /// `bot_reason` and a value is no reason.
    pub fn insert(&mut self, key: FilterKey, values: Vec<String>) -> Result<(), FilterError> {
        if key == FilterKey::Bot
            && let Some(wrong) = values.iter().find(|value| !matches!(value.as_str(), "true" | "false"))
        {
            return Err(FilterError::NotABool(wrong.clone()));
        }
        let is_reason =
            |value: &&String| BotReason::ALL.iter().any(|reason| reason.as_str() == BotReason::without_detail(value));
        if key == FilterKey::BotReason
            && let Some(wrong) = values.iter().find(|value| !is_reason(value))
        {
            let wrong: String = wrong.chars().take(64).collect();
            let is_no_click = BotReason::NO_CLICKS.contains(&BotReason::without_detail(&wrong));
            return Err(if is_no_click { FilterError::NoClick(wrong) } else { FilterError::NotAReason(wrong) });
        }
        self.0.insert(key, values);
        Ok(())
    }

    /// Returns the values of the filter that lets the fewest events pass, as far as its key
    /// tells. An event without one of the values as its fact does not pass. `None` if no
    /// filter asks for a fact.
    #[must_use]
    pub fn narrowest(&self) -> Option<(FilterKey, &[String])> {
        FilterKey::NARROWEST_FIRST.iter().find_map(|key| Some((*key, self.0.get(key)?.as_slice())))
    }

    /// Returns whether `event` passes. A fact that the event does not have passes no
    /// filter on that fact; events without a click pass the default for bots.
    #[must_use]
    pub fn pass(&self, event: &Event<'_>) -> bool {
        let humans_only = !self.0.contains_key(&FilterKey::Bot) && !self.0.contains_key(&FilterKey::BotReason);
        if humans_only && event.click.as_ref().is_some_and(|click| click.bot) {
            return false;
        }
        self.0.iter().all(|(key, wanted)| key.passes(wanted, event))
    }
}

impl FilterKey {
    /// The keys of facts, of which a filter lets an event pass only if the event has the fact:
    /// those that few events share come first.
    const NARROWEST_FIRST: [Self; 17] = [
        Self::LinkId,
        Self::Campaign,
        Self::Tags,
        Self::Segment,
        Self::UtmContent,
        Self::UtmCampaign,
        Self::UtmTerm,
        Self::UtmSource,
        Self::Source,
        Self::App,
        Self::Network,
        Self::Country,
        Self::UtmMedium,
        Self::Medium,
        Self::Browser,
        Self::Os,
        Self::Device,
    ];

    fn passes(self, wanted: &[String], event: &Event<'_>) -> bool {
        let mut passes = self == Self::Bot && event.click.is_none();
        self.facts(event, |fact| passes |= wanted.iter().any(|value| value == fact));
        passes
    }

    /// Calls `visit` with each fact of `event` that this key filters by.
    pub fn facts(self, event: &Event<'_>, mut visit: impl FnMut(&str)) {
        let link = event.link.as_ref();
        let click = event.click.as_ref();
        let utm = event.utm.as_ref();
        let fact: Option<&Cow<'_, str>> = match self {
            Self::Campaign => {
                let of_link = link.and_then(|link| link.campaign.as_ref());
                of_link.or_else(|| event.campaign.as_ref().map(|campaign| &campaign.name))
            }
            Self::Segment => link.and_then(|link| link.segment.as_ref()),
            Self::Tags => return link.into_iter().flat_map(|link| &link.tags).for_each(|tag| visit(tag)),
            Self::LinkId => return link.into_iter().for_each(|link| visit(&link.id.to_string())),
            Self::Country => click.and_then(|click| click.country.as_ref()),
            Self::Device => click.and_then(|click| click.device.as_ref()),
            Self::Browser => click.and_then(|click| click.browser.as_ref()),
            Self::Os => click.and_then(|click| click.os.as_ref()),
            Self::App => click.and_then(|click| click.app.as_ref()),
            Self::Network => click.and_then(|click| click.network.as_ref()),
            Self::Source => click.and_then(|click| click.source.as_ref()),
            Self::Medium => click.and_then(|click| click.medium.as_ref()),
            Self::BotReason => {
                // `preview` is every preview, `preview:Slackbot` is Slack's.
                let Some(reason) = click.and_then(|click| click.bot_reason.as_deref()) else { return };
                visit(reason);
                return visit(BotReason::without_detail(reason));
            }
            Self::UtmSource => utm.and_then(|utm| utm.source.as_ref()),
            Self::UtmMedium => utm.and_then(|utm| utm.medium.as_ref()),
            Self::UtmCampaign => utm.and_then(|utm| utm.campaign.as_ref()),
            Self::UtmTerm => utm.and_then(|utm| utm.term.as_ref()),
            Self::UtmContent => utm.and_then(|utm| utm.content.as_ref()),
            Self::Bot => return click.into_iter().for_each(|click| visit(if click.bot { "true" } else { "false" })),
        };
        if let Some(fact) = fact {
            visit(fact);
        }
    }
}

impl Serialize for Filters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, values)| (key.as_str(), values)))
    }
}

impl<'de> Deserialize<'de> for Filters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = BTreeMap::<String, OneOrMany>::deserialize(deserializer)?;
        let mut filters = Self::default();
        for (key, values) in given {
            let key = key.parse().map_err(de::Error::custom)?;
            filters.insert(key, values.into()).map_err(de::Error::custom)?;
        }
        Ok(filters)
    }
}

/// A merge patch of filters (RFC 7396): a key gets new values, or with null it is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FiltersPatch(BTreeMap<FilterKey, Option<Vec<String>>>);

impl FiltersPatch {
    /// Changes `filters` as the patch says.
    pub fn apply(self, filters: &mut Filters) {
        for (key, values) in self.0 {
            match values {
                Some(values) => filters.0.insert(key, values),
                None => filters.0.remove(&key),
            };
        }
    }
}

impl<'de> Deserialize<'de> for FiltersPatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = BTreeMap::<String, Option<OneOrMany>>::deserialize(deserializer)?;
        let mut patch = Self::default();
        for (key, values) in given {
            let key: FilterKey = key.parse().map_err(de::Error::custom)?;
            let values = values.map(Vec::from);
            if let Some(values) = &values {
                // The values are checked as those of filters are.
                Filters::default().insert(key, values.clone()).map_err(de::Error::custom)?;
            }
            patch.0.insert(key, values);
        }
        Ok(patch)
    }
}

/// A single value, which means a list with that value, or a list. `true` means `"true"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, true, false, or a list of them")]
enum OneOrMany {
    One(Scalar),
    Many(Vec<Scalar>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, true or false")]
enum Scalar {
    Text(String),
    Bool(bool),
}

impl From<OneOrMany> for Vec<String> {
    fn from(values: OneOrMany) -> Self {
        match values {
            OneOrMany::One(value) => vec![value.into()],
            OneOrMany::Many(values) => values.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Scalar> for String {
    fn from(value: Scalar) -> Self {
        match value {
            Scalar::Text(text) => text,
            Scalar::Bool(value) => value.to_string(),
        }
    }
}

impl fmt::Display for FilterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventName, Timestamp, sample};

    fn parse(json: &str) -> Result<Filters, serde_json::Error> {
        serde_json::from_str(json)
    }

    fn passes(json: &str) -> bool {
        parse(json).unwrap().pass(&sample::event(EventName::LinkClicked, Timestamp::from_millis(0)))
    }

    #[test]
    fn keys_are_and_values_are_or() {
        assert!(passes("{}"));
        assert!(passes(r#"{"country":"US"}"#));
        assert!(passes(r#"{"country":["DE","US"],"device":["mobile"]}"#));
        assert!(!passes(r#"{"country":["DE","US"],"device":["desktop"]}"#));
        assert!(passes(r#"{"tags":["other","social"],"utm.medium":"social"}"#));
        assert!(!passes(r#"{"tags":["other"]}"#));
        assert!(!passes(r#"{"country":[]}"#));
        assert!(passes(r#"{"medium":["search","social"],"app":"instagram"}"#));
        assert!(!passes(r#"{"network":"hosting"}"#));
    }

    #[test]
    fn bots_pass_only_where_asked_for() {
        let mut event = sample::event(EventName::LinkClicked, Timestamp::from_millis(0));
        event.click.as_mut().unwrap().bot = true;
        assert!(!parse("{}").unwrap().pass(&event));
        assert!(parse(r#"{"bot":[true,false]}"#).unwrap().pass(&event));
        assert!(parse(r#"{"bot":true}"#).unwrap().pass(&event));
        assert!(!passes(r#"{"bot":"true"}"#));
        let completed = sample::event(EventName::CampaignCompleted, Timestamp::from_millis(0));
        assert!(parse(r#"{"campaign":"winter-sale-2026"}"#).unwrap().pass(&completed));
        assert!(!parse(r#"{"campaign":"spring"}"#).unwrap().pass(&completed));
        let created = sample::event(EventName::LinkCreated, Timestamp::from_millis(0));
        assert!(parse("{}").unwrap().pass(&created));
    }

    #[test]
    fn a_reason_stands_for_all_its_details() {
        let mut event = sample::event(EventName::LinkClicked, Timestamp::from_millis(0));
        let click = event.click.as_mut().unwrap();
        click.bot = true;
        click.bot_reason = Some("preview:Slackbot".into());
        assert!(parse(r#"{"bot_reason":"preview"}"#).unwrap().pass(&event));
        assert!(parse(r#"{"bot_reason":["rate","preview:Slackbot"]}"#).unwrap().pass(&event));
        assert!(!parse(r#"{"bot_reason":"preview:Discordbot"}"#).unwrap().pass(&event));
        assert!(!parse(r#"{"bot_reason":"crawler"}"#).unwrap().pass(&event));
        assert!(!parse(r#"{"bot":false,"bot_reason":"preview"}"#).unwrap().pass(&event));
        assert!(!passes(r#"{"bot_reason":"preview"}"#));
        let error = parse(r#"{"bot_reason":"previews"}"#).unwrap_err().to_string();
        assert!(error.contains("`previews`") && error.contains("preview, "), "{error}");
        let error = parse(r#"{"bot_reason":"prefetch"}"#).unwrap_err().to_string();
        assert!(error.contains("never `prefetch`") && error.contains("no clicks"), "{error}");
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_would() {
        let error = parse(r#"{"contry":"US"}"#).unwrap_err().to_string();
        assert!(error.contains("`contry`") && error.contains("country"), "{error}");
        assert!(parse(r#"{"bot":"maybe"}"#).is_err());
        assert!(parse(r#"{"country":3}"#).is_err());
    }
}
