//! An operation of the description, built in the order in which people read it: the request, the answers, the problems.

use schemars::JsonSchema;
use schemas::WorkspaceId;
use serde_json::{Map, Value, json};
use service::{headers::IDEMPOTENCY_KEY_CHARS, problem::Kind};

use crate::openapi::document::{Document, name, schema};

/// The problems that any call with a key can meet.
const ANY_CALL: [Kind; 6] = [
    Kind::Malformed,
    Kind::Unauthorized,
    Kind::Forbidden,
    Kind::NotFound,
    Kind::Limited { retry_after_s: 1 },
    Kind::Unavailable,
];

/// An operation in the making.
pub(super) struct Operation<'d> {
    document: &'d mut Document,
    method: &'static str,
    path: String,
    value: Map<String, Value>,
    parameters: Vec<Value>,
    responses: Map<String, Value>,
}

impl<'d> Operation<'d> {
    /// Begins an operation that takes a key.
    pub(super) fn new(document: &'d mut Document, method: &'static str, path: &str, id: &str, summary: &str) -> Self {
        let value = Map::from_iter([("operationId".to_owned(), json!(id)), ("summary".to_owned(), json!(summary))]);
        let operation =
            Self { document, method, path: path.to_owned(), value, parameters: Vec::new(), responses: Map::new() };
        let workspace = schema::<WorkspaceId>(&mut operation.document.requests);
        let words = "The workspace that an operator acts in, if that is not the key's own.";
        operation.header("X-Clickhook-Workspace", words, &workspace).refuses(&ANY_CALL)
    }

    /// Sets the group that the operation belongs to.
    pub(super) fn tag(mut self, tag: &str) -> Self {
        self.value.insert("tags".to_owned(), json!([tag]));
        self
    }

    /// Adds a description to the summary.
    pub(super) fn describe(mut self, text: &str) -> Self {
        self.value.insert("description".to_owned(), json!(text));
        self
    }

    /// Makes the operation one without a key.
    pub(super) fn open(mut self) -> Self {
        self.value.insert("security".to_owned(), json!([]));
        self.responses.clear();
        self.parameters.clear();
        self
    }

    /// Adds a parameter of the path.
    pub(super) fn path<T: JsonSchema>(mut self, name: &str) -> Self {
        let schema = schema::<T>(&mut self.document.requests);
        self.parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
        self
    }

    /// Adds a parameter of the path with this schema.
    pub(super) fn path_schema(mut self, name: &str, schema: &Value) -> Self {
        self.parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
        self
    }

