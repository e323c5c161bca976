//! The document in the making: the schemas that operations refer to, and the parts that are the same for all.

use schemars::{
    JsonSchema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};
use service::problem::{Kind, ProblemBody};

/// A document in the making.
pub(super) struct Document {
    /// The schemas of requests.
    pub(super) requests: SchemaGenerator,
    /// The schemas of answers.
    pub(super) answers: SchemaGenerator,
    pub(super) paths: Map<String, Value>,
}

impl Document {
    /// Creates a document without operations.
    pub(super) fn new() -> Self {
        let generator = |contract: Contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
            settings.contract = contract;
            settings.into_generator()
        };
        Self { requests: generator(Contract::Deserialize), answers: generator(Contract::Serialize), paths: Map::new() }
    }

    /// Returns the whole document.
    pub(super) fn finish(mut self) -> Value {
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
                    `application/problem+json` (RFC 9457) and names the field. 503 is temporary: retry after `Retry-After`.",
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

/// Returns the schema of a request or of an answer.
pub(super) fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}

/// Returns the name of a kind of problem among the responses.
pub(super) fn name(kind: Kind) -> String {
    format!("{kind:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// Returns the response with a problem.
fn response(kind: Kind, problem: &Value) -> Value {
    let (r#type, title) = kind.name();
    let mut response = json!({
        "description": title,
        "content": {"application/problem+json": {
            "schema": problem,
            "example": {"type": r#type, "title": title, "status": kind.status().as_u16(), "detail": "A sentence about what happened, and what to do"},
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
