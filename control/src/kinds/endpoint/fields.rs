//! The fields of an endpoint that callers write, and the rules that they are checked against. The address is checked
//! again when a connection is made.

use std::{collections::BTreeMap, ops::RangeInclusive};

use schemars::JsonSchema;
use schemas::{
    Endpoint, EndpointId, EndpointStatus, Filters, RetrySchedule, SealedSecret, Timestamp, WebhookFormat, WorkspaceId,
    endpoint::Subscription, filter::FiltersPatch, usermap::UserMap,
};
use serde::Deserialize;
use service::{
    problem::Problem,
    public_address::{is_receivers_port, reserved},
    vault::Vault,
};
use url::Host;

use crate::{
    check::{Checker, Patch},
    kinds::endpoint::{
        batch::{self, BatchPatch},
        headers::{HEADERS, check_header, check_header_names, patch_headers, seal},
        secret::GivenSecret,
    },
    rules::EndpointRules,
};

const URL_BYTES: usize = 2048;
const SUBSCRIPTIONS: usize = 50;
const FILTER_VALUES: usize = 200;
const TIMEOUT_MS: RangeInclusive<u32> = 100..=30_000;
const DEFAULT_TIMEOUT_MS: u32 = 5_000;
/// The webhooks a second.
const RATE_LIMIT: RangeInclusive<u32> = 1..=10_000;
/// The exchanges in flight at once.
const MAX_IN_FLIGHT: RangeInclusive<u32> = 1..=1_000;

/// An endpoint to be created.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewEndpoint {
    /// The address that webhooks are sent to: https, and no private address.
    #[schemars(length(min = 1, max = URL_BYTES), extend("format" = "uri"))]
    url: String,
    /// The events to be delivered.
    #[schemars(length(min = 1, max = SUBSCRIPTIONS))]
    events: Vec<Subscription>,
    /// The conditions that an event must satisfy to be delivered.
    #[serde(default)]
    filters: Filters,
    /// The longest time of one exchange, including the body, in milliseconds; 5000 by default.
    #[schemars(range(min = *TIMEOUT_MS.start(), max = *TIMEOUT_MS.end()))]
    timeout_ms: Option<u32>,
    /// The delays before the retries of a delivery, in seconds: a beginning of the standard schedule, which is the
    /// default. After the last one the delivery is given up.
    #[serde(default)]
    retry_schedule: RetrySchedule,
    /// The limits at which a batch of events is cut, whichever is reached first: the body of each webhook is then a list
    /// of events. Without it, each webhook carries one event.
    batch: Option<BatchPatch>,
    /// The format of the webhooks; `clickhook` by default.
    #[serde(default)]
    format: WebhookFormat,
    /// The most webhooks a second, a batch counting as one. Without it there is no limit.
    #[schemars(range(min = *RATE_LIMIT.start(), max = *RATE_LIMIT.end()))]
    rate_limit: Option<u32>,
    /// The most webhooks that wait for an answer at once; never more than the installation allows.
    #[schemars(range(min = *MAX_IN_FLIGHT.start(), max = *MAX_IN_FLIGHT.end()))]
    max_in_flight: Option<u32>,
    /// The headers to be added to each request.
    #[serde(default)]
    #[schemars(extend("maxProperties" = HEADERS))]
    headers: UserMap,
    /// The signing secret, where one is brought along. Without it, a new one is made.
    pub(super) secret: Option<GivenSecret>,
}

/// The changes of an endpoint: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EndpointPatch {
    /// The address that webhooks are sent to: https, and no private address.
    #[schemars(length(min = 1, max = URL_BYTES), extend("format" = "uri"))]
    url: Patch<String>,
    /// The events to be delivered.
    #[schemars(length(min = 1, max = SUBSCRIPTIONS))]
    events: Patch<Vec<Subscription>>,
    /// The conditions that an event must satisfy to be delivered.
    filters: Patch<FiltersPatch>,
    /// The longest time of one exchange, including the body, in milliseconds; 5000 by default.
    #[schemars(range(min = *TIMEOUT_MS.start(), max = *TIMEOUT_MS.end()))]
    timeout_ms: Patch<u32>,
    /// The delays before the retries of a delivery, in seconds: a beginning of the standard schedule, which is the
    /// default. After the last one the delivery is given up.
    retry_schedule: Patch<RetrySchedule>,
    /// The limits at which a batch of events is cut, whichever is reached first; null ends batches.
    batch: Patch<BatchPatch>,
    /// The format of the webhooks; `clickhook` by default. A delivery that was attempted keeps its format.
    format: Patch<WebhookFormat>,
    /// The most webhooks a second, a batch counting as one; null ends the limit.
    #[schemars(range(min = *RATE_LIMIT.start(), max = *RATE_LIMIT.end()))]
    rate_limit: Patch<u32>,
    /// The most webhooks that wait for an answer at once; never more than the installation allows.
    #[schemars(range(min = *MAX_IN_FLIGHT.start(), max = *MAX_IN_FLIGHT.end()))]
    max_in_flight: Patch<u32>,
    /// The headers to be added to each request. `***`, as answers show every value, keeps the value.
    #[schemars(extend("maxProperties" = HEADERS))]
    headers: Patch<BTreeMap<String, Option<String>>>,
    /// Whether deliveries are made.
    status: Patch<RequestedStatus>,
}

