//! The operations on many links at once.

use serde_json::json;
use service::problem::Kind;

use crate::{
    api::{
        bulk::{All, Delete, Update},
        import::How,
        links::LinksQuery,
        qr::Look,
        resource::Listed,
    },
    import::Report,
    link::LinkPatch,
    openapi::{
        document::Document,
        operation::{Header, Operation},
    },
};

pub(super) fn describe(document: &mut Document) {
    Operation::new(document, "get", "/v1/links", "listLinks", "List links, newest first")
        .tag("Links")
        .describe(
            "All that fit everything that is given. Where few of many fit, a page may have fewer than were asked for, and \
             a next one.",
        )
        .query::<LinksQuery>()
        .answers::<Listed<schemas::Link>>(200, "A page of them", &[])
        .refuses(&[Kind::Invalid])
        .done();
    for (picture, media_type) in [("qr.svg", "image/svg+xml"), ("qr.png", "image/png")] {
        let id = if picture == "qr.svg" { "linkQrSvg" } else { "linkQrPng" };
        Operation::new(
            document,
            "get",
            &format!("/v1/links/{{id}}/{picture}"),
            id,
            "The QR code of a link's short address",
        )
        .tag("Links")
        .path::<schemas::LinkId>("id")
        .query::<Look>()
        .header("If-None-Match", "The ETag of the picture that is known.", &json!({"type": "string"}))
        .answers_raw(200, "The picture", media_type)
        .answers_nothing(304, "The picture that is known")
        .refuses(&[Kind::NotFound, Kind::Invalid])
        .done();
    }
    Operation::new(document, "put", "/v1/links/upsert", "upsertLink", "Make a link what it should be")
        .tag("Links")
        .describe(
            "Finds the link by `external_id`, else by `domain` and `slug`, and creates it where there is none. What is \
             left out stays, null takes away.",
        )
        .if_match()
        .body::<LinkPatch>(&json!({"external_id": "42", "slug": "sale", "destination": "https://acme.example/"}))
        .answers::<schemas::Link>(200, "It is changed, or was so already", &[Header::ETag])
        .answers::<schemas::Link>(201, "It is made", &[Header::ETag, Header::Location])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    Operation::new(document, "patch", "/v1/links", "updateLinks", "Change up to 1000 links")
        .tag("Links")
        .describe("One merge patch for all that are named. Each is changed, or refused, for itself.")
        .body::<Update>(&json!({"external_ids": ["42", "43"], "set": {"campaign": "winter-sale-2026"}}))
        .answers::<All>(200, "What became of each", &[])
        .done();
    Operation::new(document, "delete", "/v1/links", "deleteLinks", "Delete up to 1000 links")
        .tag("Links")
        .body::<Delete>(&json!({"external_ids": ["42", "43"]}))
        .answers::<All>(200, "What became of each", &[])
        .done();
    Operation::new(document, "post", "/v1/links/import", "importLinks", "Import links by the million")
        .tag("Links")
        .describe(
            "NDJSON: a link a line, as `PUT /v1/links/upsert` takes it; one with neither `external_id` nor `slug` is new \
             each time. Lines are committed some thousand at a time, so an import that breaks off leaves a part, and can \
             be repeated from its beginning: what is there already stays as it is. `Idempotency-Key` is not looked at.",
        )
        .query::<How>()
        .content::<LinkPatch>(true, "application/x-ndjson", &json!({"external_id": "42", "destination": "https://acme.example/"}))
        .answers::<Report>(200, "What became of the lines", &[])
        .done();
}
