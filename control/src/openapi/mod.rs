//! What the API says of itself: an OpenAPI 3.1 document, served without a key.
//!
//! Its schemas are derived from the very types that serde reads requests into and
//! writes answers from (`schemars`: macros that annotate handlers cannot see
//! through those that serve every kind alike). What no type tells, such as which
//! problems a route has and which headers it takes, stands in `paths.rs`; a test
//! holds that list against the routes.

mod conversions;
mod links;
mod operation;
mod paths;

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
};
use schemars::{
    JsonSchema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use self::operation::Operation;
use crate::problem::{Kind, ProblemBody};

/// The document, made once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// `GET /openapi.json`.
pub(crate) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// The whole description.
pub(crate) fn document() -> Value {
    let mut document = Document::new();
    paths::describe(&mut document);
    document.finish()
}

/// A description in the making.
struct Document {
    /// What callers send.
    requests: SchemaGenerator,
    /// What they are answered.
    answers: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Document {
    fn new() -> Self {
        let generator = |contract: Contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
            settings.contract = contract;
            settings.into_generator()
        };
        Self { requests: generator(Contract::Deserialize), answers: generator(Contract::Serialize), paths: Map::new() }
    }

    /// A description of `method` on `path`.
    fn operation(&mut self, method: &'static str, path: &str, id: &str, summary: &str) -> Operation<'_> {
        Operation::new(self, method, path, id, summary)
    }

    fn finish(mut self) -> Value {
        let problem = self.answers.subschema_for::<ProblemBody<'static>>();
        let responses: Map<String, Value> =
            Kind::ALL.into_iter().map(|kind| (name(kind), response(kind, &problem.clone().into()))).collect();
        let mut schemas = self.answers.take_definitions(true);
        schemas.extend(self.requests.take_definitions(true));
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "clickhook",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Short links whose clicks become signed webhooks and rows. Every problem is \
                    `application/problem+json` (RFC 9457) and names the field. 503 is passing: repeat after `Retry-After`.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{"key": []}],
            "paths": self.paths,
            "components": {
                "schemas": schemas,
                "responses": responses,
                "securitySchemes": {"key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (RFC 6750). It belongs to a workspace and has scopes.",
                }},
            },
        })
    }
}

/// A schema of what a caller sends, or of what is answered.
fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}

/// How a kind of problem is named among the responses.
fn name(kind: Kind) -> String {
    format!("{kind:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
}

fn response(kind: Kind, problem: &Value) -> Value {
    let (r#type, title) = kind.name();
    let mut response = json!({
        "description": title,
        "content": {"application/problem+json": {
            "schema": problem,
            "example": {"type": r#type, "title": title, "status": kind.status().as_u16(), "detail": "What happened, and what would do"},
        }},
    });
    let header = match kind {
        Kind::Unauthorized => Some(("WWW-Authenticate", json!({"type": "string", "const": "Bearer"}))),
        Kind::Limited { .. } | Kind::Unavailable => {
            Some(("Retry-After", json!({"type": "integer", "minimum": 1, "description": "Seconds"})))
        }
        _ => None,
    };
    if let Some((name, schema)) = header {
        response["headers"] = json!({name: {"required": true, "schema": schema}});
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of a value.
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
