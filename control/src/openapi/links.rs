//! The operations on many links at once.

use serde_json::json;

use super::{Document, operation::Header};
use crate::{
    api::{
        bulk::{All, Delete, Update},
        import::How,
    },
    import::Report,
    link::LinkPatch,
    problem::Kind,
};

pub(super) fn describe(document: &mut Document) {
    document
        .operation("put", "/v1/links/upsert", "upsertLink", "Make a link what it should be")
        .tag("Links")
        .describe(
            "Finds the link by `external_id`, else by `domain` and `slug`, and creates it where there is none. What is \
             left out stays, null takes away.",
        )
        .body::<LinkPatch>(&json!({"external_id": "42", "slug": "sale", "destination": "https://acme.example/"}))
        .answers::<schemas::Link>(200, "It is changed, or was so already", &[Header::ETag])
        .answers::<schemas::Link>(201, "It is made", &[Header::ETag, Header::Location])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
    document
        .operation("patch", "/v1/links", "updateLinks", "Change up to 1000 links")
        .tag("Links")
        .describe("One merge patch for all that are named. Each is changed, or refused, for itself.")
        .body::<Update>(&json!({"external_ids": ["42", "43"], "set": {"campaign": "winter-sale-2026"}}))
        .answers::<All>(200, "What became of each", &[])
        .done();
    document
        .operation("delete", "/v1/links", "deleteLinks", "Delete up to 1000 links")
        .tag("Links")
        .body::<Delete>(&json!({"external_ids": ["42", "43"]}))
        .answers::<All>(200, "What became of each", &[])
        .done();
    document
        .operation("post", "/v1/links/import", "importLinks", "Import links by the million")
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
