//! `GET /v1/event-types`: the catalogue of events.

use std::sync::LazyLock;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use schemars::{JsonSchema, generate::SchemaSettings};
use schemas::{Event, EventName, Timestamp, sample};
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::resource::Listed;

/// The moment of the samples, which is always the same.
const SAMPLE_AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);
/// The facts that events of any type have.
const ALWAYS: [&str; 3] = ["id", "event", "timestamp"];
/// The facts that an event has only where a visit told them.
const SOMETIMES: [&str; 2] = ["utm", "attribution"];

/// A type of events.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EventType {
    /// The name of the type.
    name: EventName,
    /// One sentence for people.
    description: &'static str,
    /// The JSON Schema (draft 2020-12) of the body in the format `clickhook`. Later versions may add facts.
    schema: Value,
    /// A sample of the body that endpoints receive.
    sample: Event<'static>,
}

/// The schemas of all types, which are made once.
static SCHEMAS: LazyLock<Vec<Value>> = LazyLock::new(|| EventName::ALL.iter().map(|name| schema(*name)).collect());

/// Lists the types of events.
pub(crate) async fn list() -> Response {
    let data = EventName::ALL.iter().zip(SCHEMAS.iter()).map(|(name, schema)| EventType {
        name: *name,
        description: name.description(),
        schema: schema.clone(),
        sample: sample::event(*name, SAMPLE_AT),
    });
    Json(Listed { data: data.collect(), next: None }).into_response()
}

/// Returns the schema of events of one type: that of all events, with the facts that this type has.
fn schema(name: EventName) -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<Event<'static>>().to_value();
    without_null(&mut schema);
    let sample = serde_json::to_value(sample::event(name, SAMPLE_AT)).unwrap_or_default();
    let is_told = |fact: &str| sample.get(fact).is_some();
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.retain(|fact, _| is_told(fact));
    }
    schema["properties"]["event"] = json!({"type": "string", "const": name});
    // A conversion whose click is not known has no link either.
    let certain = |fact: &str| match name {
        EventName::LinkConverted => ALWAYS.contains(&fact) || fact == "conversion",
        _ => !SOMETIMES.contains(&fact),
    };
    let facts = sample.as_object().into_iter().flat_map(|sample| sample.keys());
    schema["required"] = facts.filter(|fact| certain(fact)).cloned().collect();
    schema["title"] = json!(name);
    schema["description"] = json!(name.description());
    schema
}

/// Removes null from the types of a schema: absent facts are left out.
fn without_null(schema: &mut Value) {
    let is_null = |schema: &Value| schema["type"] == "null" || *schema == Value::Null;
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(kinds)) = object.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [kind] = kinds.as_slice() {
                    let kind = kind.clone();
                    object.insert("type".to_owned(), kind);
                }
            }
            if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| !is_null(choice));
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    for (key, value) in only {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(values) => values.iter_mut().for_each(without_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_a_schema_that_its_sample_satisfies() {
        for name in EventName::ALL {
            let schema = schema(*name);
            let text = schema.to_string();
            assert!(!text.contains("null") && !text.contains("$ref"), "{name}: {text}");
            let sample = serde_json::to_value(sample::event(*name, SAMPLE_AT)).unwrap();
            let properties = schema["properties"].as_object().unwrap();
            for (fact, value) in sample.as_object().unwrap() {
                let property = &properties[fact];
                let kind = if value.is_object() { "object" } else { "string" };
                assert_eq!(property["type"], kind, "{name}.{fact}");
                for key in value.as_object().into_iter().flat_map(|value| value.keys()) {
                    assert!(property["properties"].get(key).is_some(), "{name}.{fact}.{key}");
                }
            }
            assert_eq!(properties["event"]["const"], json!(name));
            for fact in schema["required"].as_array().unwrap() {
                assert!(sample.get(fact.as_str().unwrap()).is_some(), "{name}: {fact}");
            }
        }
    }
}