/// The status that a caller can set. `disabled` follows from failed deliveries alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Wanted")]
pub(crate) enum RequestedStatus {
    Active,
    Paused,
}

impl NewEndpoint {
    /// Returns the endpoint with this id and sealed secret, checked.
    pub(crate) fn check(
        self,
        id: EndpointId,
        workspace: &WorkspaceId,
        secret: SealedSecret,
        rules: EndpointRules,
        vault: &Vault,
        at: Timestamp,
    ) -> Result<Endpoint, Problem> {
        let mut checker = Checker::default();
        let mut headers = BTreeMap::new();
        for (name, value) in self.headers.iter() {
            check_header(name, value, &mut checker);
            headers.insert(name.to_owned(), seal(id, name, value, vault));
        }
        let endpoint = Endpoint {
            id,
            workspace: workspace.clone(),
            url: self.url,
            events: self.events,
            filters: self.filters,
            timeout_ms: self.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS),
            retry_schedule: self.retry_schedule,
            batch: self.batch.map(|batch| batch.apply(None)),
            format: self.format,
            rate_limit: self.rate_limit,
            max_in_flight: self.max_in_flight,
            headers,
            status: EndpointStatus::Active,
            status_reason: None,
            failing_since: None,
            enabled_at: None,
            subscribed_at: Some(at),
            secret,
            retiring_secrets: Vec::new(),
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        check(&endpoint, rules, &mut checker);
        checker.finish(endpoint)
    }
}

impl EndpointPatch {
    /// Returns the patch that sets the status alone.
    pub(crate) fn status(status: RequestedStatus) -> Self {
        Self { status: Patch::Set(status), ..Self::default() }
    }

    /// Returns `endpoint` with the patch applied, checked.
    pub(crate) fn apply(
        self,
        endpoint: &Endpoint,
        rules: EndpointRules,
        vault: &Vault,
        at: Timestamp,
    ) -> Result<Endpoint, Problem> {
        let mut checker = Checker::default();
        let mut new = endpoint.clone();
        self.url.apply_required(&mut new.url, "url", &mut checker);
        self.events.apply_required(&mut new.events, "events", &mut checker);
        match self.filters {
            Patch::Keep => {}
            Patch::Remove => new.filters = Filters::default(),
            Patch::Set(patch) => patch.apply(&mut new.filters),
        }
        self.timeout_ms.apply_or(&mut new.timeout_ms, DEFAULT_TIMEOUT_MS);
        self.retry_schedule.apply_or(&mut new.retry_schedule, RetrySchedule::default());
        match self.batch {
            Patch::Keep => {}
            Patch::Remove => new.batch = None,
            Patch::Set(patch) => new.batch = Some(patch.apply(new.batch)),
        }
        self.format.apply_or(&mut new.format, WebhookFormat::default());
        self.rate_limit.apply(&mut new.rate_limit);
        self.max_in_flight.apply(&mut new.max_in_flight);
        match self.headers {
            Patch::Keep => {}
            Patch::Remove => new.headers = BTreeMap::new(),
            Patch::Set(patch) => patch_headers(&mut new, patch, vault, &mut checker),
        }
        match self.status {
            Patch::Keep => {}
            Patch::Remove => checker.wrong("status", "cannot be removed: give active or paused"),
            Patch::Set(RequestedStatus::Active) => new.status = EndpointStatus::Active,
            Patch::Set(RequestedStatus::Paused) => new.status = EndpointStatus::Paused,
        }
        let is_enabled = new.status == EndpointStatus::Active && endpoint.status != EndpointStatus::Active;
        if is_enabled || new.url != endpoint.url {
            // The failures of the past say nothing about the endpoint as it is now.
            new.enabled_at = Some(at);
            new.failing_since = None;
        }
        if new.status != EndpointStatus::Disabled {
            new.status_reason = None;
        }
        if new.events != endpoint.events || new.filters != endpoint.filters {
            new.subscribed_at = Some(at);
        }
        check(&new, rules, &mut checker);
        if new != *endpoint {
            new.updated_at = at;
            new.revision += 1;
        }
        checker.finish(new)
    }
}