    /// Adds the parameters of the query, which are the fields of `T`.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        let mut schema = T::json_schema(&mut self.document.requests).to_value();
        let required = schema["required"].take();
        let Value::Object(properties) = schema["properties"].take() else { return self };
        for (name, mut schema) in properties {
            let required = required.as_array().is_some_and(|required| required.contains(&json!(name)));
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            // A query has no null.
            if let Some(kind) = schema["type"].as_array().and_then(|kinds| kinds.first()).cloned() {
                schema["type"] = kind;
            }
            self.parameters.push(json!({
                "name": name, "in": "query", "required": required, "description": description.unwrap_or_default(), "schema": schema,
            }));
        }
        self
    }

    /// Adds a header of the request.
    pub(super) fn header(mut self, name: &str, description: &str, schema: &Value) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description, "schema": schema,
        }));
        self
    }

    /// Adds `If-Match`, with which the operation changes only that version.
    pub(super) fn if_match(self) -> Self {
        let words = "The version to be changed: the ETag of an earlier answer, several of them, or * for any. A weak ETag \
                     never matches (RFC 9110).";
        self.header("If-Match", words, &json!({"type": "string", "examples": ["\"3-1Y40TN52\""]}))
            .refuses(&[Kind::Changed])
    }

    /// Adds `If-None-Match: *`, with which the operation only creates.
    pub(super) fn if_none_match(self) -> Self {
        let words = "* creates only: there must be no such entity yet.";
        self.header("If-None-Match", words, &json!({"type": "string", "examples": ["*"]})).refuses(&[Kind::Changed])
    }

    /// Adds `Idempotency-Key`, under which the operation is carried out once.
    pub(super) fn idempotent(self) -> Self {
        let words = "A key of your choice. A call that is repeated with the same API key under the same `Idempotency-Key` \
                     within 24 hours is answered as before (with `Idempotent-Replayed: true`) instead of carried out \
                     again; a secret is shown again for 10 minutes.";
        let schema =
            json!({"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS, "pattern": "^[!-~]*$"});
        self.header("Idempotency-Key", words, &schema).refuses(&[Kind::Invalid, Kind::TooLarge])
    }

    /// Adds the JSON body of the request.
    pub(super) fn body<T: JsonSchema>(self, example: &Value) -> Self {
        self.content::<T>(true, "application/json", example)
    }

    /// Adds the JSON body of the request, which can be left out.
    pub(super) fn optional_body<T: JsonSchema>(self, example: &Value) -> Self {
        self.content::<T>(false, "application/json", example)
    }

    /// Adds the body of the request, of any media type.
    pub(super) fn content<T: JsonSchema>(mut self, required: bool, media_type: &str, example: &Value) -> Self {
        let schema = schema::<T>(&mut self.document.requests);
        let content = json!({media_type: {"schema": schema, "example": example}});
        self.value.insert("requestBody".to_owned(), json!({"required": required, "content": content}));
        self.refuses(&[Kind::TooLarge, Kind::Invalid])
    }

    /// Adds an answer with JSON.
    pub(super) fn answers<T: JsonSchema>(self, status: u16, description: &str, headers: &[Header]) -> Self {
        let schema = schema::<T>(&mut self.document.answers);
        self.answer(status, description, headers, Some(json!({"application/json": {"schema": schema}})))
    }

    /// Adds an answer with JSON, whose rows are also answered as CSV and as NDJSON.
    pub(super) fn answers_rows<T: JsonSchema>(self, status: u16, description: &str) -> Self {
        let schema = schema::<T>(&mut self.document.answers);
        let text = json!({"schema": {"type": "string"}});
        let content = json!({"application/json": {"schema": schema}, "text/csv": text, "application/x-ndjson": text});
        self.answer(status, description, &[], Some(content))
    }

    /// Adds an answer with a status alone.
    pub(super) fn answers_nothing(self, status: u16, description: &str) -> Self {
        self.answer(status, description, &[], None)
    }

    /// Adds an answer that is not JSON, of one of these media types.
    pub(super) fn answers_raw(self, status: u16, description: &str, media_types: &[&str]) -> Self {
        let text = |media_type: &&str| ((*media_type).to_owned(), json!({"schema": {"type": "string"}}));
        let content = media_types.iter().map(text).collect();
        self.answer(status, description, &[], Some(Value::Object(content)))
    }

    fn answer(mut self, status: u16, description: &str, headers: &[Header], content: Option<Value>) -> Self {
        let mut response = json!({"description": description});
        for header in headers {
            let (name, schema) = header.schema();
            response["headers"][name] = json!({"required": true, "schema": schema});
        }
        if let Some(content) = content {
            response["content"] = content;
        }
        self.responses.insert(status.to_string(), response);
        self
    }

    /// Adds problems, besides those that any call can meet.
    pub(super) fn refuses(mut self, kinds: &[Kind]) -> Self {
        for kind in kinds {
            // A quota has the status of a missing right, which any call can meet, and says more.
            if matches!(kind, Kind::Forbidden) && self.responses.contains_key("403") {
                continue;
            }
            let reference = format!("#/components/responses/{}", name(*kind));
            self.responses.insert(kind.status().as_u16().to_string(), json!({"$ref": reference}));
        }
        self
    }

    /// Adds the operation to the document.
    pub(super) fn done(mut self) {
        if !self.parameters.is_empty() {
            self.value.insert("parameters".to_owned(), Value::Array(self.parameters));
        }
        self.value.insert("responses".to_owned(), Value::Object(self.responses));
        let item = self.document.paths.entry(self.path).or_insert_with(|| json!({}));
        item[self.method] = Value::Object(self.value);
    }
}

/// A header of an answer.
#[derive(Clone, Copy)]
pub(super) enum Header {
    /// The version of the entity.
    ETag,
    /// The path of the new entity.
    Location,
}

impl Header {
    fn schema(self) -> (&'static str, Value) {
        match self {
            Self::ETag => ("ETag", json!({"type": "string", "pattern": "^\"[1-9][0-9]*-[0-9A-Za-z-]{1,8}\"$"})),
            Self::Location => ("Location", json!({"type": "string", "format": "uri-reference"})),
        }
    }
}
