//! All operations of the API, in the order of `docs/CONTRACTS.md`, section 2.

use schemars::JsonSchema;
use schemas::{Campaign, Domain, Endpoint, Key, Link, Workspace};
use serde_json::{Value, json};
use service::problem::{Kind, QuotaUse};

use crate::{
    api::{
        audit::{AuditQuery, AuditView},
        event_types::EventType,
        request::PageQuery,
        resource::Listed,
        tls::{self, HostQuery},
        usage::WorkspaceUsage,
    },
    kinds::{
        domain::Verification,
        key::{KeyView, Rotation},
        resource::Resource,
    },
    openapi::{
        conversions,
        document::Document,
        endpoints, links,
        operation::{Header, Operation},
        stats,
    },
    state::entity::Entity,
};

/// The problem of a workspace that has reached a limit.
const QUOTA: Kind = Kind::Quota(QuotaUse { name: "links", limit: 0, used: 0 });

/// The tag of a kind's operations, and examples of the bodies that create and change an entity.
struct Examples {
    tag: &'static str,
    new: Value,
    patch: Value,
}

pub(super) fn describe(document: &mut Document) {
    process(document);
    kind::<Link>(
        document,
        &Examples {
            tag: "Links",
            new: json!({"destination": "https://acme.example/winter-sale", "slug": "sale", "tags": ["social"]}),
            patch: json!({"campaign": "winter-sale-2026", "expires_at": null}),
        },
    );
    links::describe(document);
    kind::<Endpoint>(
        document,
        &Examples {
            tag: "Endpoints",
            new: json!({"url": "https://hooks.example.com/clicks", "events": ["link.*"], "filters": {"country": ["US", "DE"]}}),
            patch: json!({"status": "paused"}),
        },
    );
    endpoints::describe(document);
    kind::<Workspace>(
        document,
        &Examples {
            tag: "Workspaces",
            new: json!({"id": "acme", "name": "Acme Inc."}),
            patch: json!({"name": "Acme", "limits": {"links": 10000, "endpoints": null}}),
        },
    );
    domains(document);
    kind::<Campaign>(
        document,
        &Examples {
            tag: "Campaigns",
            new: json!({"name": "winter-sale-2026", "goal": {"clicks": 10000}}),
            patch: json!({"milestones": [1000, 10000]}),
        },
    );
    keys(document);
    conversions::describe(document);
    event_types(document);
    usage(document);
    audit(document);
    stats::describe(document);
}

fn process(document: &mut Document) {
    Operation::new(document, "get", "/healthz", "health", "Check whether the process runs")
        .tag("Operation")
        .open()
        .answers_raw(200, "The process runs", &["text/plain; charset=utf-8"])
        .done();
    Operation::new(document, "get", "/openapi.json", "describe", "Read this description")
        .tag("Operation")
        .open()
        .answers::<Value>(200, "The description, as OpenAPI 3.1", &[])
        .done();
}

fn domains(document: &mut Document) {
    kind::<Domain>(
        document,
        &Examples {
            tag: "Domains",
            new: json!({"name": "go.acme.co", "is_default": true, "root_url": "https://acme.co/"}),
            patch: json!({"fallback_url": "https://acme.co/404"}),
        },
    );
    Operation::new(document, "post", "/v1/domains/{id}/verify", "verifyDomain", "Prove a domain")
        .tag("Domains")
        .describe(
            "A TXT record at `_clickhook.<name>` must have the text of `verification`, or an operator must vouch for the \
             domain. A name that another workspace has proven is taken over only where that workspace's own TXT record is \
             gone. Records are looked at again every day: a domain whose record stays away for some days \
             (`control.domain_grace_s`) serves nothing any more. A domain that is not proven within 30 days is deleted, \
             unless it has links.",
        )
        .path::<schemas::DomainId>("id")
        .idempotent()
        .optional_body::<Verification>(&json!({"vouch": false}))
        .answers::<Domain>(200, "The proven domain", &[Header::ETag])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    Operation::new(document, "get", tls::PATH, "askForTls", "Check whether a host is served")
        .tag("Domains")
        .describe(
            "For proxies that get certificates on demand, such as Caddy (`on_demand_tls`, `ask`): 200 for a proven domain \
             and for the installation's own host. Takes no key.",
        )
        .open()
        .query::<HostQuery>()
        .answers_raw(200, "The host is served", &["text/plain; charset=utf-8"])
        .refuses(&[Kind::Malformed, Kind::NotFound, Kind::Unavailable])
        .done();
}

