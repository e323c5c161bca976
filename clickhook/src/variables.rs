//! The environment's variables. A secret may be in a file instead, as Kubernetes and systemd
//! mount secrets: `CLICKHOOK_CLICKHOUSE_PASSWORD_FILE` names a file with the value of
//! `CLICKHOOK_CLICKHOUSE_PASSWORD`.

use std::{collections::BTreeMap, fs};

use service::ConfigError;

use crate::keys;

/// The beginning of variables that are settings of librdkafka.
const KAFKA_PROPERTIES: &str = "CLICKHOOK_KAFKA_PROPERTIES_";
/// The end of variables that name a file with the value.
const FILE: &str = "_FILE";
/// The variables of secrets.
const SECRETS: [&str; 3] = [keys::ADMIN_KEY, keys::INSTALLATION_KEY, "CLICKHOOK_CLICKHOUSE_PASSWORD"];
/// The settings of librdkafka that are secrets, or are read by those who rotate them.
const SECRET_PROPERTIES: [&str; 8] = [
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.password",
    "sasl.username",
    "ssl.certificate.pem",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
];

/// Returns the process's variables, with those in files read.
///
/// # Errors
/// When a file cannot be read, or the value is given twice.
pub(crate) fn all() -> Result<BTreeMap<String, String>, ConfigError> {
    with_files(std::env::vars().collect())
}

/// Returns the variable `name` of the process, also if it is in a file.
///
/// # Errors
/// When a file cannot be read, or the value is given twice.
pub(crate) fn get(name: &str) -> Result<Option<String>, ConfigError> {
    Ok(all()?.remove(name))
}

/// Takes the settings of librdkafka out of `variables`:
/// `CLICKHOOK_KAFKA_PROPERTIES_SASL_PASSWORD` is `sasl.password`.
pub(crate) fn take_kafka_properties(variables: &mut BTreeMap<String, String>) -> BTreeMap<String, String> {
    let names: Vec<String> =
        variables.keys().filter(|name| name.starts_with(KAFKA_PROPERTIES)).map(ToOwned::to_owned).collect();
    let taken = names.into_iter().filter_map(|name| {
        let value = variables.remove(&name)?;
        Some((property(&name)?, value))
    });
    taken.collect()
}

/// Returns the setting of librdkafka that a variable stands for.
fn property(variable: &str) -> Option<String> {
    Some(variable.strip_prefix(KAFKA_PROPERTIES)?.to_lowercase().replace('_', "."))
}

fn with_files(mut variables: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
    let named: Vec<(String, String)> = variables
        .keys()
        .filter_map(|file| Some((file.clone(), file.strip_suffix(FILE)?.to_owned())))
        .filter(|(_, name)| is_secret(name))
        .collect();
    for (file, name) in named {
        let Some(path) = variables.remove(&file) else { continue };
        if variables.contains_key(&name) {
            return Err(ConfigError::value(&file, path, format!("only if {name} is not set: remove one of the two")));
        }
        let value = fs::read_to_string(&path)
            .map_err(|error| ConfigError::value(&file, path, format!("must be a file that can be read: {error}")))?;
        variables.insert(name, value.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(variables)
}

fn is_secret(name: &str) -> bool {
    SECRETS.contains(&name) || property(name).is_some_and(|property| SECRET_PROPERTIES.contains(&&*property))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let path = path.to_str().unwrap();
        let of_file = |name: &str| with_files(variables(&[(name, path)]));
        let missing = of_file("CLICKHOOK_KAFKA_PROPERTIES_SASL_PASSWORD_FILE").unwrap_err().to_string();
        assert!(missing.starts_with("CLICKHOOK_KAFKA_PROPERTIES_SASL_PASSWORD_FILE = "), "{missing}");
        assert!(missing.contains("No such file"), "{missing}");

        fs::write(path, "hush \n").unwrap();
        for name in ["CLICKHOOK_KAFKA_PROPERTIES_SASL_PASSWORD", keys::INSTALLATION_KEY, keys::ADMIN_KEY] {
            let read = of_file(&format!("{name}_FILE")).unwrap();
            assert_eq!(read, variables(&[(name, "hush ")]));
        }
        let setting = variables(&[("CLICKHOOK_WEBHOOK_CA_FILE", path)]);
        assert_eq!(with_files(setting.clone()).unwrap(), setting);

        let twice = [("CLICKHOOK_ADMIN_KEY", "a"), ("CLICKHOOK_ADMIN_KEY_FILE", path)];
        let twice = with_files(variables(&twice)).unwrap_err().to_string();
        assert!(twice.contains("remove one of the two"), "{twice}");
    }

    #[test]
    fn settings_of_the_kafka_client_are_told_by_their_names() {
        let mut given =
            variables(&[("CLICKHOOK_KAFKA_PROPERTIES_SSL_CA_LOCATION", "/ca.pem"), ("CLICKHOOK_KAFKA_BROKERS", "a:1")]);
        assert_eq!(take_kafka_properties(&mut given), variables(&[("ssl.ca.location", "/ca.pem")]));
        assert_eq!(given, variables(&[("CLICKHOOK_KAFKA_BROKERS", "a:1")]));
    }
}
