//! The fields of an endpoint that callers write, and the rules that they are checked against. The address is checked
//! again when a connection is made.

use std::collections::{BTreeMap, HashSet};

use axum::http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use schemas::{
    Endpoint, EndpointId, EndpointStatus, Filters, RetrySchedule, SealedSecret, Timestamp, WorkspaceId,
    endpoint::{HeaderText, Subscription},
    filter::FiltersPatch,
    usermap::UserMap,
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
    kinds::endpoint::batch::{self, BatchPatch},
    rules::EndpointRules,
};

const URL_BYTES: usize = 2048;
const SUBSCRIPTIONS: usize = 50;
const FILTER_VALUES: usize = 200;
const HEADERS: usize = 20;
const HEADER_BYTES: usize = 4096;
/// The text that stands for the value of a header, which is never shown.
pub(super) const MASK: &str = "***";
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 100..=30_000;
const DEFAULT_TIMEOUT_MS: u32 = 5_000;

/// The headers that clickhook sets itself, or that belong to the connection (RFC 9110, section 7.6.1).
const RESERVED_HEADERS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const RESERVED_PREFIXES: [&str; 3] = ["content-", "webhook-", "x-webhook-"];

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
    /// The headers to be added to each request.
    #[serde(default)]
    #[schemars(extend("maxProperties" = HEADERS))]
    headers: UserMap,
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
            headers,
            status: EndpointStatus::Active,
            status_reason: None,
            failing_since: None,
            enabled_at: None,
            subscribed_at: Some(at),
            secret,
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        check(&endpoint, rules, &mut checker);
        checker.finish(endpoint)
    }
}

impl EndpointPatch {
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
    if !TIMEOUT_MS.contains(&endpoint.timeout_ms) {
        let min = TIMEOUT_MS.start();
        let max = TIMEOUT_MS.end();
        checker.wrong("timeout_ms", format!("is {}, must be {min} to {max}", endpoint.timeout_ms));
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

/// Changes the headers by a merge patch. The mask keeps a value, and so does the value itself.
fn patch_headers(
    endpoint: &mut Endpoint,
    patch: BTreeMap<String, Option<String>>,
    vault: &Vault,
    checker: &mut Checker,
) {
    for (name, value) in patch {
        let Some(value) = value else {
            endpoint.headers.remove(&name);
            continue;
        };
        let known = endpoint.headers.get(&name);
        let is_kept = known.is_some_and(|text| value == MASK || holds(endpoint.id, &name, text, &value, vault));
        if !is_kept {
            check_header(&name, &value, checker);
            let sealed = seal(endpoint.id, &name, &value, vault);
            endpoint.headers.insert(name, sealed);
        }
    }
}

fn seal(id: EndpointId, name: &str, value: &str, vault: &Vault) -> HeaderText {
    HeaderText::Sealed(vault.seal(&Endpoint::header_context(id, name), value.as_bytes()))
}

/// Tells whether a header has this value and is sealed.
fn holds(id: EndpointId, name: &str, text: &HeaderText, value: &str, vault: &Vault) -> bool {
    match text {
        HeaderText::Sealed(sealed) => {
            let opened = vault.open(&Endpoint::header_context(id, name), sealed);
            opened.is_ok_and(|opened| opened.as_slice() == value.as_bytes())
        }
        HeaderText::Clear(_) => false,
    }
}

fn check_header_names(headers: &BTreeMap<String, HeaderText>, checker: &mut Checker) {
    if headers.len() > HEADERS {
        checker.wrong("headers", format!("has {}, at most {HEADERS} are allowed", headers.len()));
    }
    let mut seen = HashSet::new();
    for name in headers.keys() {
        let lower = name.to_ascii_lowercase();
        let field = header_field(name);
        if HeaderName::from_bytes(name.as_bytes()).is_err() || name.len() > 128 {
            checker.wrong(&field, "is no header's name: letters, digits and - are allowed");
        } else if RESERVED_HEADERS.contains(&lower.as_str())
            || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
        {
            checker.wrong(&field, "is reserved: clickhook sets it, or it belongs to the connection");
        } else if !seen.insert(lower) {
            checker.wrong(&field, "stands there twice: names of headers ignore case");
        }
    }
}

/// Checks the value of a header before it is sealed.
fn check_header(name: &str, value: &str, checker: &mut Checker) {
    let clean = value.chars().all(|c| c == '\t' || !c.is_control());
    if value == MASK {
        checker.wrong(
            header_field(name),
            format!("is {MASK}, which stands for a value that is not shown: give the value"),
        );
    } else if !clean || !value.is_ascii() || HeaderValue::from_str(value).is_err() || value.len() > HEADER_BYTES {
        let reason = format!("must be at most {HEADER_BYTES} ASCII characters, none of them a control character");
        checker.wrong(header_field(name), reason);
    }
}

fn header_field(name: &str) -> String {
    format!("headers.{}", name.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use schemas::BatchLimits;
    use serde_json::{Value, json};

    use super::*;

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
