//! Reading JSON that a caller sent: an error names the field, or the place.

use serde::de::DeserializeOwned;
use serde_json::{Number, Value, error::Category};

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

impl Unread {
    /// Returns the error of a line of a body, whose number is told beside it.
    #[must_use]
    pub fn in_line(self) -> FieldError {
        match self {
            Self::Field(error) => error,
            Self::Syntax { reason, column, .. } => {
                FieldError::new("(line)", format!("is not JSON: {reason} at column {column}"))
            }
        }
    }
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
    let value = match serde_path_to_error::deserialize(&mut json) {
        Ok(value) => value,
        Err(error) if is_decimal(error.inner()) => return read_integral(bytes),
        Err(error) => return Err(refused(error.inner(), &error.path().to_string())),
    };
    json.end().map_err(|error| refused(&error, "."))?;
    Ok(value)
}

/// Whether a number with a point or an exponent stands where an integer is wanted.
fn is_decimal(error: &serde_json::Error) -> bool {
    error.is_data() && error.to_string().starts_with("invalid type: floating point")
}

/// Reads an object in which whole numbers are written as decimals: `4990.0`, as Python
/// writes `49.90 * 100`, is an integer (JSON Schema 2020-12, `integer`), and so is `-0`.
fn read_integral<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unread> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| refused(&error, "."))?;
    make_integral(&mut value);
    serde_path_to_error::deserialize(value).map_err(|error| refused(error.inner(), &error.path().to_string()))
}

fn make_integral(value: &mut Value) {
    // Beyond 2^53 a decimal may stand for another number than the one that was written.
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            let decimal = number.as_f64().filter(|decimal| number.is_f64() && decimal.fract() == 0.0);
            if let Some(decimal) = decimal.filter(|decimal| decimal.abs() <= LARGEST) {
                #[allow(clippy::cast_possible_truncation, reason = "it is whole, and within the bounds of i64")]
                let whole = decimal as i64;
                *number = Number::from(whole);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(make_integral),
        Value::Object(fields) => fields.values_mut().for_each(make_integral),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
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
    fn a_whole_number_is_an_integer_however_it_is_written() {
        type Amounts = BTreeMap<String, i64>;
        for (written, expected) in [
            ("4990", 4990),
            ("4990.0", 4990),
            ("4.99e3", 4990),
            ("-0", 0),
            ("-0.0", 0),
            ("-1.0", -1),
            ("9007199254740992.0", 1 << 53),
        ] {
            let read: Amounts = read(format!("{{\"a\":{written}}}").as_bytes()).unwrap();
            assert_eq!(read["a"], expected, "{written}");
        }
        for wrong in ["4990.5", "1e300", "9007199254740994.0", "1e-3"] {
            let Err(Unread::Field(error)) = read::<Amounts>(format!("{{\"a\":{wrong}}}").as_bytes()) else {
                panic!("{wrong}")
            };
            assert_eq!(error.field, "a", "{wrong}: {error:?}");
            assert!(error.reason.starts_with("invalid type: floating point"), "{error:?}");
        }
    }

    #[test]
    fn what_comes_back_of_a_long_text_is_short() {
        let body = format!("{{\"{}\":true}}", "a".repeat(1 << 20));
        let Unread::Field(error) = read::<BTreeMap<String, u8>>(body.as_bytes()).unwrap_err() else { panic!("{body}") };
        assert!(error.field.len() <= ECHO_CHARS && error.reason.len() <= ECHO_CHARS, "{error:?}");
    }
}
