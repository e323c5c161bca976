//! Reading JSON that a caller sent: what is wrong with it is answered with the
//! field, or the place.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::problem::{FieldError, Kind, Problem};

/// What `bytes` say: an object.
///
/// # Errors
/// [`Kind::Malformed`] with the place where they are no JSON, [`Kind::Invalid`]
/// with the field where they are none that is wanted.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde takes an array for a struct too, its values for the fields in their
    // order: nobody means that.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Problem::invalid(vec![FieldError::new("(body)", "is an array, must be an object")]));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        refused(error.inner(), &path)
    })?;
    json.end().map_err(|error| refused(&error, "."))?;
    Ok(value)
}

fn refused(error: &serde_json::Error, path: &str) -> Problem {
    let text = error.to_string();
    // The place is told once, and only where it helps.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    match error.classify() {
        Category::Data => {
            let field = named(reason).or_else(|| (path != ".").then_some(path)).unwrap_or("(body)");
            Problem::invalid(vec![FieldError::new(field, reason)])
        }
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::new(Kind::Malformed, format!("The body is not JSON: {reason}{place}"))
        }
    }
}

/// The field that serde's words are about, where the path does not tell:
/// ``missing field `url` ``.
fn named(reason: &str) -> Option<&str> {
    let rest = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|words| reason.strip_prefix(words))?;
    rest.split_once('`').map(|(field, _)| field)
}