fn check(endpoint: &Endpoint, rules: EndpointRules, checker: &mut Checker) {
    check_url(&endpoint.url, rules, checker);
    let subscriptions = endpoint.events.len();
    if subscriptions == 0 {
        checker.wrong("events", "is empty: name at least one event, or [\"*\"] for all");
    } else if subscriptions > SUBSCRIPTIONS {
        checker.wrong("events", format!("has {subscriptions}, at most {SUBSCRIPTIONS} are allowed"));
    }
    let filter_bytes = serde_json::to_string(&endpoint.filters).map_or(usize::MAX, |filters| filters.len());
    if filter_bytes > FILTER_VALUES * 100 {
        checker.wrong("filters", format!("is too large: at most {FILTER_VALUES} values or so"));
    }
    for key in endpoint.filters.empty_keys() {
        checker.wrong(format!("filters.{key}"), "is empty and would let nothing pass: give a value, or leave it out");
    }
    for (field, value, range) in [
        ("timeout_ms", Some(endpoint.timeout_ms), TIMEOUT_MS),
        ("rate_limit", endpoint.rate_limit, RATE_LIMIT),
        ("max_in_flight", endpoint.max_in_flight, MAX_IN_FLIGHT),
    ] {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            checker.wrong(field, format!("is {value}, must be {} to {}", range.start(), range.end()));
        }
    }
    if let Some(limits) = endpoint.batch {
        batch::check(limits, checker);
    }
    check_header_names(&endpoint.headers, checker);
}

fn check_url(text: &str, rules: EndpointRules, checker: &mut Checker) {
    let Some(url) = checker.http_url("url", text, URL_BYTES) else { return };
    if url.scheme() == "http" && !rules.allow_http {
        checker.wrong("url", "must begin with https:// (`endpoints.allow_http` allows http)");
    }
    if !url.username().is_empty() || url.password().is_some() {
        checker.wrong("url", "has a user or password: put them into `headers` as Authorization");
    }
    if let Some(port) = url.port_or_known_default()
        && (url.scheme() == "https" || rules.allow_http)
        && !is_receivers_port(port, rules.allow_http)
    {
        checker.wrong("url", format!("has the port {port}: 443 and those above 1023 are allowed"));
    }
    // The addresses of names are checked when a connection is made.
    let kind = match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            (name == "localhost" || name.ends_with(".localhost")).then_some("loopback")
        }
        Some(Host::Ipv4(ip)) => reserved(ip.into()),
        Some(Host::Ipv6(ip)) => reserved(ip.into()),
        None => None,
    };
    if let Some(kind) = kind
        && !rules.allow_private
    {
        let reason = format!("is not on the public internet ({kind}): `endpoints.allow_private` allows it");
        checker.wrong("url", reason);
    }
}

#[cfg(test)]
mod tests {
    use schemas::BatchLimits;
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::endpoint::headers::holds;

    const STRICT: EndpointRules = EndpointRules { allow_http: false, allow_private: false };
    const LAX: EndpointRules = EndpointRules { allow_http: true, allow_private: true };

    fn vault() -> Vault {
        Vault::from_hex(&"ab".repeat(32)).unwrap()
    }

    fn sealed() -> SealedSecret {
        SealedSecret { key: String::new(), nonce: String::new(), sealed: String::new() }
    }

    fn check_with(body: Value, rules: EndpointRules) -> Result<Endpoint, Problem> {
        let new: NewEndpoint = serde_json::from_value(body).unwrap();
        let at = Timestamp::from_millis(0);
        new.check(EndpointId::from_bits(1), &WorkspaceId::default(), sealed(), rules, &vault(), at)
    }

    fn refused(field: &str, value: Value, rules: EndpointRules) -> Vec<String> {
        let mut body = json!({"url": "https://hooks.example/a", "events": ["*"]});
        body[field] = value;
        check_with(body, rules).err().map_or_else(Vec::new, |p| p.errors.into_iter().map(|e| e.field).collect())
    }

