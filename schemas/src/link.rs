//! A link as the control plane keeps it and the API shows it: a record on `links`.
//! Every field that may be absent has a default, so that records of an earlier version
//! keep their meaning.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LinkId, Timestamp, WorkspaceId, event::LinkFacts, usermap::UserMap};

/// A short link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// The id of the link.
    pub id: LinkId,
    /// The workspace that owns it.
    pub workspace: WorkspaceId,
    /// The host that the link answers on; absent where the link answers on every host
    /// that no domain claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The path of its short address, without the slash.
    pub slug: String,
    /// Earlier slugs, on which the link still answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_slugs: Vec<String>,
    /// The address that the link leads to.
    pub destination: String,
    /// The address that people share.
    pub short_url: String,
    /// The campaign that the link belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// The audience that the link was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// The labels of the link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The status of the redirect: 301, 302, 307 or 308.
    pub status_code: u16,
    /// Before this moment the link is unknown to visitors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// From this moment on the link is expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The address that visitors of the expired link are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_url: Option<String>,
    /// The number of clicks and scans after which the link is expired. The limit is approximate: visits are counted once a second in
    /// ClickHouse, so that those of the next 2 s or so are still redirected, and all
    /// visits while ClickHouse is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_clicks: Option<u64>,
    /// Whose clicks and scans `max_clicks` counts.
    #[serde(default, skip_serializing_if = "MaxClicksOf::is_default")]
    pub max_clicks_of: MaxClicksOf,
    /// The time at which `max_clicks` was found to be reached. Another `max_clicks` or
    /// `max_clicks_of` clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted_at: Option<Timestamp>,
    /// Whether visitors are turned away as from an unknown link.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disabled: bool,
    /// Whether lists leave the link out unless they are asked for it. An archived link
    /// redirects as before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub archived: bool,
    /// Whether the click's id is added to the destination's query.
    #[serde(default, skip_serializing_if = "is_false")]
    pub append_click_id: bool,
    /// Whether the visit's query is merged into the destination's.
    #[serde(default = "yes")]
    pub passthrough: bool,
    /// The `Referrer-Policy` that the redirect sends to the browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrer_policy: Option<ReferrerPolicy>,
    /// The customer's own facts.
    #[serde(default, skip_serializing_if = "UserMap::is_empty")]
    pub metadata: UserMap,
    /// The customer's own id, unique in the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The time at which the link was created.
    pub created_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The number of the link's version, from 1; its ETag is made of it.
    pub revision: u64,
}

/// The visitors whose clicks and scans a link's `max_clicks` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaxClicksOf {
    /// People. A chat's preview of a link does not use the link up.
    #[default]
    People,
    /// People and programs.
    All,
}

impl MaxClicksOf {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A `Referrer-Policy` (W3C Referrer Policy) that a link may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReferrerPolicy {
    /// The destination sees the full address that the visitor came from.
    UnsafeUrl,
}

impl ReferrerPolicy {
    /// The header's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnsafeUrl => "unsafe-url",
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

const fn yes() -> bool {
    true
}

impl Link {
    /// Returns the link as events show it.
    #[must_use]
    pub fn facts(&self) -> LinkFacts<'_> {
        LinkFacts {
            id: self.id,
            short_url: self.short_url.as_str().into(),
            destination: self.destination.as_str().into(),
            slug: self.slug.as_str().into(),
            campaign: self.campaign.as_deref().map(Into::into),
            segment: self.segment.as_deref().map(Into::into),
            tags: self.tags.iter().map(|tag| tag.as_str().into()).collect(),
        }
    }
}
