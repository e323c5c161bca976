//! Every operation, in the order of docs/CONTRACTS.md §2.

use schemars::JsonSchema;
use schemas::{Campaign, Domain, Endpoint, Key, Link, Workspace};
use serde_json::{Value, json};
use service::problem::Kind;

use crate::{
    api::{
        endpoints::{Sent, Test},
        events::EventType,
        request::PageQuery,
        resource::{Listed, Resource},
        stats::LinkStats,
    },
    campaign::NewCampaign,
    domain::{NewDomain, Verification},
    endpoint::{EndpointView, NewEndpoint},
    kept::Kept,
    key::{KeyView, NewKey, Rotation},
    link::NewLink,
    openapi::{
        conversions,
        document::Document,
        links,
        operation::{Header, Operation},
    },
    workspace::NewWorkspace,
};

pub(super) fn describe(document: &mut Document) {
    Operation::new(document, "get", "/healthz", "health", "Whether the process lives")
        .tag("Operation")
        .open()
        .answers_raw(200, "It does", "text/plain; charset=utf-8")
        .done();
    Operation::new(document, "get", "/openapi.json", "describe", "This description")
        .tag("Operation")
        .open()
        .answers::<Value>(200, "OpenAPI 3.1", &[])
        .done();
    kind::<Link, NewLink, Link>(
        document,
        "Links",
        &json!({"destination": "https://acme.example/winter-sale", "slug": "sale", "tags": ["social"]}),
        &json!({"campaign": "winter-sale-2026", "expires_at": null}),
    );
    links::describe(document);
    kind::<Endpoint, NewEndpoint, EndpointView<'static>>(
        document,
        "Endpoints",
        &json!({"url": "https://hooks.example.com/clicks", "events": ["link.*"], "filters": {"country": ["US", "DE"]}}),
        &json!({"status": "paused"}),
    );
    Operation::new(document, "post", "/v1/endpoints/{id}/test", "testEndpoint", "Send a sample to this endpoint alone")
        .tag("Endpoints")
        .describe("A real, signed delivery of the event type that is asked for, else of `webhook.test`.")
        .path::<schemas::EndpointId>("id")
        .once()
        .optional_body::<Test>(&json!({"event": "link.clicked"}))
        .answers::<Sent>(202, "It is on its way", &[])
        .refuses(&[Kind::NotFound])
        .done();
    kind::<Workspace, NewWorkspace, Workspace>(
        document,
        "Workspaces",
        &json!({"id": "acme", "name": "Acme Inc."}),
        &json!({"name": "Acme"}),
    );
    kind::<Domain, NewDomain, Domain>(
        document,
        "Domains",
        &json!({"name": "go.acme.co", "is_default": true, "root_url": "https://acme.co/"}),
        &json!({"fallback_url": "https://acme.co/404"}),
    );
    Operation::new(document, "post", "/v1/domains/{id}/verify", "verifyDomain", "Prove a domain")
        .tag("Domains")
        .describe(
            "A TXT record at `_clickhook.<name>` must say what `verification` says; or an operator vouches for it.",
        )
        .path::<schemas::DomainId>("id")
        .once()
        .optional_body::<Verification>(&json!({"vouch": false}))
        .answers::<Domain>(200, "The domain, proven", &[Header::ETag])
        .refuses(&[Kind::NotFound])
        .done();
    kind::<Campaign, NewCampaign, Campaign>(
        document,
        "Campaigns",
        &json!({"name": "winter-sale-2026", "goal": {"clicks": 10000}}),
        &json!({"milestones": [1000, 10000]}),
    );
    kind::<Key, NewKey, KeyView<'static>>(
        document,
        "Keys",
        &json!({"name": "crm", "scopes": ["links", "stats"]}),
        &json!({"scopes": ["links"], "expires_at": null}),
    );
    Operation::new(document, "post", "/v1/keys/{id}/rotate", "rotateKey", "Replace a key's secret")
        .tag("Keys")
        .describe("The secret before opens for `overlap_s` seconds still, so that nobody is locked out.")
        .path::<schemas::KeyId>("id")
        .if_match()
        .once()
        .optional_body::<Rotation>(&json!({"overlap_s": 3600}))
        .answers::<KeyView<'static>>(200, "The key with its new secret, shown this once", &[Header::ETag])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    conversions::describe(document);
    Operation::new(document, "get", "/v1/event-types", "listEventTypes", "What events there are, each with a sample")
        .tag("Events")
        .answers::<Listed<EventType>>(200, "All of them", &[])
        .done();
    Operation::new(
        document,
        "get",
        "/v1/stats/links/{id}",
        "linkStats",
        "How often a link was followed and its QR code scanned",
    )
    .tag("Statistics")
    .path::<schemas::LinkId>("id")
    .answers::<LinkStats>(200, "The counts", &[])
    .refuses(&[Kind::NotFound])
    .done();
}

/// What every kind has: `New` creates one, which is answered as a `View`.
fn kind<T: Resource, New: JsonSchema, View: JsonSchema>(
    document: &mut Document,
    tag: &str,
    example: &Value,
    change: &Value,
) where
    T::Patch: JsonSchema,
    T::Id: JsonSchema,
{
    let one = format!("{}/{{id}}", T::PATH);
    let name = |verb: &str, what: &str| format!("{verb}{}", camel(what));
    let (singular, plural) = (<T as Kept>::NAME, format!("{}s", <T as Kept>::NAME));
    let article = if singular.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    Operation::new(document, "post", T::PATH, &name("create", singular), &format!("Create {article} {singular}"))
        .tag(tag)
        .once()
        .body::<New>(example)
        .answers::<View>(201, "It is made", &[Header::ETag, Header::Location])
        .refuses(&[Kind::Conflict])
        .done();
    Operation::new(document, "get", T::PATH, &name("list", &plural), &format!("List {plural}, {}", T::ORDER))
        .tag(tag)
        .query::<PageQuery>()
        .answers::<Listed<View>>(200, "A page of them", &[])
        .refuses(&[Kind::Invalid])
        .done();
    Operation::new(document, "get", &one, &name("read", singular), &format!("Read {article} {singular}"))
        .tag(tag)
        .path::<T::Id>("id")
        .answers::<View>(200, "It", &[Header::ETag])
        .refuses(&[Kind::NotFound])
        .done();
    Operation::new(document, "patch", &one, &name("update", singular), &format!("Change {article} {singular}"))
        .tag(tag)
        .describe("A merge patch (RFC 7396): what is left out stays, null takes away.")
        .path::<T::Id>("id")
        .if_match()
        .body::<T::Patch>(change)
        .answers::<View>(200, "It, changed", &[Header::ETag])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    Operation::new(document, "delete", &one, &name("delete", singular), &format!("Delete {article} {singular}"))
        .tag(tag)
        .path::<T::Id>("id")
        .if_match()
        .answers_nothing(204, "It is gone")
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
}

fn camel(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
