//! Configuration: one TOML file over compiled-in defaults, overridden by
//! `CLICKHOOK_<SECTION>_<KEY>` variables. Everything is checked before anything
//! starts, and an error names the key, its value and the allowed values. The variables that
//! Kubernetes makes for services are no settings.

use std::{fmt::Display, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::service_links;

/// The prefix of every variable.
const PREFIX: &str = "CLICKHOOK_";

/// A value that the configuration must not have.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key has a value that is not allowed.
    #[error("{key} = {value}: {allowed}")]
    Value {
        /// The key with its section.
        key: String,
        /// The value.
        value: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// A key is unknown, or its value has the wrong type.
    #[error("{key}: {reason}")]
    Key {
        /// The key with its section.
        key: String,
        /// The reason.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{path}: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// The reason, with the line.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The error of the system.
        source: std::io::Error,
    },
}

impl ConfigError {
    /// `key` has a `value` that is not allowed.
    #[must_use]
    pub fn value(key: &str, value: impl Display, allowed: impl Display) -> Self {
        Self::Value { key: key.to_owned(), value: value.to_string(), allowed: allowed.to_string() }
    }
}

/// Reads the configuration: `defaults`, then the file if one is given, then the
/// variables among `env`.
///
/// # Errors
/// When the file cannot be read or is not TOML, or a key is unknown or has a
/// value of the wrong type.
pub fn load<T>(
    defaults: &T,
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned,
{
    let mut merged = Table::try_from(defaults)
        .map_err(|error| ConfigError::Key { key: "defaults".to_owned(), reason: error.to_string() })?;
    let sections: Vec<String> = merged.keys().cloned().collect();
    if let Some(path) = file {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: name.clone(), source })?;
        let given: Table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::Syntax { path: name, reason: error.to_string() })?;
        merge(&mut merged, given);
    }
    for (name, text) in service_links::without(env) {
        // The longest matching section wins, so that a section whose name begins with
        // another's can be set.
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let rest = rest.to_lowercase();
        let section = sections
            .iter()
            .filter(|section| rest.strip_prefix(section.as_str()).is_some_and(|key| key.starts_with('_')))
            .max_by_key(|section| section.len());
        // Variables of no section belong to commands, not to the configuration.
        let Some(section) = section else { continue };
        let key = rest[section.len() + 1..].to_owned();
        if let Some(Value::Table(table)) = merged.get_mut(section) {
            let value = parse(&text, table.get(&key));
            table.insert(key, value);
        }
    }
    serde_path_to_error::deserialize(merged).map_err(|error| {
        let key = error.path().to_string();
        ConfigError::Key { key, reason: error.into_inner().message().to_owned() }
    })
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A variable's text as the type that the default has; as TOML where there is
/// no default, and as plain text where it is not TOML.
fn parse(text: &str, default: Option<&Value>) -> Value {
    let text_value = || Value::String(text.to_owned());
    if matches!(default, Some(Value::String(_))) {
        return text_value();
    }
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(text_value)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        kafka: Kafka,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Kafka {
        brokers: String,
        partitions: u16,
        instance: Option<String>,
    }

    impl Default for Kafka {
        fn default() -> Self {
            Self { brokers: "here:1".to_owned(), partitions: 4, instance: None }
        }
    }

    fn with(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(&Config::default(), Some(file.path()), env)
    }

    #[test]
    fn a_variable_beats_the_file_and_the_file_beats_the_default() {
        let config = with(
            "[kafka]\nbrokers = \"there:2\"\npartitions = 8",
            &[("CLICKHOOK_KAFKA_PARTITIONS", "12"), ("CLICKHOOK_KAFKA_INSTANCE", "a-1"), ("CLICKHOOK_ADMIN_KEY", "x")],
        );
        let expected = Kafka { brokers: "there:2".to_owned(), partitions: 12, instance: Some("a-1".to_owned()) };
        assert_eq!(config.unwrap().kafka, expected);
    }

    #[test]
    fn a_kubernetes_service_with_the_name_of_a_section_changes_nothing() {
        let service = [
            ("CLICKHOOK_KAFKA_SERVICE_HOST", "10.96.0.7"),
            ("CLICKHOOK_KAFKA_SERVICE_PORT", "9092"),
            ("CLICKHOOK_KAFKA_PORT", "tcp://10.96.0.7:9092"),
            ("CLICKHOOK_KAFKA_PORT_9092_TCP", "tcp://10.96.0.7:9092"),
        ];
        assert_eq!(with("", &service).unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = with("[kafka]\npartitions = \"many\"", &[]).unwrap_err().to_string();
        assert!(error.starts_with("kafka.partitions: "), "{error}");
        let error = with("[kafka]\nbroker = \"x\"", &[]).unwrap_err().to_string();
        assert!(error.contains("broker") && error.contains("`brokers`"), "{error}");
        let error = with("", &[("CLICKHOOK_KAFKA_PARTITIONS", "-1")]).unwrap_err().to_string();
        assert!(error.starts_with("kafka.partitions: "), "{error}");
        assert!(with("[kafka", &[]).unwrap_err().to_string().contains("line 1"));
    }
}
