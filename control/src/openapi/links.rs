//! The operations on links that other kinds do not have.

use schemas::Link;
use serde_json::json;
use service::problem::Kind;

use crate::{
    api::{
        bulk::{BulkDelete, BulkResults, BulkUpdate},
        export::ExportQuery,
        import::ImportQuery,
        links::{CreationQuery, LinksQuery},
        qr::QrQuery,
        request::PageQuery,
        resource::Listed,
        tags::{TagCount, TagRenamed, TagRenaming},
    },
    kinds::link::{LinkPatch, NewLink, import::ImportReport},
    openapi::{
        document::Document,
        operation::{Header, Operation},
    },
};

pub(super) fn describe(document: &mut Document) {
    create(document);
    search(document);
    pictures(document);
    upsert(document);
    bulk(document);
    import(document);
    export(document);
    tags(document);
}

fn create(document: &mut Document) {
    let example = json!({"destination": "https://acme.example/winter-sale", "slug": "sale", "tags": ["social"]});
    Operation::new(document, "post", "/v1/links", "createLink", "Create a link")
        .tag("Links")
        .idempotent()
        .query::<CreationQuery>()
        .body::<NewLink>(&example)
        .answers::<Link>(200, "The link that has these fields already (`find_if_exists`)", &[Header::ETag])
        .answers::<Link>(201, "The new link", &[Header::ETag, Header::Location])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
}

fn search(document: &mut Document) {
    Operation::new(document, "get", "/v1/links", "listLinks", "List links, newest first or sorted")
        .tag("Links")
        .describe(
            "Lists the links that satisfy all given conditions. Where few of many links match, a page can have fewer links \
             than were asked for, and still a next page.",
        )
        .query::<LinksQuery>()
        .answers::<Listed<Link>>(200, "A page of links", &[])
        .refuses(&[Kind::Invalid])
        .done();
}

fn pictures(document: &mut Document) {
    for (picture, id, media_type) in [("qr.svg", "linkQrSvg", "image/svg+xml"), ("qr.png", "linkQrPng", "image/png")] {
        let path = format!("/v1/links/{{id}}/{picture}");
        Operation::new(document, "get", &path, id, "Draw the QR code of a link's short address")
            .tag("Links")
            .path::<schemas::LinkId>("id")
            .query::<QrQuery>()
            .header("If-None-Match", "The ETag of a picture that you have already.", &json!({"type": "string"}))
            .answers_raw(200, "The picture", &[media_type])
            .answers_nothing(304, "The picture has not changed")
            .refuses(&[Kind::NotFound, Kind::Invalid])
            .done();
    }
}

fn upsert(document: &mut Document) {
    Operation::new(document, "put", "/v1/links/upsert", "upsertLink", "Create or change a link")
        .tag("Links")
        .describe(
            "Finds the link by `external_id`, else by `domain` and `slug`, and creates it if there is none. An absent field \
             stays as it is, null removes a field.",
        )
        .if_match()
        .if_none_match()
        .body::<LinkPatch>(&json!({"external_id": "42", "slug": "sale", "destination": "https://acme.example/"}))
        .answers::<Link>(200, "The link, which was changed or had these fields already", &[Header::ETag])
        .answers::<Link>(201, "The new link", &[Header::ETag, Header::Location])
        .refuses(&[Kind::NotFound, Kind::Conflict])
        .done();
}

fn bulk(document: &mut Document) {
    Operation::new(document, "patch", "/v1/links", "updateLinks", "Change up to 1000 links")
        .tag("Links")
        .describe("One merge patch for all named links. Each link is changed or refused independently of the others.")
        .body::<BulkUpdate>(&json!({"external_ids": ["42", "43"], "set": {"campaign": "winter-sale-2026"}}))
        .answers::<BulkResults>(200, "The result for each link", &[])
        .done();
    Operation::new(document, "delete", "/v1/links", "deleteLinks", "Delete up to 1000 links")
        .tag("Links")
        .body::<BulkDelete>(&json!({"external_ids": ["42", "43"]}))
        .answers::<BulkResults>(200, "The result for each link", &[])
        .done();
    Operation::new(document, "post", "/v1/links/delete", "postLinksDeletion", "Delete up to 1000 links by POST")
        .tag("Links")
        .describe("Does the same as `DELETE /v1/links`, whose body some proxies drop.")
        .body::<BulkDelete>(&json!({"external_ids": ["42", "43"]}))
        .answers::<BulkResults>(200, "The result for each link", &[])
        .done();
}

fn export(document: &mut Document) {
    Operation::new(document, "get", "/v1/links/export", "exportLinks", "Export all links, newest first")
        .tag("Links")
        .describe("What is exported can be imported again. In CSV, a cell that a spreadsheet would take for a formula begins with `'`.")
        .query::<ExportQuery>()
        .answers_raw(200, "The links, one in each line", &["application/x-ndjson", "text/csv"])
        .done();
}

fn tags(document: &mut Document) {
    Operation::new(document, "get", "/v1/tags", "listTags", "List the tags of links, in alphabetical order")
        .tag("Links")
        .query::<PageQuery>()
        .answers::<Listed<TagCount>>(200, "A page of tags, each with its number of links", &[])
        .refuses(&[Kind::Invalid])
        .done();
    Operation::new(document, "post", "/v1/tags/rename", "renameTag", "Rename a tag on all links")
        .tag("Links")
        .describe(
            "Each link that is changed produces its `link.updated` event. A call changes some ten thousand links at most: \
             call again until `left` is 0.",
        )
        .body::<TagRenaming>(&json!({"from": "sosial", "to": "social"}))
        .answers::<TagRenamed>(200, "The number of changed links", &[])
        .done();
}

fn import(document: &mut Document) {
    let example = json!({"external_id": "42", "destination": "https://acme.example/"});
    Operation::new(document, "post", "/v1/links/import", "importLinks", "Import links by the million")
        .tag("Links")
        .describe(
            "NDJSON: each line has a link, as `PUT /v1/links/upsert` takes it; a line with neither `external_id` nor `slug` \
             creates a new link each time. Lines are committed some thousand at a time, so an import that breaks off has \
             imported a part. It can be repeated from its beginning: links that have the fields of their lines already stay \
             as they are. `Idempotency-Key` is ignored. With `Content-Type: text/csv`, records of CSV are taken: the first \
             line names the fields, tags stand in one cell with `|` between them, metadata in columns `metadata.<key>`.",
        )
        .query::<ImportQuery>()
        .content::<LinkPatch>(true, "application/x-ndjson", &example)
        .answers::<ImportReport>(200, "The report of the import", &[])
        .done();
}
