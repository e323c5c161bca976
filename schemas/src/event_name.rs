//! The types of events: their names on the wire, and a sentence for people.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! event_names {
    ($($variant:ident = $name:literal, $description:literal;)*) => {
        /// The name of an event type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum EventName {
            $(#[doc = $description] #[serde(rename = $name)] $variant,)*
        }

        impl EventName {
            /// Every event type.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }
    };
}

event_names! {
    LinkClicked = "link.clicked", "Someone followed a link.";
    QrScanned = "qr.scanned", "Someone scanned a link's QR code.";
    LinkConverted = "link.converted", "A conversion was reported, or changed its status; `conversion` says what it is.";
    LinkCreated = "link.created", "A link was created.";
    LinkUpdated = "link.updated", "A link was changed; `changes` says what.";
    LinkDeleted = "link.deleted", "A link was deleted.";
    LinkExpired = "link.expired", "A link's `expires_at` has passed.";
    LinkMilestone = "link.milestone", "A link has reached a number of clicks by people; `milestone` says which.";
    LinkViral = "link.viral", "A link has far more clicks in an hour than usual; `viral` says how many.";
    LinkSuspicious = "link.suspicious", "Many clicks of a link came from one address, network or user agent; `suspicious` says which.";
    CampaignMilestone = "campaign.milestone", "A campaign has reached a number of clicks, conversions or revenue; `milestone` says which.";
    CampaignCompleted = "campaign.completed", "A campaign has ended or reached its goal; `completion` says which.";
    EndpointFailing = "endpoint.failing", "An endpoint has failed several times in a row; its deliveries are retried.";
    EndpointDisabled = "endpoint.disabled", "An endpoint was disabled, since it answered 410 or failed for too long.";
    EndpointRecovered = "endpoint.recovered", "An endpoint that was failing takes deliveries again.";
    DomainProofMissing = "domain.proof_missing", "The TXT record of a proven domain is gone; `message` says when the domain stops serving.";
    DomainLapsed = "domain.lapsed", "A domain has lost its proof and serves nothing any more.";
    PersonErased = "person.erased", "A person's clicks and conversions were deleted; `message` is the receipt.";
    AuditCreated = "audit.created", "Something was created; `audit` says by whom.";
    AuditUpdated = "audit.updated", "Fields of something were changed; `audit` says which, and by whom.";
    AuditDeleted = "audit.deleted", "Something was deleted; `audit` says by whom.";
    AuditRotated = "audit.rotated", "The secret of a key or endpoint was replaced; `audit` says by whom.";
    AuditVerified = "audit.verified", "A domain was proven; `audit` says by whom.";
    AuditLapsed = "audit.lapsed", "A domain has lost its proof; `audit` says which.";
    AuditDisabled = "audit.disabled", "An endpoint was disabled; `audit` says which.";
    AuditExpired = "audit.expired", "A link or a replaced secret has expired; `audit` says of what.";
    AuditErased = "audit.erased", "A person was erased; `audit` says by whom, and has the receipt's id.";
    WebhookTest = "webhook.test", "A test that someone sent to an endpoint.";
}

/// A text that is no event's name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no event: known are {known}", known = EventName::ALL.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "))]
pub struct EventNameError(String);

impl FromStr for EventName {
    type Err = EventNameError;

    fn from_str(text: &str) -> Result<Self, EventNameError> {
        Self::ALL
            .iter()
            .copied()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| EventNameError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
