//! The audit log: who changed what. Each change is an event `audit.*`, and a row of the table
//! `audit`.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EventName, KeyId};

macro_rules! audit_actions {
    ($($variant:ident = $name:literal, $event:ident, $description:literal;)*) => {
        /// A way in which something was changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum AuditAction {
            $(#[doc = $description] $variant,)*
        }

        impl AuditAction {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the type of the event that tells of the action.
            #[must_use]
            pub const fn event(self) -> EventName {
                match self { $(Self::$variant => EventName::$event,)* }
            }

            /// Returns the action that a type of events tells of; nothing for a type that is no part
            /// of the audit log.
            #[must_use]
            pub const fn of(event: EventName) -> Option<Self> {
                match event {
                    $(EventName::$event => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

audit_actions! {
    Created = "created", AuditCreated, "It was created.";
    Updated = "updated", AuditUpdated, "Fields of it were changed.";
    Deleted = "deleted", AuditDeleted, "It was deleted.";
    Rotated = "rotated", AuditRotated, "Its secret was replaced.";
    Verified = "verified", AuditVerified, "A domain was proven.";
    Lapsed = "lapsed", AuditLapsed, "A domain has lost its proof.";
    Disabled = "disabled", AuditDisabled, "An endpoint was disabled.";
    Expired = "expired", AuditExpired, "Its time was over.";
    Erased = "erased", AuditErased, "A person was erased.";
}

/// A kind of things that the audit log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the resource of the API with that name")]
pub enum AuditedKind {
    Link,
    Campaign,
    Endpoint,
    Replay,
    Domain,
    Key,
    Workspace,
    Person,
}

impl AuditedKind {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Campaign => "campaign",
            Self::Endpoint => "endpoint",
            Self::Replay => "replay",
            Self::Domain => "domain",
            Self::Key => "key",
            Self::Workspace => "workspace",
            Self::Person => "person",
        }
    }
}

/// A kind of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A key of the workspace.
    Key,
    /// A key of an operator, who acts in the workspace from outside.
    Operator,
    /// The installation itself, or what another workspace did.
    System,
}

impl ActorKind {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Operator => "operator",
            Self::System => "system",
        }
    }
}

/// The actor of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditActor<'a> {
    /// The kind of the actor.
    #[serde(rename = "type")]
    pub kind: ActorKind,
    /// The id of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<KeyId>,
    /// The name of the key, as it was at that time.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
}

/// A change, as the audit log tells of it. A call that changes many things of one kind in one
/// way is one change for each of its transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditFacts<'a> {
    /// The actor.
    #[serde(borrow)]
    pub actor: AuditActor<'a>,
    /// The kind of the things that were changed.
    pub resource: AuditedKind,
    /// The ids of the things that were changed, at most some thousands.
    #[serde(borrow)]
    pub ids: Vec<Cow<'a, str>>,
    /// The names of the fields that an update changed in any of them, without their values.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Cow<'a, str>>,
    /// The `X-Request-Id` of the call.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_the_log_has_an_action() {
        let of_log = |name: &&EventName| name.as_str().starts_with("audit.");
        assert_eq!(EventName::ALL.iter().filter(of_log).count(), AuditAction::ALL.len());
        for action in AuditAction::ALL {
            assert_eq!(action.event().as_str(), format!("audit.{}", action.as_str()));
            assert_eq!(AuditAction::of(action.event()), Some(*action));
            assert_eq!(serde_json::to_string(action).unwrap(), format!("\"{}\"", action.as_str()));
        }
        assert_eq!(AuditAction::of(EventName::LinkCreated), None);
    }
}
