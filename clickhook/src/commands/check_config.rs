//! `clickhook check-config`.

use crate::{config, roles::RoleArgs};

/// Parts of the names of librdkafka settings whose values are secrets.
const SECRET_WORDS: [&str; 7] = ["password", "secret", "key", "pem", "token", "jaas", "certificate"];

/// Checks the configuration and prints the result, with secrets left out.
pub(crate) fn run(args: &RoleArgs) -> anyhow::Result<()> {
    let mut config = config::load(args.config.as_deref())?;
    for secret in [&mut config.control.admin_key, &mut config.clickhouse.password] {
        if !secret.is_empty() {
            "(set)".clone_into(secret);
        }
    }
    for (key, value) in &mut config.kafka.properties {
        if SECRET_WORDS.iter().any(|word| key.contains(word)) {
            "(set)".clone_into(value);
        }
    }
    say!("{}", toml::to_string_pretty(&config)?.trim_end());
    for (path, built_at) in enricher::address_databases(&config.enricher) {
        match built_at {
            Ok(at) => say!("# {} was built at {at}", path.display()),
            Err(reason) => say!("# {} is not used: {reason}", path.display()),
        }
    }
    Ok(())
}
