//! JSON Schemas (draft 2020-12) of the types with their own serde code; the schemas of
//! all other types are derived from their serde attributes.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::{
    AttemptId, CampaignId, ClickId, ConversionId, DomainId, EndpointId, EventId, EventName, Filters, KeyId, LinkId,
    ReplayId, RetrySchedule, Timestamp, WorkspaceId,
    endpoint::Subscription,
    filter::{FilterKey, FiltersPatch},
    retry::STANDARD_RETRIES,
};

macro_rules! ids {
    ($($name:ident),*) => {$(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // Crockford's base32; a first digit above 7 would overflow 128 bits.
                json_schema!({
                    "type": "string",
                    "pattern": format!("^{}[0-7][0-9A-HJKMNP-TV-Z]{{25}}$", Self::PREFIX),
                    "examples": [Self::from_bits(2_194_417_219_530_604_870_132_548_217_341_082_734).to_string()],
                })
            }
        }
    )*};
}
ids!(LinkId, EndpointId, DomainId, KeyId, CampaignId, ConversionId, ClickId, EventId, AttemptId, ReplayId);

impl JsonSchema for WorkspaceId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "WorkspaceId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["default"]})
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time", "examples": ["2026-02-05T14:23:45.120Z"]})
    }
}

impl JsonSchema for Subscription {
    fn schema_name() -> Cow<'static, str> {
        "Subscription".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut known = vec!["*".to_owned()];
        for name in EventName::ALL {
            let prefixes = name.as_str().match_indices('.').map(|(dot, _)| format!("{}*", &name.as_str()[..=dot]));
            known.extend(prefixes.chain([name.as_str().to_owned()]));
        }
        known.sort_unstable();
        known.dedup();
        json_schema!({
            "type": "string",
            "description": "An event's name, a prefix with an asterisk, or * for every event but those of the audit log.",
            "enum": known,
        })
    }
}

impl JsonSchema for RetrySchedule {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RetrySchedule".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": {"type": "integer", "enum": STANDARD_RETRIES},
            "maxItems": STANDARD_RETRIES.len(),
            "examples": [STANDARD_RETRIES],
        })
    }
}

impl JsonSchema for Filters {
    fn schema_name() -> Cow<'static, str> {
        "Filters".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json!({"type": ["string", "boolean"]});
        let values = json!({"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]});
        let words = "All keys must match; of a list, one value. Without `bot`, events of humans only.";
        filters_schema(&values, words)
    }
}

impl JsonSchema for FiltersPatch {
    fn schema_name() -> Cow<'static, str> {
        "FiltersPatch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json!({"type": ["string", "boolean"]});
        let values = json!({"anyOf": [text, {"type": "array", "items": text, "minItems": 1}, {"type": "null"}]});
        filters_schema(&values, "A key is replaced, or with null removed. The other keys stay.")
    }
}

fn filters_schema(values: &serde_json::Value, description: &str) -> Schema {
    let properties: serde_json::Map<String, serde_json::Value> =
        FilterKey::ALL.iter().map(|key| (key.as_str().to_owned(), values.clone())).collect();
    json_schema!({
        "type": "object",
        "description": description,
        "properties": properties,
        "additionalProperties": false,
    })
}
