//! Endpoints. An endpoint's secret is shown once, when the endpoint is created or its secret rotated; it is kept sealed.

mod batch;
mod fields;
mod headers;
mod secret;

use std::collections::BTreeMap;

use bus::KeyUses;
use schemars::JsonSchema;
use schemas::{
    BatchLimits, Endpoint, EndpointFacts, EndpointId, EndpointStatus, Envelope, Event, EventId, EventName, Filters,
    RetrySchedule, Scope, Timestamp, Topic, WebhookFormat, WorkspaceId,
    audit::{AuditAction, AuditedKind},
    endpoint::Subscription,
    sample,
};
use serde::Serialize;
use service::{
    problem::{Kind, Problem},
    secret::mint,
};
use zeroize::Zeroizing;

pub(crate) use crate::kinds::endpoint::{
    fields::{EndpointPatch, NewEndpoint, RequestedStatus},
    secret::{SecretRotation, without_expired_secrets},
};
use crate::{
    caller::Caller,
    kinds::{
        endpoint::headers::MASK,
        resource::{CreateContext, Created, Resource},
    },
    rules::ApiRules,
    state::{
        draft::{EntityChange, EntityKind, serialise},
        entity::{Entity, NoUniqueKey, workspace_entity},
        quotas::Quota,
    },
};

impl Entity for Endpoint {
    workspace_entity!(EndpointId, "endpoint", Topic::Endpoints);

    type UniqueKey = NoUniqueKey;

    fn conflict(key: &NoUniqueKey, _: &EndpointId) -> Problem {
        match *key {}
    }
}

impl EntityKind for Endpoint {
    const QUOTA: Option<Quota> = Some(Quota::Endpoints);
    const AUDITED: AuditedKind = AuditedKind::Endpoint;

    fn audit_action(old: &Self, new: &Self) -> Option<AuditAction> {
        let is_disabled = new.status == EndpointStatus::Disabled && old.status != EndpointStatus::Disabled;
        Some(if is_disabled {
            AuditAction::Disabled
        } else if new.secret != old.secret {
            AuditAction::Rotated
        } else if new.retiring_secrets.len() < old.retiring_secrets.len() {
            AuditAction::Expired
        } else {
            AuditAction::Updated
        })
    }

    /// Tells of changes of the endpoint's health, and of no others.
    fn event(change: EntityChange<'_, Self>, at: Timestamp) -> Result<Option<Vec<u8>>, Problem> {
        let EntityChange::Updated { old, new } = change else { return Ok(None) };
        let is_newly = |status| new.status == status && old.status != status;
        let name = if is_newly(EndpointStatus::Disabled) {
            EventName::EndpointDisabled
        } else {
            match (old.failing_since, new.failing_since) {
                (None, Some(_)) => EventName::EndpointFailing,
                (Some(_), None) if old.status == EndpointStatus::Active => EventName::EndpointRecovered,
                _ => return Ok(None),
            }
        };
        let workspace = new.workspace.as_str();
        let id = EventId::of(workspace, name, &new.id.to_string(), &new.revision.to_string(), at);
        let facts = EndpointFacts {
            id: new.id,
            status: new.status,
            status_reason: new.status_reason.as_deref().map(Into::into),
            failing_since: new.failing_since,
        };
        let event = Event { endpoint: Some(facts), ..Event::bare(id, name, at) };
        serialise(&Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: None, event }).map(Some)
    }
}

impl Resource for Endpoint {
    const PATH: &'static str = "/v1/endpoints";
    const SCOPE: Scope = Scope::Endpoints;

    type New = NewEndpoint;
    type Patch = EndpointPatch;
    type View<'a> = EndpointView<'a>;

    fn create(new: NewEndpoint, context: &CreateContext<'_>) -> Result<Created<Self>, Problem> {
        let id = EndpointId::mint();
        let mut new = new;
        let secret = new.secret.take().map_or_else(mint, |given| given.0);
        let sealed = context.vault.seal(&id.to_string(), secret.expose().as_bytes());
        let entity =
            new.check(id, &context.caller.workspace, sealed, context.rules.endpoints, context.vault, context.at)?;
        may_have_audit(&entity, context.caller)?;
        Ok(Created { entity, secret: Some(Zeroizing::new(secret.expose().to_owned())) })
    }

    /// Who could change the address of an endpoint that gets the audit log would get the log.
    fn check_access(&self, caller: &Caller) -> Result<(), Problem> {
        may_have_audit(self, caller)
    }

    fn patched(&self, patch: EndpointPatch, caller: &Caller, rules: &ApiRules, at: Timestamp) -> Result<Self, Problem> {
        let new = patch.apply(self, rules.endpoints, &rules.vault, at)?;
        may_have_audit(&new, caller)?;
        Ok(new)
    }

    fn view<'a>(&'a self, _: &KeyUses, secret: Option<&'a str>) -> EndpointView<'a> {
        EndpointView::new(self, secret)
    }
}

