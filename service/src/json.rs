//! Reading JSON that a caller sent: an error names the field, or the place.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::problem::{FieldError, Kind, Problem};

/// The longest excerpt of a caller's text in an answer.
const ECHO_CHARS: usize = 1_000;

/// The reason why bytes cannot be read as the wanted type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The bytes are no JSON.
    Syntax {
        /// The reason, in words.
        reason: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The bytes are JSON, but not of the wanted type.
    Field(FieldError),
}

impl From<Unread> for Problem {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Syntax { reason, line, column } => {
                Self::new(Kind::Malformed, format!("The body is not JSON: {reason} at line {line} column {column}"))
            }
            Unread::Field(error) => Self::invalid(vec![error]),
        }
    }
}

/// Reads the body of a request, which must be an object.
///
/// # Errors
/// [`Kind::Malformed`] with the place where the bytes are no JSON,
/// [`Kind::Invalid`] with the field where they are not of the wanted type.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    read(bytes).map_err(Problem::from)
}

/// Reads an object from `bytes`.
///
/// # Errors
/// When the bytes are no JSON, or not of the wanted type.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unread> {
    // serde takes an array for a struct too, its values for the fields in their
    // order. No caller means that.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Unread::Field(FieldError::new("(body)", "is an array, must be an object")));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        refused(error.inner(), &path)
    })?;
    json.end().map_err(|error| refused(&error, "."))?;
    Ok(value)
}

fn refused(error: &serde_json::Error, path: &str) -> Unread {
    let text = error.to_string();
    // The place is told once, and only where it helps.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    match error.classify() {
        Category::Data => {
            let field = named(reason).or_else(|| (path != ".").then_some(path)).unwrap_or("(body)");
            Unread::Field(FieldError::new(echo(field), echo(reason)))
        }
        Category::Syntax | Category::Eof | Category::Io => {
            Unread::Syntax { reason: echo(reason), line: error.line(), column: error.column() }
        }
    }
}

fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS).collect()
}

/// The field that serde's words are about, where the path does not tell:
/// ``missing field `url` ``.
fn named(reason: &str) -> Option<&str> {
    let rest = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|words| reason.strip_prefix(words))?;
    rest.split_once('`').map(|(field, _)| field)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_comes_back_of_a_long_text_is_short() {
        let body = format!("{{\"{}\":true}}", "a".repeat(1 << 20));
        let Unread::Field(error) = read::<BTreeMap<String, u8>>(body.as_bytes()).unwrap_err() else { panic!("{body}") };
        assert!(error.field.len() <= ECHO_CHARS && error.reason.len() <= ECHO_CHARS, "{error:?}");
    }
}