fn keys(document: &mut Document) {
    kind::<Key>(
        document,
        &Examples {
            tag: "Keys",
            new: json!({"name": "crm", "scopes": ["links", "stats"]}),
            patch: json!({"scopes": ["links"], "expires_at": null}),
        },
    );
    Operation::new(document, "post", "/v1/keys/{id}/rotate", "rotateKey", "Replace a key's secret")
        .tag("Keys")
        .describe("The previous secret stays valid for `overlap_s` seconds, so that no caller is locked out.")
        .path::<schemas::KeyId>("id")
        .if_match()
        .idempotent()
        .optional_body::<Rotation>(&json!({"overlap_s": 3600}))
        .answers::<KeyView<'static>>(200, "The key with its new secret, which is shown only once", &[Header::ETag])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
}

fn event_types(document: &mut Document) {
    Operation::new(document, "get", "/v1/event-types", "listEventTypes", "List all event types, each with a sample")
        .tag("Events")
        .answers::<Listed<EventType>>(200, "All event types", &[])
        .done();
}

fn usage(document: &mut Document) {
    Operation::new(document, "get", "/v1/usage", "readUsage", "Read the limits of the workspace, and their use")
        .tag("Workspaces")
        .describe("Any key of the workspace may ask. Operators set limits by `limits` of the workspace.")
        .answers::<WorkspaceUsage>(200, "The limits and their use", &[])
        .done();
}

fn audit(document: &mut Document) {
    Operation::new(document, "get", "/v1/audit", "listChanges", "List who changed what, the last change first")
        .tag("Audit")
        .describe(
            "Every change through the API and by the installation itself, without values. ClickHouse knows a change about a \
             second after it was made. Many things that a call changes in one transaction are one entry with all their ids. \
             The same facts are the events `audit.*`.",
        )
        .query::<AuditQuery>()
        .answers::<Listed<AuditView>>(200, "A page of changes", &[])
        .refuses(&[Kind::Invalid])
        .done();
}

/// Describes the operations that every kind has.
fn kind<T: Resource<Id: JsonSchema>>(document: &mut Document, examples: &Examples) {
    let path = format!("{}/{{id}}", T::PATH);
    let singular = <T as Entity>::NAME;
    let plural = format!("{singular}s");
    let article = if singular.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    let id = |verb: &str, noun: &str| format!("{verb}{}", capitalised(noun));
    Operation::new(document, "post", T::PATH, &id("create", singular), &format!("Create {article} {singular}"))
        .tag(examples.tag)
        .idempotent()
        .body::<T::New>(&examples.new)
        .answers::<T::View<'static>>(201, &format!("The new {singular}"), &[Header::ETag, Header::Location])
        .refuses(&[Kind::Conflict, QUOTA])
        .done();
    Operation::new(document, "get", T::PATH, &id("list", &plural), &format!("List {plural}, {}", T::ORDER))
        .tag(examples.tag)
        .query::<PageQuery>()
        .answers::<Listed<T::View<'static>>>(200, &format!("A page of {plural}"), &[])
        .refuses(&[Kind::Invalid])
        .done();
    Operation::new(document, "get", &path, &id("read", singular), &format!("Read {article} {singular}"))
        .tag(examples.tag)
        .path::<T::Id>("id")
        .header("If-None-Match", "The ETag of an answer that you have already.", &json!({"type": "string"}))
        .answers::<T::View<'static>>(200, &format!("The {singular}"), &[Header::ETag])
        .answers_nothing(304, &format!("The {singular} has not changed"))
        .refuses(&[Kind::NotFound])
        .done();
    Operation::new(document, "patch", &path, &id("update", singular), &format!("Change {article} {singular}"))
        .tag(examples.tag)
        .describe("A merge patch (RFC 7396): an absent field stays as it is, null removes a field.")
        .path::<T::Id>("id")
        .if_match()
        .body::<T::Patch>(&examples.patch)
        .answers::<T::View<'static>>(200, &format!("The changed {singular}"), &[Header::ETag])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    Operation::new(document, "delete", &path, &id("delete", singular), &format!("Delete {article} {singular}"))
        .tag(examples.tag)
        .path::<T::Id>("id")
        .if_match()
        .answers_nothing(204, &format!("The {singular} is deleted"))
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
