//! An endpoint as the control plane keeps it: a record on `endpoints`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    BatchLimits, EndpointId, EndpointStatus, EventName, Filters, RetrySchedule, Timestamp, WebhookFormat, WorkspaceId,
    audit::AuditAction,
};

/// A subscription of an endpoint to events: a name, `link.*`, or `*`. The audit log has to be
/// asked for by `audit.*` or its names: it tells of keys and people, and most receivers of
/// everything want clicks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subscription {
    /// One event type.
    Exactly(EventName),
    /// Every type whose name begins with this, dot included.
    Prefix(String),
    /// Every type but those of the audit log.
    All,
}

/// The error of a text that names no event.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no event: give an event's name ({names}), a prefix such as `link.*`, or `*`", names = EventName::ALL.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "))]
pub struct SubscriptionError(String);

impl TryFrom<String> for Subscription {
    type Error = SubscriptionError;

    fn try_from(text: String) -> Result<Self, SubscriptionError> {
        if text == "*" {
            return Ok(Self::All);
        }
        if let Some(prefix) = text.strip_suffix('*') {
            let known = prefix.ends_with('.') && EventName::ALL.iter().any(|name| name.as_str().starts_with(prefix));
            return if known { Ok(Self::Prefix(prefix.to_owned())) } else { Err(SubscriptionError(text)) };
        }
        text.parse().map(Self::Exactly).map_err(|_| SubscriptionError(text))
    }
}

impl From<Subscription> for String {
    fn from(subscription: Subscription) -> Self {
        match subscription {
            Subscription::Exactly(name) => name.as_str().to_owned(),
            Subscription::Prefix(prefix) => format!("{prefix}*"),
            Subscription::All => "*".to_owned(),
        }
    }
}

impl Subscription {
    /// Whether `name` is asked for.
    #[must_use]
    pub fn covers(&self, name: EventName) -> bool {
        match self {
            Self::Exactly(wanted) => *wanted == name,
            Self::Prefix(prefix) => name.as_str().starts_with(prefix.as_str()),
            Self::All => AuditAction::of(name).is_none(),
        }
    }

    /// Whether any type of the audit log is asked for.
    #[must_use]
    pub fn covers_audit(&self) -> bool {
        AuditAction::ALL.iter().any(|action| self.covers(action.event()))
    }
}

/// A secret under the installation's key (XChaCha20-Poly1305), bound to the
/// record that it belongs to. Text is base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Which installation key sealed it: the first 8 hex digits of the key's SHA-256.
    pub key: String,
    /// 24 random bytes.
    pub nonce: String,
    /// The ciphertext with its tag.
    pub sealed: String,
}

/// A secret that a rotation has replaced. It signs beside the newer ones for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiringSecret {
    /// The secret (`whsec_…`), sealed as [`Endpoint::secret`] is.
    pub secret: SealedSecret,
    /// The time from which on the secret no longer signs.
    pub expires_at: Timestamp,
}

/// The value of a header that the customer wants added, bound to its endpoint and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderText {
    /// The value, sealed.
    Sealed(SealedSecret),
    /// The value in clear, as an earlier version wrote it.
    Clear(String),
}

/// An address that webhooks are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The workspace whose events it gets.
    pub workspace: WorkspaceId,
    /// The address that webhooks are sent to.
    pub url: String,
    /// The events that the endpoint subscribes to.
    pub events: Vec<Subscription>,
    /// The filters that choose among those events by their facts.
    #[serde(default, skip_serializing_if = "Filters::is_empty")]
    pub filters: Filters,
    /// The time that one exchange may take, body included.
    pub timeout_ms: u32,
    /// The retries that a delivery has after a failed attempt.
    #[serde(default, skip_serializing_if = "RetrySchedule::is_standard")]
    pub retry_schedule: RetrySchedule,
    /// The limits of a batch; none where each webhook carries one event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchLimits>,
    /// The format in which the endpoint gets events.
    #[serde(default, skip_serializing_if = "WebhookFormat::is_default")]
    pub format: WebhookFormat,
    /// The most webhooks a second, over all processes together; none where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
    /// The most exchanges in flight at once, over all processes together; none where the
    /// installation's limit is the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Headers that the customer wants added: they may hold secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderText>,
    /// Whether deliveries are made.
    pub status: EndpointStatus,
    /// The reason why the endpoint was disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// The time since which nothing but failures was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// The time at which a caller enabled the endpoint again or changed its address. What was
    /// reported of it before does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_at: Option<Timestamp>,
    /// The time since which the events and filters are as they are. Endpoints of an earlier
    /// version have none until their next change of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribed_at: Option<Timestamp>,
    /// The signing secret (`whsec_…`), sealed.
    pub secret: SealedSecret,
    /// The secrets before it that still sign, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring_secrets: Vec<RetiringSecret>,
    /// The time at which the endpoint was created.
    pub created_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The number of the version, from 1.
    pub revision: u64,
}

impl Endpoint {
    /// Returns the context to which the value of a header is bound when it is sealed.
    #[must_use]
    pub fn header_context(id: EndpointId, name: &str) -> String {
        format!("{id}/headers/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_cover_what_they_say() {
        let parse = |text: &str| Subscription::try_from(text.to_owned());
        assert!(parse("*").unwrap().covers(EventName::QrScanned));
        assert!(!parse("*").unwrap().covers(EventName::AuditCreated));
        assert!(parse("audit.*").unwrap().covers(EventName::AuditCreated));
        let asks_for_audit = |text: &str| parse(text).unwrap().covers_audit();
        assert_eq!(["*", "link.*", "audit.*", "audit.rotated"].map(asks_for_audit), [false, false, true, true]);
        assert!(parse("link.*").unwrap().covers(EventName::LinkClicked));
        assert!(!parse("link.*").unwrap().covers(EventName::QrScanned));
        assert!(!parse("link.created").unwrap().covers(EventName::LinkClicked));
        for wrong in ["", "lin*", "nothing.*", "link.klicked", "link.**"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