    #[test]
    fn what_is_allowed_passes() {
        for (field, value) in [
            ("url", json!("https://hooks.example:8443/a?b=c")),
            ("url", json!("https://93.184.215.14/")),
            ("url", json!("https://[2606:4700::1]/")),
            ("events", json!(["link.*", "qr.scanned"])),
            ("filters", json!({"country": ["US", "DE"], "bot": true})),
            ("timeout_ms", json!(100)),
            ("retry_schedule", json!([60, 300])),
            ("retry_schedule", json!([])),
            ("batch", json!({})),
            ("format", json!("cloudevents")),
            ("rate_limit", json!(1)),
            ("max_in_flight", json!(1_000)),
            ("secret", json!("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
            ("batch", json!({"max_events": 1000, "max_wait_ms": 0, "max_bytes": 1_000_000})),
            ("headers", json!({"Authorization": "Bearer a", "X-Team": "growth\tteam"})),
        ] {
            assert_eq!(refused(field, value.clone(), STRICT), Vec::<String>::new(), "{field} {value}");
        }
    }

    #[test]
    fn what_is_not_is_named() {
        let many: BTreeMap<String, String> = (0..21).map(|n| (format!("x-{n}"), String::new())).collect();
        for (field, value, named) in [
            ("url", json!("http://hooks.example/"), "url"),
            ("url", json!("https://localhost/"), "url"),
            ("url", json!("https://a.localhost./"), "url"),
            ("url", json!("https://127.1/"), "url"),
            ("url", json!("https://0x7f000001/"), "url"),
            ("url", json!("https://10.1.2.3/"), "url"),
            ("url", json!("https://169.254.169.254/latest"), "url"),
            ("url", json!("https://[::1]/"), "url"),
            ("url", json!("https://[::ffff:10.0.0.1]/"), "url"),
            ("url", json!("https://[fd00::1]/"), "url"),
            ("url", json!("https://100.100.100.200/"), "url"),
            ("url", json!("https://[64:ff9b::169.254.169.254]/"), "url"),
            ("url", json!("https://hooks.example:22/"), "url"),
            ("url", json!("https://hooks.example:80/"), "url"),
            ("url", json!("https://me:hush@hooks.example/"), "url"),
            ("url", json!("ftp://hooks.example/"), "url"),
            ("url", json!(format!("https://hooks.example/{}", "a".repeat(2048))), "url"),
            ("events", json!([]), "events"),
            ("timeout_ms", json!(99), "timeout_ms"),
            ("timeout_ms", json!(30_001), "timeout_ms"),
            ("rate_limit", json!(0), "rate_limit"),
            ("rate_limit", json!(10_001), "rate_limit"),
            ("max_in_flight", json!(0), "max_in_flight"),
            ("max_in_flight", json!(1_001), "max_in_flight"),
            ("batch", json!({"max_events": 1}), "batch.max_events"),
            ("batch", json!({"max_events": 1001}), "batch.max_events"),
            ("batch", json!({"max_wait_ms": 10_001}), "batch.max_wait_ms"),
            ("batch", json!({"max_bytes": 999}), "batch.max_bytes"),
            ("batch", json!({"max_bytes": 1_000_001}), "batch.max_bytes"),
            ("headers", json!({"Host": "a"}), "headers.Host"),
            ("headers", json!({"content-TYPE": "a"}), "headers.content-TYPE"),
            ("headers", json!({"webhook-id": "a"}), "headers.webhook-id"),
            ("headers", json!({"X-Webhook-Signature": "a"}), "headers.X-Webhook-Signature"),
            ("headers", json!({"Transfer-Encoding": "chunked"}), "headers.Transfer-Encoding"),
            ("headers", json!({"x y": "a"}), "headers.x y"),
            ("headers", json!({"x": "a\r\nb: c"}), "headers.x"),
            ("headers", json!({"x": "\u{fc}"}), "headers.x"),
            ("headers", json!({"X-A": "1", "x-a": "2"}), "headers.x-a"),
            ("headers", json!({"x": "***"}), "headers.x"),
            ("filters", json!({"country": []}), "filters.country"),
            ("headers", json!(many), "headers"),
        ] {
            assert_eq!(refused(field, value.clone(), STRICT), [named], "{field} {value}");
        }
        for url in ["http://hooks.example/", "http://127.0.0.1:9000/", "http://localhost/"] {
            assert_eq!(refused("url", json!(url), LAX), Vec::<String>::new(), "{url}");
        }
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let endpoint =
            check_with(json!({"url": "https://a.example/", "events": ["*"], "headers": {"X-A": "1"}}), STRICT);
        let endpoint = endpoint.unwrap();
        let apply = |patch: Value| {
            let patch: EndpointPatch = serde_json::from_value(patch).unwrap();
            patch.apply(&endpoint, STRICT, &vault(), Timestamp::from_millis(5))
        };
        assert_eq!(apply(json!({"timeout_ms": null, "status": "active"})).unwrap(), endpoint);
        let new = apply(json!({"status": "paused", "headers": {"X-A": null}, "filters": {"country": "US"}})).unwrap();
        assert_eq!((new.status, new.revision, new.headers.len()), (EndpointStatus::Paused, 2, 0));
        let shortened = apply(json!({"retry_schedule": [60]})).unwrap();
        assert_eq!(shortened.retry_schedule, RetrySchedule::first(1));
        assert!(serde_json::from_value::<EndpointPatch>(json!({"retry_schedule": [61]})).is_err());
        assert_eq!(apply(json!({"url": null, "events": []})).unwrap_err().errors.len(), 2);
        assert!(serde_json::from_value::<EndpointPatch>(json!({"status": "disabled"})).is_err());
        let limited = apply(json!({"format": "slack", "rate_limit": 1, "max_in_flight": 2})).unwrap();
        assert_eq!(
            (limited.format, limited.rate_limit, limited.max_in_flight),
            (WebhookFormat::Slack, Some(1), Some(2))
        );
        let patch: EndpointPatch =
            serde_json::from_value(json!({"format": null, "rate_limit": null, "max_in_flight": null})).unwrap();
        let lifted = patch.apply(&limited, STRICT, &vault(), Timestamp::from_millis(5)).unwrap();
        assert_eq!(lifted, Endpoint { updated_at: lifted.updated_at, revision: 3, ..endpoint.clone() });
    }

    #[test]
    fn the_limits_of_batches_are_patched_key_by_key() {
        let endpoint = check_with(json!({"url": "https://a.example/", "events": ["*"]}), STRICT).unwrap();
        assert_eq!(endpoint.batch, None);
        let apply = |endpoint: &Endpoint, patch: Value| {
            let patch: EndpointPatch = serde_json::from_value(json!({"batch": patch})).unwrap();
            patch.apply(endpoint, STRICT, &vault(), Timestamp::from_millis(5)).unwrap()
        };
        let limits = |max_events, max_wait_ms, max_bytes| Some(BatchLimits { max_events, max_wait_ms, max_bytes });
        let batched = apply(&endpoint, json!({"max_events": 50}));
        assert_eq!(batched.batch, limits(50, 1_000, 100_000), "the others have their defaults");
        let changed = apply(&batched, json!({"max_wait_ms": 200}));
        assert_eq!(changed.batch, limits(50, 200, 100_000));
        assert_eq!(apply(&changed, json!({"max_events": null})).batch, limits(100, 200, 100_000));
        assert_eq!(apply(&changed, json!({})), changed);
        assert_eq!(apply(&changed, json!(null)).batch, None);
        assert!(serde_json::from_value::<EndpointPatch>(json!({"batch": {"max": 1}})).is_err());
    }

    #[test]
    fn filters_and_headers_are_patched_key_by_key() {
        let body = json!({"url": "https://a.example/", "events": ["*"], "headers": {"Authorization": "Bearer a"},
            "filters": {"country": ["US"], "device": "mobile"}});
        let endpoint = check_with(body, STRICT).unwrap();
        let apply = |patch: Value| {
            let patch: EndpointPatch = serde_json::from_value(patch).unwrap();
            patch.apply(&endpoint, STRICT, &vault(), Timestamp::from_millis(5)).unwrap()
        };
        let filters = |patch: Value| serde_json::to_value(apply(json!({"filters": patch})).filters).unwrap();
        assert_eq!(filters(json!({"country": null})), json!({"device": ["mobile"]}));
        assert_eq!(
            filters(json!({"bot": [true, false]})),
            json!({"country": ["US"], "device": ["mobile"], "bot": ["true", "false"]})
        );
        assert_eq!(filters(json!(null)), json!({}));
        for same in ["***", "Bearer a"] {
            assert_eq!(apply(json!({"headers": {"Authorization": same}})), endpoint, "{same}");
        }
        let new = apply(json!({"headers": {"Authorization": "Bearer b"}}));
        assert_eq!(new.revision, 2);
        assert!(holds(endpoint.id, "Authorization", &new.headers["Authorization"], "Bearer b", &vault()));
        assert!(!serde_json::to_string(&new).unwrap().contains("Bearer"));
    }
}
