//! The description of the API: an OpenAPI 3.1 document, served without a key.
//!
//! Its schemas are derived from the types that serde reads requests into and writes answers from (by `schemars`; macros
//! that annotate handlers cannot see through the handlers that serve every kind). The facts that no type has, such as
//! the problems of a route and the headers that it takes, are in `paths.rs`; a test compares that list with the routes.

mod conversions;
mod document;
mod endpoints;
mod links;
mod operation;
mod paths;
mod stats;

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use crate::openapi::document::Document;

/// The document, which is made once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// Serves `GET /openapi.json`.
pub(crate) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// Returns the document.
pub(crate) fn document() -> Value {
    let mut document = Document::new();
    paths::describe(&mut document);
    document.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects every `$ref` of a value.
    fn refs<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| refs(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| refs(value, found)),
            _ => {}
        }
    }

    #[test]
    fn everything_that_is_referred_to_is_there() {
        let document = document();
        let mut found = Vec::new();
        refs(&document, &mut found);
        assert!(found.len() > 20);
        for target in found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target} is nowhere");
        }
    }

    #[test]
    fn no_name_stands_for_two_schemas() {
        let mut document = Document::new();
        paths::describe(&mut document);
        let answers = document.answers.take_definitions(true);
        for (name, request) in document.requests.take_definitions(true) {
            assert!(
                answers.get(&name).is_none_or(|answer| *answer == request),
                "{name} is sent otherwise than answered"
            );
        }
    }

    #[test]
    fn every_operation_has_an_id_of_its_own_and_an_answer() {
        let document = document();
        let mut ids = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(!ids.contains(&id), "{id} twice");
                ids.push(id);
                let statuses: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
                assert!(statuses.iter().any(|status| status.starts_with('2')), "{method} {path} answers nothing good");
            }
        }
    }
}