/// Checks whether a caller may make or change an endpoint that gets the audit log.
fn may_have_audit(endpoint: &Endpoint, caller: &Caller) -> Result<(), Problem> {
    if caller.key.may(Scope::Admin) || !endpoint.events.iter().any(Subscription::covers_audit) {
        return Ok(());
    }
    let detail =
        "An endpoint that gets the audit log (`audit.*`) takes a key with the scope `admin`, which yours has not";
    Err(Problem::new(Kind::Forbidden, detail))
}

/// An endpoint as callers see it: without its secret, which only the answer to the creation shows.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Endpoint")]
pub(crate) struct EndpointView<'a> {
    /// The id of the endpoint.
    id: EndpointId,
    /// The workspace whose events the endpoint receives.
    workspace: &'a WorkspaceId,
    /// The address that webhooks are sent to: https, and no private address.
    url: &'a str,
    /// The events to be delivered.
    events: &'a [Subscription],
    /// The conditions that an event must satisfy to be delivered.
    filters: &'a Filters,
    /// The longest time of one exchange, including the body, in milliseconds; 5000 by default.
    timeout_ms: u32,
    /// The delays before the retries of a delivery, in seconds. After the last one the delivery is given up.
    retry_schedule: RetrySchedule,
    /// The limits at which a batch of events is cut. Without it, each webhook carries one event.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<BatchLimits>,
    /// The format of the webhooks.
    format: WebhookFormat,
    /// The most webhooks a second, a batch counting as one. Without it there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<u32>,
    /// The most webhooks that wait for an answer at once, where the endpoint has a limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u32>,
    /// The headers that are added to each request. Their values are never shown.
    headers: BTreeMap<&'a str, &'static str>,
    /// Whether deliveries are made. `disabled` follows from an answer 410, or from nothing but failures for days;
    /// `active` in a patch enables the endpoint again.
    status: EndpointStatus,
    /// The reason why the endpoint was disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<&'a str>,
    /// The moment since which there was nothing but failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<Timestamp>,
    /// The moment of creation.
    created_at: Timestamp,
    /// The moment of the last change.
    updated_at: Timestamp,
    /// The number of the version, from 1, which is also the ETag.
    revision: u64,
    /// After a rotation: the moment until which secrets before the current one sign as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_expires_at: Option<Timestamp>,
    /// The secret that signs the webhooks: shown in the answer to the creation or rotation, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> EndpointView<'a> {
    fn new(endpoint: &'a Endpoint, secret: Option<&'a str>) -> Self {
        Self {
            id: endpoint.id,
            workspace: &endpoint.workspace,
            url: &endpoint.url,
            events: &endpoint.events,
            filters: &endpoint.filters,
            timeout_ms: endpoint.timeout_ms,
            retry_schedule: endpoint.retry_schedule,
            batch: endpoint.batch,
            format: endpoint.format,
            rate_limit: endpoint.rate_limit,
            max_in_flight: endpoint.max_in_flight,
            headers: endpoint.headers.keys().map(|name| (name.as_str(), MASK)).collect(),
            status: endpoint.status,
            status_reason: endpoint.status_reason.as_deref(),
            failing_since: endpoint.failing_since,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            revision: endpoint.revision,
            previous_expires_at: endpoint.retiring_secrets.iter().map(|retiring| retiring.expires_at).max(),
            secret,
        }
    }
}

/// Returns a sample event of the type, for this endpoint alone.
pub(crate) fn sample_event(endpoint: &Endpoint, name: EventName, at: Timestamp) -> Envelope<'_, Event<'static>> {
    let workspace = endpoint.workspace.as_str();
    // A sample has a new id each time: a receiver that drops duplicates must not drop the second test.
    let occurrence = EndpointId::mint().to_string();
    let id = EventId::of(workspace, name, &endpoint.id.to_string(), &occurrence, at);
    let event = Event { id, ..sample::event(name, at) };
    Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: Some(endpoint.id), event }
}

#[cfg(test)]
mod tests {
    use schemas::SealedSecret;
    use serde_json::json;
    use service::vault::Vault;

    use super::*;
    use crate::rules::EndpointRules;

    #[test]
    fn a_view_never_shows_the_sealed_secret() {
        let new: NewEndpoint = serde_json::from_value(json!({
            "url": "https://a.example/", "events": ["*"], "headers": {"Authorization": "Bearer a"},
        }))
        .unwrap();
        let sealed = SealedSecret { key: String::new(), nonce: String::new(), sealed: String::new() };
        let rules = EndpointRules { allow_http: false, allow_private: false };
        let at = Timestamp::from_millis(0);
        let vault = Vault::from_hex(&"ab".repeat(32)).unwrap();
        let endpoint = new.check(EndpointId::from_bits(1), &WorkspaceId::default(), sealed, rules, &vault, at).unwrap();
        let view = serde_json::to_value(EndpointView::new(&endpoint, None)).unwrap();
        assert_eq!(view.get("secret"), None);
        assert_eq!(view["headers"], json!({"Authorization": "***"}));
        let view = serde_json::to_value(EndpointView::new(&endpoint, Some("whsec_a"))).unwrap();
        assert_eq!(view["secret"], "whsec_a");
    }
}
